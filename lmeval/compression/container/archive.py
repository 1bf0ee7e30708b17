"""The container: header, blocks, index, footer. compression/FORMAT.md is the definition; this module reads and writes it.

Nothing here knows a model. Every length is checked against a limit before anything of that size is made, and every part
carries a checksum, so damage is named and never obeyed.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from lmeval.compression.container.frame import MAX_BLOCK_BYTES, MAX_LANES, Block
from lmeval.compression.container.header import Header, packed, unpacked
from lmeval.compression.container.kinds import REGISTRY, kind_of, name_of, version_of
from lmeval.errors import ArchiveError, CorruptArchive, NotAnArchive

MAGIC = b"\x89LMZ\r\n\x1a\n"
BLOCK_MAGIC, INDEX_MAGIC = b"LMZB", b"LMZI"
VERSION = (2, 0)
FLAGS = 1  # all that there are

MAX_HEADER_BYTES = 1 << 20

_PROLOGUE = struct.Struct("<8sBBHI")
_BLOCK = struct.Struct("<4sIIQBBHII8sI")
_CRC = struct.Struct("<I")
_INDEX_ENTRY = struct.Struct("<II")
_INDEX_HEAD = struct.Struct("<4sI")
_FOOTER = struct.Struct("<IQI")
BLOCK_OVERHEAD = _BLOCK.size + _CRC.size
FOOTER_SIZE = _FOOTER.size + _CRC.size + len(MAGIC)


class Entry(NamedTuple):
    """Where a block is, as a line of the index says it."""

    position: int  # of the block in the file
    stored: int
    offset: int  # of its data in the archive's data
    n_bytes: int


def write_header(out: BinaryIO, meta: dict[str, Any]) -> Header:
    """Write the header: its metadata must hold "n_bytes" and "sha256". The version is the first that knew what the archive
    needs."""
    version = version_of(meta)
    text = packed(meta)
    head = _PROLOGUE.pack(MAGIC, *version, 0, len(text)) + text
    seed = zlib.crc32(head)
    out.write(head + _CRC.pack(seed))
    return Header(meta, version, meta["n_bytes"], seed)


def write_block(out: BinaryIO, block: Block, seed: int) -> tuple[int, int]:
    """Write a block; its line of the index."""
    fields = _BLOCK.pack(
        BLOCK_MAGIC,
        len(block.payload),
        block.n_bytes,
        block.offset,
        REGISTRY[block.kind].code,
        block.flags,
        block.n_lanes,
        block.n_units,
        block.parameter,
        block.digest,
        zlib.crc32(block.payload),
    )
    out.write(fields + _CRC.pack(zlib.crc32(fields, seed)) + block.payload)
    return BLOCK_OVERHEAD + len(block.payload), block.n_bytes


def write_end(out: BinaryIO, lines: list[tuple[int, int]], header_size: int, seed: int) -> int:
    """Write index and footer; the archive's length."""
    index = _INDEX_HEAD.pack(INDEX_MAGIC, len(lines)) + b"".join(_INDEX_ENTRY.pack(*line) for line in lines)
    index += _CRC.pack(zlib.crc32(index, seed))
    length = header_size + sum(stored for stored, _ in lines) + len(index) + FOOTER_SIZE
    footer = _FOOTER.pack(len(index), length, seed)
    out.write(index + footer + _CRC.pack(zlib.crc32(footer)) + MAGIC[::-1])
    return length


def header_bytes(header: Header) -> int:
    """Bytes that this header takes in a file."""
    out = io.BytesIO()
    write_header(out, header.meta)
    return len(out.getvalue())


def read_header(data: memoryview, start: int = 0) -> tuple[Header, int]:
    """The header at `start`, and where its blocks begin. Raises NotAnArchive, CorruptArchive."""
    head = bytes(data[start : start + _PROLOGUE.size])
    if head[: len(MAGIC)] != MAGIC:
        what = "is not an lmeval archive" if start == 0 else f"holds no archive at byte {start:,}, after a whole one"
        raise NotAnArchive(f"the input {what}: it does not begin with the signature")
    if len(head) < _PROLOGUE.size:
        raise CorruptArchive("the archive ends inside its header: it was cut off")
    _, major, minor, reserved, size = _PROLOGUE.unpack(head)
    stop = start + _PROLOGUE.size + size
    if size > MAX_HEADER_BYTES or stop + _CRC.size > len(data):
        raise CorruptArchive("the archive ends inside its header: it was cut off or damaged")
    seed = zlib.crc32(data[start:stop])
    if seed != _CRC.unpack(data[stop : stop + _CRC.size])[0]:
        raise CorruptArchive("the archive's header is damaged: its checksum does not match")
    if major != VERSION[0] or reserved:
        raise NotAnArchive(
            f"the archive has format version {major}.{minor}, and this lmeval reads {VERSION[0]}.x: "
            + ("update it" if major > VERSION[0] else "decompress it with the version that made it")
        )
    try:
        meta = unpacked(bytes(data[start + _PROLOGUE.size : stop]), MAX_HEADER_BYTES)
        n_bytes = meta["n_bytes"]
        if not isinstance(n_bytes, int) or not 0 <= n_bytes < 1 << 64:  # offsets have 64 bits
            raise ValueError
    except (zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptArchive("the archive's header cannot be read") from error
    return Header(meta, (major, minor), n_bytes, seed), stop + _CRC.size


def read_block(data: memoryview, position: int, header: Header) -> Block | None:
    """The block at `position`, None where the index begins.

    Raises:
        CorruptArchive: The block is damaged, cut off, or of another archive.
        NotAnArchive: The block is of a kind that came with a later version of the format than this one.
    """
    head = bytes(data[position : position + BLOCK_OVERHEAD])
    if head[:4] == INDEX_MAGIC:
        return None
    if len(head) < BLOCK_OVERHEAD:
        raise CorruptArchive(f"the archive ends at byte {len(data):,}, inside a block: it was cut off")
    fields = head[: _BLOCK.size]
    if head[:4] != BLOCK_MAGIC or zlib.crc32(fields, header.seed) != _CRC.unpack(head[_BLOCK.size :])[0]:
        raise CorruptArchive(f"the block at byte {position:,} has a damaged header, or belongs to another archive")
    _, stored, n_bytes, offset, code, flags, n_lanes, n_units, parameter, checksum, crc = _BLOCK.unpack(fields)
    payload = data[position + BLOCK_OVERHEAD : position + BLOCK_OVERHEAD + stored]
    if len(payload) < stored:
        raise CorruptArchive(f"the archive ends at byte {len(data):,}, inside a block: it was cut off")
    kind = name_of(code)
    if kind is None and header.version > VERSION:
        raise NotAnArchive(
            f"the block at byte {position:,} is of a kind that came after format version {_dotted(VERSION)}, the last that "
            f"this lmeval knows (the archive has {_dotted(header.version)}): update it"
        )
    block = Block(kind or "", flags, offset, n_bytes, n_lanes, n_units, parameter, checksum, bytes(payload))
    if not _can_be(block):
        raise CorruptArchive(f"the block at byte {position:,} claims what no encoder writes")
    if zlib.crc32(payload) != crc:
        raise CorruptArchive(f"the block at byte {position:,} (data from byte {offset:,} on) is damaged: checksum")
    return block


def read_entry(data: memoryview, entry: Entry, header: Header) -> Block:
    """The block that the index says is there. Raises CorruptArchive where it is another, and as `read_block`."""
    block = read_block(data, entry.position, header)
    if block is None or (BLOCK_OVERHEAD + len(block.payload), block.offset, block.n_bytes) != entry[1:]:
        raise CorruptArchive("the archive's index does not fit its blocks")
    return block


def _dotted(version: tuple[int, int]) -> str:
    return "{}.{}".format(*version)


def _can_be(block: Block) -> bool:
    """Whether an encoder may have written these numbers."""
    within = block.n_bytes <= MAX_BLOCK_BYTES and block.n_lanes <= MAX_LANES and not block.flags & ~FLAGS
    return bool(block.kind) and within and kind_of(block.kind).check(block)


@dataclass
class Blocks:
    """All blocks of the archive whose first block is at `position`, in order, to be read once; then `position` is where the
    index begins. Reading raises CorruptArchive at the first block that is damaged or not in its place."""

    data: memoryview
    position: int
    header: Header

    def __iter__(self) -> Iterator[Block]:
        """Each block, checked to follow the one before it without a gap, to the end of the data."""
        expected = 0
        while (block := read_block(self.data, self.position, self.header)) is not None:
            if block.offset != expected:
                where = f"the block at byte {self.position:,}"
                raise CorruptArchive(f"{where} is not in its place: blocks are missing or swapped")
            expected += block.n_bytes
            self.position += BLOCK_OVERHEAD + len(block.payload)
            yield block
        if expected != self.header.n_bytes:
            raise CorruptArchive(f"blocks for {expected:,} of {self.header.n_bytes:,} bytes: some are missing")


def read_end(data: memoryview, position: int, header: Header) -> int:
    """Check index and footer, which begin at `position`; where the archive ends. Raises CorruptArchive."""
    magic, n = _INDEX_HEAD.unpack(_exactly(data, position, _INDEX_HEAD.size))
    size = _INDEX_HEAD.size + n * _INDEX_ENTRY.size
    index = _exactly(data, position, size + _CRC.size)
    if magic != INDEX_MAGIC or zlib.crc32(index[:size], header.seed) != _CRC.unpack(index[size:])[0]:
        raise CorruptArchive("the archive's index is damaged; its blocks are whole: --salvage recovers them")
    footer = _exactly(data, position + size + _CRC.size, FOOTER_SIZE)
    fields = _read_footer(footer)
    if fields is None or fields[0] != len(index) or fields[2] != header.seed:
        raise CorruptArchive("the archive's footer is damaged; its blocks are whole: --salvage recovers them")
    return position + size + _CRC.size + FOOTER_SIZE


def _exactly(data: memoryview, position: int, size: int) -> bytes:
    part = bytes(data[position : position + size])
    if len(part) < size:
        raise CorruptArchive(f"the archive ends at byte {len(data):,}, before its index is complete: it was cut off")
    return part


def _read_footer(footer: bytes) -> tuple[int, int, int] | None:
    """Index length, archive length and seed, if this is a whole footer."""
    fields = footer[: _FOOTER.size]
    crc = _CRC.pack(zlib.crc32(fields))
    return _FOOTER.unpack(fields) if footer[_FOOTER.size :] == crc + MAGIC[::-1] else None


class Part(NamedTuple):
    """One of the archives that a file is made of: its header, where it, its blocks and what follows it begin, its index."""

    header: Header
    start: int
    blocks_begin: int
    stop: int
    entries: tuple[Entry, ...]


def read_index(data: memoryview) -> tuple[Part, ...]:
    """Headers and indices of all archives in the file, read from its end without touching a block. Raises CorruptArchive."""
    parts: list[Part] = []
    stop = len(data)
    while stop > 0:
        footer = _read_footer(bytes(data[max(0, stop - FOOTER_SIZE) : stop]))
        if footer is None or footer[1] > stop or footer[0] + FOOTER_SIZE > footer[1]:
            read_header(data)  # says so if this is no archive at all
            raise CorruptArchive("the archive's end is damaged or cut off, so its index cannot be used: decode it whole")
        index_size, length, seed = footer
        header, position = read_header(data, stop - length)
        first = stop - FOOTER_SIZE - index_size
        if header.seed != seed or read_end(data[:stop], first, header) != stop:
            raise CorruptArchive("the archive's end belongs to another archive")
        blocks_begin = position
        lines = _INDEX_ENTRY.iter_unpack(data[first + _INDEX_HEAD.size : first + index_size - _CRC.size])
        entries, offset = [], 0
        for stored, n_bytes in lines:
            entries.append(Entry(position, stored, offset, n_bytes))
            position, offset = position + stored, offset + n_bytes
        if position != first or offset != header.n_bytes:
            raise CorruptArchive("the archive's index does not fit its blocks")
        parts.append(Part(header, stop - length, blocks_begin, stop, tuple(entries)))
        stop -= length
    if not parts:
        raise NotAnArchive("the input is empty: an archive has at least a header")
    return tuple(reversed(parts))


def intact_entries(data: memoryview, start: int, header: Header) -> Iterator[Entry]:
    """Where whole blocks are in the archive whose blocks begin at `start`, wherever damage has left them: by checksums."""
    raw = data.obj if isinstance(data.obj, bytes) and len(data.obj) == len(data) else data
    position = _find(raw, BLOCK_MAGIC, start)
    while position >= 0:
        try:
            block = read_block(data, position, header)
        except ArchiveError:
            block = None
        stored = 1 if block is None else BLOCK_OVERHEAD + len(block.payload)
        if block is not None:
            yield Entry(position, stored, block.offset, block.n_bytes)
        position = _find(raw, BLOCK_MAGIC, position + stored)


def _find(data: Any, needle: bytes, start: int) -> int:
    if isinstance(data, bytes):
        return data.find(needle, start)
    for first in range(start, len(data), 1 << 24):  # memory views cannot search
        place = bytes(data[first : first + (1 << 24) + len(needle) - 1]).find(needle)
        if place >= 0:
            return first + place
    return -1
