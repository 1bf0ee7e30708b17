"""Scores of requests that share their beginnings: as `engine.score` gives them, with what is shared computed once.

`prefixes` plans, `models.trees` is how a network reads a tree, and this is the work itself: prefixes are read when the first
batch below them comes and dropped when the last has gone; batches are dealt out to the processes and gathered by id.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64

from lmeval.compute import gather
from lmeval.compute.memory import PASS_OVERHEAD_TOKENS, MemoryLimit, compute_within_memory, halves, limit_of, settled
from lmeval.compute.place import Place, alone
from lmeval.errors import NoCache
from lmeval.models import CausalLM
from lmeval.models.logprobs import Readings, read_targets
from lmeval.models.trees import CachedPrefix, read_prefix, supports_tree, tree_inputs
from lmeval.progress import SILENT, Progress
from lmeval.scoring.batching import Batching, batching_at, for_lengths, plan_batches
from lmeval.scoring.engine import check_finite, check_lengths
from lmeval.scoring.prefixes import (
    ROW_TOKENS,
    Layout,
    Plan,
    Row,
    Sequences,
    distinct,
    lay_out,
    plan_chains,
    plan_prefixes,
    separately,
)
from lmeval.scoring.requests import Request

POOL_TOKENS = 1 << 24  # input tokens of the requests that are planned together: their plan takes some 20 bytes a token
COPIED_PER_COMPUTED = 8  # cached tokens whose copy takes about the memory that one computed token does


class Scored(NamedTuple):
    """The score of one request. `log_probs` are nats of each target token, given the context and the targets before it:
    float32, or float64 for a float64 model. `greedy`: no token has a larger logit than the target's, at any of its places.
    Equal requests may share one array."""

    log_probs: Float[np.ndarray, " target"]
    greedy: bool


class Cost(NamedTuple):
    """What was computed, in all processes together. A trial of what the network supports is not counted."""

    n_tokens: int  # tokens that went through the network, without padding
    n_padded: int  # the same with padding
    n_positions: int  # positions at which the head was computed
    n_tokens_plain: int  # input tokens of all requests: what scoring each by itself takes
    path: str  # "tree" or "plain"


class SharedScores(NamedTuple):
    """Scores in the order of the requests, and what they cost."""

    scores: list[Scored]
    cost: Cost


def score_shared(
    model: CausalLM,
    requests: Sequence[Request],
    place: Place | None = None,
    *,
    batch_size: int | None = None,
    path: str = "auto",
    progress: Progress = SILENT,
) -> SharedScores:
    """Score requests, many of which share contexts.

    Args:
        model: What scores.
        requests: What is scored, the same in every process of the place.
        place: Where it is done; None is the model's device, alone, without a memory budget.
        batch_size: Rows of a batch; None for as many as `compute.memory` allows.
        path: "tree", "plain" (each distinct request is a row of its own), or "auto": tree where the network supports it
            (`models.trees.supports_tree`), else plain, except that a request shares the row of one that continues it. All
            give the same numbers up to rounding.
        progress: Advanced by requests: those that this process has finished, times the number of processes. The caller
            opens the stage.

    Returns:
        The scores, in the order of the requests, in every process; and what they cost all processes together.

    Raises:
        ContextTooLong: A request has more input tokens than the model takes; before any work.
        NonFiniteScore: A log-probability is NaN or infinite.
        OutOfMemory: A single sequence does not fit.
        NoCache: "tree" is asked for and not supported.
    """
    if path not in ("auto", "tree", "plain"):
        raise ValueError(f"unknown path '{path}': use auto, tree or plain")
    place = settled(place or alone(model.device))
    check_lengths(model, requests)
    batching = batching_at(place, model, batch_size)
    batching = batching._replace(tokens=gather.agree(batching.tokens, place))
    batching = for_lengths(batching, model, max((request.n_inputs for request in requests), default=1))
    tree = path != "plain" and _supported(model, requests, place)
    if path == "tree" and not tree:
        kind = type(model.network).__name__
        raise NoCache(
            f"{model.name} cannot read several sequences as one tree below a cached prefix ({kind}): use path 'plain'"
        )
    scores: list[Scored] = []
    spent, limit = np.zeros(3, dtype=np.int64), MemoryLimit()
    for pool in _pools(requests):
        kept, sequences = distinct(pool)
        if tree:
            plan = plan_prefixes(sequences, limit_of(PASS_OVERHEAD_TOKENS, place))
        elif path == "auto":
            plan = plan_chains(sequences)
        else:
            sequences, plan = separately(kept.requests)
        work = _Work(model, place, kept.requests, np.bincount(kept.of), sequences, plan, limit, spent, progress)
        of_pool = _score_pool(work, batching)
        scores.extend(of_pool[i] for i in kept.of)
    costs = gather.gather_by_id({place.rank: spent.tolist()}, place.size, place)
    n_tokens, n_padded, n_positions = (sum(counts) for counts in zip(*costs, strict=True))
    n_plain = sum(request.n_inputs for request in requests)
    return SharedScores(scores, Cost(n_tokens, n_padded, n_positions, n_plain, "tree" if tree else "plain"))


class _Work(NamedTuple):
    """One pool's work, the same in every process."""

    model: CausalLM
    place: Place
    requests: list[Request]  # distinct
    repeats: Int64[np.ndarray, " requests"]  # how often each was asked for
    sequences: Sequences
    plan: Plan
    limit: MemoryLimit
    spent: Int64[np.ndarray, "3"]  # of this process: tokens, tokens with padding, positions; added to
    progress: Progress


def _supported(model: CausalLM, requests: Sequence[Request], place: Place) -> bool:
    """Whether all processes find that the network reads trees of the sizes that these requests make."""
    sizes = [request.n_inputs for request in requests]
    longest = max(sizes, default=1)
    return bool(gather.agree(int(supports_tree(model, longest, min(sum(sizes), max(ROW_TOKENS, longest)))), place))


def _pools(requests: Sequence[Request]) -> Iterator[list[Request]]:
    """The requests in order, cut where a pool has POOL_TOKENS."""
    pool: list[Request] = []
    tokens = 0
    for request in requests:
        pool.append(request)
        tokens += request.n_inputs
        if tokens >= POOL_TOKENS:
            yield pool
            pool, tokens = [], 0
    if pool:
        yield pool


def _score_pool(work: _Work, batching: Batching) -> list[Scored]:
    """Scores of the pool's distinct requests, in order, from all processes."""
    scored: dict[int, Scored] = {}
    held: list[tuple[int, CachedPrefix]] = []  # the prefixes that are in memory, each the parent of the next
    failure = None
    try:
        for index, rows in _batches(work.plan, batching)[work.place.rank :: work.place.size]:
            _hold(work, held, index)
            of_batch = _score_within_memory(work, held[-1][1] if held else None, rows)
            scored |= of_batch
            work.progress.advance(int(work.repeats[list(of_batch)].sum()) * work.place.size)
    except Exception as error:
        failure = error
    return gather.gather_by_id(scored, len(work.requests), work.place, failure)


def _batches(plan: Plan, batching: Batching) -> list[tuple[int, list[Row]]]:
    """Rows in batches, each below one prefix, the prefixes in the plan's order."""
    made = []
    for index, rows in itertools.groupby(plan.rows, key=lambda row: row.prefix):
        members = list(rows)
        sizes = [row.size + _weight(plan.prefixes[index].length if index >= 0 else 0) for row in members]
        made += [(index, [members[i] for i in batch]) for batch in plan_batches(sizes, batching)]
    return made


def _weight(prefix_length: int) -> int:
    """Tokens of its own that a row's copy of a prefix's keys and values is counted as."""
    return prefix_length // COPIED_PER_COMPUTED


def _hold(work: _Work, held: list[tuple[int, CachedPrefix]], index: int) -> None:
    """Let `held` be the prefix `index` (-1: none) with its parents: drop what is not, read what is missing."""
    path = []
    while index >= 0:
        path.append(index)
        index = work.plan.prefixes[index].parent
    path.reverse()
    while held and held[-1][0] not in path:
        held.pop()
    for i in path[len(held) :]:
        prefix, parent = work.plan.prefixes[i], held[-1][1] if held else None
        first = parent.length if parent else 0
        ids = work.sequences.tokens[prefix.member][first : prefix.length].astype(np.int64)
        held.append((i, _read_within_memory(work, parent, ids, prefix.length)))
        work.spent[:2] += len(ids)


def _read_within_memory(
    work: _Work, parent: CachedPrefix | None, ids: Int64[np.ndarray, " time"], length: int
) -> CachedPrefix:
    """Read a prefix of `length` tokens whose last are `ids`: it fits or it does not, for nothing can be split."""

    def read(tokens: Sequence[np.ndarray]) -> CachedPrefix:
        return read_prefix(work.model, parent, torch.from_numpy(tokens[0]).to(work.model.device))

    (prefix,) = compute_within_memory(
        [ids], read, MemoryLimit(), size=lambda _: length, too_large=lambda _: _does_not_fit(work.model, length)
    )
    return prefix


def _does_not_fit(model: CausalLM, n_tokens: int) -> str:
    return f"one sequence of {n_tokens} tokens does not fit on {model.device}: shorten it or use a smaller dtype"


def _score_within_memory(work: _Work, prefix: CachedPrefix | None, rows: Sequence[Row]) -> dict[int, Scored]:
    """Score a batch; where memory runs out, in halves, and a row by itself in its separate sequences."""
    length = prefix.length if prefix else 0
    lengths = work.sequences.lengths

    def padded(part: Sequence[Row]) -> int:
        return len(part) * (max(row.size for row in part) + _weight(length))

    def split(part: Sequence[Row]) -> Sequence[Sequence[Row]]:
        if len(part) == 1:
            (row,) = part
            part = [Row(row.prefix, [member], [length], int(lengths[member]) - length) for member in row.members]
        return halves(part)

    parts = compute_within_memory(
        rows,
        lambda part: _score_rows(work, prefix, part),
        work.limit,
        size=padded,
        too_large=lambda part: _does_not_fit(work.model, length + part[0].size),
        split=split,
        device=work.model.device,
    )
    return {i: scored for part in parts for i, scored in part.items()}


class _Places(NamedTuple):
    """What is read of a batch: requests in the order of their readings; `order` sorts the readings by position."""

    requests: list[int]
    order: Int64[np.ndarray, " readings"]
    positions: Int64[np.ndarray, " positions"]
    which: Int64[np.ndarray, " readings"]
    targets: Int64[np.ndarray, " readings"]


def _score_rows(work: _Work, prefix: CachedPrefix | None, rows: Sequence[Row]) -> dict[int, Scored]:
    """One forward pass over rows below a prefix: one copy to the device, one back."""
    model, length = work.model, prefix.length if prefix else 0
    layouts = [lay_out(work.sequences, row, length) for row in rows]
    time, branching = max(row.size for row in rows), any(bool((made.end < len(made.end)).any()) for made in layouts)
    ids, depth = np.zeros((2, len(rows), time), dtype=np.int64)
    end = np.tile(np.arange(1, time + 1), (len(rows), 1))  # padding sees itself
    for i, made in enumerate(layouts):
        ids[i, : len(made.ids)], depth[i, : len(made.ids)], end[i, : len(made.ids)] = made.ids, made.depth, made.end
    places = _places(work, rows, layouts, time)
    shape = [depth, end] if branching else []
    parts = [array.ravel() for array in (ids, places.positions, places.which, places.targets, *shape)]
    sent = torch.from_numpy(np.concatenate(parts)).to(model.device).split([len(part) for part in parts])
    if branching:
        at, ends = (tensor.view(ids.shape) for tensor in sent[4:])
    else:
        at, ends = (torch.arange(time, device=model.device) + length).expand(len(rows), -1), None
    which = None if len(places.positions) == len(places.which) else sent[2]
    readings = Readings(sent[1], which, sent[3])
    with torch.inference_mode():
        inputs = tree_inputs(model, prefix, at, ends)
        log_probs, greedy = read_targets(model.network, model.head, sent[0].view(ids.shape), readings, inputs, work.place)
        sorted_scores = torch.stack([log_probs, greedy.to(log_probs.dtype)]).cpu().numpy()
    work.spent[:] += (sum(row.size for row in rows), ids.size, len(places.positions))
    return _by_request(work, places, sorted_scores)


def _places(work: _Work, rows: Sequence[Row], layouts: list[Layout], time: int) -> _Places:
    """Where in the flattened batch the requests of these rows are read: the last places of their sequences."""
    requests, where = list[int](), list[np.ndarray]()
    for i, (row, made) in enumerate(zip(rows, layouts, strict=True)):
        for member, path in zip(row.members, made.paths, strict=True):
            for reader in work.sequences.readers[member]:
                requests.append(reader)
                where.append(path[len(path) - len(work.requests[reader].target) :] + i * time)
    positions, which = np.unique(np.concatenate(where), return_inverse=True)
    order = np.argsort(which, kind="stable")
    targets = np.concatenate([work.requests[reader].target for reader in requests])
    return _Places(requests, order, positions, which[order], targets[order])


def _by_request(work: _Work, places: _Places, sorted_scores: Float[np.ndarray, "2 readings"]) -> dict[int, Scored]:
    """Log-probabilities and greediness of the readings, back in the order of the requests and cut at their ends."""
    log_probs, greedy = np.empty_like(sorted_scores)
    log_probs[places.order], greedy[places.order] = sorted_scores
    check_finite(work.model, log_probs)
    starts = np.cumsum([0, *(len(work.requests[i].target) for i in places.requests)])[:-1]
    all_greedy = np.minimum.reduceat(greedy, starts) > 0
    parts = np.split(log_probs, starts[1:])
    return {i: Scored(part, bool(g)) for i, part, g in zip(places.requests, parts, all_greedy, strict=True)}
