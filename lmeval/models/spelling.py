"""Any bytes to token ids that spell them exactly, and back.

`tokens` encodes text; this spells also what is no text, and what the tokenizer does not give back.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from lmeval.models.byte_table import ByteTable, ByteTokens, spell, table_sha256
from lmeval.models.tokens import TextEncoder, encode


def encode_bytes(encoder: TextEncoder, data: bytes) -> ByteTokens | None:
    """Ids whose own bytes (`decode_bytes`) are `data`, whatever it holds; None where the vocabulary cannot spell it.

    Text is encoded as ever. Where the tokenizer does not give the text back (what it normalises, does not know, or is no
    UTF-8) the bytes are spelled by single-byte tokens.
    """
    if encoder.core is None or encoder.table is None:
        return None
    with contextlib.suppress(UnicodeDecodeError):
        ids = np.concatenate([np.zeros(0, dtype=np.int64), *(run.ids for run in encode(encoder, [data.decode()]))])
        spelled = decode_bytes(encoder, ids)
        if spelled in (data, b" " + data):
            return ByteTokens(ids, extra_space=len(spelled) > len(data))
    return _patched(encoder, encoder.table, data)


def decode_bytes(encoder: TextEncoder, ids: Int64[np.ndarray, " tokens"]) -> bytes:
    """The bytes that the ids stand for, one after the other; ids that the vocabulary lacks stand for none."""
    assert encoder.table is not None
    known = ids[(ids >= 0) & (ids < len(encoder.table.lengths))]
    return spell(encoder.table, known).tobytes()


def n_text_ids(encoder: TextEncoder) -> int:
    """One more than the largest id that text can have; special tokens, which text never has, do not count."""
    assert encoder.core is not None
    special = {i for i, token in encoder.core.get_added_tokens_decoder().items() if token.special}
    return 1 + max(i for i in encoder.core.get_vocab(with_added_tokens=True).values() if i not in special)


def vocabulary_sha256(encoder: TextEncoder) -> str:
    """Fingerprint of the bytes that each id stands for (`byte_table.table_sha256`)."""
    assert encoder.table is not None
    return table_sha256(encoder.table)


def _patched(encoder: TextEncoder, table: ByteTable, data: bytes) -> ByteTokens | None:
    """Encode by spans: where a run of tokens does not spell the span of bytes it came from, single-byte tokens do."""
    assert encoder.core is not None
    text = data.decode(errors="surrogateescape")  # one lone surrogate for each byte that is no UTF-8
    points = np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    odd = (points >= 0xDC80) & (points <= 0xDCFF)
    sizes = np.where(odd, 1, 1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000))
    starts = np.append(0, np.cumsum(sizes))  # of each character in `data`
    clean = np.where(odd, 0xFFFD, points).astype("<u4").tobytes().decode("utf-32-le")
    encoding = encoder.core.encode(clean, add_special_tokens=False)
    singles = _single_bytes(table)
    ids: list[int] = []

    def spell_singly(first: int, stop: int) -> bool:
        wanted = [singles.get(byte) for byte in data[starts[first] : starts[stop]]]
        ids.extend(i for i in wanted if i is not None)
        return None not in wanted

    done, complete, extra_space = 0, True, False
    for first, stop, group in _touching(encoding.ids, encoding.offsets):
        first = max(first, done)
        complete &= spell_singly(done, first)
        source = data[starts[first] : starts[max(stop, first)]]
        spelled = spell(table, np.array(group, dtype=np.int64)).tobytes()
        if not ids and spelled == b" " + source:
            extra_space, spelled = True, source
        if spelled == source:
            ids.extend(group)
        else:
            complete &= spell_singly(first, max(stop, first))
        done = max(stop, first)
    complete &= spell_singly(done, len(points))
    spelling = np.array(ids, dtype=np.int64)
    whole = b" " * extra_space + data
    return ByteTokens(spelling, extra_space) if complete and decode_bytes(encoder, spelling) == whole else None


def _touching(ids: list[int], offsets: list[tuple[int, int]]) -> Iterator[tuple[int, int, list[int]]]:
    """(first, stop) spans of characters with the tokens that came from them; tokens that share a character go together."""
    first, stop, group = 0, 0, []
    for i, (begin, end) in zip(ids, offsets, strict=True):
        if group and begin >= stop:
            yield first, stop, group
            group = []
        if not group:
            first, stop = begin, end
        group.append(i)
        stop = max(stop, end)
    if group:
        yield first, stop, group


def _single_bytes(table: ByteTable) -> dict[int, int]:
    """Byte value -> the id that stands for that byte alone (the last such)."""
    alone = np.flatnonzero(table.lengths == 1)
    return {int(table.flat[table.starts[i]]): int(i) for i in alone}
