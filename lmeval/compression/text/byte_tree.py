"""The tree of `tree.py` over at most 256 ids, in compiled code that needs no PyTorch: whole trees of masses, row by row.

A tree of depth D is a row of 2^(D + 1) numbers: the root's mass is at 1, the halves of a node at n are at 2 n (bit 0) and
2 n + 1 (bit 1), and the id i is the leaf at 2^D + i. Everything but a logarithm is sums and products of 64-bit floats in
one order, so that the masses of given logits are the same on every machine.
"""

import math

import numpy as np
from jaxtyping import Float, Float64, Int64

from lmeval.compression.text.masses import LEAST_LOGIT, TINY, require_finite
from lmeval.compute.compiled import Int, compiled

MAX_DEPTH = 8

# x = n ln 2 + r with |r| <= ln 2 / 2, so exp(x) is 2^n times a polynomial of r: exp's first terms, which leave out 4e-18.
_HALVES = 1 / math.log(2)
_ROUND = 1.5 * 2.0**52  # a number of this size has no digits behind the point, and n in its lowest bits
_LN2 = float.fromhex("0x1.62e42fee00000p-1")  # its first 33 bits: times n it is exact
_LN2_REST = float.fromhex("0x1.a39ef35793c76p-33")
_F2, _F3, _F4, _F5, _F6, _F7, _F8, _F9, _F10, _F11, _F12, _F13 = (1 / math.factorial(i) for i in range(2, 14))


def open_trees(n_rows: int, depth: int = MAX_DEPTH) -> Float64[np.ndarray, "rows nodes"]:
    """Space for the trees of so many rows."""
    return np.zeros((n_rows, 2 << depth))


def fill_trees(logits: Float[np.ndarray, "rows vocabulary"], trees: Float64[np.ndarray, "rows nodes"]) -> None:
    """The masses of every row's logits, relative to its largest, into `trees`. Rows have nothing to do with each other, so
    threads may fill them at the same time.

    Args:
        logits: Those of ids that the trees have no leaf for are not looked at; leaves without a logit have the mass 0.
        trees: What `open_trees` gave, or some rows of it.

    Raises:
        NonFiniteScore: NaN, infinite, or nothing but ruled-out logits.
    """
    require_finite(_fill_trees(logits, trees))


def path_log_odds(
    logits: Float[np.ndarray, "rows vocabulary"],
    ids: Int64[np.ndarray, " rows"],
    log_odds: Float64[np.ndarray, "rows depth"],
) -> None:
    """Log-odds of the decisions on the way to each row's id, high bit first, into `log_odds`. The width of that is the
    depth of the tree.

    Raises:
        NonFiniteScore: NaN, infinite, or nothing but ruled-out logits.
        ValueError: An id that such a tree does not have.
    """
    if len(ids) and not 0 <= ids.min() <= ids.max() < 1 << log_odds.shape[1]:
        raise ValueError(f"an id has more than {log_odds.shape[1]} bits")
    require_finite(_path_log_odds(logits, ids, log_odds))


@compiled
def node_log_odds(tree: Float64[np.ndarray, " nodes"], node: Int) -> float:
    """ln(mass of the half with bit 1 / mass of the half with bit 0)."""
    return math.log(max(tree[2 * node + 1], TINY)) - math.log(max(tree[2 * node], TINY))


@compiled
def _fill_trees(logits: Float[np.ndarray, "rows vocabulary"], trees: Float64[np.ndarray, "rows nodes"]) -> bool:
    all_finite = True
    for row in range(len(trees)):
        all_finite &= _fill_tree(logits[row], trees[row])
    return all_finite


@compiled
def _path_log_odds(
    logits: Float[np.ndarray, "rows vocabulary"],
    ids: Int64[np.ndarray, " rows"],
    log_odds: Float64[np.ndarray, "rows depth"],
) -> bool:
    depth = log_odds.shape[1]
    tree, all_finite = np.zeros(2 << depth), True
    for row in range(len(ids)):
        all_finite &= _fill_tree(logits[row], tree)
        for decision in range(depth):
            log_odds[row, decision] = node_log_odds(tree, (1 << depth | ids[row]) >> depth - decision)
    return all_finite


@compiled
def _fill_tree(logits: Float[np.ndarray, " vocabulary"], tree: Float64[np.ndarray, " nodes"]) -> bool:
    """False where the logits are not to be used."""
    width = len(tree) >> 1
    n_ids, leaves = min(width, len(logits)), tree[width:]
    largest, n_odd = -np.inf, 0
    for i in range(n_ids):
        leaf = np.float64(logits[i])
        leaves[i] = leaf
        if leaf > largest:
            largest = leaf
        if leaf != leaf:  # NaN, which is not larger than anything
            n_odd += 1
    if n_odd or not math.isfinite(largest):
        return False
    leaves[n_ids:] = 0.0
    _exponentiate(leaves[:n_ids], largest)
    while width > 1:
        width >>= 1
        for node in range(width, 2 * width):
            tree[node] = tree[2 * node] + tree[2 * node + 1]
    return True


@compiled
def _exponentiate(values: Float64[np.ndarray, " leaves"], largest: float) -> None:
    """exp(max(value - largest, LEAST_LOGIT)) in the place of every value, to the last digit or next to it."""
    for i in range(len(values)):
        x = max(values[i] - largest, LEAST_LOGIT)
        shifted = np.float64(x * _HALVES + _ROUND)
        n = shifted - _ROUND
        r = (x - n * _LN2) - n * _LN2_REST
        p = _F9 + r * (_F10 + r * (_F11 + r * (_F12 + r * _F13)))
        p = 1.0 + r * (1.0 + r * (_F2 + r * (_F3 + r * (_F4 + r * (_F5 + r * (_F6 + r * (_F7 + r * (_F8 + r * p))))))))
        values[i] = p * np.int64((shifted.view(np.int64) + 1023) << 52).view(np.float64)  # times 2^n
