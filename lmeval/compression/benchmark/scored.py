"""A scorer taken at its word: its distributions are checked, coded into a real file, and the file is decoded.

The code is that of archives: a symbol is the binary decisions of a tree over all symbols, each with an integer probability,
through the coder of `coding.coder`. Masses are whole numbers of 2^-38, at least one for every symbol, so that their sums are
exact. Encoder and decoder ask the scorer anew, and the decoder tells it nothing but what it has decoded.
"""

import hashlib
import math
import struct
import time
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from lmeval.compression.benchmark.scorers import (
    Form,
    Scorer,
    asking,
    form_of,
    ids_of,
    numbers,
    spell,
    start,
    whole_rows,
)
from lmeval.compression.coding.coder import BitReader, encode_bits
from lmeval.compression.coding.grid import FREQUENCY_BITS
from lmeval.errors import EmptyInput, ModelError
from lmeval.progress import SILENT, Progress

MASS_BITS = 38
TRIAL = 64  # symbols of a text on which a scorer is tried before it is believed
WHOLE_TOLERANCE = 1e-4  # of a probability: what float32 changes where a network reads a text at once and not step by step
HEADER = struct.Struct("<Q")  # the number of symbols
MOST_EXCESS, MOST_EXCESS_BITS = 0.001, 8 * 64  # of a file over the scorer's own sum
_ONE = 1 << FREQUENCY_BITS


class Scored(NamedTuple):
    """What a scorer made of a text.

    Attributes:
        form: The scorer's form.
        n_symbols: Bytes or tokens that were coded.
        archive_bytes: Size of the file: the number of symbols in 8 bytes, and their code.
        ideal_bits: The scorer's own claim: minus the sum of log2 p over the symbols.
        largest_deviation: The farthest that a distribution's sum was from one.
        encode_seconds: Wall-clock time of asking the scorer and coding.
        decode_seconds: Wall-clock time of asking it again and decoding.
        verified: Whether the text came back byte for byte.
    """

    form: Form
    n_symbols: int
    archive_bytes: int
    ideal_bits: float
    largest_deviation: float
    encode_seconds: float
    decode_seconds: float
    verified: bool

    @property
    def excess_bytes(self) -> float:
        """Bytes of the file beyond the scorer's own claim."""
        return self.archive_bytes - self.ideal_bits / 8


class _Reading:
    """A scorer that reads a text: what it says of each next symbol is checked, before it is told which one came."""

    def __init__(self, scorer: Scorer, form: Form) -> None:
        self.scorer, self.n_symbols, self.n_bytes, self.largest_deviation = scorer, 0, 0, 0.0
        self._run = start(scorer, form)

    def where(self) -> str:
        """The place of the next symbol in the text."""
        return place_of(self.scorer, self.n_symbols, self.n_bytes)

    def ask(self, came: int | None) -> Float64[np.ndarray, " ids"]:
        """The distribution of the next symbol, after the symbol that came; None at the start of the text."""
        if came is not None:
            self.n_symbols += 1
            self.n_bytes += len(self.scorer.vocabulary[came])
        with asking(self.where()):
            said = next(self._run) if came is None else self._run.send(came)
        distribution = numbers(said, self.where())
        deviation = check_distribution(distribution, self.scorer, self.where())
        self.largest_deviation = max(self.largest_deviation, deviation)
        return distribution


def place_of(scorer: Scorer, n_symbols: int, n_bytes: int) -> str:
    """Where in a text something is said, as messages end: a byte, or a token and the byte at which it begins."""
    return f"at byte {n_bytes:,}" if scorer.encode is None else f"at token {n_symbols:,}, byte {n_bytes:,}"


def check_distribution(distribution: Float64[np.ndarray, "..."], scorer: Scorer, where: str) -> float:
    """Check that an array is a distribution over the scorer's symbols.

    Args:
        distribution: What the scorer says.
        scorer: Has the symbols and the tolerance.
        where: The end of a message: "at byte 12".

    Returns:
        How far its sum is from one.

    Raises:
        ModelError: It has another shape, holds what is no probability, or does not sum to one.
    """
    n_ids = len(scorer.vocabulary)
    if distribution.shape != (n_ids,):
        raise ModelError(f"gives an array of shape {distribution.shape} {where}: {n_ids:,} probabilities are needed")
    finite = np.isfinite(distribution)
    if not finite.all():
        i = int(finite.argmin())
        raise ModelError(f"gives the probability {distribution[i]} to {_shown(scorer, i)} {where}")
    i = int(distribution.argmin())
    if distribution[i] < 0:
        raise ModelError(f"gives the negative probability {distribution[i]:.4g} to {_shown(scorer, i)} {where}")
    total = float(distribution.sum())
    if abs(total - 1) > scorer.tolerance:
        far = abs(total - 1) >= 1e-3
        raise ModelError(f"sums to {total:,.4g} {where}" if far else f"sums to 1 {total - 1:+.1e} {where}")
    return abs(total - 1)


def _shown(scorer: Scorer, symbol: int) -> str:
    return f"byte 0x{symbol:02x}" if scorer.encode is None else f"id {symbol:,} {scorer.vocabulary[symbol]!r}"


def measure_scorer(scorer: Scorer, data: bytes, progress: Progress = SILENT) -> Scored:
    """Check what a scorer says of a text, code the text into a file by it, decode the file and compare.

    Args:
        scorer: The program.
        data: The text.
        progress: Hears the stages "encoding" and "decoding", in bytes of the text.

    Returns:
        Size, claim and times. `verified` tells whether the text came back.

    Raises:
        EmptyInput: The text holds no bytes.
        ModelError: The scorer claims no probabilities. The message goes on from its name: "sums to 277 at byte 12,345".
    """
    if not data:
        raise EmptyInput("bits per byte of an empty text are not defined: give a text of one byte or more")
    form = form_of(scorer)
    ids = ids_of(scorer, data)
    _try_other_ends(scorer, form, ids[:TRIAL][::-1].copy())
    progress.stage("encoding", len(data), "bytes")
    began = time.perf_counter()
    reading = _Reading(scorer, form)
    archive, ideal_bits, marks, chosen = _encode(reading, ids, progress)
    encoded = time.perf_counter()
    if form == "whole":
        ideal_bits = _claim_at_once(scorer, ids, chosen)
    progress.stage("decoding", len(data), "bytes")
    resumed = time.perf_counter()
    decoded = _decode(archive, _Reading(scorer, form), marks, progress)
    ended = time.perf_counter()
    excess_bits = 8 * len(archive) - ideal_bits
    if excess_bits > MOST_EXCESS * ideal_bits + MOST_EXCESS_BITS:
        raise ModelError(f"claims {ideal_bits / 8:,.0f} bytes at once, and needs {len(archive):,} step by step")
    return Scored(
        form=form,
        n_symbols=len(ids),
        archive_bytes=len(archive),
        ideal_bits=ideal_bits,
        largest_deviation=reading.largest_deviation,
        encode_seconds=max(encoded - began, 1e-9),
        decode_seconds=max(ended - resumed, 1e-9),
        verified=decoded == data,
    )


def _encode(
    reading: _Reading, ids: Int64[np.ndarray, " n"], progress: Progress
) -> tuple[bytes, float, list[bytes], list[float]]:
    """The file, its ideal length in bits, a mark of every distribution, and the probability of every symbol that came."""
    bits, frequencies, marks, chosen = array("i"), array("i"), [], []
    distribution = reading.ask(None)
    for symbol in ids.tolist():
        probability = float(distribution[symbol])
        if not probability:
            what = "the byte" if reading.scorer.encode is None else "the token"
            raise ModelError(f"gives probability 0 to {what} that comes {reading.where()}: its code would never end")
        sums = _sums(distribution)
        marks.append(_mark(sums))
        chosen.append(probability)
        low, high = 0, len(distribution)
        while high - low > 1:
            middle = (low + high) // 2
            bits.append(symbol >= middle)
            frequencies.append(_frequency(sums, low, middle, high))
            low, high = (middle, high) if symbol >= middle else (low, middle)
        progress.advance(len(reading.scorer.vocabulary[symbol]))
        if len(marks) < len(ids):
            distribution = reading.ask(symbol)
    coded = encode_bits(np.frombuffer(bits, dtype=np.int32), np.frombuffer(frequencies, dtype=np.int32))
    return HEADER.pack(len(ids)) + coded, _bits(chosen), marks, chosen


def _decode(archive: bytes, reading: _Reading, marks: Sequence[bytes], progress: Progress) -> bytes:
    """The bytes of a file, by a scorer that is told what was decoded. `marks` only tell where it speaks otherwise."""
    (n_symbols,) = HEADER.unpack_from(archive)
    reader = BitReader(archive[HEADER.size :])
    ids: list[int] = []
    while len(ids) < n_symbols:
        sums = _sums(reading.ask(ids[-1] if ids else None))
        if _mark(sums) != marks[len(ids)]:
            raise ModelError(f"says something else {reading.where()} when it reads the text again: it is not deterministic")
        low, high = 0, len(sums) - 1
        while high - low > 1:
            middle = (low + high) // 2
            [bit] = reader.read(np.array([_frequency(sums, low, middle, high)], dtype=np.int64))
            low, high = (middle, high) if bit else (low, middle)
        ids.append(low)
        progress.advance(len(reading.scorer.vocabulary[low]))
    return spell(reading.scorer, ids) if reader.used_up() else b""


def _bits(probabilities: Sequence[float]) -> float:
    return math.fsum(-math.log2(probability) for probability in probabilities)


def _sums(distribution: Float64[np.ndarray, " ids"]) -> Int64[np.ndarray, " ends"]:
    """Masses of the first 0, 1, 2, ... symbols in units of 2^-MASS_BITS; every symbol has one at least."""
    sums = np.zeros(len(distribution) + 1, dtype=np.int64)
    np.cumsum(np.maximum(np.rint(distribution * (1 << MASS_BITS)), 1).astype(np.int64), out=sums[1:])
    return sums


def _mark(sums: Int64[np.ndarray, " ends"]) -> bytes:
    return hashlib.blake2b(sums.tobytes(), digest_size=8).digest()


def _frequency(sums: Int64[np.ndarray, " ends"], low: int, middle: int, high: int) -> int:
    """Integer probability that a symbol in [low, high) is in [middle, high), in units of 2^-FREQUENCY_BITS."""
    upper, both = int(sums[high] - sums[middle]), int(sums[high] - sums[low])
    return min(_ONE - 1, max(1, (2 * _ONE * upper + both) // (2 * both)))


def _try_other_ends(scorer: Scorer, form: Form, ids: Int64[np.ndarray, " n"]) -> None:
    """Let a scorer read a text twice, and once with another end: what it says before that must be the same.

    The text is the beginning of the one to be coded, backwards, so that a scorer that remembers learns nothing of that one.

    Raises:
        ModelError: It says something else.
    """
    cut = len(ids) // 2
    other = ids.copy()
    other[cut:] = (other[cut:] + 1) % len(scorer.vocabulary)
    first, again, changed = (_said(scorer, form, text, cut + 1) for text in (ids, ids, other))
    margin = WHOLE_TOLERANCE if form == "whole" else 0.0
    if not _same(first, again, 0.0):
        raise ModelError("says something else when it reads the same text again: it is not deterministic")
    if not _same(first, changed, margin):
        raise ModelError("depends on what comes later: before a changed end of a text it says something else")


def _said(scorer: Scorer, form: Form, ids: Int64[np.ndarray, " n"], n_rows: int) -> Sequence[Float64[np.ndarray, "..."]]:
    """What a scorer says of the first `n_rows` symbols of a text, unchecked; it is told the whole of it."""
    if form == "whole":
        return [row.copy() for row in whole_rows(scorer, ids.tolist())[:n_rows]]
    rows = []
    run = start(scorer, form)
    for i in range(len(ids)):
        with asking(f"at symbol {i} of a trial text"):
            said = run.send(int(ids[i - 1])) if i else next(run)
        rows.append(numbers(said, f"at symbol {i} of a trial text").copy())
    return rows[:n_rows]


def _same(first: Sequence[Float64[np.ndarray, "..."]], second: Sequence[Float64[np.ndarray, "..."]], margin: float) -> bool:
    pairs = zip(first, second, strict=True)
    return all(a.shape == b.shape and np.allclose(a, b, rtol=0, atol=margin, equal_nan=True) for a, b in pairs)


def _claim_at_once(scorer: Scorer, ids: Int64[np.ndarray, " n"], chosen: Sequence[float]) -> float:
    """Bits that a scorer claims where it reads a text at once, having been read step by step.

    Raises:
        ModelError: What it says at once is no distribution, or differs from what it says of a text that ends there.
    """
    claimed, n_bytes = [], 0
    for i, (row, symbol) in enumerate(zip(whole_rows(scorer, ids.tolist()), ids.tolist(), strict=True)):
        where = place_of(scorer, i, n_bytes)
        check_distribution(row, scorer, where)
        if abs(row[symbol] - chosen[i]) > WHOLE_TOLERANCE:
            raise ModelError(
                f"depends on what comes later: it gives {row[symbol]:.4g} to what comes {where}, and {chosen[i]:.4g} where "
                "the text ends there"
            )
        claimed.append(float(row[symbol]))
        n_bytes += len(scorer.vocabulary[symbol])
    if not all(claimed):
        raise ModelError("gives probability 0 to a symbol that comes where it reads the text at once")
    return _bits(claimed)
