import math

import numpy as np
import pytest

from lmeval.compression.images.latent_tables import (
    DRAW_BITS,
    FEWEST_STEP_BITS,
    MAX_STEP_BITS,
    MEAN_LIMIT,
    PHASES,
    PRIOR_LIMIT,
    RUNGS,
    PosteriorTables,
    latent_values,
    parts,
    posterior,
    posterior_parts,
    prior,
)

ONE = 1 << 16
STEPS = range(FEWEST_STEP_BITS, MAX_STEP_BITS + 1)


def rounded(mean: float, std: float, step_bits: int):
    found = posterior(np.array([round(mean * ONE)]), np.array([round(math.log(std) * ONE)]), step_bits)
    return int(found.centre[0]), int(found.table[0])


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p | q) in nats."""
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


@pytest.mark.parametrize("step_bits", STEPS)
def test_the_prior_is_a_standard_normal(step_bits: int):
    found = prior(step_bits)
    assert found.parts.sum() == 1 << 24 and found.parts.min() == 1
    k = found.first + np.arange(len(found.parts))
    assert (k[0], k[-1]) == (-PRIOR_LIMIT << step_bits, PRIOR_LIMIT << step_bits)
    real = np.exp(-((k / 2**step_bits) ** 2) / 2)
    assert divergence(real / real.sum(), found.parts / 2**24) < 6e-4
    assert np.array_equal(found.parts[::-1][1:-1] // 4, found.parts[1:-1] // 4) or np.abs(np.diff(found.parts)).max() > 0


@pytest.mark.parametrize("step_bits", [2, 4, 8])
@pytest.mark.parametrize("std", [0.05, 0.2, 0.31, 1.0, 1.3])
@pytest.mark.parametrize("mean", [0.0, -3.1415, 2.718, 7.9])
def test_posteriors_are_near_the_real_ones(step_bits: int, std: float, mean: float):
    step = 2.0**-step_bits
    if std < 0.7 * step:
        pytest.skip("narrower than the grid is made for")
    centre, table = rounded(mean, std, step_bits)
    first, sizes = posterior_parts(table)
    assert sizes.sum() == 1 << DRAW_BITS and sizes.min() >= 0
    z = (centre + first + np.arange(len(sizes))) * step
    real = np.exp(-(((z - mean) / std) ** 2) / 2)
    assert divergence(sizes / 2.0**DRAW_BITS, real / real.sum()) < 3e-3 + 6e-5 * std / step
    assert abs((z * sizes).sum() / sizes.sum() - mean) < 0.07 * step + 1e-3 * std
    assert np.sqrt(((z - mean) ** 2 * sizes).sum() / sizes.sum()) == pytest.approx(std, rel=0.03)


def test_every_posterior_lies_within_the_priors_grid():
    extreme = np.array([-(1 << 26), -1, 0, 1, 1 << 26])
    mean, log_std = (part.reshape(-1) for part in np.meshgrid(extreme, extreme))
    for step_bits in STEPS:
        found = posterior(mean, log_std, step_bits)
        assert np.abs(found.centre).max() == MEAN_LIMIT << step_bits
        assert found.table.min() >= 0
        assert found.table.max() < (RUNGS * (step_bits + 2) + RUNGS // 2 + 1) * PHASES
        for centre, table in zip(found.centre.tolist(), found.table.tolist(), strict=True):
            first, sizes = posterior_parts(table)
            assert len(sizes) > 1
            assert -PRIOR_LIMIT << step_bits <= centre + first
            assert centre + first + len(sizes) - 1 <= PRIOR_LIMIT << step_bits
        assert np.abs(latent_values(found.centre, step_bits)).max() == MEAN_LIMIT * ONE


def test_means_are_rounded_to_eighths():
    for mean in np.linspace(-2, 2, 801):
        centre, table = rounded(float(mean), 1.0, 3)
        eighths = (table % PHASES + PHASES // 2) % PHASES - PHASES // 2
        assert abs(centre + eighths / PHASES - mean * 8) <= 0.5 / PHASES + 1e-3
        assert -4 <= eighths <= 3


def test_tables_draw_and_place():
    tables = PosteriorTables()
    rng = np.random.default_rng(0)
    number = rng.integers(0, (RUNGS * 10 + 9) * PHASES, 40)
    uniform = rng.integers(0, 1 << DRAW_BITS, (7, 40))
    offset = tables.drawn(number, uniform)
    first, size = tables.interval(number, offset)
    assert ((first <= uniform) & (uniform < first + size)).all()
    for place, wanted in enumerate(number.tolist()):
        begin, sizes = posterior_parts(wanted)
        every = tables.drawn(np.array([wanted]), np.arange(1 << DRAW_BITS))
        assert np.array_equal(np.bincount(every - begin, minlength=len(sizes)), sizes)
        assert np.array_equal(tables.interval(number[place], begin + np.arange(len(sizes))).size, sizes)


@pytest.mark.parametrize("far", [-(1 << 20), 1 << 20, -40_000, 40_000])
def test_what_lies_beyond_a_table_has_no_interval(far: int):
    tables = PosteriorTables()
    for number in (0, 300, 1200):
        first, sizes = posterior_parts(number)
        assert tables.interval(np.array([number]), np.array([far])).size[0] == 0
        for offset in (first - 1, first + len(sizes)):
            assert tables.interval(np.array([number]), np.array([offset])).size[0] == 0


def test_parts_are_shared_out_by_distance():
    assert parts(np.array([0, 0])).tolist() == [1 << 23, 1 << 23]
    found = parts(np.array([0, 1 << 30, 5 << 16]))
    assert found.sum() == 1 << 24 and found[1] == 1
    assert found[2] / found[0] == pytest.approx(math.exp(-5), rel=1e-3)
