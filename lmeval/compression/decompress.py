"""Archives back to bytes: whole, a range, or what damage has left."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from lmeval.compression.container import archive
from lmeval.compression.container.frame import Block
from lmeval.compression.container.header import Header
from lmeval.compression.container.kinds import Advance, Decoder, Holder, Lost, kind_of
from lmeval.compression.images.density_header import DensityLike
from lmeval.errors import CorruptArchive, InputError
from lmeval.models import ModelLike

FULL = 1 + 1e-9  # shares of what is decoded at a time; they add up to 1 but for rounding
LEAST_ZEROS = 1 << 24
ZEROS_PER_BYTE = 1 << 8  # of an archive: hardly any data but zeros themselves are shortened by more


class DecompressSettings(NamedTuple):
    """How to decompress: `lanes_per_pass` lanes go through the network at a time (None: as many as memory suggests).
    `data_dir` is where a density file's weights are looked for."""

    device: str = "cpu"
    lanes_per_pass: int | None = None
    data_dir: str | None = None


class Gap(NamedTuple):
    """Bytes [first, stop) of the original that could not be recovered."""

    first: int
    stop: int


Progress = Callable[[int], None]


def decompress(archive_bytes: bytes, model: ModelLike | DensityLike | None = None, **options: Any) -> bytes:
    """The data of an archive, or of several one behind the other; `options` as for `decompress_to`."""
    out = io.BytesIO()
    decompress_to(out, memoryview(archive_bytes), model, **options)
    return out.getvalue()


def decompress_to(
    out: BinaryIO,
    data: memoryview,
    model: ModelLike | DensityLike | None = None,
    settings: DecompressSettings = DecompressSettings(),  # noqa: B008 (immutable)
    *,
    progress: Progress | None = None,
) -> int:
    """Write the data of an archive to `out`; their number of bytes.

    `model` is the model that encoded; None finds a bundled one by its fingerprint. Raises NotAnArchive, CorruptArchive,
    ModelMismatch and NumericalDrift; what was written to `out` before must then be thrown away.
    """
    position = total = 0
    holder = _holder(model, settings)
    while position < len(data) or position == 0:
        header, position = archive.read_header(data, position)
        sha256 = hashlib.sha256()
        n_blocks_end = position

        def located(blocks: Iterator[Block]) -> Iterator[Block]:
            nonlocal n_blocks_end
            for block in blocks:
                n_blocks_end += archive.BLOCK_OVERHEAD + len(block.payload)
                yield block

        for piece in _whole(_decoded(located(archive.read_blocks(data, position, header)), header, holder, progress)):
            sha256.update(piece)
            out.write(piece)
            total += len(piece)
        if sha256.hexdigest() != header.meta.get("sha256"):
            raise CorruptArchive("the decoded data do not match the archive's SHA-256")
        position = archive.read_end(data, n_blocks_end, header)
    return total


def decompress_range(
    out: BinaryIO,
    data: memoryview,
    first: int,
    stop: int | None,
    model: ModelLike | DensityLike | None = None,
    settings: DecompressSettings = DecompressSettings(),  # noqa: B008 (immutable)
    *,
    progress: Progress | None = None,
) -> int:
    """Write bytes [first, stop) of the original (stop None: to its end), decoding only the blocks that hold them."""
    parts = archive.read_index(data)
    n_bytes = sum(part.header.n_bytes for part in parts)
    end = n_bytes if stop is None else stop
    if not 0 <= first <= end <= n_bytes:
        raise InputError(f"range {first}:{'' if stop is None else stop} does not lie within the archive's {n_bytes:,} bytes")
    holder = _holder(model, settings)
    base = 0
    for part in parts:
        wanted = [e for e in part.entries if first < end and base + e.offset < end and base + e.offset + e.n_bytes > first]
        blocks = (_indexed(data, entry, part.header) for entry in wanted)
        for entry, piece in zip(wanted, _whole(_decoded(blocks, part.header, holder, progress)), strict=True):
            at = base + entry.offset
            out.write(piece[max(0, first - at) : max(0, end - at)])
        base += part.header.n_bytes
    return end - first


def _indexed(data: memoryview, entry: archive.Entry, header: Header) -> Block:
    block = archive.read_block(data, entry.position, header.seed)
    if block is None or block.offset != entry.offset or block.n_bytes != entry.n_bytes:
        raise CorruptArchive("the archive's index does not fit its blocks")
    return block


def salvage(
    out: BinaryIO,
    data: memoryview,
    model: ModelLike | DensityLike | None = None,
    settings: DecompressSettings = DecompressSettings(),  # noqa: B008 (immutable)
    *,
    progress: Progress | None = None,
) -> list[Gap]:
    """Write every intact block of a damaged archive (the first, if the file holds several) in its place, with zeros where
    bytes are lost; those gaps.

    A header may claim any length, so zeros are written for no more bytes than the archive may well have held: ZEROS_PER_BYTE
    for each of its own, and at least LEAST_ZEROS. The output ends before a gap that would take more, and the gap reaches to
    the end of the data. Raises ArchiveError where not even the header is whole.
    """
    header, position = archive.read_header(data)
    holder = _holder(model, settings)
    intact = {block.offset: block for block in archive.intact_blocks(data, position, header)}
    blocks = [intact[offset] for offset in sorted(intact)]
    gaps: list[Gap] = []
    place, zeros = 0, max(LEAST_ZEROS, ZEROS_PER_BYTE * len(data))
    for block, piece in zip(blocks, _decoded(iter(blocks), header, holder, progress), strict=True):
        end = block.offset + block.n_bytes
        if block.offset < place or end > header.n_bytes:
            continue
        lost = (end if isinstance(piece, Lost) else block.offset) - place
        if lost > zeros:
            break
        if lost:
            gaps.append(Gap(place, place + lost))
            _write_zeros(out, lost)
        if not isinstance(piece, Lost):
            out.write(piece)
        place, zeros = end, zeros - lost
    if place < header.n_bytes:
        gaps.append(Gap(place, header.n_bytes))
        _write_zeros(out, header.n_bytes - place if header.n_bytes - place <= zeros else 0)
    return _merged(gaps)


def _merged(gaps: list[Gap]) -> list[Gap]:
    merged: list[Gap] = []
    for gap in gaps:
        if merged and merged[-1].stop == gap.first:
            merged[-1] = Gap(merged[-1].first, gap.stop)
        else:
            merged.append(gap)
    return merged


def _write_zeros(out: BinaryIO, n: int) -> None:
    for first in range(0, n, 1 << 20):
        out.write(bytes(min(1 << 20, n - first)))


def _holder(model: ModelLike | DensityLike | None, settings: DecompressSettings) -> Holder:
    return Holder(model, settings.device, settings.lanes_per_pass, settings.data_dir)


def _whole(pieces: Iterable[bytes | Lost]) -> Iterator[bytes]:
    """The pieces, none of which may be lost."""
    for piece in pieces:
        if isinstance(piece, Lost):
            raise piece.error
        yield piece


def _decoded(blocks: Iterable[Block], header: Header, holder: Holder, progress: Progress | None) -> Iterator[bytes | Lost]:
    """Data of the blocks of one archive in order, whatever their kinds.

    Blocks of a kind that gathers wait until they fill what is decoded at a time; those of other kinds are decoded at once,
    or wait behind them, as many as may.
    """
    decoders: dict[str, Decoder] = {}
    waiting: list[Block] = []
    filled: dict[str, float] = defaultdict(float)
    for block in blocks:
        if block.kind not in decoders:
            decoders[block.kind] = _decoder(block.kind, header, holder)
        decoder = decoders[block.kind]
        share = decoder.share(block)
        if waiting and filled[block.kind] + share > FULL:
            yield from _flushed(waiting, decoders, progress or _ignored)
            waiting, filled = [], defaultdict(float)
        waiting.append(block)
        filled[block.kind] += share
        if len(waiting) == 1 and not decoder.gathers:
            yield from _flushed(waiting, decoders, progress or _ignored)
            waiting, filled = [], defaultdict(float)
    yield from _flushed(waiting, decoders, progress or _ignored)


def _ignored(_n: int) -> None:
    """Progress that nobody looks at."""


def _flushed(waiting: Sequence[Block], decoders: dict[str, Decoder], advance: Advance) -> Iterator[bytes | Lost]:
    """The data of the waiting blocks in their order; those of one kind are decoded together."""
    kinds = dict.fromkeys(block.kind for block in waiting)
    decoded = {kind: iter(decoders[kind].decode([b for b in waiting if b.kind == kind], advance)) for kind in kinds}
    for block in waiting:
        yield next(decoded[block.kind])


def _decoder(name: str, header: Header, holder: Holder) -> Decoder:
    """The decoder of a kind; where the header says nothing that it could work by, one that gives up every block."""
    try:
        return kind_of(name).decoder(header, holder)
    except CorruptArchive as error:
        lost = Lost(error)
        return Decoder(lambda blocks, _: [lost for _ in blocks], lambda _: 0.0)
