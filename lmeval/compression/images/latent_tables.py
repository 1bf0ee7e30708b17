"""A Gaussian latent on a grid, in exact integers: drawn as a posterior from uniform numbers, coded as the prior.

A latent z is a whole number k of steps of 2^-s. The prior and every posterior are tables of integer parts in proportion to
the normal density at the grid's points. Posterior means are rounded to an eighth of a step and standard deviations to a
ladder of 16 rungs an octave, so that one table for each rung and eighth serves all latents.

No point of a posterior has more than its share. A coder that gives every point of the grid a least part, as coders do, draws
a latent from nowhere for one image in a hundred, at a price of more bits than the image: 0.6% on a grid of 4096 points.
"""

import functools
from typing import Any, NamedTuple

import constriction  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from jaxtyping import Bool, Float64, Int64

from lmeval.compression.coding.integer_tables import FRACTION_BITS, exp_minus, powers_of_two

PART_BITS = 24
"""The coder's probabilities are integers in units of 2^-PART_BITS."""
DRAW_BITS = 14
"""A posterior is drawn by a uniform number of DRAW_BITS bits, and its parts are in units of 2^-DRAW_BITS."""
PHASES = 8
"""A posterior mean is a multiple of 1/PHASES of a step."""
RUNGS = 16
"""Standard deviations: rung r is 2^(r/RUNGS - 2) steps."""
MEAN_LIMIT = 8
"""Posterior means are clipped to this magnitude."""
PRIOR_LIMIT = 16
"""The prior's grid ends here: beyond the widest posterior at the largest mean (8 + 5.66 x 1.41)."""
FEWEST_STEP_BITS, MAX_STEP_BITS = 2, 8
_FIRST_OCTAVE = 2  # the ladder begins at 2^-2 steps
_TOP_RUNG = RUNGS // 2  # and ends at a standard deviation of 2^(1/2)
_TAIL = 16 << FRACTION_BITS  # a posterior's table ends where -log density has grown by this
_RUNGS_PER_NAT = 387270501  # 2^24 x 16 / ln 2, rounded

_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]


class Posterior(NamedTuple):
    """Posteriors of latents: the grid point nearest the mean, and the number of a table (rung x 8 + eighth)."""

    centre: Int64[np.ndarray, "*shape"]
    table: Int64[np.ndarray, "*shape"]


def posterior(mean: Int64[np.ndarray, "*shape"], log_std: Int64[np.ndarray, "*shape"], step_bits: int) -> Posterior:
    """Rounded posteriors for means and logarithms of standard deviations in units of 2^-16."""
    shift = FRACTION_BITS - 3 - step_bits
    limit = MEAN_LIMIT * PHASES << step_bits
    eighths = np.clip((mean + (1 << (shift - 1))) >> shift, -limit, limit)
    centre = (eighths + PHASES // 2) >> 3
    base = RUNGS * (step_bits + _FIRST_OCTAVE)
    rung = np.clip(((log_std * _RUNGS_PER_NAT + (1 << 39)) >> 40) + base, 0, base + _TOP_RUNG)
    return Posterior(centre, rung * PHASES + (eighths - PHASES * centre) % PHASES)


def latent_values(k: Int64[np.ndarray, "*shape"], step_bits: int) -> Int64[np.ndarray, "*shape"]:
    """z in units of 2^-16."""
    return k << (FRACTION_BITS - step_bits)


class Prior(NamedTuple):
    """The standard normal: parts of 2^24 for the grid points from `first` on, and the coder's model with them."""

    first: int
    parts: Int64[np.ndarray, " points"]
    coder_model: Any


@functools.lru_cache(maxsize=16)
def prior(step_bits: int) -> Prior:
    """The prior on all grid points from -16 to 16."""
    last = PRIOR_LIMIT << step_bits
    distance = _distance(np.arange(-last, last + 1) * PHASES, RUNGS * (step_bits + _FIRST_OCTAVE))
    whole = parts(distance)
    return Prior(-last, whole, coder_model(whole))


class Interval(NamedTuple):
    """What of 0 .. 2^DRAW_BITS - 1 belongs to grid points: `first` and `size`."""

    first: Int64[np.ndarray, "*shape"]
    size: Int64[np.ndarray, "*shape"]


class PosteriorTables:
    """Tables made as they are needed. Arguments of the methods are broadcast against each other."""

    def __init__(self) -> None:
        self._rows = np.full(0, -1, dtype=np.int64)  # of a table's number
        self._symbols = np.zeros((0, 1 << DRAW_BITS), dtype=np.int16)
        self._bounds = np.zeros(0, dtype=np.int64)  # of all tables, one after the other
        self._starts = np.zeros(0, dtype=np.int64)
        self._firsts = np.zeros(0, dtype=np.int64)
        self._counts = np.zeros(0, dtype=np.int64)

    def drawn(self, table: Int64[np.ndarray, "*a"], uniform: Int64[np.ndarray, "*b"]) -> Int64[np.ndarray, "*c"]:
        """Offsets from the centre that uniform numbers stand for."""
        row = self._known(table)
        return self._symbols[row, uniform] + self._firsts[row]

    def interval(self, table: Int64[np.ndarray, "*a"], offset: Int64[np.ndarray, "*b"]) -> Interval:
        """The uniform numbers that stand for offsets. A size of 0 where no number does."""
        row = self._known(table)
        symbol = np.clip(offset - self._firsts[row], 0, self._counts[row] - 1)
        place = self._starts[row] + symbol
        inside: Bool[np.ndarray, "*c"] = symbol == offset - self._firsts[row]
        first = self._bounds[place]
        return Interval(first, np.where(inside, self._bounds[place + 1] - first, 0))

    def _known(self, table: Int64[np.ndarray, "*a"]) -> Int64[np.ndarray, "*a"]:
        highest = int(table.max(initial=0))
        if highest >= len(self._rows):
            self._rows = np.concatenate([self._rows, np.full(highest + 1 - len(self._rows), -1)])
        row = self._rows[table]
        if (row >= 0).all():
            return row
        for number in np.unique(table[row < 0]).tolist():
            self._add(number)
        return self._rows[table]

    def _add(self, number: int) -> None:
        first, sizes = posterior_parts(number)
        if len(self._starts) == len(self._symbols):
            more = np.zeros((max(16, len(self._symbols)), 1 << DRAW_BITS), dtype=np.int16)
            self._symbols = np.concatenate([self._symbols, more])
        self._rows[number] = len(self._starts)
        self._symbols[len(self._starts)] = np.repeat(np.arange(len(sizes)), sizes)
        self._starts = np.append(self._starts, len(self._bounds))
        self._bounds = np.concatenate([self._bounds, [0], np.cumsum(sizes)])
        self._firsts = np.append(self._firsts, first)
        self._counts = np.append(self._counts, len(sizes))


def posterior_parts(number: int) -> tuple[int, Int64[np.ndarray, " points"]]:
    """Parts of 2^14 of the table of this number, and the offset of the first from the centre."""
    rung, phase = divmod(number, PHASES)
    eighths = phase - PHASES if phase >= PHASES // 2 else phase
    widest = 3 * (1 << rung // RUNGS) + 3
    offsets = np.arange(-widest, widest + 1)
    distance = _distance(offsets * PHASES - eighths, rung)
    inside = distance <= _TAIL
    bounds = _bounds(distance[inside])
    return int(offsets[inside][0]), np.diff(((bounds << DRAW_BITS) + (bounds[-1] >> 1)) // bounds[-1])


def _distance(eighths: Int64[np.ndarray, " n"], rung: int) -> Int64[np.ndarray, " n"]:
    """(offset / std)^2 / 2 in units of 2^-16, for offsets in eighths of a step: eighths^2 2^(13 - rung/8)."""
    factor = int(powers_of_two(range(rung, rung + 1), 37)[0])
    return (eighths * eighths * factor + (1 << 23)) >> 24


def _bounds(distance: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n_and_1"]:
    """Sums of exp(-distance) in units of 2^-26, from 0 on."""
    return np.concatenate([[0], np.cumsum(exp_minus(distance) >> 12)])


def parts(distance: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Integers of at least 1 with the sum 2^24, in proportion to exp(-distance), for distances in units of 2^-16."""
    bounds = _bounds(distance)
    return np.diff(bounds * ((1 << PART_BITS) - len(distance)) // bounds[-1]) + 1


def coder_model(whole: Int64[np.ndarray, " n"]) -> Any:
    """constriction's model with exactly these parts. It gives every symbol one part and shares out the others by weight: if
    the weights sum to what is left, the factor is 1 and nothing is rounded."""
    weights: Float64[np.ndarray, " n"] = (whole - 1).astype(np.float64)
    return _stream.model.Categorical(weights, perfect=False)
