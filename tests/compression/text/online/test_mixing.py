import math
from collections.abc import Callable

import numpy as np
import page_online
import pytest

from lmeval.compression.text.online.mixing import (
    WEIGHT_LIMIT,
    Mixer,
    Rates,
    learn_maps,
    learn_weights,
    mix,
    open_mixer,
    open_refiner,
    refine,
)
from lmeval.compression.text.online.tables import LIMIT, NAT, ONE, tables

N_INPUTS, N_SETS, N_LANES = 8, 3, 2
FINALS = [1, 0]  # sets whose rows choose final weights
RATES = Rates(32, 320, 16)


def _mixer(seed: int) -> Mixer:
    """Three sets of four rows; each lane stands at rows of its own, but for the last set, where they share one."""
    rng = np.random.default_rng(seed)
    mixer = open_mixer(np.zeros(N_INPUTS, dtype=np.int64), [4] * N_SETS, N_SETS, FINALS, N_LANES)
    mixer.weights[:] = rng.integers(-20_000, 20_000, mixer.weights.shape)
    mixer.final[:] = rng.integers(10_000, 40_000, mixer.final.shape)
    mixer.inputs[:] = rng.integers(-4 * NAT, 4 * NAT, mixer.inputs.shape)
    mixer.row[:] = [[0, 6, 8], [3, 4, 8]]
    return mixer


def _loss(weights: np.ndarray, inputs: np.ndarray, bit: int) -> float:
    """Nats that a bit costs, in floating point."""
    log_odds = float(weights @ inputs) / (1 << 16) / NAT
    return math.log1p(math.exp(-log_odds if bit else log_odds))


def _descent(loss: Callable[[np.ndarray], float], weights: np.ndarray) -> np.ndarray:
    """The gradient by finite differences, downhill, by weights in units of 1."""
    steps = 50.0 * np.eye(len(weights))
    return np.array([loss(weights - step) - loss(weights + step) for step in steps]) / 100 * (1 << 16)


def test_what_is_mixed_is_the_weighted_sum():
    mixer = _mixer(1)
    mix(mixer, tables(), N_LANES)
    for lane in range(N_LANES):
        for s in range(N_SETS):
            found = mixer.weights[mixer.row[lane, s]] @ mixer.inputs[lane].astype(float) / (1 << 16)
            assert mixer.log_odds[lane, s] == pytest.approx(np.clip(found, -LIMIT, LIMIT), abs=1)
            assert mixer.predicted[lane, s] == page_online.squash(int(mixer.log_odds[lane, s]))
        totals = [
            mixer.final[k, mixer.row[lane, s] - 4 * s] @ mixer.log_odds[lane] / (1 << 16) for k, s in enumerate(FINALS)
        ]
        assert mixer.total[lane] == pytest.approx(np.clip(totals, -LIMIT, LIMIT).mean(), abs=2)
        assert mixer.mixed[lane] == page_online.squash(int(mixer.total[lane]))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("used", [0, 400, 65_535])
def test_weights_follow_the_gradient_of_the_code_length(seed: int, used: int):
    mixer = _mixer(seed)
    mixer.used[:] = used
    before, final = mixer.weights.astype(float), mixer.final.astype(float)
    bits = np.array([seed & 1, seed >> 1 & 1], dtype=np.int64)
    mix(mixer, tables(), N_LANES)
    learn_weights(mixer, RATES, bits, N_LANES)
    # A weight's unit is 2^-16: rates are in 2^-10 / 16 of that and of the log-odds' nats.
    rate = (RATES.last + RATES.first * 400 // (400 + used)) / (1 << 14) * (1 << 16)
    for lane in range(N_LANES):
        inputs, bit = mixer.inputs[lane].astype(float), int(bits[lane])
        for row in mixer.row[lane, :-1]:
            downhill = _descent(lambda w, inputs=inputs, bit=bit: _loss(w, inputs, bit), before[row])
            np.testing.assert_allclose(mixer.weights[row] - before[row], rate * downhill, rtol=0.03, atol=0.003 * rate + 2)
        inputs, slow = mixer.log_odds[lane].astype(float), RATES.final / (1 << 14) * (1 << 16)
        for k, row in enumerate(mixer.row[lane, FINALS] - [4, 0]):
            downhill = _descent(lambda w, inputs=inputs, bit=bit: _loss(w, inputs, bit), final[k, row])
            np.testing.assert_allclose(mixer.final[k, row] - final[k, row], slow * downhill, rtol=0.03, atol=0.02 * slow)
    shared = mixer.used[8]
    assert shared == min(used + 2, 65_535)
    assert (mixer.weights[[1, 2, 5, 7, 9]] == before[[1, 2, 5, 7, 9]]).all()
    assert (mixer.final[:, [1]] == final[:, [1]]).all()


def test_weights_stay_within_their_limits():
    mixer = _mixer(3)
    mixer.weights[:], mixer.final[:] = WEIGHT_LIMIT, -WEIGHT_LIMIT
    mixer.inputs[:] = -60_000
    for bit in (0, 1, 0, 1):
        for _ in range(50):
            mix(mixer, tables(), N_LANES)
            learn_weights(mixer, RATES, np.full(N_LANES, bit), N_LANES)
            assert abs(mixer.weights).max() <= WEIGHT_LIMIT
            assert abs(mixer.final).max() <= WEIGHT_LIMIT
            assert 1 <= mixer.mixed.min() <= mixer.mixed.max() <= ONE - 1


def test_a_fresh_refining_map_changes_little():
    refiner = open_refiner(1, 1, 1, tables())
    for log_odds in range(-LIMIT, LIMIT, 501):
        within = max(-8 * NAT, min(log_odds, 8 * NAT - 1))
        p = page_online.squash(within)
        assert refine(refiner, log_odds, 0, 0, 0) == pytest.approx(p, abs=0.04 * min(p, ONE - p) + 64)


def test_a_refining_map_learns_where_it_was_asked():
    refiner, page = open_refiner(2, 3, 2, tables()), page_online.Refined()
    rng = np.random.default_rng(4)
    first = refiner.maps[0, 0].copy()
    for _ in range(400):
        log_odds, bits = rng.integers(-LIMIT, LIMIT, 2).tolist(), rng.integers(0, 2, 2)
        found = [int(refine(refiner, log_odds[lane], 1, 2, lane)) for lane in (0, 1)]
        assert found == [page.get(x, 0) for x in log_odds]
        for lane in (0, 1):
            refine(refiner, 0, 0, 0, lane)
        learn_maps(refiner, 1300, bits, 2)
        for x, bit in zip(log_odds, bits.tolist(), strict=True):
            page.learn(x, 0, bit)
    np.testing.assert_array_equal(refiner.maps[1, 2], page.at(0))
    np.testing.assert_array_equal(refiner.maps[1, :2], [first, first])
    np.testing.assert_array_equal(np.delete(refiner.maps[0, 0], 16), np.delete(first, 16))
