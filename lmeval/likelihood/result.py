"""What a method gives: the result for one datum, and the results of all data as columns, each with its side of log p(x)."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from lmeval.errors import InputError
from lmeval.likelihood.noise import Key
from lmeval.results import Side
from lmeval.stats import Estimate, mean_estimate

MIXING = 4.0  # what moves cost that do not mix at once, as a factor of the gap


class Batch(NamedTuple):
    """Data that are scored together: `x` [batch, *event], their places `ids` in the caller's x (for messages), the `keys`
    that seed their streams of random numbers, and how many `rows` (data times particles) may go through the model at
    once."""

    x: Tensor
    ids: tuple[int, ...]
    keys: list[Key]
    rows: int


class DatumResult(NamedTuple):
    """The number of one datum and what tells how good it is; None where a method has no such thing.

    `nats` is log p(x) or a bound on it, `stderr` the standard error of its estimate, `ess` the effective sample size of its
    weights and `pareto_k` the shape of their tail; `length`, `acceptance` and `n_lost` are of annealed runs.
    """

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


Advance = Callable[[int], None]
"""Called with the evaluations of the model that have just been made for each datum of a batch."""
Score = Callable[[Batch, Advance], Sequence[tuple[DatumResult, ...]]]
"""A batch -> for each of its data one result or several."""


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """log p(x) of each datum, or a bound on it.

    `nats` [n] float64; `side` says what each is for log p(x): "exact", or "lower" or "upper" (in expectation, for every
    setting). `stderr` [n] is that of the estimate log Z-hat from its draws, NaN where they say too little (`diagnostics`);
    it holds no bias, so a bound can lie many of them away from the truth. `ess` [n] is the effective sample size of the last
    weights and `pareto_k` [n] the shape of their tail, NaN where there are too few.

    `n_evaluations` counts the evaluations of the model for each datum, pilot included; `n_gradients` those that went back as
    well, and `n_pilot` those of the pilot. `lengths` [n] are the paths' thermodynamic lengths, `acceptance` [n] the mean
    acceptance of moves, `n_lost` the proposals rejected because they were not finite (None where no chain ran). `settings`
    are those that the method used.
    """

    nats: Float64[np.ndarray, " n"]
    side: Side
    stderr: Float64[np.ndarray, " n"]
    ess: Float64[np.ndarray, " n"]
    pareto_k: Float64[np.ndarray, " n"]
    method: str
    settings: Mapping[str, Any]
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
        magnitude, and no bound. `gap_planner` measures c.
        """
        if self.lengths is None:
            return None
        return MIXING * self.lengths**2 / (2 * self.settings["temperatures"] * self.settings["particles"])

    def certificate(self, delta: float = 0.01) -> float:
        """A number that mean log p(x) of these data is beyond with probability 1 - delta, assuming nothing.

        mean - log(1/delta) / n for a lower bound, mean + log(1/delta) / n for an upper one: the product of Z-hat / Z over
        independent data has mean 1, so Markov's inequality applies to it. It needs kernels that were frozen before the run.
        Of exact values it is their mean.

        Args:
            delta: The probability, between 0 and 1, with which the certificate may fail.

        Returns:
            Nats a datum; NaN for an estimate of no side.

        Raises:
            InputError: `delta` is no such probability.
        """
        if not 0 < delta < 1:
            raise InputError(f"delta is {delta}: a probability between 0 and 1")
        slack = {"exact": 0.0, "lower": -1.0, "upper": 1.0, "estimate": math.nan}[self.side]
        return float(self.nats.mean()) + slack * math.log(1 / delta) / len(self.nats)


def as_columns(
    results: Sequence[DatumResult], side: Side, method: str, settings: Mapping[str, Any], seconds: float
) -> LogLikelihood:
    """The results of all data of one method as columns; those of chains are there where the results tell of any."""
    columns = {name: [getattr(result, name) for result in results] for name in DatumResult._fields}
    nats, stderr, ess, k = (np.array(columns[name], dtype=np.float64) for name in ("nats", "stderr", "ess", "pareto_k"))
    annealed = results[0].length is not None
    return LogLikelihood(
        nats,
        side,
        stderr,
        ess,
        k,
        method,
        settings,
        float(np.mean(columns["n_evaluations"])),
        float(np.mean(columns["n_gradients"])),
        float(np.mean(columns["n_pilot"])),
        np.array(columns["length"], dtype=np.float64) if annealed else None,
        np.array(columns["acceptance"], dtype=np.float64) if annealed else None,
        sum(columns["n_lost"]) if annealed else None,
        seconds,
    )
