"""Many lanes read token by token, in lockstep, by a compiled network: threads share out the lanes."""

import functools
import itertools
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from lmeval.compute.place import n_processors
from lmeval.models.compiled.network import Cache, Network, open_cache, read_tokens

LANES_OF_A_TASK = 16  # fewer cost nearly as much: the weights are read once for all of a task's lanes
FEWEST_OF_A_TASK = 4  # where there would be fewer tasks than threads


@dataclass
class CompiledLanes:
    """What `n_lanes` lanes have read so far: `length` tokens each. Rows of `logits` hold whole panels."""

    network: Network
    cache: Cache
    n_lanes: int
    n_threads: int
    logits: Float32[np.ndarray, "lanes padded"]
    length: int = 0


def open_compiled(network: Network, n_lanes: int, capacity: int, n_threads: int | None = None) -> CompiledLanes:
    """Lanes that have read nothing.

    Args:
        network: The network.
        n_lanes: How many lanes.
        capacity: The most tokens that a lane will read.
        n_threads: How many threads share the lanes; None for as many as there are processors, or as OMP_NUM_THREADS says.
    """
    logits = np.zeros((n_lanes, network.head.shape[1] * network.head.shape[3]), dtype=np.float32)
    return CompiledLanes(network, open_cache(network, n_lanes, capacity), n_lanes, n_threads or n_processors(), logits)


def restart_compiled(lanes: CompiledLanes, ids: Int64[np.ndarray, "lanes time"]) -> Float32[np.ndarray, "lanes ids"]:
    """Forget everything, read `ids`, the same number in every lane, and return the logits after the last."""
    lanes.length = 0
    for column in range(ids.shape[1]):
        _read(lanes, ids[:, column], wanted=column == ids.shape[1] - 1)
    return lanes.logits[:, : lanes.network.n_ids]


def advance_compiled(lanes: CompiledLanes, ids: Int64[np.ndarray, " lanes"]) -> Float32[np.ndarray, "lanes ids"]:
    """Read one more token in every lane, and return the logits after it. They stand where those before them stood."""
    _read(lanes, ids, wanted=True)
    return lanes.logits[:, : lanes.network.n_ids]


def _read(lanes: CompiledLanes, ids: Int64[np.ndarray, " lanes"], *, wanted: bool) -> None:
    column = np.ascontiguousarray(ids, dtype=np.int64)

    def read(first: int, stop: int) -> None:
        read_tokens(lanes.network, lanes.cache, lanes.length, column, first, stop, lanes.logits, int(wanted))

    parts = list(_parts(lanes.n_lanes, lanes.n_threads))
    if lanes.n_threads == 1 or len(parts) == 1:
        read(0, lanes.n_lanes)
    else:
        pool = _pool(lanes.n_threads)
        tasks = [pool.submit(read, *part) for part in parts]
        wait(tasks)
        for task in tasks:
            task.result()
    lanes.length += 1


def _parts(n_lanes: int, n_threads: int) -> Iterable[tuple[int, int]]:
    """Lanes in tasks, equally long: of about LANES_OF_A_TASK, or of fewer where threads would have nothing to do."""
    n = min(max(n_threads, n_lanes // LANES_OF_A_TASK), max(1, n_lanes // FEWEST_OF_A_TASK))
    return itertools.pairwise(n_lanes * i // n for i in range(n + 1))


@functools.cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="lmeval-lanes")
