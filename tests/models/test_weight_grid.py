import numpy as np
import pytest

from lmeval.errors import ModelError
from lmeval.models.packed import PackedMatrix, as_arrays, dequantise, top_level
from lmeval.models.weight_grid import find_grids, quantise


def normal(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.05, shape).astype(np.float32)


@pytest.mark.parametrize("bits", range(2, 9))
def test_what_was_rounded_lies_on_grids(bits: int):
    weights = quantise({"m": normal((40, 31)), "row": normal((1, 5)), "v": normal((7,))}, bits)
    arrays = as_arrays(weights)
    found = find_grids(arrays)
    assert found.matrices["m"].bits == bits
    assert all(np.array_equal(as_arrays(found)[name], array) for name, array in arrays.items())
    again = quantise(arrays, bits)  # the nearest grid is at hand
    assert np.array_equal(again.matrices["m"].levels, weights.matrices["m"].levels) or bits < 8


def test_grids_have_the_fewest_levels_that_give_the_numbers():
    found = find_grids({"m": np.array([[6, -3, 0], [0, 0, 0], [0.25, 0.5, 0.75], [0, 0, -4]], dtype=np.float32)})
    assert found.matrices["m"].levels.tolist() == [[2, -1, 0], [0, 0, 0], [1, 2, 3], [0, 0, -1]]
    assert found.matrices["m"].steps.tolist() == [3, 0, 0.25, 4]
    assert found.matrices["m"].bits == 3


def test_every_step_is_a_float16_number_and_levels_keep_to_their_bits():
    for bits in range(2, 9):
        matrix = quantise({"m": normal((30, 50), seed=bits)}, bits).matrices["m"]
        assert np.array_equal(matrix.steps.astype(np.float16).astype(np.float32), matrix.steps)
        assert np.abs(matrix.levels).max() <= top_level(bits)


def test_rounding_is_to_the_nearest_level():
    weights = normal((20, 60))
    matrix = quantise({"m": weights}, 4).matrices["m"]
    inside = np.abs(weights) <= 7 * matrix.steps[:, None]
    off = np.abs(dequantise(matrix) - weights)
    assert (off <= 0.5001 * matrix.steps[:, None])[inside].all()


def test_clips_make_the_squared_error_smaller():
    weights = np.random.default_rng(5).laplace(0, 0.05, (50, 400)).astype(np.float32)  # long tails
    steps = np.abs(weights).max(axis=1, keepdims=True) / 7
    unclipped = np.square(np.rint(weights / steps) * steps - weights).sum()
    assert np.square(dequantise(quantise({"m": weights}, 4).matrices["m"]) - weights).sum() < 0.8 * unclipped


def test_more_bits_are_nearer():
    weights = normal((50, 100))
    errors = [np.square(dequantise(quantise({"m": weights}, bits).matrices["m"]) - weights).sum() for bits in range(2, 9)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-4 * np.square(weights).sum()


def test_rows_of_zeros_and_of_tiny_numbers_become_zeros():
    weights = np.array([[0, 0], [1e-12, -1e-12], [1, -1]], dtype=np.float32)
    matrix = quantise({"m": weights}, 5).matrices["m"]
    assert dequantise(matrix)[:2].tolist() == [[0, 0], [0, 0]]
    assert dequantise(matrix)[2] == pytest.approx([1, -1], rel=1e-3)


def test_a_matrix_off_the_grid_is_named():
    arrays = {"on": dequantise(PackedMatrix(np.array([[1, 2, 7]], dtype=np.int8), np.array([0.125], dtype=np.float32), 4))}
    find_grids(arrays)
    with pytest.raises(ModelError, match=r"first lies on no grid: row 1 .*--bits"):
        find_grids(arrays | {"first": np.array([[1, 2], [1, 1.001]], dtype=np.float32), "second": normal((3, 4))})
    with pytest.raises(ModelError, match="m lies on no grid"):
        find_grids({"m": np.array([[1e30]], dtype=np.float32)})  # no float16 is as large


@pytest.mark.parametrize("shape", [(), (2, 2, 2), (0, 3)])
def test_other_shapes_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ModelError, match="odd has shape"):
        find_grids({"odd": np.ones(shape, dtype=np.float32)})


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(number: float):
    for array in (np.array([1, number], dtype=np.float32), np.array([[1, number]], dtype=np.float32)):
        with pytest.raises(ModelError, match="NaN or infinite"):
            quantise({"v": array}, 4)


@pytest.mark.parametrize("bits", [1, 9])
def test_other_numbers_of_bits_are_refused(bits: int):
    with pytest.raises(ModelError, match="2 to 8 bits"):
        quantise({"m": normal((2, 2))}, bits)
