import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

from lmeval.compression.images.pixels import bit_parts, coder_weights, n_bits
from lmeval.densities.layers import Linear
from lmeval.densities.networks import LayeredVAE, outputs_per_pixel

ONE = 1 << 16
KINDS = [("bernoulli", 2), ("categorical", 2), ("categorical", 5), ("categorical", 17), ("discretized_logistic", 2)]
KINDS += [("discretized_logistic", 17), ("discretized_logistic", 256), ("categorical", 256)]
DIMS = 6


def outputs(observation: str, levels: int, n: int, seed: int = 0, spread: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    found = rng.normal(0, spread, (n, DIMS * outputs_per_pixel(observation, levels)))
    if observation == "discretized_logistic":
        found[:, :DIMS] = rng.uniform(-1.2, 1.2, (n, DIMS))
        found[:, DIMS:] = rng.uniform(-1.5, 3, (n, DIMS))
    return np.rint(found * ONE).astype(np.int64)


def floats(observation: str, levels: int, out: np.ndarray) -> Distribution:
    """The float model's own distribution of images."""
    none = Linear(torch.zeros(0), torch.zeros(0))
    z = torch.from_numpy(out / ONE)
    return LayeredVAE((), none, none, (), observation, levels, DIMS, z.shape[1]).decode(z)


def coded(observation: str, levels: int, out: np.ndarray, x: np.ndarray) -> np.ndarray:
    """log of the product of an image's parts."""
    bits = bit_parts(observation, levels, out)
    total = np.zeros(len(x))
    for place in range(n_bits(levels)):
        ones = bits(x >> (place + 1), place)
        assert ones.min() >= 1 and ones.max() < 1 << 24
        total += np.log(np.where(x >> place & 1, ones, (1 << 24) - ones) / 2.0**24).sum(axis=1)
    return total


@pytest.mark.parametrize(("observation", "levels"), KINDS)
def test_code_lengths_are_the_models(observation: str, levels: int):
    out = outputs(observation, levels, 300)
    model = floats(observation, levels, out)
    torch.manual_seed(0)
    x = model.sample()
    mine, real = coded(observation, levels, out, x.numpy().astype(np.int64)), model.log_prob(x).numpy()
    assert np.abs(mine - real).max() < 0.02
    assert np.abs(mine - real).mean() < 2e-3


@pytest.mark.parametrize(("observation", "levels"), KINDS)
def test_images_that_are_impossible_have_a_price(observation: str, levels: int):
    out = outputs(observation, levels, 300, spread=300.0)
    x = np.random.default_rng(1).integers(0, levels, (300, DIMS))
    assert (coded(observation, levels, out, x) >= -DIMS * n_bits(levels) * np.log(2**24) - 1e-6).all()


@pytest.mark.parametrize(("observation", "levels"), KINDS)
def test_probabilities_sum_to_one(observation: str, levels: int):
    # Over all bit patterns; those that are no level have next to nothing.
    out = outputs(observation, levels, 20)
    each = []
    for level in range(1 << n_bits(levels)):
        x = np.full((20, DIMS), level)
        bits, total = bit_parts(observation, levels, out), np.ones((20, DIMS))
        for place in range(n_bits(levels)):
            ones = bits(x >> (place + 1), place)
            total *= np.where(x >> place & 1, ones, (1 << 24) - ones) / 2.0**24
        each.append(total)
    assert np.allclose(sum(each), 1, atol=1e-12)
    assert sum(float(p.max()) for p in each[levels:]) < 1e-5


@pytest.mark.parametrize(("observation", "levels"), KINDS)
def test_extreme_outputs_have_probabilities(observation: str, levels: int):
    extreme = [-(1 << 26), -(1 << 20), -1, 0, 1, 1 << 20, 1 << 26]
    width = outputs_per_pixel(observation, levels)
    values = list(itertools.product(extreme, repeat=min(width, 2)))
    out = np.array([[v[j % len(v)] for j in range(width) for _ in range(DIMS)] for v in values])
    if observation == "categorical":
        out = np.array([[v[j % len(v)] for _ in range(DIMS) for j in range(width)] for v in values])
    for level in (0, levels // 2, levels - 1):
        found = coded(observation, levels, out, np.full((len(out), DIMS), level))
        assert np.isfinite(found).all() and (found <= 0).all()


def test_a_certain_pixel_costs_next_to_nothing():
    out = np.full((1, 784), 1 << 26)
    bits = bit_parts("bernoulli", 2, out)(np.zeros((1, 784), dtype=np.int64), 0)
    assert -784 * np.log2(bits[0, 0] / 2**24) < 1e-4


def test_weights_make_the_parts():
    ones = np.array([1, 5, (1 << 24) - 1])
    assert coder_weights(ones).tolist() == [[2**24 - 2, 0], [2**24 - 6, 4], [0, 2**24 - 2]]
