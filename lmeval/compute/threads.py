"""How many threads torch uses on a CPU, chosen by timing the work itself.

A step of a decoder is hundreds of short operations, and after each all threads wait for the slowest. Where another program
keeps one core busy, four threads on four cores are several times slower than three. Results may then differ in the last
digits, so this is for work that tolerates it.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator

import torch

from lmeval.compute.place import is_cpu

TRIAL_SECONDS, HOLD_SECONDS = 0.15, 10.0


class Tuner:
    """Tries all threads, all but one, and half of them for TRIAL_SECONDS each, keeps the fastest for HOLD_SECONDS, and
    tries again. `lap` tells it of work done."""

    def __init__(self, most: int) -> None:
        self._candidates = sorted({n for n in (most, most - 1, most // 2) if n > 0}, reverse=True)
        if len(self._candidates) > 1:
            self._begin_trials()

    def _begin_trials(self) -> None:
        self._costs: dict[int, float] = {}
        self._use(self._candidates[0])

    def _use(self, n: int) -> None:
        torch.set_num_threads(n)
        self._n, self._laps = n, list[float]()
        self._began = self._lap_began = time.perf_counter()

    def lap(self, work: int) -> None:
        """Some units of work have been done since the last call."""
        if len(self._candidates) < 2:
            return
        now = time.perf_counter()
        on_trial = len(self._costs) < len(self._candidates)
        if on_trial:
            self._laps.append((now - self._lap_began) / max(1, work))
        self._lap_began = now
        if now - self._began < (TRIAL_SECONDS if on_trial else HOLD_SECONDS) or len(self._laps) < 3 * on_trial:
            return
        if not on_trial:
            self._begin_trials()
            return
        self._costs[self._n] = statistics.median(self._laps)  # some laps have to do more than others
        waiting = [n for n in self._candidates if n not in self._costs]
        self._use(waiting[0] if waiting else min(self._costs, key=lambda n: self._costs[n]))


@contextlib.contextmanager
def tuned_threads(device: torch.device) -> Iterator[Tuner]:
    """A tuner within torch's present number of threads, which holds again afterwards. Elsewhere than on a CPU it is idle."""
    before = torch.get_num_threads()
    try:
        yield Tuner(before if is_cpu(device) else 0)
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def half_the_threads(device: torch.device) -> Iterator[None]:
    """For stepping work whose last digits must not depend on what else the machine does."""
    before = torch.get_num_threads()
    try:
        if is_cpu(device):
            torch.set_num_threads(max(1, before // 2))
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[int]:
    """For threads that compute side by side, each on a core of its own: how many there may be (one off the CPU)."""
    before = torch.get_num_threads()
    try:
        if is_cpu(device):
            torch.set_num_threads(1)
        yield before if is_cpu(device) else 1
    finally:
        torch.set_num_threads(before)
