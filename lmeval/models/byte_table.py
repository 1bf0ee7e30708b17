"""The bytes that each token of a vocabulary stands for."""

import hashlib
import re
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8
from tokenizers import Tokenizer


class ByteTable(NamedTuple):
    """The bytes of every token: those of id i are flat[starts[i] : starts[i] + lengths[i]]."""

    flat: UInt8[np.ndarray, " bytes"]
    starts: Int64[np.ndarray, " vocabulary"]
    lengths: Int64[np.ndarray, " vocabulary"]


class ByteTokens(NamedTuple):
    """Ids that spell given bytes exactly, but for one space in front of them where `extra_space`."""

    ids: Int64[np.ndarray, " tokens"]
    extra_space: bool


def byte_table(core: Tokenizer, decoder: str) -> ByteTable:
    """The bytes that each token stands for, read off its name by the convention of the tokenizer's decoder: GPT-2's
    printable alphabet, or SentencePiece's "\u2581" for a space and "<0x0A>" for a byte. It is a proposal: whether a text's
    tokens spell the text is for the caller to check.

    Args:
        core: The tokenizer.
        decoder: Its decoder's description, as JSON.

    Returns:
        A table of all its ids, added tokens included.
    """
    alphabet = {character: byte for byte, character in byte_alphabet().items()} if "ByteLevel" in decoder else None
    spelled = []
    for i in range(core.get_vocab_size(with_added_tokens=True)):
        name = core.id_to_token(i) or ""
        if alphabet is not None and all(character in alphabet for character in name):
            spelled.append(bytes(alphabet[character] for character in name))
        elif re.fullmatch(r"<0x[0-9A-F]{2}>", name):
            spelled.append(bytes([int(name[3:5], 16)]))
        else:
            spelled.append(name.replace("\u2581", " ").encode(errors="replace"))
    lengths = np.array([len(s) for s in spelled], dtype=np.int64)
    return ByteTable(np.frombuffer(b"".join(spelled), dtype=np.uint8), np.cumsum(lengths) - lengths, lengths)


def spell(table: ByteTable, ids: Int64[np.ndarray, " tokens"]) -> UInt8[np.ndarray, " bytes"]:
    """The bytes that ids stand for, one after the other."""
    lengths = table.lengths[ids]
    first = np.cumsum(lengths) - lengths
    return table.flat[np.arange(int(lengths.sum())) + np.repeat(table.starts[ids] - first, lengths)]


def table_sha256(table: ByteTable) -> str:
    """SHA-256 over the bytes of every id in order, each with its length in front (8 bytes, little-endian)."""
    flat, starts, lengths = table
    data = flat.tobytes()
    entries = (int(n).to_bytes(8, "little") + data[first : first + n] for first, n in zip(starts, lengths, strict=True))
    return hashlib.sha256(b"".join(entries)).hexdigest()


def byte_alphabet() -> dict[int, str]:
    """GPT-2's reversible map from bytes to printable characters: byte-level tokenizers write their vocabulary in it.

    >>> byte_alphabet()[ord("A")], byte_alphabet()[ord(" ")]
    ('A', '\u0120')
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        table.setdefault(byte, chr(256 + len(table) - len(printable)))
    return table
