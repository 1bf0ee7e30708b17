"""Tables of the online models: log-odds and probabilities in fixed point, equal on every machine.

Probabilities are integers in units of 2^-22, log-odds in units of 2^-12 nats.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from lmeval.compression.coding.grid import FREQUENCY_BITS
from lmeval.compression.coding.integer_tables import log_parts, logistic
from lmeval.compute.compiled import Int, compiled

ONE = 1 << FREQUENCY_BITS
NAT = 1 << 12
SURE = 64
"""No average that is learned comes nearer to 0 or 1, in units of 2^-22."""
LIMIT = 12 * NAT - 1
"""Log-odds of mixed predictions lie between -LIMIT and LIMIT."""
_FINE = 1 << 16


class Tables(NamedTuple):
    """Log-odds of p / 2^16 (`middle`) and of p / 2^22 (`tail`), probabilities of log-odds (`squashed`), and the share
    1 / (n + 5/4) of 2^16 by which an average of n values moves to the next (`rates`)."""

    middle: Int32[np.ndarray, " 65536"]
    tail: Int32[np.ndarray, " 65537"]
    squashed: Int32[np.ndarray, " 6145"]
    rates: Int64[np.ndarray, " 1024"]


@functools.cache
def tables() -> Tables:
    """The tables, computed once."""
    whole = np.arange(1, _FINE + 1, dtype=np.int64)
    middle = (log_parts(whole[:-1]) - log_parts(_FINE - whole[:-1])) >> 8
    tail = (log_parts(whole) - log_parts(ONE - whole)) >> 8
    points = np.arange(-12 * NAT, 12 * NAT + 1, 16, dtype=np.int64)
    squashed = np.clip(logistic(points << 4) >> 16, 1, ONE - 1)
    return Tables(
        np.concatenate([middle[:1], middle]).astype(np.int32),
        np.concatenate([tail[:1], tail]).astype(np.int32),
        squashed.astype(np.int32),
        4 * _FINE // (4 * np.arange(1024, dtype=np.int64) + 5),
    )


@compiled
def stretch(probability: Int, middle: Int32[np.ndarray, " n"], tail: Int32[np.ndarray, " m"]) -> Int:
    """Log-odds of a probability."""
    if probability < 65536:
        return np.int64(tail[probability])
    if probability > 4194304 - 65536:
        return -np.int64(tail[4194304 - probability])
    return np.int64(middle[probability >> 6])


@compiled
def limited(log_odds: Int) -> Int:
    """Log-odds within [-LIMIT, LIMIT]."""
    return min(max(log_odds, -LIMIT), LIMIT)


@compiled
def squash(log_odds: Int, squashed: Int32[np.ndarray, " n"]) -> Int:
    """Probability of log-odds within the limits."""
    return np.int64(squashed[(log_odds + 12 * NAT) >> 4])


@compiled
def moved(average: Int, bit: Int, rate: Int) -> Int:
    """An average of bits with one more in it, which counts rate / 2^16."""
    target = ONE - 1 if bit else 0
    return min(max(average + (((target - average) * rate) >> 16), SURE), ONE - SURE)
