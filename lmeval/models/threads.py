"""How many threads torch uses on a CPU, chosen by timing the work itself.

A step of a decoder is hundreds of short operations, and after each all threads wait for the slowest. Where another program
keeps one core busy, four threads on four cores are several times slower than three. Results may then differ in the last
digits, so this is for work that tolerates it.
"""

import contextlib
import time
from collections.abc import Iterator

import torch

TRIAL_SECONDS, HOLD_SECONDS = 0.15, 10.0


class Tuner:
    """Tries all threads, all but one, and half of them for TRIAL_SECONDS each, keeps the fastest for HOLD_SECONDS, and
    tries again. `lap` tells it of work done."""

    def __init__(self, most: int) -> None:
        self._candidates = sorted({n for n in (most, most - 1, most // 2) if n > 0}, reverse=True)
        if len(self._candidates) > 1:
            self._begin_trials()

    def _begin_trials(self) -> None:
        self._rates: dict[int, float] = {}
        self._use(self._candidates[0])

    def _use(self, n: int) -> None:
        torch.set_num_threads(n)
        self._n, self._work, self._began = n, 0, time.perf_counter()

    def lap(self, work: int) -> None:
        """Some units of work have been done since the last call."""
        if len(self._candidates) < 2:
            return
        self._work += work
        seconds = time.perf_counter() - self._began
        on_trial = len(self._rates) < len(self._candidates)
        if seconds < (TRIAL_SECONDS if on_trial else HOLD_SECONDS):
            return
        if not on_trial:
            self._begin_trials()
            return
        self._rates[self._n] = self._work / seconds
        waiting = [n for n in self._candidates if n not in self._rates]
        self._use(waiting[0] if waiting else max(self._rates, key=lambda n: self._rates[n]))


@contextlib.contextmanager
def tuned_threads(device: torch.device) -> Iterator[Tuner]:
    """A tuner within torch's present number of threads, which holds again afterwards. Elsewhere than on a CPU it is idle."""
    before = torch.get_num_threads()
    try:
        yield Tuner(before if device.type == "cpu" else 0)
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def half_the_threads(device: torch.device) -> Iterator[None]:
    """For stepping work whose last digits must not depend on what else the machine does."""
    before = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(max(1, before // 2))
        yield
    finally:
        torch.set_num_threads(before)
