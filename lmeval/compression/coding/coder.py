"""Binary decisions with integer probabilities to bytes and back: constriction's ANS coder, and Rice codes for phases.

Asymmetric numeral systems (Duda 2013) decode in the order of the text if they encode in reverse; the encoder holds all
decisions of a block, so it can. Over a range coder this saves 0.08% of a text's code: the range coder loses about 1.6e-4
bits at every decision, and there are eight in a byte (scripts/bench_tolerance shows both).
"""

import struct
from typing import Any

import constriction  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from jaxtyping import Int, Int32, Int64

from lmeval.compression.coding.grid import FREQUENCY_BITS, PHASES
from lmeval.errors import CorruptArchive

# `perfect=True`, constriction's default, is slow and prints to standard output.
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]
_DECISION = _stream.model.Categorical(perfect=False)
_ONE = 1 << FREQUENCY_BITS
_AT_ONCE = 1 << 18  # decisions that are handed over together: each takes 16 bytes then


def encode_bits(bits: Int32[np.ndarray, " n"], frequencies: Int[np.ndarray, " n"]) -> bytes:
    """Code bits whose probability of being 1 is frequency / 2^FREQUENCY_BITS, as little-endian 32-bit words."""
    coder = _stream.stack.AnsCoder()
    for stop in range(len(bits), 0, -_AT_ONCE):  # what is decoded last goes onto the stack first
        part = slice(max(0, stop - _AT_ONCE), stop)
        coder.encode_reverse(np.ascontiguousarray(bits[part], dtype=np.int32), _DECISION, _pairs(frequencies[part]))
    return coder.get_compressed().astype("<u4").tobytes()


class BitReader:
    """Reads what `encode_bits` wrote, any number of bits at a time. Reading past the end gives bits without meaning."""

    def __init__(self, data: bytes) -> None:
        """Raises CorruptArchive for what no encoder writes."""
        words = np.frombuffer(data[: len(data) // 4 * 4], dtype="<u4").astype(np.uint32)
        try:
            self._coder = _stream.stack.AnsCoder(words)
        except ValueError as error:
            raise CorruptArchive("the coded data of a block cannot have been written by the encoder") from error

    def read(self, frequencies: Int64[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
        """The next bits, given their probabilities of being 1."""
        return self._coder.decode(_DECISION, _pairs(frequencies))

    def used_up(self) -> bool:
        """Whether everything that was written has been read, and nothing else."""
        return self._coder.is_empty()


def _pairs(frequencies: Int[np.ndarray, " n"]) -> np.ndarray:
    """Weights of 0 and 1. They are integers, so the coder's floating-point sums are exact."""
    pairs = np.empty((len(frequencies), 2), dtype=np.float64)
    pairs[:, 1] = frequencies
    np.subtract(_ONE, pairs[:, 1], out=pairs[:, 0])
    return pairs


def quantised_bits(bits: Int32[np.ndarray, "*shape"], frequencies: Int[np.ndarray, "*shape"]) -> float:
    """Code length in bits under the integer probabilities."""
    rows = _AT_ONCE // max(1, bits[:1].size)
    parts = (slice(first, first + rows) for first in range(0, len(bits), rows))
    chosen = (np.where(bits[part] == 1, frequencies[part], _ONE - frequencies[part]) for part in parts)
    return sum((float(-np.log2(part / _ONE).sum()) for part in chosen), 0.0)


def encode_ranks(ranks: Int64[np.ndarray, " n"]) -> bytes:
    """Rice code: one byte with the parameter b, then for each rank its high part (rank >> b) in unary (ones, then a zero)
    and its low b bits, high bit first; packed into bytes, high bit first, padded with zeros. The shortest b is taken."""
    sizes = [int((ranks >> b).sum()) + len(ranks) * (1 + b) for b in range(PHASES.bit_length())]
    b = int(np.argmin(sizes))
    bits = np.zeros(sizes[b], dtype=np.uint8)
    high = ranks >> b
    starts = np.cumsum(high + 1 + b) - (high + 1 + b)
    ones = np.repeat(starts - (np.cumsum(high) - high), high) + np.arange(int(high.sum()))
    bits[ones] = 1
    for i in range(b):
        bits[starts + high + 1 + i] = ranks >> (b - 1 - i) & 1
    return struct.pack("B", b) + np.packbits(bits).tobytes()


def decode_ranks(data: bytes, n: int) -> tuple[Int64[np.ndarray, " n"], int]:
    """The `n` ranks that `encode_ranks` wrote at the head of `data`, and the number of bytes they took."""
    damaged = CorruptArchive("the phases of a block are damaged")
    if not data or data[0] >= PHASES.bit_length():
        raise damaged
    b, place = data[0], 0
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8, offset=1))
    zeros = np.flatnonzero(bits == 0)
    ranks = np.empty(n, dtype=np.int64)
    weights = 1 << np.arange(b - 1, -1, -1, dtype=np.int64)
    following = 0  # into zeros
    for i in range(n):
        following += int(np.searchsorted(zeros[following:], place))
        if following >= len(zeros) or zeros[following] + 1 + b > len(bits):
            raise damaged
        stop = int(zeros[following]) + 1
        ranks[i] = (stop - 1 - place << b) + int(bits[stop : stop + b] @ weights)
        place = stop + b
        if ranks[i] >= PHASES:
            raise damaged
    return ranks, 1 + -(-place // 8)
