"""Archives back to bytes: whole, a range, or what damage has left."""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lmeval.compression.container import archive
from lmeval.compression.container.archive import LEVELS, Block, Header
from lmeval.compression.images.decode import DensityHolder, decoded_images
from lmeval.compression.images.density_header import DensityLike, names_density
from lmeval.compression.text import tree
from lmeval.compression.text.decode import decode_blocks, stepwise_log_odds
from lmeval.compression.text.model_header import ModelSettings, check_model, from_header, where_model_is
from lmeval.compression.text.online_only import online_data
from lmeval.compression.text.plan import CACHE_BYTES, GROUP_LANES
from lmeval.errors import ArchiveError, CorruptArchive, InputError, ModelMismatch, NumericalDrift
from lmeval.models import CausalLM, ModelLike, as_model, from_pair
from lmeval.models.stepwise import cache_bytes_per_token
from lmeval.progress import paced


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
    holder = _ModelHolder(model, settings)
    while position < len(data) or position == 0:
        header, position = archive.read_header(data, position)
        sha256 = hashlib.sha256()
        n_blocks_end = position

        def located(blocks: Iterator[Block]) -> Iterator[Block]:
            nonlocal n_blocks_end
            for block in blocks:
                n_blocks_end += archive.BLOCK_OVERHEAD + len(block.payload)
                yield block

        for piece in _decoded(located(archive.read_blocks(data, position, header)), header, holder, progress):
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
    holder = _ModelHolder(model, settings)
    base = 0
    for part in parts:
        wanted = [e for e in part.entries if first < end and base + e.offset < end and base + e.offset + e.n_bytes > first]
        blocks = (_indexed(data, entry, part.header) for entry in wanted)
        for entry, piece in zip(wanted, _decoded(blocks, part.header, holder, progress), strict=True):
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
    bytes are lost; those gaps. Raises ArchiveError where not even the header is whole."""
    header, position = archive.read_header(data)
    holder = _ModelHolder(model, settings)
    found = {block.offset: block for block in archive.intact_blocks(data, position, header)}
    blocks = [found[offset] for offset in sorted(found)]
    gaps, place = [], 0
    for block, piece in zip(blocks, _decoded(iter(blocks), header, holder, progress, lenient=True), strict=True):
        if block.offset < place or block.offset + block.n_bytes > header.n_bytes:
            continue
        if block.offset > place:
            gaps.append(Gap(place, block.offset))
            _write_zeros(out, block.offset - place)
        if piece is _LOST:
            gaps.append(Gap(block.offset, block.offset + block.n_bytes))
            _write_zeros(out, block.n_bytes)
        else:
            out.write(piece)
        place = block.offset + block.n_bytes
    if place < header.n_bytes:
        gaps.append(Gap(place, header.n_bytes))
        _write_zeros(out, header.n_bytes - place)
    return _merged(gaps)


_LOST = b"\0lost"  # stands for a block that decodes to something else than was encoded; told apart by identity


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


class _ModelHolder:
    """Loads the model when the first block needs it, checks that it is the right one and that its numbers agree."""

    def __init__(self, model: ModelLike | DensityLike | None, settings: DecompressSettings) -> None:
        self.given: Any = model
        self.density = DensityHolder(model, settings.data_dir)
        self.settings = settings
        self.loaded: CausalLM | None = None
        self.drift = 0.0
        self._checked: set[int] = set()

    def get(self, header: Header) -> tuple[CausalLM, ModelSettings]:
        wanted = from_header(header.meta)
        if names_density(self.given):
            raise ModelMismatch(f"the archive was made with the language model {wanted.name}: give that with --model")
        if self.given is None and (self.loaded is None or self.loaded.weights_sha256 != wanted.weights_sha256):
            source = where_model_is(wanted)
            if source is None:
                raise ModelMismatch(
                    f"the archive was made with {wanted.name} (weights {wanted.weights_sha256[:16]}...), which is not "
                    "bundled: give its folder or hub id with --model"
                )
            self.loaded = as_model(source, self.settings.device, wanted.dtype)
        elif isinstance(self.given, tuple) and self.loaded is None:
            # Its fingerprint and the canary say what there is to know of it.
            self.loaded = from_pair(*self.given, examined=False)
        elif self.loaded is None and self.given is not None:
            self.loaded = as_model(self.given, self.settings.device, wanted.dtype)
        assert self.loaded is not None
        if header.seed not in self._checked:
            check_model(wanted, self.loaded)
            self.drift = canary_drift(self.loaded, wanted)
            if not self.drift <= wanted.grid.margin:
                raise NumericalDrift(_drift_message(self.loaded, wanted, self.drift, header))
            self._checked.add(header.seed)
        return self.loaded, wanted


def canary_drift(model: CausalLM, settings: ModelSettings) -> float:
    """Largest difference (nats) between the stored canary log-probabilities and this machine's, read token by token."""
    ids = np.array(settings.canary.ids, dtype=np.int64)
    if not len(ids):
        return 0.0
    log_odds = stepwise_log_odds(model, settings, ids, 1)
    bits = tree.path_bits(ids, settings.depth)
    here = [-tree.code_length_nats(z, b) for z, b in zip(log_odds, bits, strict=True)]
    return float(np.abs(np.array(here) - settings.canary.log_probs).max())


def _drift_message(model: CausalLM, wanted: ModelSettings, drift: float, header: Header) -> str:
    made = header.meta.get("made_on")
    made = made if isinstance(made, dict) else {}
    return (
        f"numerical drift: log-probabilities here differ from the encoder's by {drift:.3g} nats, and the archive "
        f"tolerates {wanted.grid.margin:.3g} (epsilon {wanted.epsilon:.3g}); it was made in {wanted.dtype} on "
        f"{made.get('device', '?')}, this is {str(model.dtype).removeprefix('torch.')} on {model.device}: decode as it was "
        "made, or encode with a larger --tolerance"
    )


def _decoded(
    blocks: Iterable[Block],
    header: Header,
    holder: _ModelHolder,
    progress: Progress | None,
    *,
    lenient: bool = False,
) -> Iterator[bytes]:
    """Data of the blocks in order; blocks of a model are decoded together, as many as make a full set of lanes, and adapted
    blocks one at a time, with the memory of their online models. `lenient` gives _LOST for a block whose data do not come
    out right."""
    if "density" in header.meta:
        for piece in decoded_images(blocks, header, holder.density, progress, lenient=lenient):
            yield _LOST if piece is None else piece
        return
    waiting: list[Block] = []
    n_lanes, most = 0, 0
    for block in blocks:
        if block.kind == archive.MODEL:
            most = most or _lanes_together(*holder.get(header))
            if waiting and n_lanes + block.n_lanes > most:
                yield from _decode_waiting(waiting, header, holder, progress, lenient)
                waiting, n_lanes = [], 0
            n_lanes += block.n_lanes
        elif block.kind == archive.ADAPTED or not n_lanes:
            yield from _decode_waiting(waiting, header, holder, progress, lenient)
            yield from _decode_waiting([block], header, holder, progress, lenient)
            waiting, n_lanes = [], 0
            continue
        waiting.append(block)
    yield from _decode_waiting(waiting, header, holder, progress, lenient)


def _lanes_together(model: CausalLM, settings: ModelSettings) -> int:
    in_memory = CACHE_BYTES // max(1, cache_bytes_per_token(model) * settings.layout.window)
    return min(GROUP_LANES.get(model.device.type, 64), in_memory)


def _decode_waiting(
    waiting: list[Block], header: Header, holder: _ModelHolder, progress: Progress | None, lenient: bool
) -> Iterator[bytes]:
    coded = [block for block in waiting if block.kind in archive.BY_MODEL]
    found = iter(_decode_coded(coded, header, holder, progress, lenient))
    for block in waiting:
        try:
            if block.kind in archive.BY_MODEL:
                data = next(found)
                if data is None:
                    raise _wrong_block(block, header, holder)
            elif block.kind == archive.BITSBACK:
                raise CorruptArchive("the archive has blocks of images, but its header names no density")
            elif block.kind == archive.ONLINE:
                if header.meta.get("adapt") not in LEVELS[1:]:
                    raise CorruptArchive("the archive has blocks of online models, but its header names no level of them")
                data = online_data(block, progress)
            else:
                data = archive.plain_data(block)
                if progress:
                    progress(len(data))
        except ArchiveError:
            if not lenient:
                raise
            data = _LOST
        yield data


def _decode_coded(
    coded: list[Block], header: Header, holder: _ModelHolder, progress: Progress | None, lenient: bool
) -> list[bytes | None]:
    """Data of blocks of the model, None for those that do not come out right. Where one cannot have been written by an
    encoder, a lenient reader takes each by itself."""
    if not coded:
        return []
    model, settings = holder.get(header)
    on_tokens = paced(progress, sum(b.n_bytes for b in coded) / sum(b.n_tokens for b in coded))
    try:
        return decode_blocks(model, settings, coded, holder.settings.lanes_per_pass, on_tokens)
    except CorruptArchive:
        if not lenient:
            raise
    if len(coded) == 1:
        return [None]
    return [data for block in coded for data in _decode_coded([block], header, holder, None, lenient)]


def _wrong_block(block: Block, header: Header, holder: _ModelHolder) -> NumericalDrift:
    """Its payload is whole (its checksum said so), so the numbers must have gone astray."""
    model, wanted = holder.get(header)
    where = f"bytes {block.offset:,} to {block.offset + block.n_bytes:,} decode to something else than was encoded: "
    return NumericalDrift(where + _drift_message(model, wanted, holder.drift, header))
