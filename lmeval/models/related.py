"""Ids of texts that begin alike: few-shot prompts, a question with each of its choices. What they share is encoded once.

A text is cut inside what it shares with a text that is encoded already, at a token's boundary, and the rest is encoded by
itself. It is taken where its first tokens are those of the other text, AGREEMENT_TOKENS in a row: as `tokens.encode` joins
the segments of a long document. Where they are not, the text is encoded whole.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from lmeval.models.byte_table import ByteTable, spell
from lmeval.models.tokens import AGREEMENT_TOKENS, TextEncoder, encode_texts

Ids = Int64[np.ndarray, " tokens"]

MARGIN_BYTES = 384  # of what is shared that are encoded again: room for the tokens that must agree
EDGE_BYTES = 32  # of what is shared, at its end, whose tokens may depend on what follows
_PASS = "surrogatepass"  # lone surrogates are refused by `encode_texts`


def encode_beside(encoder: TextEncoder, bases: Sequence[tuple[str, Ids]], texts: Sequence[str]) -> list[Ids]:
    """The ids of each text, as `encode_texts` gives them, given another text (one for each) with its ids.

    It pays where a text shares more than MARGIN_BYTES with its base, and the tokenizer's tokens are pieces of the text's
    bytes (byte-level tokenizers). Raises UndecodableText.
    """
    cuts = [_cut(encoder.table, base, ids, text) for (base, ids), text in zip(bases, texts, strict=True)]
    parts = [_rest(text, cut) for text, cut in zip(texts, cuts, strict=True)]
    encoded = encode_texts(encoder, parts)
    wrong: list[int] = []
    for i, cut in enumerate(cuts):
        if cut is None:
            continue
        if np.array_equal(encoded[i][:AGREEMENT_TOKENS], cut.following):
            encoded[i] = np.concatenate([cut.before, encoded[i]])
        else:
            wrong.append(i)
    for i, ids in zip(wrong, encode_texts(encoder, [texts[i] for i in wrong]), strict=True):
        encoded[i] = ids
    return encoded


def _rest(text: str, cut: "_Cut | None") -> str:
    return text if cut is None else text.encode(errors=_PASS)[cut.offset :].decode(errors=_PASS)


def leaders(texts: Sequence[str]) -> dict[str, str]:
    """For each text a text of the same list that begins like it for more than MARGIN_BYTES, itself where there is none: the
    first, in sorted order, of those that share so much with it one after the other.

    >>> leaders(["b", "a"])
    {'a': 'a', 'b': 'b'}
    """
    leader_of: dict[str, str] = {}
    leader, start = "", _bytes("")
    for text in sorted(texts):
        data = _bytes(text)
        if common_bytes(start, data) <= MARGIN_BYTES:
            leader, start = text, data
        leader_of[text] = leader
    return leader_of


def common_bytes(a: np.ndarray, b: np.ndarray) -> int:
    """Number of leading bytes that two texts have in common."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


class _Cut(NamedTuple):
    """Where a text is cut, in bytes; the ids before it; those that the rest must begin with."""

    offset: int
    before: Ids
    following: Ids


def _cut(table: ByteTable | None, base: str, ids: Ids, text: str) -> _Cut | None:
    if table is None or base is text:
        return None
    data = _bytes(base)
    shared = common_bytes(data, _bytes(text))
    ends = np.cumsum(table.lengths[ids]) if shared > MARGIN_BYTES else np.zeros(0, dtype=np.int64)
    if not len(ends) or ends[-1] != len(data) or not np.array_equal(spell(table, ids), data):
        return None
    boundaries = np.flatnonzero(ends[: int(np.searchsorted(ends, shared - MARGIN_BYTES, side="right"))] < len(data))
    whole = boundaries[(data[ends[boundaries]] & 0xC0) != 0x80]  # a character's boundary too
    if not len(whole):
        return None
    first = int(whole[-1]) + 1
    stop = first + AGREEMENT_TOKENS
    if stop > len(ids) or ends[stop - 1] > shared - EDGE_BYTES:
        return None
    return _Cut(int(ends[first - 1]), ids[:first], ids[first:stop])


def _bytes(text: str) -> UInt8[np.ndarray, " bytes"]:
    return np.frombuffer(text.encode(errors=_PASS), dtype=np.uint8)
