"""Run models: the symbol that came last in a context, and how many times in a row, predict the decisions of the next."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from lmeval.compression.text.online.tables import ONE, Tables, moved, stretch
from lmeval.compute.compiled import compiled

LONGEST = 32
MAP_LIMIT = 60
_CHECK_SHIFT, _CHECK_BITS = np.uint64(8), np.uint64(0xFFFF)
_PLACE_SHIFT = np.uint64(32)
_SYMBOL = (1 << 32) - 1


class Runs(NamedTuple):
    """`contexts` that have a run model. `cells`: a check of 16 bits, a flag that the context has seen other symbols too, the
    length of the run (5 bits, less 1), and the symbol + 1 (32 bits), from the high end; 0 where nothing was seen. Maps: row
    16 (32 flag + length - 1) + 2 decision + expected bit. For each lane and model: the cell of the symbol in hand, and of
    the decision in hand the row of the map, or -1."""

    contexts: Int64[np.ndarray, " models"]
    cells: Int64[np.ndarray, " size"]
    maps: Int32[np.ndarray, "models rows"]
    used: Int32[np.ndarray, "models rows"]
    place: Int64[np.ndarray, "lanes models"]
    check: Int64[np.ndarray, "lanes models"]
    row: Int64[np.ndarray, "lanes models"]


def open_runs(which: list[int], size_bits: int, n_lanes: int) -> Runs:
    """Models that have seen nothing, with one table of 2^size_bits cells."""
    row = np.arange(2 * LONGEST * 16)
    doubt = ONE // ((row >> 4) % LONGEST + 3)
    first = np.where(row & 1, ONE - doubt, doubt).astype(np.int32)
    return Runs(
        np.array(which, dtype=np.int64),
        np.zeros(1 << size_bits, dtype=np.int64),
        np.tile(first, (len(which), 1)),
        np.zeros((len(which), len(row)), dtype=np.int32),
        *(np.zeros((n_lanes, len(which)), dtype=np.int64) for _ in range(3)),
    )


@compiled
def find_runs(runs: Runs, base: UInt64[np.ndarray, "lanes contexts"], n_active: int) -> None:
    """The cells of the active lanes' next symbols."""
    for lane in range(n_active):
        for m in range(len(runs.contexts)):
            hashed = base[lane, runs.contexts[m]]
            runs.check[lane, m] = np.int64((hashed >> _CHECK_SHIFT) & _CHECK_BITS)
            runs.place[lane, m] = np.int64(hashed >> _PLACE_SHIFT) & (len(runs.cells) - 1)


@compiled
def expect_runs(
    runs: Runs,
    lookup: Tables,
    node: Int64[np.ndarray, " lanes"],
    decision: int,
    depth: int,
    n_active: int,
    inputs: Int32[np.ndarray, "lanes inputs"],
    first: int,
) -> None:
    """Write the inputs of one decision, from `first` on: 0 where the symbol that is expected has been ruled out."""
    left = depth - decision
    for lane in range(n_active):
        for m in range(len(runs.contexts)):
            cell = runs.cells[runs.place[lane, m]]
            expected = (cell & _SYMBOL) - 1
            inputs[lane, first + m], runs.row[lane, m] = 0, -1
            if expected < 0 or cell >> 40 != runs.check[lane, m] or (expected | 1 << depth) >> left != node[lane]:
                continue
            row = (cell >> 32 & 63) << 4 | min(decision, 7) << 1 | (expected >> (left - 1) & 1)
            runs.row[lane, m] = row
            inputs[lane, first + m] = stretch(np.int64(runs.maps[m, row]), lookup.middle, lookup.tail)


@compiled
def learn_runs(runs: Runs, lookup: Tables, bits: Int64[np.ndarray, " lanes"], n_active: int) -> None:
    """Enter the bits of the active lanes into the maps."""
    for lane in range(n_active):
        for m in range(len(runs.contexts)):
            row = runs.row[lane, m]
            if row >= 0:
                used = np.int64(runs.used[m, row])
                rate = lookup.rates[min(used + 4, MAP_LIMIT)]
                runs.maps[m, row] = moved(np.int64(runs.maps[m, row]), bits[lane], rate)
                runs.used[m, row] = min(used + 1, MAP_LIMIT)


@compiled
def lengthen_runs(runs: Runs, ids: Int64[np.ndarray, " active"]) -> None:
    """Enter the active lanes' whole symbols into their contexts' cells."""
    for lane in range(len(ids)):
        for m in range(len(runs.contexts)):
            place, check = runs.place[lane, m], runs.check[lane, m]
            cell, state = runs.cells[place], np.int64(0)
            if cell >> 40 == check and cell & _SYMBOL:
                state = LONGEST
                if (cell & _SYMBOL) - 1 == ids[lane]:
                    state = cell >> 32 & 63
                    state = state if state & (LONGEST - 1) == LONGEST - 1 else state + 1
            runs.cells[place] = check << 40 | state << 32 | ((ids[lane] + 1) & _SYMBOL)
