"""The decisions by which a token is coded: the bits of its id, high bit first, down a tree over the vocabulary."""

import numpy as np
from jaxtyping import Float64, Int32, Int64

_AT_ONCE = 1 << 15  # rows, where memory would be spent on temporary arrays


def depth_of(n_ids: int) -> int:
    """Bits that tell `n_ids` ids apart.

    >>> [depth_of(n) for n in (1, 2, 256, 257, 50257)]
    [1, 1, 8, 9, 16]
    """
    return max(1, (n_ids - 1).bit_length())


def path_bits(ids: Int64[np.ndarray, " tokens"], depth: int) -> Int32[np.ndarray, "tokens depth"]:
    """The decisions themselves: bits of the ids, high bit first."""
    bits = np.empty((len(ids), depth), dtype=np.int32)
    for place in range(depth):  # a column at a time: a block may have 2^24 decisions
        bits[:, place] = ids >> (depth - 1 - place) & 1
    return bits


def code_length_nats(log_odds: Float64[np.ndarray, "*shape"], bits: Int32[np.ndarray, "*shape"]) -> float:
    """Ideal code length: sum of -ln P(bit), with P(1) = sigmoid(log-odds).

    >>> round(float(code_length_nats(np.zeros(3), np.array([0, 1, 1])) / np.log(2)), 9)
    3.0
    """
    parts = (slice(first, first + _AT_ONCE) for first in range(0, len(bits), _AT_ONCE))
    return sum((float(np.logaddexp(0.0, np.where(bits[i] == 1, -log_odds[i], log_odds[i])).sum()) for i in parts), 0.0)
