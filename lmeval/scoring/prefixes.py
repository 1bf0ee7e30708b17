"""Requests that share their beginnings -> a plan that computes what they share once. Numbers alone, no model.

The inputs of all requests, sorted, with the length that each shares with the one before, are a radix tree. The plan cuts it:
where many sequences share a long beginning, that is a *prefix*, read once and kept as keys and values while the sequences
below it are scored; prefixes nest. What remains of the sequences below a prefix is packed into *rows*. A row is a tree of
tokens in depth-first order, and goes through the network as one sequence with a mask. A question with four choices is one
row; choices of one token each add no token to it, since they are read at the same place.

A scored place (one that predicts a target) is never inside a prefix: it would have to be read there.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from lmeval.scoring.requests import Request

MIN_PREFIX = 16  # tokens that a prefix adds to its parent
MIN_SHARERS = 4  # sequences below a prefix
ROW_TOKENS = 512  # rows grow to this (or to the longest sequence) while their sequences share enough
PACKED_TOKENS = 256  # rows below a prefix grow to this whatever they share: each row copies the prefix's keys and values
SHARED_PART = 4  # a sequence joins a row if it shares at least 1 / SHARED_PART of what remains of it


class Sequences(NamedTuple):
    """The distinct inputs of some requests, in lexicographic order, those of different media apart."""

    tokens: list[np.ndarray]  # token ids of each, of any integer dtype
    lengths: Int64[np.ndarray, " sequences"]
    shared: Int64[np.ndarray, " sequences"]  # leading tokens in common with the sequence before; 0 for the first
    first: Int64[np.ndarray, " sequences"]  # the earliest scored place of each
    readers: list[list[int]]  # the distinct requests that are read from each


class Distinct(NamedTuple):
    """Requests without repetition: `of[i]` is the index in `requests` of what equals request i."""

    requests: list[Request]
    of: list[int]


class PlannedPrefix(NamedTuple):
    """`length` leading tokens of sequence `member`, read after those of `parent` (its index in the plan, or -1)."""

    parent: int
    length: int
    member: int


class Row(NamedTuple):
    """Sequences that go through the network as one tree of `size` tokens below prefix `prefix` (-1: none). `shared` are the
    leading tokens that each has in common with the one before it in the row (the first: the prefix's)."""

    prefix: int
    members: list[int]
    shared: list[int]
    size: int


class Plan(NamedTuple):
    """Prefixes, parents first and depth-first; rows, those of one prefix together, in the order of the prefixes."""

    prefixes: list[PlannedPrefix]
    rows: list[Row]


class Layout(NamedTuple):
    """The tokens of a row, depth-first, and where its sequences lie.

    Token j is an ancestor of token i, or i itself, where j <= i < end[j]. `paths[k][d]` is the place in the row of token
    prefix + d of the row's k-th sequence.
    """

    ids: Int64[np.ndarray, " size"]
    depth: Int64[np.ndarray, " size"]  # place in its sequence, counted from the sequence's beginning
    end: Int64[np.ndarray, " size"]
    paths: list[np.ndarray]


def distinct(requests: Sequence[Request]) -> tuple[Distinct, Sequences]:
    """Requests without repetition, and their inputs (context + target[:-1]) without repetition, sorted by media and tokens.

    Two requests are one where context, target and media are equal; two inputs where their tokens and media are.
    """
    held: dict[int, bytes] = {}  # contexts that are one object are turned into bytes once
    inputs: dict[tuple[str, bytes], int] = {}
    known: dict[tuple[int, int, int], int] = {}
    first: list[int] = []
    readers: list[list[int]] = []
    kept: list[Request] = []
    of: list[int] = []
    for request in requests:
        context, target, media = request
        if (start := held.get(id(context))) is None:
            start = held[id(context)] = context.astype(">u4").tobytes()  # big-endian: bytes sort as the ids do
        text = start + target[:-1].astype(">u4").tobytes() if len(target) > 1 else start
        i = inputs.setdefault((media, text), len(inputs))
        if i == len(first):
            first.append(len(context) - 1)
            readers.append([])
        key = (i, len(target), int(target[-1]))
        if (same := known.get(key)) is None:
            same = known[key] = len(kept)
            kept.append(request)
            readers[i].append(same)
            first[i] = min(first[i], len(context) - 1)
        of.append(same)
    ascending = sorted(inputs)
    order = [inputs[one] for one in ascending]
    tokens = [np.frombuffer(text, dtype=">u4") for _, text in ascending]
    same_media = [a == b for (a, _), (b, _) in itertools.pairwise(ascending)]
    shared = [
        common_prefix(a, b) if same else 0 for same, (a, b) in zip(same_media, itertools.pairwise(tokens), strict=True)
    ]
    sequences = Sequences(
        tokens=tokens,
        lengths=np.array([len(t) for t in tokens], dtype=np.int64),
        shared=np.array([0, *shared][: len(tokens)], dtype=np.int64),
        first=np.array([first[i] for i in order], dtype=np.int64),
        readers=[readers[i] for i in order],
    )
    return Distinct(kept, of), sequences


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """Number of leading elements that two arrays have in common.

    >>> common_prefix(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    at = int(differ.argmax()) if n else 0
    return at if n and differ[at] else n


def separately(requests: Sequence[Request]) -> tuple[Sequences, Plan]:
    """Each request a sequence and a row of its own, in the order of the requests; nothing shared."""
    tokens = [np.concatenate([context, target[:-1]]) for context, target, _ in requests]
    sequences = Sequences(
        tokens=tokens,
        lengths=np.array([len(t) for t in tokens], dtype=np.int64),
        shared=np.zeros(len(tokens), dtype=np.int64),
        first=np.array([len(context) - 1 for context, _, _ in requests], dtype=np.int64),
        readers=[[i] for i in range(len(tokens))],
    )
    return sequences, Plan([], [Row(-1, [i], [0], len(t)) for i, t in enumerate(tokens)])


def plan_chains(sequences: Sequences) -> Plan:
    """Rows without branches, for networks that read no trees: a sequence that continues the one before it shares its row, so
    that choices of one token each cost nothing more."""
    rows: list[Row] = []
    for i, (length, share) in enumerate(zip(sequences.lengths.tolist(), sequences.shared.tolist(), strict=True)):
        if i and share == sequences.lengths[i - 1]:
            rows[-1].members.append(i)
            rows[-1].shared.append(share)
            rows[-1] = rows[-1]._replace(size=length)
        else:
            rows.append(Row(-1, [i], [0], length))
    return Plan([], rows)


def plan_prefixes(sequences: Sequences, overhead: int) -> Plan:
    """Prefixes and rows for these sequences. A prefix must save more than `overhead` tokens: what another pass through the
    network, and smaller batches, cost."""
    plan, everything = Plan([], []), np.arange(len(sequences.tokens))
    # A prefix, and the sequences below it. Those pushed last come first: depth-first order.
    waiting: list[tuple[PlannedPrefix, np.ndarray]] = [(PlannedPrefix(-1, 0, 0), everything)] if len(everything) else []
    while waiting:
        prefix, members = waiting.pop()
        index = -1
        if prefix.length:
            index = len(plan.prefixes)
            plan.prefixes.append(prefix)
        own, below = _divide(sequences, members, prefix.length, overhead)
        plan.rows.extend(_pack(sequences, np.sort(own), index, prefix.length))
        waiting.extend((PlannedPrefix(index, length, int(inside[0])), inside) for length, inside in reversed(below))
    return plan


def _divide(
    sequences: Sequences, members: Int64[np.ndarray, " members"], length: int, overhead: int
) -> tuple[Int64[np.ndarray, " own"], list[tuple[int, Int64[np.ndarray, " inside"]]]]:
    """Sequences (ascending) below a prefix of `length` -> those that are best read right below it, and those below longer
    prefixes that are worth it: their lengths and sequences, in order."""
    own: list[np.ndarray] = []
    deeper: list[tuple[int, np.ndarray]] = []
    waiting = [(members, _shared_by_neighbours(sequences, members))]  # groups in the tree, each with its neighbours' shares
    while waiting:
        group, shared = waiting.pop()
        if len(group) < MIN_SHARERS:
            own.append(group)
            continue
        depth = int(shared.min())  # what the whole group shares
        if depth - length >= MIN_PREFIX:
            best = _best_length(sequences.first[group], depth, length)
            inside = group[sequences.first[group] >= best]
            if best - length >= MIN_PREFIX and _saved(sequences, inside, length, best) > overhead:
                deeper.append((best, inside))
                own.append(group[sequences.first[group] < best])
                continue
        cuts = np.flatnonzero(shared == depth) + 1
        edges = [0, *cuts.tolist(), len(group)]
        for start, stop in zip(reversed(edges[:-1]), reversed(edges[1:]), strict=True):
            if stop - start < MIN_SHARERS:
                own.append(group[start:stop])
            else:
                waiting.append((group[start:stop], shared[start : stop - 1]))
    return np.concatenate(own) if own else members[:0], deeper


def _shared_by_neighbours(
    sequences: Sequences, members: Int64[np.ndarray, " members"]
) -> Int64[np.ndarray, " members_less_one"]:
    """Leading tokens that each of the members (ascending, at least one) has in common with the next: the least of what lies
    between them in the order."""
    if len(members) < 2:
        return members[:0]
    return np.minimum.reduceat(sequences.shared[: members[-1] + 1], members[:-1] + 1)


def _best_length(first: Int64[np.ndarray, " group"], depth: int, length: int) -> int:
    """The length of a prefix that saves most, for sequences that share `depth` tokens. It must end before the first scored
    place of every sequence below it; the others are read elsewhere, so that one does not shorten it for all."""
    limits = np.sort(np.minimum(first, depth))
    return int(limits[np.argmax((limits - length) * np.arange(len(limits), 0, -1))])


def _saved(sequences: Sequences, inside: Int64[np.ndarray, " inside"], length: int, best: int) -> int:
    """Tokens that a prefix of `best` tokens below one of `length` saves: it would be repeated in every row, about."""
    if len(inside) < MIN_SHARERS:
        return 0
    rest = sequences.lengths[inside] - best
    total = int(rest.sum() - np.maximum(_shared_by_neighbours(sequences, inside) - best, 0).sum())  # distinct tokens
    typical, added = int(rest.mean()) + 1, best - length
    room = max(ROW_TOKENS - added, typical) if added * (SHARED_PART - 1) >= typical else typical
    return (-(-total // room) - 1) * added


def _pack(sequences: Sequences, own: Int64[np.ndarray, " own"], prefix: int, length: int) -> list[Row]:
    """Rows below a prefix, of these sequences in ascending order."""
    rows: list[Row] = []
    if not len(own):
        return rows
    alone = (sequences.lengths[own] - length).tolist()
    limit, packed = max(ROW_TOKENS, max(alone)), PACKED_TOKENS if length else 0
    shares = [length, *_shared_by_neighbours(sequences, own).tolist()]
    for member, share, rest in zip(own.tolist(), shares, alone, strict=True):
        row = rows[-1] if rows else None
        size = row.size + rest - (share - length) if row else 0
        related = (share - length) * SHARED_PART >= rest and size <= limit
        if row and (related or size <= packed):
            row.members.append(member)
            row.shared.append(share)
            rows[-1] = row._replace(size=size)
        else:
            rows.append(Row(prefix, [member], [length], rest))
    return rows


def lay_out(sequences: Sequences, row: Row, length: int) -> Layout:
    """The tokens of a row below a prefix of `length` tokens."""
    ids, depth, end = (np.empty(row.size, dtype=np.int64) for _ in range(3))
    path, size, paths = np.zeros(0, dtype=np.int64), 0, list[np.ndarray]()
    for member, share in zip(row.members, row.shared, strict=True):
        tokens = sequences.tokens[member]
        end[path[share - length :]] = size  # what this sequence does not go through has no more descendants
        stop = size + len(tokens) - share
        ids[size:stop] = tokens[share:]
        depth[size:stop] = np.arange(share, len(tokens))
        path = np.concatenate([path[: share - length], np.arange(size, stop)])
        paths.append(path)
        size = stop
    end[path] = size
    return Layout(ids, depth, end, paths)
