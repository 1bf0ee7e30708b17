"""Archives back to bytes: whole, a range, or what damage has left."""

import contextlib
import hashlib
import io
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from lmeval import results
from lmeval.compression.container import archive
from lmeval.compression.container.frame import Block
from lmeval.compression.container.header import Header
from lmeval.compression.container.kinds import Decoder, Holder, Lost, kind_of
from lmeval.compression.text.loading import is_light
from lmeval.compute.gather import as_place
from lmeval.compute.memory import settled
from lmeval.compute.place import Place, describe_place, on_processor
from lmeval.data.resources import bundled_by_fingerprint
from lmeval.errors import ArchiveError, CorruptArchive, InputError
from lmeval.progress import SILENT, Progress
from lmeval.results import Measurement, Report
from lmeval.results.table import count, from_rows

if TYPE_CHECKING:
    from lmeval.compression.images.density_header import DensityLike
    from lmeval.models import ModelLike

FULL = 1 + 1e-9  # shares of what is decoded at a time; they add up to 1 but for rounding
LEAST_ZEROS = 1 << 24
ZEROS_PER_BYTE = 1 << 8  # of an archive: hardly any data but zeros themselves are shortened by more
GAP_COLUMNS = (count("first", "from byte"), count("stop", "to byte"), count("n_zeros", "written as zeros"))


class DecompressSettings(NamedTuple):
    """How to decompress.

    `lanes_per_pass` lanes go through the network at a time (None: as many as memory suggests). `data_dir` is where else a
    density file's weights are looked for.
    """

    lanes_per_pass: int | None = None
    data_dir: str | Path | None = None


class Gap(NamedTuple):
    """Bytes [first, stop) of the original that could not be recovered; `n_zeros` zeros stand for them in the output."""

    first: int
    stop: int
    n_zeros: int


def decompress(
    archive_bytes: bytes,
    model: "ModelLike | DensityLike | None" = None,
    settings: DecompressSettings = DecompressSettings(),  # noqa: B008 (immutable)
    *,
    place: Place | str = "auto",
    progress: Progress = SILENT,
) -> bytes:
    """The data of an archive, or of several one after the other.

    Args:
        archive_bytes: The archive.
        model: The model that encoded; None finds a bundled one by its fingerprint.
        settings: How to decompress.
        place: Where the model computes; a model that is given loaded stays where it is.
        progress: Is told of the stage "decoding", in bytes of data.

    Returns:
        The bytes that were compressed.

    Raises:
        NotAnArchive: The bytes are no archive.
        CorruptArchive: A checksum does not match, or a length cannot be.
        ModelMismatch: Another model encoded, or there is no bundled one with the fingerprint.
        NumericalDrift: The model's numbers here differ from the encoder's by more than the archive tolerates.
        ModelError: The model that is given cannot be loaded.
    """
    out = io.BytesIO()
    decompress_to(out, memoryview(archive_bytes), model, settings, place=place, progress=progress)
    return out.getvalue()


def decompress_to(
    out: BinaryIO,
    data: memoryview,
    model: "ModelLike | DensityLike | None" = None,
    settings: DecompressSettings = DecompressSettings(),  # noqa: B008 (immutable)
    *,
    place: Place | str = "auto",
    progress: Progress = SILENT,
) -> Report:
    """Write the data of an archive, or of several one after the other, to `out`.

    Args:
        out: Where the data go. What was written before an error must be thrown away.
        data: The archive.
        model: The model that encoded; None finds a bundled one by its fingerprint.
        settings: How to decompress.
        place: Where the model computes; a model that is given loaded stays where it is.
        progress: Is told of the stage "decoding", in bytes of data.

    Returns:
        A report of kind "decompress": how many bytes there are, of how many, and how fast they came.

    Raises:
        NotAnArchive: The bytes are no archive.
        CorruptArchive: A checksum does not match, or a length cannot be.
        ModelMismatch: Another model encoded, or there is no bundled one with the fingerprint.
        NumericalDrift: The model's numbers here differ from the encoder's by more than the archive tolerates.
        ModelError: The model that is given cannot be loaded.
    """
    began = time.perf_counter()
    position = n_bytes = 0
    hashes: list[str] = []
    holder = _holder(model, settings, place, data)
    progress.stage("decoding", _n_bytes(data), "bytes")
    while position < len(data) or position == 0:
        header, position = archive.read_header(data, position)
        sha256, blocks = hashlib.sha256(), archive.Blocks(data, position, header)
        for piece in _whole(_decoded(blocks, header, holder, progress)):
            sha256.update(piece)
            out.write(piece)
            n_bytes += len(piece)
        if sha256.hexdigest() != header.meta.get("sha256"):
            raise CorruptArchive("the decoded data do not match the archive's SHA-256")
        position = archive.read_end(data, blocks.position, header)
        hashes.append(sha256.hexdigest())
    return _report(data, holder, n_bytes, began, {"n_archives": len(hashes), "sha256": hashes})


def decompress_range(
    out: BinaryIO,
    data: memoryview,
    first: int,
    stop: int | None,
    model: "ModelLike | DensityLike | None" = None,
    settings: DecompressSettings = DecompressSettings(),  # noqa: B008 (immutable)
    *,
    place: Place | str = "auto",
    progress: Progress = SILENT,
) -> Report:
    """Write bytes [first, stop) of the original, decoding only the blocks that hold them.

    Args:
        out: Where they go.
        data: The archive.
        first: The first byte.
        stop: The byte after the last; None for the end of the data.
        model: As for `decompress_to`.
        settings: As for `decompress_to`.
        place: As for `decompress_to`.
        progress: As for `decompress_to`.

    Returns:
        The report of `decompress_to`.

    Raises:
        InputError: The range does not lie within the data.
        ArchiveError: As for `decompress_to`.
    """
    began = time.perf_counter()
    parts = archive.read_index(data)
    n_bytes = sum(part.header.n_bytes for part in parts)
    end = n_bytes if stop is None else stop
    if not 0 <= first <= end <= n_bytes:
        raise InputError(f"range {first}:{'' if stop is None else stop} does not lie within the archive's {n_bytes:,} bytes")
    holder = _holder(model, settings, place, data)
    progress.stage("decoding", None, "bytes")
    base = 0
    for part in parts:
        wanted = [e for e in part.entries if first < end and base + e.offset < end and base + e.offset + e.n_bytes > first]
        blocks = (archive.read_entry(data, entry, part.header) for entry in wanted)
        for entry, piece in zip(wanted, _whole(_decoded(blocks, part.header, holder, progress)), strict=True):
            at = base + entry.offset
            out.write(piece[max(0, first - at) : max(0, end - at)])
        base += part.header.n_bytes
    return _report(data, holder, end - first, began, {"n_archives": len(parts), "range": [first, end]})


def salvage(
    out: BinaryIO,
    data: memoryview,
    model: "ModelLike | DensityLike | None" = None,
    settings: DecompressSettings = DecompressSettings(),  # noqa: B008 (immutable)
    *,
    place: Place | str = "auto",
    progress: Progress = SILENT,
) -> Report:
    """Write every intact block of a damaged archive (the first, if the file holds several) in its place, with zeros where
    bytes are lost.

    A header may claim any length, so zeros are written for no more bytes than the archive may well have held: ZEROS_PER_BYTE
    for each of its own, and at least LEAST_ZEROS. The output ends before a gap that would take more.

    Args:
        out: Where the data go.
        data: The archive.
        model: As for `decompress_to`.
        settings: As for `decompress_to`.
        place: As for `decompress_to`.
        progress: As for `decompress_to`.

    Returns:
        The report of `decompress_to`, with what is lost in its table "gaps": a row for each `Gap`.

    Raises:
        ArchiveError: Not even the header is whole, or the model is not the one that encoded.
    """
    began = time.perf_counter()
    header, position = archive.read_header(data)
    holder = _holder(model, settings, place, data)
    progress.stage("decoding", None, "bytes")
    intact = {entry.offset: entry for entry in archive.intact_entries(data, position, header)}
    entries = [intact[offset] for offset in sorted(intact)]
    blocks = (archive.read_entry(data, entry, header) for entry in entries)  # not all of them in memory
    gaps: list[Gap] = []
    end, zeros = 0, max(LEAST_ZEROS, ZEROS_PER_BYTE * len(data))  # of what is written; that may be written yet
    for entry, piece in zip(entries, _decoded(blocks, header, holder, progress), strict=True):
        if entry.offset < end or entry.offset + entry.n_bytes > header.n_bytes or isinstance(piece, Lost):
            continue
        if entry.offset - end > zeros:
            break
        zeros -= _fill(out, end, entry.offset, gaps)
        out.write(piece)
        end = entry.offset + entry.n_bytes
    if header.n_bytes - end <= zeros:
        _fill(out, end, header.n_bytes, gaps)
    else:
        gaps.append(Gap(end, header.n_bytes, 0))
    n_recovered = header.n_bytes - sum(gap.stop - gap.first for gap in gaps)
    return _report(data, holder, n_recovered, began, {"n_archives": 1}, gaps)


def _fill(out: BinaryIO, first: int, stop: int, gaps: list[Gap]) -> int:
    """Write zeros for a gap, if it is one; their number."""
    if stop > first:
        gaps.append(Gap(first, stop, stop - first))
    for begin in range(first, stop, 1 << 20):
        out.write(bytes(min(1 << 20, stop - begin)))
    return stop - first


def _n_bytes(data: memoryview) -> int | None:
    """Bytes of data of all archives of a file, by their indices; None where these are damaged."""
    with contextlib.suppress(ArchiveError):
        return sum(part.header.n_bytes for part in archive.read_index(data))
    return None


def usual_place(data: memoryview, place: Place | str) -> Place:
    """Where an archive is decoded: no accelerator is looked for where the bundled byte model is read without PyTorch.

    Raises:
        NotAnArchive: The bytes are no archive.
        CorruptArchive: The header of the first archive is damaged.
        DeviceError: There is no such device.
    """
    if isinstance(place, Place):
        return settled(place)
    header, _ = archive.read_header(data)
    meta = header.meta.get("model")
    source = bundled_by_fingerprint(str(meta.get("weights_sha256"))) if isinstance(meta, dict) else "bundled"
    return on_processor() if is_light(source, place, "float32", header.n_bytes) else settled(as_place(place))


def _holder(
    model: "ModelLike | DensityLike | None", settings: DecompressSettings, place: Place | str, data: memoryview
) -> Holder:
    place = usual_place(data, place) if model is None else settled(as_place(place))
    return Holder(model, place, settings.lanes_per_pass, settings.data_dir)


def _report(
    data: memoryview,
    holder: Holder,
    n_bytes: int,
    began: float,
    ledger: dict[str, object],
    gaps: Sequence[Gap] | None = None,
) -> Report:
    seconds = time.perf_counter() - began
    assert holder.place is not None
    measurements = (
        Measurement("data_bytes", n_bytes, "bytes", "exact"),
        Measurement("decode_speed", n_bytes / max(seconds, 1e-9), "bytes/s", "exact", higher_is_better=True),
    )
    return Report(
        kind="decompress",
        results=measurements,
        tables={} if gaps is None else {"gaps": from_rows(GAP_COLUMNS, gaps)},
        ledger={"n_bytes": n_bytes, "n_archive_bytes": len(data)} | ledger,
        provenance=results.provenance(
            "decompress",
            inputs={"archive": {"n_bytes": len(data)}},
            place=describe_place(holder.place),
            settings={"lanes_per_pass": holder.lanes_per_pass},
            seconds=seconds,
        ),
    )


def _whole(pieces: Iterable[bytes | Lost]) -> Iterator[bytes]:
    """The pieces, none of which may be lost."""
    for piece in pieces:
        if isinstance(piece, Lost):
            raise piece.error
        yield piece


def _decoded(blocks: Iterable[Block], header: Header, holder: Holder, progress: Progress) -> Iterator[bytes | Lost]:
    """Data of the blocks of one archive in order, whatever their kinds.

    Blocks of a kind that gathers wait until they fill what is decoded at a time; those of other kinds are decoded at once,
    or wait for those before them, as many as may.
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
            yield from _flushed(waiting, decoders, progress)
            waiting, filled = [], defaultdict(float)
        waiting.append(block)
        filled[block.kind] += share
        if len(waiting) == 1 and not decoder.gathers:
            yield from _flushed(waiting, decoders, progress)
            waiting, filled = [], defaultdict(float)
    yield from _flushed(waiting, decoders, progress)


def _flushed(waiting: Sequence[Block], decoders: dict[str, Decoder], progress: Progress) -> Iterator[bytes | Lost]:
    """The data of the waiting blocks in their order; those of one kind are decoded together."""
    kinds = dict.fromkeys(block.kind for block in waiting)
    decoded = {kind: iter(decoders[kind].decode([b for b in waiting if b.kind == kind], progress)) for kind in kinds}
    for block in waiting:
        yield next(decoded[block.kind])


def _decoder(name: str, header: Header, holder: Holder) -> Decoder:
    """The decoder of a kind; where the header says nothing that it could work by, one that gives up every block."""
    try:
        return kind_of(name).decoder(header, holder)
    except CorruptArchive as error:
        lost = Lost(error)
        return Decoder(lambda blocks, _: [lost for _ in blocks], lambda _: 0.0)
