import numpy as np
import pytest

from lmeval.models.compiled.products import PANEL, multiply, n_panels, pack

SIZES = [(1, 1), (3, 31), (8, 32), (33, 33), (65, 7), (127, 100), (288, 257)]


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def product(a: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    c = np.full((len(a), n_panels(matrix.shape[1]) * PANEL), np.nan, dtype=np.float32)
    multiply(a, pack(matrix)[None], 0, c, 0)
    return c


@pytest.mark.parametrize(("k", "n"), SIZES)
def test_products_are_those_of_float64(k: int, n: int):
    a, matrix = numbers(19, k), numbers(k, n, seed=1)
    expected = a.astype(np.float64) @ matrix
    bound = 2.0**-23 * k * (np.abs(a).astype(np.float64) @ np.abs(matrix))  # k roundings of 2^-24, and as much to spare
    for n_rows in range(1, 20):
        c = product(a[:n_rows], matrix)
        assert (np.abs(c[:, :n] - expected[:n_rows]) <= bound[:n_rows]).all()
        assert not c[:, n:].any()  # what fills the last panel up


@pytest.mark.parametrize(("k", "n"), SIZES)
def test_a_row_does_not_depend_on_how_many_there_are(k: int, n: int):
    a, matrix = numbers(19, k), numbers(k, n, seed=1)
    alone = np.concatenate([product(a[i : i + 1], matrix) for i in range(19)])
    for n_rows in range(2, 20):
        for first in (0, 19 - n_rows):
            assert np.array_equal(product(a[first : first + n_rows], matrix), alone[first : first + n_rows])


def test_a_product_may_be_added_to_what_stands_there():
    a, matrix = numbers(13, 20), numbers(20, 50, seed=1)
    before = numbers(13, n_panels(50) * PANEL, seed=2)
    c = before.copy()
    multiply(a, pack(matrix)[None], 0, c, 1)
    assert np.array_equal(c, product(a, matrix) + before)


def test_each_layer_has_its_own_matrix_and_rows_may_be_longer_than_its_terms():
    a, matrices = numbers(5, 24), numbers(3, 20, 40)
    packed = np.stack([pack(matrix) for matrix in matrices])
    for layer, matrix in enumerate(matrices):
        c = np.empty((5, n_panels(40) * PANEL), dtype=np.float32)
        multiply(a, packed, layer, c, 0)
        assert np.array_equal(c, product(np.ascontiguousarray(a[:, :20]), matrix))
