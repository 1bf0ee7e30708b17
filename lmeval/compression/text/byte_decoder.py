"""One token of every lane of a block from trees of masses, in one compiled call: what `decode.py` does decision by decision
for any vocabulary, for at most 256 ids.

At each of the decisions every lane in turn finds its cell of the grid (`grid.py`), the online models adapt the frequencies
where there are any (`adaptive.py`), the coder gives the bits, lane by lane, and the online models learn them.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from lmeval.compression.coding.grid import LOG_ODDS_LIMIT, PHASES, TABLE_BITS, Grid, frequency_table
from lmeval.compression.coding.stack import Stack, pop_bit
from lmeval.compression.text.byte_tree import node_log_odds
from lmeval.compression.text.online.state import State, begin_step, learn_step, predict_step
from lmeval.compute.compiled import Int, compiled

_THIRD = -1.0 / 3.0


class Cells(NamedTuple):
    """A grid as compiled code needs it: the number of its cells, and the frequency of each place."""

    cells: int
    frequencies: Int64[np.ndarray, " x"]


def open_cells(grid: Grid) -> Cells:
    """The cells of a grid."""
    return Cells(grid.cells, frequency_table())


def decode_step(
    stack: Stack,
    cells: Cells,
    online: State | None,
    step: int,
    trees: Float64[np.ndarray, "active nodes"],
    phases: Int64[np.ndarray, " active"],
) -> Int64[np.ndarray, " active"]:
    """The ids at a step of the lanes that have a token there.

    Args:
        stack: The coder of the block, at this step. It moves on.
        cells: The grid's.
        online: The online models of an adapted block, which have learnt the steps before. They learn this one.
        step: Number of the step, from 0.
        trees: Masses of each active lane's ids (`byte_tree.fill_trees`).
        phases: Of the group of each active lane's token.
    """
    ids = np.ones(len(trees), dtype=np.int64)
    if online is None:
        _decode(stack, cells, trees, phases, ids)
    elif len(ids):
        _decode_adapted(stack, cells, online, step, trees, phases, ids)
    return ids


@compiled
def _frequency(cells: Cells, phase: Int, log_odds: float) -> Int:
    """As `grid.edges_below` and `grid.frequencies` have it."""
    fine = cells.cells * PHASES
    x = 1.0 / (1.0 + math.exp(min(max(log_odds, -LOG_ODDS_LIMIT), LOG_ODDS_LIMIT) * _THIRD))
    edge = np.int64(x * fine)
    lower = edge - (edge - phase) % PHASES
    middle = max(lower, 0) + min(lower + PHASES, fine)
    return cells.frequencies[(middle << (TABLE_BITS - 1)) // fine]


@compiled
def _decode(
    stack: Stack,
    cells: Cells,
    trees: Float64[np.ndarray, "active nodes"],
    phases: Int64[np.ndarray, " active"],
    node: Int64[np.ndarray, " active"],
) -> None:
    """The nodes are the root's at first, and ids in the end."""
    leaves = trees.shape[1] >> 1
    while len(node) and node[0] < leaves:
        for lane in range(len(node)):
            frequency = _frequency(cells, phases[lane], node_log_odds(trees[lane], node[lane]))
            node[lane] = node[lane] << 1 | pop_bit(stack, frequency)
    node -= leaves


@compiled
def _decode_adapted(
    stack: Stack,
    cells: Cells,
    online: State,
    step: int,
    trees: Float64[np.ndarray, "active nodes"],
    phases: Int64[np.ndarray, " active"],
    node: Int64[np.ndarray, " active"],
) -> None:
    """As `_decode`, with online models between grid and coder."""
    n_active = len(node)
    frequencies, adapted = np.empty(n_active, dtype=np.int32), np.empty(n_active, dtype=np.int32)
    bits = np.empty(n_active, dtype=np.int64)
    begin_step(online, step, n_active)
    for decision in range(online.depth):
        for lane in range(n_active):
            frequencies[lane] = _frequency(cells, phases[lane], node_log_odds(trees[lane], node[lane]))
        predict_step(online, step, decision, frequencies, adapted)
        for lane in range(n_active):
            bits[lane] = pop_bit(stack, np.int64(adapted[lane]))
            node[lane] = node[lane] << 1 | bits[lane]
        learn_step(online, step, decision, bits)
    node -= trees.shape[1] >> 1
