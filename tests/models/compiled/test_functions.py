import numpy as np

from lmeval.compute.compiled import compiled
from lmeval.models.compiled.functions import exp


@compiled
def exps(values: np.ndarray, found: np.ndarray) -> None:
    for i in range(len(values)):
        found[i] = exp(values[i])


def exp_of(values: np.ndarray) -> np.ndarray:
    found = np.empty_like(values)
    exps(values, found)
    return found


def test_the_exponential_is_that_of_float64():
    values = np.concatenate([np.linspace(-87, 88, 300_001), np.random.default_rng(0).normal(0, 1e-3, 10_000), [0.0]])
    values = values.astype(np.float32)
    expected = np.exp(values.astype(np.float64))
    assert np.abs(exp_of(values) / expected - 1).max() < 2e-7


def test_numbers_beyond_the_ends_count_as_the_ends():
    ends = exp_of(np.array([-87.0, 88.0], dtype=np.float32))
    beyond = exp_of(np.array([-1e4, 1e4, -np.inf, np.inf], dtype=np.float32))
    assert beyond.tolist() == [*ends.tolist(), *ends.tolist()]
    assert exp_of(np.zeros(1, dtype=np.float32)).tolist() == [1.0]
