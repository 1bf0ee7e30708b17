"""What is found of each datum, shared out over processes, gathered in order, and told with its side."""

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Distribution

from lmeval.compute.gather import gather_by_id
from lmeval.compute.place import Place
from lmeval.compute.threads import one_thread
from lmeval.errors import InputError, NonFiniteScore
from lmeval.likelihood.annealing import Annealed, effective_size
from lmeval.likelihood.diagnostics import log_estimate_stderr, pareto_k, tail_size
from lmeval.likelihood.noise import Key, keys_of
from lmeval.likelihood.runs import FixedSettings, FrozenRun
from lmeval.results import Side
from lmeval.stats import Estimate, mean_estimate

ANNEALED = ("ais", "smc", "conditional smc")

MIXING = 4.0  # what moves cost that do not mix at once, as a factor of the gap
_QUIET, _n_quiet, _checks_before = threading.Lock(), 0, True
NUMBERS = 1 << 19  # for a thread of its own to be worth it, in one tensor of pixels

Progress = Callable[[int, int], None]
"""Called with the model's evaluations done so far of the weighted run, and all that there will be."""


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """log p(x) of each datum, or a bound on it.

    `nats` [n] float64; `side` says what each is for log p(x): "exact", or "lower" or "upper" (in expectation, for every
    setting). `stderr` [n] is that of the estimate log Z-hat from its draws, NaN where they say too little (`diagnostics`);
    it holds no bias, so a bound can lie many of them away from the truth. `ess` [n] is the effective sample size of the last
    weights and `pareto_k` [n] the shape of their tail, NaN where there are too few.

    `n_evaluations` counts the evaluations of the model for each datum, pilot included; `n_gradients` those that went back as
    well, and `n_pilot` those of the pilot. `lengths` [n] are the paths' thermodynamic lengths, `acceptance` [n] the mean
    acceptance of moves, `n_lost` the proposals rejected because they were not finite (None where no chain ran).
    """

    nats: Float64[np.ndarray, " n"]
    side: Side
    stderr: Float64[np.ndarray, " n"]
    ess: Float64[np.ndarray, " n"]
    pareto_k: Float64[np.ndarray, " n"]
    method: str
    settings: dict[str, Any]
    n_evaluations: float
    n_gradients: float
    n_pilot: float
    lengths: Float64[np.ndarray, " n"] | None
    acceptance: Float64[np.ndarray, " n"] | None
    n_lost: int | None
    seconds: float

    @property
    def mean(self) -> Estimate:
        """Mean over data in nats, with the standard error and 95% t interval that come from the data (and the draws)."""
        return mean_estimate(self.nats, share=False)

    @property
    def expected_gap_nats(self) -> Float64[np.ndarray, " n"] | None:
        """How far below log p(x) each annealed bound may be expected, c length^2 / (2 T k); None for other methods.

        The length is the pilot's and c = 4 what moves cost that do not mix at once (measured: 3 to 5): an order of
        magnitude, and no bound. `planner` measures c.
        """
        if self.lengths is None:
            return None
        return MIXING * self.lengths**2 / (2 * self.settings["temperatures"] * self.settings["particles"])

    def certificate(self, delta: float = 0.01) -> float:
        """A number that mean log p(x) of these data is beyond with probability 1 - delta, assuming nothing.

        mean - log(1/delta) / n for a lower bound, mean + log(1/delta) / n for an upper one: the product of Z-hat / Z over
        independent data has mean 1, so Markov's inequality applies to it. It needs kernels that were frozen before the run.
        Of exact values it is their mean.
        """
        if not 0 < delta < 1:
            raise InputError(f"delta is {delta}: a probability between 0 and 1")
        slack = {"exact": 0.0, "lower": -1.0, "upper": 1.0, "estimate": math.nan}[self.side]
        return float(self.nats.mean()) + slack * math.log(1 / delta) / len(self.nats)


class DatumResult(NamedTuple):
    """What is found of a datum; None where a method has no such thing."""

    nats: float
    stderr: float = math.nan
    ess: float = math.nan
    pareto_k: float = math.nan
    n_evaluations: int = 1
    n_gradients: int = 0
    n_pilot: int = 0
    length: float | None = None
    acceptance: float | None = None
    n_lost: int = 0


Tick = Callable[[int], None]
Score = Callable[[Tensor, tuple[int, ...], list[Key], Tick], list[tuple[DatumResult, ...]]]
"""Data x [batch, ...] with their places and keys -> for each its row, or several; it ticks with the evaluations just done
for each datum."""


def ticking(progress: Progress | None, total: int) -> Tick:
    """A tick that tells `progress` how much of `total` is done."""
    done, lock = 0, threading.Lock()

    def tick(n: int) -> None:
        nonlocal done
        with lock:
            done += n
            if progress:
                progress(min(done, total), total)

    return tick


def score_all(
    score: Score, x: Tensor, at_once: int, place: Place, tick: Tick, *, k: int = 1, threads: bool = True
) -> list[tuple[DatumResult, ...]]:
    """Rows of all data of x in order, at most `at_once` data together, shared out over the processes of the place.

    With `threads`, on a CPU, each thread takes data of its own and computes alone: a step is many short operations, and
    threads that share each of them spend their time waiting for the slowest, most of all where other programs run. Where
    `k` particles of the data would give a thread less than NUMBERS numbers to work on, there are fewer threads: they would
    wait for the interpreter instead.
    """
    keys, mine = keys_of(x), range(place.rank, len(x), place.size)
    n_threads = torch.get_num_threads() if threads and x.device.type == "cpu" else 1
    n_parts = max(1, min(n_threads, len(mine) * k * x[:1].numel() // NUMBERS))
    size = max(1, min(at_once, -(-len(mine) // n_parts)))
    parts = [tuple(mine[first : first + size]) for first in range(0, len(mine), size)]
    stopped = threading.Event()

    def work(ids: tuple[int, ...]) -> dict[int, tuple[DatumResult, ...]]:
        def tick_all(n: int) -> None:
            if stopped.is_set():
                raise CancelledError
            tick(n * len(ids) * place.size)

        found = score(x[list(ids)], ids, [keys[i] for i in ids], tick_all)
        return dict(zip(ids, found, strict=True))

    rows: dict[int, tuple[DatumResult, ...]] = {}
    failure: BaseException | None = None
    try:
        with quiet_distributions(), _threads(min(n_threads, len(parts)), x.device, stopped) as pool:
            for found in map(work, parts) if pool is None else pool.map(work, parts):
                rows |= found
        _check_finite(rows)
    except Exception as error:  # all processes must hear of it
        failure = error
    return gather_by_id(rows, len(x), place, failure)


@contextmanager
def _threads(n: int, device: torch.device, stopped: threading.Event) -> Iterator[ThreadPoolExecutor | None]:
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


def _check_finite(rows: dict[int, tuple[DatumResult, ...]]) -> None:
    bad = [(i, row.nats) for i, found in rows.items() for row in found if not math.isfinite(row.nats)]
    if bad:
        first, nats = bad[0]
        raise NonFiniteScore(
            f"{len(bad)} of {len(rows)} data have log p(x) = {nats} (the first is datum {first}): a mean with them says "
            + (
                "nothing; make the model finite for every z"
                if math.isnan(nats)
                else "nothing; can the model make such data?"
            )
        )


def as_columns(rows: list[DatumResult], side: Side, method: str, settings: FixedSettings, seconds: float) -> LogLikelihood:
    """The rows as columns."""
    columns = {name: [getattr(row, name) for row in rows] for name in DatumResult._fields}
    nats, stderr, ess, k = (np.array(columns[name], dtype=np.float64) for name in ("nats", "stderr", "ess", "pareto_k"))
    annealed = method in ANNEALED
    kept = settings._asdict() if annealed else {"particles": settings.particles, "seed": settings.seed}
    return LogLikelihood(
        nats,
        side,
        stderr,
        ess,
        k,
        method,
        kept if method != "exact" else {},
        float(np.mean(columns["n_evaluations"])),
        float(np.mean(columns["n_gradients"])),
        float(np.mean(columns["n_pilot"])),
        np.array(columns["length"], dtype=np.float64) if annealed else None,
        np.array(columns["acceptance"], dtype=np.float64) if annealed else None,
        sum(columns["n_lost"]) if annealed else None,
        seconds,
    )


def results_of_run(run: Annealed, ready: FrozenRun, settings: FixedSettings) -> list[DatumResult]:
    """Rows of an annealed run. Resampled particles are kin, so the weights' spread then says nothing of the estimate's."""
    k, n_gradients = settings.particles, settings.n_gradients + ready.n_pilot
    ess = effective_size(run.log_weight).cpu().numpy()
    largest = run.log_weight.topk(min(k, tail_size(k) + 1), dim=0).values.cpu().numpy()
    stderr = np.where(run.n_resampled.cpu().numpy() == 0, log_estimate_stderr(ess, k), np.nan)
    columns = (run.log_z, stderr, ess, pareto_k(largest, k), ready.length, run.acceptance, run.n_lost)
    return [
        DatumResult(nats, error, size, tail, n_gradients, n_gradients, ready.n_pilot, length, acceptance, int(lost))
        for nats, error, size, tail, length, acceptance, lost in zip(*(column.tolist() for column in columns), strict=True)
    ]


@contextmanager
def quiet_distributions() -> Iterator[None]:
    """Distributions without their checks of every argument, which cost passes over all pixels: `check_latent` did them."""
    global _n_quiet, _checks_before
    with _QUIET:  # the setting is the process's: the first to come switches it, the last to go switches back
        if _n_quiet == 0:
            _checks_before = Distribution._validate_args  # pyright: ignore[reportPrivateUsage]
            Distribution.set_default_validate_args(False)
        _n_quiet += 1
    try:
        yield
    finally:
        with _QUIET:
            _n_quiet -= 1
            if _n_quiet == 0:
                Distribution.set_default_validate_args(_checks_before)
