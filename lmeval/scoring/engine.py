"""The engine: requests in, log-probabilities of their target tokens out, in the order of the requests.

Requests are taken in pools. Inside a pool they are sorted by length and cut into batches; the batches are dealt out to the
processes of the place, scored, gathered by id, and yielded in order. So any number of requests streams through constant
memory, and neither batch size nor order nor number of processes changes a result beyond rounding.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float

from lmeval.compute import gather
from lmeval.compute.memory import MemoryLimit, compute_within_memory, settled
from lmeval.compute.place import Place, alone
from lmeval.errors import ContextTooLong, NonFiniteScore
from lmeval.models import CausalLM, target_log_probs
from lmeval.progress import SILENT, Progress
from lmeval.scoring.batching import Batching, batching_at, for_lengths, plan_batches
from lmeval.scoring.requests import Request

LogProbs = Float[np.ndarray, " target"]
POOL_BATCHES = 32  # batches of a pool and process: enough to sort by length, few enough to keep in memory


def score(
    model: CausalLM,
    requests: Iterable[Request],
    place: Place | None = None,
    *,
    batch_size: int | None = None,
    progress: Progress = SILENT,
) -> Iterator[LogProbs]:
    """Log-probabilities in nats of each request's target tokens, in the order of the requests.

    Args:
        model: What scores.
        requests: What is scored, the same in every process of the place. They stream: memory does not grow with them.
        place: Where it is done; None is the model's device, alone, without a memory budget.
        batch_size: Sequences of a batch; None for as many as `compute.memory` allows.
        progress: Advanced by target tokens: this process's, times the number of processes. The caller opens the stage.

    Returns:
        An array [target] for each request, float32, or float64 for a float64 model; all of them in every process.

    Raises:
        ContextTooLong: A request has more input tokens than the model takes.
        NonFiniteScore: A log-probability is NaN or infinite.
        OutOfMemory: A single sequence does not fit.
    """
    place = settled(place or alone(model.device))
    batching = batching_at(place, model, batch_size)
    batching = batching._replace(tokens=gather.agree(batching.tokens, place))
    limit = MemoryLimit()
    iterator = iter(requests)
    while pool := _take_pool(model, iterator, batching, place.size):
        lengths = [request.n_inputs for request in pool]
        batches = plan_batches(lengths, for_lengths(batching, model, max(lengths)))
        scored: dict[int, LogProbs] = {}
        failure = None
        try:
            for batch in batches[place.rank :: place.size]:
                members = [pool[i] for i in batch]
                scored.update(zip(batch, _score_within_memory(model, members, place, limit), strict=True))
                progress.advance(sum(len(request.target) for request in members) * place.size)
        except Exception as error:
            failure = error
        yield from gather.gather_by_id(scored, len(pool), place, failure)


def _take_pool(model: CausalLM, requests: Iterator[Request], batching: Batching, processes: int) -> list[Request]:
    """The next requests, up to POOL_BATCHES batches for every process."""
    if batching.rows is not None:
        pool = list(itertools.islice(requests, batching.rows * POOL_BATCHES * processes))
    else:
        pool, tokens = [], 0
        while tokens < batching.tokens * POOL_BATCHES * processes and (following := next(requests, None)) is not None:
            pool.append(following)
            tokens += following.n_inputs
    check_lengths(model, pool)
    return pool


def check_lengths(model: CausalLM, requests: Sequence[Request]) -> None:
    """Raise ContextTooLong where a request has more input tokens than the model takes."""
    limit = model.context_length
    for request in requests:
        if limit is not None and request.n_inputs > limit:
            raise ContextTooLong(f"{request.n_inputs} input tokens, but {model.name} takes {limit}: shorten the context")


def _score_within_memory(model: CausalLM, batch: Sequence[Request], place: Place, limit: MemoryLimit) -> list[LogProbs]:
    """Score a batch; where memory runs out, in halves."""

    def padded(part: Sequence[Request]) -> int:
        return len(part) * max(request.n_inputs for request in part)

    def too_large(part: Sequence[Request]) -> str:
        remedy = "shorten --context or use a smaller dtype"
        return f"one sequence of {padded(part)} tokens does not fit on {model.device}: {remedy}"

    parts = compute_within_memory(
        batch,
        lambda part: _score_batch(model, part, place),
        limit,
        size=padded,
        too_large=too_large,
        device=model.device,
    )
    return [log_probs for part in parts for log_probs in part]


def _score_batch(model: CausalLM, batch: Sequence[Request], place: Place) -> list[LogProbs]:
    """One forward pass. Row r of the batch, padded on the right:

    context   c0 c1 c2            target   t0 t1
    input     c0 c1 c2 t0 0 0     the last target is not an input
    scored          ^  ^          the positions before the targets predict them
    """
    time = max(request.n_inputs for request in batch)
    ids = np.zeros((len(batch), time), dtype=np.int64)
    positions, targets = [], []
    for row, (context, target, _) in enumerate(batch):
        ids[row, : len(context)] = context
        ids[row, len(context) : len(context) + len(target) - 1] = target[:-1]
        first = row * time + len(context) - 1
        positions.append(np.arange(first, first + len(target)))
        targets.append(target)
    arrays = (ids, np.concatenate(positions), np.concatenate(targets))
    sent, at, wanted = (torch.from_numpy(array).to(model.device) for array in arrays)
    log_probs = target_log_probs(model.network, model.head, sent, at, wanted, place).cpu().numpy()
    check_finite(model, log_probs)
    return np.split(log_probs, np.cumsum([len(request.target) for request in batch])[:-1])


def check_finite(model: CausalLM, log_probs: Float[np.ndarray, " targets"]) -> None:
    """Raise NonFiniteScore where a log-probability of a batch is NaN or infinite."""
    bad = ~np.isfinite(log_probs)
    if bad.any():
        dtype = str(model.dtype).removeprefix("torch.")
        raise NonFiniteScore(
            f"{model.name} gave {log_probs[bad][0]} for {bad.sum()} of {len(bad)} tokens of a batch: its weights are "
            f"damaged, or {dtype} overflows (try --dtype float32), or it rules these tokens out"
        )
