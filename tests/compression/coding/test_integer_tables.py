import hashlib
import math
from decimal import Decimal

import numpy as np
import pytest
import torch

from lmeval.compression.coding import integer_tables
from lmeval.compression.coding.integer_tables import LIMIT, MASS_BITS, curve, exp_minus, log_parts, logistic, powers_of_two
from lmeval.densities.layers import ACTIVATIONS

ONE = 1 << 16
ARGUMENTS = np.unique(np.concatenate([np.random.default_rng(0).integers(-30 * ONE, 30 * ONE, 20_000), np.arange(-70, 70)]))


def test_the_exponential_is_near_the_real_one():
    x = ARGUMENTS[ARGUMENTS >= 0]
    real = np.exp(-np.minimum(x, LIMIT) / ONE)
    found = exp_minus(x) / 2.0**MASS_BITS
    assert np.abs(found - real).max() < 4e-5
    inside = x < 16 * ONE
    assert np.abs(found / real - 1)[inside].max() < 4e-5
    assert exp_minus(np.array([0, LIMIT, LIMIT + 1, 1 << 60])).tolist() == [1 << MASS_BITS, 1, 1, 1]


def test_the_logistic_function_never_falls_and_is_symmetric():
    found = logistic(ARGUMENTS)
    assert (np.diff(found) >= 0).all()
    assert (found + logistic(-ARGUMENTS) == 1 << MASS_BITS).all()
    assert np.abs(found / 2.0**MASS_BITS - 1 / (1 + np.exp(-ARGUMENTS / ONE))).max() < 4e-6
    assert logistic(np.array([0]))[0] == 1 << (MASS_BITS - 1)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_near_those_of_torch(name: str):
    x = ARGUMENTS
    real = ACTIVATIONS[name](torch.from_numpy(x / ONE)).numpy() * ONE
    assert np.abs(curve(name, x) - real).max() < 3.5  # of 2^-16
    far = np.array([-(1 << 26), 1 << 26])
    assert np.abs(curve(name, far) - ACTIVATIONS[name](torch.from_numpy(far / ONE)).numpy() * ONE).max() < 3.5


def test_logarithms_of_parts():
    whole = np.unique(np.concatenate([np.arange(1, 5000), np.random.default_rng(1).integers(1, 1 << 24, 5000), [1 << 24]]))
    assert np.abs(log_parts(whole) / 2.0**20 - np.log(whole)).max() < 2e-5
    assert log_parts(np.array([1]))[0] == 0
    assert (np.diff(log_parts(whole)) >= 0).all()


def test_powers_of_two():
    assert powers_of_two(range(0, 17, 8), 37).tolist() == [1 << 37, 1 << 36, 1 << 35]
    assert powers_of_two(range(1, 2), 37)[0] == round(Decimal(2) ** (37 - Decimal(1) / 8))


def test_the_tables_are_what_they_always_were():
    # Archives are decoded by them for ever.
    names = ("elu", "tanh", "sigmoid", "softplus")
    tables = [integer_tables._exponentials(), integer_tables._logistics(), integer_tables._logarithms()]
    tables += [integer_tables._curve_table(name) for name in names]
    found = hashlib.sha256(b"".join(table.astype("<i8").tobytes() for table in tables)).hexdigest()
    assert found == "d163a954ac864d04c7738b34d10478fa1e0e4f191c3d6d443f3a173dbb10abf1"
    assert tables[0][64] == round(math.exp(-1) * 2**38)
