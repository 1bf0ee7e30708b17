"""The engine: requests in, log-probabilities of their target tokens out, in the order of the requests.

Requests are taken in pools. Inside a pool they are sorted by length and cut into batches; the batches are dealt out to the
processes of the place, scored, gathered by id, and yielded in order. So any number of requests streams through constant
memory, and neither batch size nor order nor number of processes changes a result beyond rounding.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float

from lmeval.compute import gather
from lmeval.compute.place import Place
from lmeval.errors import ContextTooLong, NonFiniteScore, OutOfMemory
from lmeval.models import CausalLM, target_log_probs
from lmeval.scoring.batching import Batching, automatic_batching, for_lengths, plan_batches
from lmeval.scoring.requests import Request

LogProbs = Float[np.ndarray, " target"]
POOL_BATCHES = 32  # batches of a pool and process: enough to sort by length, few enough to keep in memory


def score(
    model: CausalLM,
    requests: Iterable[Request],
    place: Place | None = None,
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[LogProbs]:
    """Log-probabilities in nats of each request's target tokens, in the order of the requests.

    Arrays are float32, or float64 for a float64 model. `batch_size` is a number of sequences, None for automatic. Every
    process of `place` must pass the same requests, and gets all results. `progress` is called with the number of target
    tokens that this process has scored.

    Raises ContextTooLong, NonFiniteScore, and OutOfMemory where a single sequence does not fit.
    """
    place = place or Place(0, 1, model.device)
    batching = automatic_batching(model) if batch_size is None else Batching(batch_size, 1 << 40)
    batching = batching._replace(tokens=gather.agree(batching.tokens, place))
    memory = MemoryLimit()
    iterator = iter(requests)
    while pool := _take_pool(model, iterator, batching, place.size):
        lengths = [request.n_inputs for request in pool]
        batches = plan_batches(lengths, for_lengths(batching, model, max(lengths)))
        scored: dict[int, LogProbs] = {}
        failure = None
        try:
            for batch in batches[place.rank :: place.size]:
                members = [pool[i] for i in batch]
                scored.update(zip(batch, _score_within_memory(model, members, memory), strict=True))
                if progress:
                    progress(sum(len(request.target) for request in members))
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


class MemoryLimit:
    """Input tokens a batch that are known to be too many for this process's device; None until memory runs out."""

    tokens: int | None = None


def _score_within_memory(model: CausalLM, batch: list[Request], memory: MemoryLimit) -> list[LogProbs]:
    """Score a batch; where memory runs out, in halves, and remember the size that failed for the batches to come."""
    size = len(batch) * max(request.n_inputs for request in batch)
    if len(batch) == 1 or memory.tokens is None or size < memory.tokens:
        try:
            return _score_batch(model, batch)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise OutOfMemory(
                    f"one sequence of {size} tokens does not fit on {model.device}: shorten --context or use a smaller dtype"
                ) from error
            memory.tokens = size
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
    half = len(batch) // 2
    return _score_within_memory(model, batch[:half], memory) + _score_within_memory(model, batch[half:], memory)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: frameworks have several for it."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error)


def _score_batch(model: CausalLM, batch: list[Request]) -> list[LogProbs]:
    """One forward pass. Row r of the batch, padded on the right:

    context   c0 c1 c2            target   t0 t1
    input     c0 c1 c2 t0 0 0     the last target is not an input
    scored          ^  ^          the positions before the targets predict them
    """
    time = max(request.n_inputs for request in batch)
    ids = np.zeros((len(batch), time), dtype=np.int64)
    positions, targets = [], []
    for row, (context, target) in enumerate(batch):
        ids[row, : len(context)] = context
        ids[row, len(context) : len(context) + len(target) - 1] = target[:-1]
        first = row * time + len(context) - 1
        positions.append(np.arange(first, first + len(target)))
        targets.append(target)
    tensors = (torch.from_numpy(a).to(model.device) for a in (ids, np.concatenate(positions), np.concatenate(targets)))
    log_probs = target_log_probs(model.network, model.head, *tensors).cpu().numpy()
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
