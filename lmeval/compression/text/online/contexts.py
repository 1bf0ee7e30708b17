"""Contexts of the next symbol: hashes of what stands before it in its lane."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from lmeval.compression.text.online.hashes import fold
from lmeval.compute.compiled import Int, compiled

CHARACTERS = 10  # longest order, in characters
TOKENS = 4  # longest order, in tokens
N_CONTEXTS = 16
COLUMNS = 255


class Text(NamedTuple):
    """What a lane's bytes so far amount to: hashes of the present word and of the two before, the word's length; the steps
    at which this line and the one before began (-1: none), the line's indentation, whether it still goes on; the bytes of a
    character that is not complete; the last three bytes that followed each byte."""

    word: UInt64[np.ndarray, " lanes"]
    word_before: UInt64[np.ndarray, " lanes"]
    word_second: UInt64[np.ndarray, " lanes"]
    letters: Int64[np.ndarray, " lanes"]
    line: Int64[np.ndarray, " lanes"]
    line_before: Int64[np.ndarray, " lanes"]
    indent: Int64[np.ndarray, " lanes"]
    indenting: Int64[np.ndarray, " lanes"]
    partial: Int64[np.ndarray, " lanes"]
    followers: Int64[np.ndarray, "lanes 256"]


def open_text(n_lanes: int) -> Text:
    """Nothing read yet."""
    numbers = [np.zeros(n_lanes, dtype=np.int64) for _ in range(6)]
    letters, line, line_before, indent, indenting, partial = numbers
    line_before -= 1
    indenting += 1
    word, word_before, word_second = (np.zeros(n_lanes, dtype=np.uint64) for _ in range(3))
    followers = np.zeros((n_lanes, 256), dtype=np.int64)
    return Text(word, word_before, word_second, letters, line, line_before, indent, indenting, partial, followers)


@compiled
def symbol(ids: Int64[np.ndarray, " tokens"], step: int, n_lanes: int, lane: int) -> Int:
    """1 + the symbol at a step of a lane; 0 before its beginning."""
    return ids[step * n_lanes + lane] + 1 if step >= 0 else np.int64(0)


@compiled
def read_byte(text: Text, ids: Int64[np.ndarray, " tokens"], step: int, n_lanes: int, lane: int) -> None:
    """Take the byte before `step` into account."""
    byte = ids[(step - 1) * n_lanes + lane]
    small = byte + 32 if 65 <= byte <= 90 else byte
    if 97 <= small <= 122 or small >= 128:
        text.word[lane] = fold(text.word[lane], small + 1)
        text.letters[lane] += 1
    elif text.letters[lane]:
        text.word_second[lane] = text.word_before[lane]
        text.word_before[lane] = text.word[lane]
        text.word[lane] = np.uint64(0)
        text.letters[lane] = 0
    if byte == 10:
        text.line_before[lane], text.line[lane] = text.line[lane], step
        text.indent[lane], text.indenting[lane] = 0, 1
    elif text.indenting[lane] and (byte == 32 or byte == 9):
        text.indent[lane] += 1
    else:
        text.indenting[lane] = 0
    if step > 1:
        before = ids[(step - 2) * n_lanes + lane]
        text.followers[lane, before] = ((text.followers[lane, before] << 8) | byte) & 0xFFFFFF
    text.partial[lane] = _partial(ids, step, n_lanes, lane)


@compiled
def _partial(ids: Int64[np.ndarray, " tokens"], step: int, n_lanes: int, lane: int) -> int:
    """How many bytes of an unfinished UTF-8 character end a lane, 0 to 3."""
    for back in range(1, 4):
        if step < back:
            return 0
        byte = ids[(step - back) * n_lanes + lane]
        if byte < 128:
            return 0
        if byte >= 192:
            length = 2 if byte < 224 else 3 if byte < 240 else 4
            return back if back < length else 0
    return 0


@compiled
def byte_contexts(
    text: Text,
    ids: Int64[np.ndarray, " tokens"],
    step: int,
    n_lanes: int,
    lane: int,
    hashes: UInt64[np.ndarray, " contexts"],
) -> None:
    """All contexts of the byte at `step`, before they are told apart by their number (FORMAT.md lists them)."""
    _characters(text.partial[lane], ids, step, n_lanes, lane, hashes)
    last = symbol(ids, step - 1, n_lanes, lane)
    between = np.int64(0) if text.letters[lane] else last
    hashes[9] = fold(text.word[lane], between * 4 + text.partial[lane])
    word, second = fold(text.word[lane], between), np.int64(text.word_second[lane] >> np.uint64(8))
    hashes[10] = fold(word, np.int64(text.word_before[lane] >> np.uint64(8)))
    hashes[14] = fold(word, second)
    hashes[15] = fold(hashes[10], second)
    column = step - text.line[lane]
    above = np.int64(0)
    if text.line_before[lane] >= 0 and text.line_before[lane] + column < text.line[lane]:
        above = symbol(ids, text.line_before[lane] + column, n_lanes, lane)
    column = min(column, COLUMNS)
    hashes[11] = fold(np.uint64(above), column)
    hashes[12] = fold(fold(text.word[lane], text.indent[lane]), last)
    hashes[13] = fold(np.uint64(last), text.followers[lane, last - 1] if last else np.int64(0))


@compiled
def _characters(
    partial: int,
    ids: Int64[np.ndarray, " tokens"],
    step: int,
    n_lanes: int,
    lane: int,
    hashes: UInt64[np.ndarray, " contexts"],
) -> None:
    """Contexts n = 0 to 6, the bytes of an unfinished character and n whole characters before it; 7, ten characters; and
    8, the unfinished character and the last but one before it."""
    hashed, back = np.uint64(partial), 1
    while back <= partial:
        hashed = fold(hashed, symbol(ids, step - back, n_lanes, lane))
        back += 1
    hashes[0] = begun = hashed
    for order in range(1, CHARACTERS + 1):
        character = np.uint64(0)
        for continuation in range(4):
            byte = symbol(ids, step - back, n_lanes, lane)
            hashed = fold(hashed, byte)
            character = fold(character, byte)
            back += 1
            if not 129 <= byte <= 192 or continuation == 3:
                break
        if order <= 6:
            hashes[order] = hashed
        if order == 2:
            hashes[8] = fold(begun + character, np.int64(8))
    hashes[7] = hashed


@compiled
def token_contexts(
    ids: Int64[np.ndarray, " tokens"], step: int, n_lanes: int, lane: int, hashes: UInt64[np.ndarray, " contexts"]
) -> None:
    """Contexts of the token at `step`: the last 0 to 4 tokens, and the last but one."""
    hashes[0] = hashed = np.uint64(0)
    for order in range(1, TOKENS + 1):
        hashed = fold(hashed, symbol(ids, step - order, n_lanes, lane))
        hashes[order] = hashed
    hashes[TOKENS + 1] = np.uint64(symbol(ids, step - 2, n_lanes, lane))
