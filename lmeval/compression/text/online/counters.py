"""Counters of bits in hashed contexts, and what a history of bits has meant so far.

A cell holds, for one context and one decision in it, an average of the bits seen there, their number, and the last seven of
them. A map turns that history, for each kind of context, into the frequency with which such histories were followed by a 1
(indirect modelling: M. Mahoney, "Adaptive weighing of context models for lossless data compression", 2005).

Some contexts have a second average, of those bits alone that the next longer context had not seen: what a context says when
the longer one knows nothing (the counts of Kneser and Ney 1995; update exclusion in PPM).

One 64-bit word a cell: history (8 bits, after a leading 1), number (10), average (22), check (16), from the low end.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from lmeval.compression.text.online.tables import NAT, ONE, SURE, Tables, moved, stretch, tables
from lmeval.compute.compiled import compiled

HISTORIES = 256
FULL = 7  # bits that a history holds
MAP_LIMIT = 900  # values that a map averages over
NOVEL_LIMIT = 250
_HALF = ONE >> 1
_NODE = np.uint64(0xD6E8FEB86659FD93)
_SPREAD = np.uint64(0xC2B2AE3D27D4EB4F)
_CHECK_SHIFT, _CHECK_BITS = np.uint64(8), np.uint64(0xFFFF)
_PLACE_SHIFT = np.uint64(32)


class Counters(NamedTuple):
    """`cells` in a table of a power of two; `maps` (2^-22) and how often each entry was used; and of the decision in hand,
    for each lane and context: the cell, the check that it must have, and the row of the map (0: nothing seen yet).
    `limits`: how many bits a cell's average goes back, for each context. `novel`: the second averages (22 bits) with their
    numbers of bits (8), for contexts whose next longer one, in `longer`, is not -1."""

    cells: Int64[np.ndarray, " size"]
    novel: Int32[np.ndarray, " size"]
    longer: Int64[np.ndarray, " contexts"]
    mapped: Int64[np.ndarray, " contexts"]
    maps: Int32[np.ndarray, "contexts 256"]
    used: Int32[np.ndarray, "contexts 256"]
    limits: Int64[np.ndarray, " contexts"]
    place: Int64[np.ndarray, "lanes contexts"]
    check: Int64[np.ndarray, "lanes contexts"]
    row: Int64[np.ndarray, "lanes contexts"]
    history: Int64[np.ndarray, "lanes contexts"]


def open_counters(size_bits: int, limits: list[int], longer: list[int], mapped: list[bool], n_lanes: int) -> Counters:
    """Empty counters in 2^size_bits cells."""
    shape = (n_lanes, len(limits))
    return Counters(
        np.full(1 << size_bits, _HALF << 18, dtype=np.int64),
        np.full(1 << size_bits, _HALF << 8, dtype=np.int32),
        np.array(longer, dtype=np.int64),
        np.array(mapped, dtype=np.int64),
        np.tile(_first_map(), (len(limits), 1)),
        np.zeros((len(limits), HISTORIES), dtype=np.int32),
        np.array(limits, dtype=np.int64),
        *(np.zeros(shape, dtype=np.int64) for _ in range(4)),
    )


def _first_map() -> Int32[np.ndarray, " 256"]:
    """Histories of up to six bits: (sum of 0.8^age over ones + 2/5) / (sum over all + 4/5). Full ones have rows
    128 + 16 (last three bits) + (log-odds of the average, to the nat): those log-odds."""
    probabilities = np.zeros(HISTORIES, dtype=np.int64)
    for history in range(1, 1 << FULL):
        ones, weight, total = 2 << 20, 5 << 20, 4 << 20
        for age in range(history.bit_length() - 1):
            ones, total = ones + weight * (history >> age & 1), total + weight
            weight = weight * 4 // 5
        probabilities[history] = ones * ONE // total
    middle = (np.arange(16) * 2 - 15) * (NAT >> 1)
    probabilities[1 << FULL :] = np.tile(tables().squashed[(middle + 12 * NAT) >> 4], 8)
    return np.clip(probabilities, SURE, ONE - SURE).astype(np.int32)


@compiled
def look_up(
    counters: Counters,
    lookup: Tables,
    base: UInt64[np.ndarray, "lanes contexts"],
    node: Int64[np.ndarray, " lanes"],
    n_active: int,
    inputs: Int32[np.ndarray, "lanes inputs"],
    seen: Int64[np.ndarray, "lanes 2"],
) -> None:
    """Find the cells of one decision of every active lane and write their inputs: the averages of all contexts, then,
    context by context, what map and second average say, where there are any. `seen`, as bits: the contexts that were seen
    before, and those of them whose history is of ones or of zeros alone."""
    cells, novel, longer, mapped = counters.cells, counters.novel, counters.longer, counters.mapped
    middle, tail, maps = lookup.middle, lookup.tail, counters.maps
    n_contexts = base.shape[1]
    _find(counters, base, node, n_active)
    for lane in range(n_active):
        before, alike, following = 0, 0, n_contexts
        for c in range(n_contexts):
            place = counters.place[lane, c]
            cell = cells[place] if cells[place] >> 40 == counters.check[lane, c] else 0
            history, row, log_odds = cell & 255, cell & 255, 0
            if history:
                log_odds = stretch(cell >> 18 & (ONE - 1), middle, tail)
                if cell >> 8 & 1023 >= FULL:
                    row = 128 + (history & 7) * 16 + min(max((log_odds + 8 * NAT) >> 12, 0), 15)
                before |= 1 << c
                if history & (history + 1) == 0 or history & (history - 1) == 0:
                    alike |= 1 << c
            inputs[lane, c] = log_odds
            if mapped[c]:
                inputs[lane, following] = stretch(np.int64(maps[c, row]), middle, tail) if history else 0
                following += 1
            if longer[c] >= 0:
                inputs[lane, following] = stretch(np.int64(novel[place]) >> 8, middle, tail) if history else 0
                following += 1
            counters.row[lane, c], counters.history[lane, c] = row, history
        seen[lane, 0], seen[lane, 1] = before, alike


@compiled
def _find(
    counters: Counters, base: UInt64[np.ndarray, "lanes contexts"], node: Int64[np.ndarray, " lanes"], n_active: int
) -> None:
    """Places and checks of all cells: at once, so that memory is asked for the next before the last has come."""
    cells, mask, places, checks = counters.cells, np.int64(len(counters.cells) - 1), counters.place, counters.check
    for lane in range(n_active):
        salt = np.uint64(node[lane]) * _NODE
        for c in range(base.shape[1]):
            hashed = (base[lane, c] + salt) * _SPREAD
            check = np.int64((hashed >> _CHECK_SHIFT) & _CHECK_BITS)
            place = np.int64(hashed >> _PLACE_SHIFT) & mask
            if cells[place] >> 40 != check:
                other = cells[place ^ 1]
                if other >> 40 == check or (other >> 8 & 1023) < (cells[place] >> 8 & 1023):
                    place ^= 1
            places[lane, c], checks[lane, c] = place, check


@compiled
def _has_seen(history: int, bit: int) -> bool:
    """Whether the bit is among those of a history."""
    return history > 0 and (history & (history - 1 if bit else history + 1)) != 0


@compiled
def learn_counters(counters: Counters, lookup: Tables, bits: Int64[np.ndarray, " lanes"], n_active: int) -> None:
    """Enter the bits of the active lanes into the cells and maps that `look_up` found."""
    for lane in range(n_active):
        bit = bits[lane]
        for c in range(counters.place.shape[1]):
            if counters.mapped[c] and counters.row[lane, c]:
                row, used = counters.row[lane, c], np.int64(counters.used[c, counters.row[lane, c]])
                rate = lookup.rates[min(used + 8, MAP_LIMIT)]
                counters.maps[c, row] = moved(np.int64(counters.maps[c, row]), bit, rate)
                counters.used[c, row] = min(used + 1, MAP_LIMIT)
            place, check = counters.place[lane, c], counters.check[lane, c]
            cell = counters.cells[place]
            if cell >> 40 != check:  # new here, or another lane has just taken the place
                cell = _HALF << 18
                counters.novel[place] = _HALF << 8
            longer = counters.longer[c]
            if longer >= 0 and not _has_seen(counters.history[lane, longer], bit):
                n, average = np.int64(counters.novel[place]) & 255, np.int64(counters.novel[place]) >> 8
                counters.novel[place] = moved(average, bit, lookup.rates[n]) << 8 | min(n + 1, NOVEL_LIMIT)
            history, n, average = cell & 255, cell >> 8 & 1023, cell >> 18 & (ONE - 1)
            average = moved(average, bit, lookup.rates[n])
            n = min(n + 1, counters.limits[c])
            history = (2 | bit) if history == 0 else history << 1 | bit
            if history > 255:
                history = (history & 127) | 128
            counters.cells[place] = check << 40 | average << 18 | n << 8 | history
