"""A block of an archive as it stands between its frame and its meaning: numbers that its kind names, and a payload."""

import hashlib
from typing import NamedTuple

from lmeval.errors import CorruptArchive

MAX_BLOCK_BYTES = 1 << 26
MAX_BLOCK_UNITS = 1 << 22
MAX_LANES = 4096


class Block(NamedTuple):
    """One block: `n_bytes` of data from `offset` on.

    `kind` is a name of `kinds.REGISTRY`. What the three numbers mean is the kind's to say: `n_units` counts what is coded
    (tokens, bytes, images), in `n_lanes` lanes; `parameter` is one more number that decoding needs. They are 0 where a kind
    has no use for them. `digest` is of the data.
    """

    kind: str
    flags: int
    offset: int
    n_bytes: int
    n_lanes: int
    n_units: int
    parameter: int
    digest: bytes
    payload: bytes


def digest(data: bytes | memoryview) -> bytes:
    """Checksum of a block's data: BLAKE2b with 8 bytes."""
    return hashlib.blake2b(data, digest_size=8).digest()


def checked(block: Block, data: bytes) -> bytes:
    """The decoded data, if they are what was encoded.

    Raises:
        CorruptArchive: They have another length or another checksum.
    """
    if len(data) != block.n_bytes or digest(data) != block.digest:
        raise CorruptArchive(f"{span(block)}: what was decoded does not match its checksum")
    return data


def span(block: Block) -> str:
    """Where the block's data lie, for messages."""
    return f"block of bytes {block.offset:,} to {block.offset + block.n_bytes:,}"
