"""Data shared out over processes and threads: every datum is scored once, and results come back in input order."""

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor

from lmeval.compute.gather import gather_by_id
from lmeval.compute.memory import PARTICLES, MemoryLimit, at_once, compute_within_memory
from lmeval.compute.place import Place
from lmeval.compute.threads import one_thread
from lmeval.errors import NonFiniteScore
from lmeval.likelihood.noise import keys_of
from lmeval.likelihood.quiet import quiet_distributions
from lmeval.likelihood.result import Advance, Batch, DatumResult, Score

NUMBERS = 1 << 19  # for a thread of its own to be worth it, in one tensor of pixels


def score_all(
    score: Score, x: Tensor, place: Place, advance: Advance, *, k: int = 1, threads: bool = True
) -> list[tuple[DatumResult, ...]]:
    """Results of all data of x in order, shared out over the processes of the place.

    With `threads`, on a CPU, each thread takes data of its own and computes alone: a step is many short operations, and
    threads that share each of them spend their time waiting for the slowest, most of all where other programs run. Where
    `k` particles of the data would give a thread less than NUMBERS numbers to work on, there are fewer threads: they would
    wait for the interpreter instead. A batch for which memory does not suffice is computed in halves.

    Args:
        score: Gives the results of a batch.
        x: The data [n, *event].
        place: The processes that share the data, and the memory that a batch may take.
        advance: Told of the evaluations of the model just made, of all data and processes.
        k: Particles of each datum.
        threads: Whether `score` may run in several threads at once.

    Raises:
        NonFiniteScore: A datum's number is not finite.
        OutOfMemory: A single datum does not fit.
        WorkerError: Another process failed.
    """
    keys, mine = keys_of(x), range(place.rank, len(x), place.size)
    n_threads = 1 if not threads or place.on_accelerator else torch.get_num_threads()
    n_parts = max(1, min(n_threads, len(mine) * k * x[:1].numel() // NUMBERS))
    share = place if place.memory is None else place._replace(memory=place.memory // n_parts)  # a budget is for all threads
    rows = at_once(PARTICLES, share, 4 * x[:1].numel())
    size = max(1, min(rows // k, -(-len(mine) // n_parts)))
    parts = [tuple(mine[first : first + size]) for first in range(0, len(mine), size)]
    stopped, limit = threading.Event(), MemoryLimit()

    def score_part(ids: Sequence[int]) -> Sequence[tuple[DatumResult, ...]]:
        def advance_all(n: int) -> None:
            if stopped.is_set():
                raise CancelledError
            advance(n * len(ids) * place.size)

        return score(Batch(x[list(ids)], tuple(ids), [keys[i] for i in ids], rows), advance_all)

    def work(ids: tuple[int, ...]) -> dict[int, tuple[DatumResult, ...]]:
        try:
            halves = compute_within_memory(
                ids, score_part, limit, size=len, too_large=lambda _: too_large, device=place.device
            )
        except CancelledError:
            raise
        except BaseException as error:  # results are taken in order: the others must not wait for this one's turn
            failures.append(error)
            stopped.set()
            raise
        return dict(zip(ids, chain.from_iterable(halves), strict=True))

    too_large = f"one datum with its {k:,} particles does not fit on {place.device}: take fewer"
    results: dict[int, tuple[DatumResult, ...]] = {}
    failures: list[BaseException] = []
    try:
        with quiet_distributions(), _thread_pool(min(n_threads, len(parts)), x.device, stopped) as pool:
            for part in map(work, parts) if pool is None else pool.map(work, parts):
                results |= part
        _check_finite(results)
    except Exception as error:
        if failures and not isinstance(failures[0], Exception):
            raise failures[0] from None  # the user's interrupt
        return gather_by_id(results, len(x), place, failures[0] if failures else error)  # all processes must hear of it
    return gather_by_id(results, len(x), place)


@contextmanager
def _thread_pool(n: int, device: torch.device, stopped: threading.Event) -> Iterator[ThreadPoolExecutor | None]:
    """Threads whose operations use one core each, None for a single one. An error, or the user, stops them all."""
    if n < 2:
        yield None
        return
    with one_thread(device), ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            yield pool
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _check_finite(results: dict[int, tuple[DatumResult, ...]]) -> None:
    bad = [(i, result.nats) for i, of_datum in results.items() for result in of_datum if not math.isfinite(result.nats)]
    if bad:
        first, nats = bad[0]
        remedy = "make the model finite for every z" if math.isnan(nats) else "can the model make such data?"
        raise NonFiniteScore(
            f"{len(bad)} of {len(results)} data have log p(x) = {nats} (the first is datum {first}): a mean with them says "
            f"nothing; {remedy}"
        )
