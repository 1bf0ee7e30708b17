"""Match models: where the last symbols of a lane stood before, in any lane, the next symbol may follow again."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from lmeval.compression.text.online.hashes import fold
from lmeval.compression.text.online.tables import ONE, Tables, moved, stretch
from lmeval.compute.compiled import Int, compiled

LONGEST = 32  # symbols that a match is compared over
MISSES = 8  # after more of them in a row of short matches a match is given up
MAP_ROWS = 256
MAP_LIMIT = 250


class Matches(NamedTuple):
    """`depth` is the number of decisions of a symbol. For each model: `lengths` that a match must have, a hash table of
    places; for each lane the place of the symbol that is expected (a number in coding order, -1: none), how many symbols
    before it agreed, and how many did not of late. Maps: row 64 misses + 2 length + expected bit.

    Of the decision in hand: each model's row, or -1; `strongest`: 0, or 1 + 2 (size of the log-odds of the first model that
    expects anything, in nats, at most 7) + the bit that it expects.
    """

    depth: int
    lengths: Int64[np.ndarray, " models"]
    table: Int32[np.ndarray, "models size"]
    place: Int64[np.ndarray, "models lanes"]
    agreed: Int64[np.ndarray, "models lanes"]
    missed: Int64[np.ndarray, "models lanes"]
    maps: Int64[np.ndarray, "models rows"]
    used: Int64[np.ndarray, "models rows"]
    row: Int64[np.ndarray, "models lanes"]
    strongest: Int64[np.ndarray, " lanes"]


def open_matches(depth: int, lengths: list[int], size_bits: int, n_lanes: int) -> Matches:
    """Models that know of no place."""
    n = len(lengths)
    row = np.arange(MAP_ROWS)
    length, missed = row >> 1 & 31, row >> 6
    doubt = ONE // (np.where(missed > 0, length >> 1, length) + 3)
    first = np.where(row & 1, ONE - doubt, doubt)
    return Matches(
        depth,
        np.array(lengths, dtype=np.int64),
        np.full((n, 1 << size_bits), -1, dtype=np.int32),
        np.full((n, n_lanes), -1, dtype=np.int64),
        np.zeros((n, n_lanes), dtype=np.int64),
        np.zeros((n, n_lanes), dtype=np.int64),
        np.tile(first, (n, 1)),
        np.zeros((n, MAP_ROWS), dtype=np.int64),
        np.full((n, n_lanes), -1, dtype=np.int64),
        np.zeros(n_lanes, dtype=np.int64),
    )


@compiled
def _following(place: int, n_tokens: int, n_lanes: int) -> Int:
    """The place of the text's next symbol: in the same lane, or where the next lane begins; -1 at the end of the text."""
    if place + n_lanes < n_tokens:
        return place + n_lanes
    lane = place % n_lanes
    return lane + 1 if lane + 1 < n_lanes else -1


@compiled
def _hashed(ids: Int64[np.ndarray, " tokens"], step: int, n_lanes: int, lane: int, length: int, size: int) -> Int:
    """Row of the hash table for the last `length` symbols of a lane."""
    hashed = np.uint64(0)
    for back in range(1, length + 1):
        hashed = fold(hashed, ids[(step - back) * n_lanes + lane] + 1)
    return np.int64(hashed >> np.uint64(32)) & (size - 1)


@compiled
def follow(matches: Matches, ids: Int64[np.ndarray, " tokens"], step: int, n_lanes: int, n_active: int) -> None:
    """Go on to the places of the symbols at `step`, or look for some; then enter those symbols' own places."""
    for lane in range(n_active):
        for m in range(len(matches.lengths)):
            _follow(matches, ids, step, n_lanes, lane, m)
    for lane in range(n_active):
        for m in range(len(matches.lengths)):
            if step >= matches.lengths[m]:
                row = _hashed(ids, step, n_lanes, lane, matches.lengths[m], matches.table.shape[1])
                matches.table[m, row] = step * n_lanes + lane


@compiled
def _follow(matches: Matches, ids: Int64[np.ndarray, " tokens"], step: int, n_lanes: int, lane: int, m: int) -> None:
    now = step * n_lanes
    length, place = matches.lengths[m], matches.place[m, lane]
    if place >= 0:
        if ids[place] == ids[now - n_lanes + lane]:
            matches.agreed[m, lane] += 1
        else:
            matches.agreed[m, lane] = 0
            matches.missed[m, lane] += 1
        if matches.agreed[m, lane] > 16:
            matches.missed[m, lane] = 0
        place = _following(place, len(ids), n_lanes)
        if place >= now or matches.missed[m, lane] > MISSES:
            place = -1
    if step >= length and (place < 0 or matches.agreed[m, lane] < length):
        row = _hashed(ids, step, n_lanes, lane, length, matches.table.shape[1])
        candidate = np.int64(matches.table[m, row])
        if candidate >= 0:
            agreed = _agreement(ids, candidate, now + lane, n_lanes)
            if agreed >= length and (place < 0 or agreed > matches.agreed[m, lane]):
                place = candidate
                matches.agreed[m, lane] = agreed
                matches.missed[m, lane] = 0
    matches.place[m, lane] = place


@compiled
def _agreement(ids: Int64[np.ndarray, " tokens"], a: int, b: int, n_lanes: int) -> Int:
    """Symbols before two places, each in its lane, that agree: at most LONGEST."""
    n = 0
    while n < LONGEST:
        a, b = a - n_lanes, b - n_lanes
        if a < 0 or b < 0 or ids[a] != ids[b]:
            break
        n += 1
    return n


@compiled
def expect(
    matches: Matches,
    lookup: Tables,
    ids: Int64[np.ndarray, " tokens"],
    node: Int64[np.ndarray, " lanes"],
    decision: int,
    n_active: int,
    inputs: Int32[np.ndarray, "lanes inputs"],
    first: int,
) -> None:
    """Write the inputs of one decision, from `first` on, and what is strongest expected."""
    depth, strongest = matches.depth, matches.strongest
    left = depth - decision
    for lane in range(n_active):
        strongest[lane] = 0
        for m in range(len(matches.lengths)):
            matches.row[m, lane], inputs[lane, first + m] = -1, 0
            place = matches.place[m, lane]
            if place < 0 or (ids[place] | 1 << depth) >> left != node[lane]:
                continue
            bit = ids[place] >> (left - 1) & 1
            length = matches.agreed[m, lane]
            length = length if length <= 15 else min(15 + ((length - 15) >> 2), 31)
            row = min(matches.missed[m, lane], 3) << 6 | length << 1 | bit
            log_odds = stretch(matches.maps[m, row], lookup.middle, lookup.tail)
            matches.row[m, lane], inputs[lane, first + m] = row, log_odds
            if strongest[lane] == 0:
                strongest[lane] = 1 + 2 * min(abs(log_odds) >> 12, 7) + bit


@compiled
def learn_matches(matches: Matches, lookup: Tables, bits: Int64[np.ndarray, " lanes"], n_active: int) -> None:
    """Enter the bits of the active lanes into the maps that `expect` used."""
    for lane in range(n_active):
        for m in range(len(matches.lengths)):
            row = matches.row[m, lane]
            if row >= 0:
                used = matches.used[m, row]
                matches.maps[m, row] = moved(matches.maps[m, row], bits[lane], lookup.rates[used + 4])
                matches.used[m, row] = min(used + 1, MAP_LIMIT)
