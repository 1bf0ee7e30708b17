"""Put the weights of a network on grids of few bits, or find the grids on which they lie: what `packed` keeps."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from lmeval.errors import ModelError
from lmeval.models.packed import BITS, PackedMatrix, PackedWeights, top_level

CLIPS = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58, 0.51)
"""The top level of a row stands for one of these shares of its largest magnitude."""


def find_grids(arrays: Mapping[str, Float32[np.ndarray, "..."]]) -> PackedWeights:
    """Weights that lie on grids already, as a training with the grid in its loop leaves them.

    Args:
        arrays: All weights by name: vectors, and matrices [rows, columns].

    Returns:
        The same numbers, exactly: of each row the grid with the fewest levels, of each matrix the fewest bits.

    Raises:
        ModelError: A matrix lies on no grid, or a weight is neither a matrix nor a vector, or not finite.
    """
    _check(arrays)
    return PackedWeights(
        {name: _find_grid(name, array) for name, array in arrays.items() if array.ndim == 2},
        {name: array for name, array in arrays.items() if array.ndim == 1},
    )


def quantise(arrays: Mapping[str, Float32[np.ndarray, "..."]], bits: int) -> PackedWeights:
    """The nearest weights on grids: of each row the one of CLIPS with the least squared error. Vectors become float16.

    Args:
        arrays: All weights by name: vectors, and matrices [rows, columns].
        bits: Of a weight, from 2 to 8.

    Raises:
        ModelError: No grid has so many bits, or a weight is neither a matrix nor a vector, or not finite.
    """
    if bits not in BITS:
        raise ModelError(f"weights have {BITS[0]} to {BITS[-1]} bits, not {bits}")
    _check(arrays)
    return PackedWeights(
        {name: _nearest(array, bits) for name, array in arrays.items() if array.ndim == 2},
        {name: array.astype(np.float16).astype(np.float32) for name, array in arrays.items() if array.ndim == 1},
    )


def _check(arrays: Mapping[str, Float32[np.ndarray, "..."]]) -> None:
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or array.size == 0:
            raise ModelError(f"{name} has shape {list(array.shape)}: only matrices and vectors can be packed")
        if not np.isfinite(array).all():
            raise ModelError(f"{name} has weights that are NaN or infinite")


def _nearest(weights: Float32[np.ndarray, "rows columns"], bits: int) -> PackedMatrix:
    top = top_level(bits)
    most = np.maximum(np.abs(weights).max(axis=1, keepdims=True), np.float32(1e-8))
    best, least = most / np.float32(top), np.full_like(most, np.inf)
    for clip in CLIPS:
        steps = most * np.float32(clip) / np.float32(top)
        errors = np.square(_levels(weights, steps, top) * steps - weights).sum(axis=1, keepdims=True)
        best, least = np.where(errors < least, steps, best), np.minimum(errors, least)
    steps = best.astype(np.float16).astype(np.float32)
    return PackedMatrix(_levels(weights, steps, top).astype(np.int8), steps[:, 0], bits)


def _levels(
    weights: Float32[np.ndarray, "rows columns"], steps: Float32[np.ndarray, "rows 1"], top: int
) -> Float32[np.ndarray, "rows columns"]:
    """The level nearest to each weight; 0 in a row whose step is too small for float16."""
    return np.clip(np.rint(weights / np.where(steps > 0, steps, np.float32(np.inf))), -top, top)


def _find_grid(name: str, weights: Float32[np.ndarray, "rows columns"]) -> PackedMatrix:
    """Of each row: the largest float16 step of which all weights are multiples, up to 127 times."""
    most = np.abs(weights).max(axis=1, keepdims=True)
    steps, levels = np.zeros_like(most), np.zeros(weights.shape, dtype=np.int8)
    left = np.flatnonzero(most)
    for top in range(1, top_level(BITS[-1]) + 1):
        with np.errstate(over="ignore"):  # a step beyond float16 is infinite, and no weight its multiple
            tried = (most[left] / np.float32(top)).astype(np.float16).astype(np.float32)
        usable = np.flatnonzero((tried > 0) & np.isfinite(tried))
        rows, tried = left[usable], tried[usable]
        nearest = _levels(weights[rows], tried, top)
        fits = (nearest * tried == weights[rows]).all(axis=1)
        steps[rows[fits]], levels[rows[fits]] = tried[fits], nearest[fits]
        left = np.setdiff1d(left, rows[fits])
        if not len(left):
            bits = next(bits for bits in BITS if top_level(bits) >= np.abs(levels).max())
            return PackedMatrix(levels, steps[:, 0], bits)
    raise ModelError(
        f"{name} lies on no grid: row {left[0]} is not whole multiples, up to {top_level(BITS[-1])}, of a float16 number; "
        "round it with --bits, or train with the grid in the loop and save float32 weights"
    )
