"""Any bytes to an archive: survey, blocks, the parallel pass, verification by decoding."""

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import torch

from lmeval import results
from lmeval.compression import archive
from lmeval.compression.archive import Block
from lmeval.compression.compress_images import ImageSettings, compress_images_to
from lmeval.compression.decode import decode_blocks
from lmeval.compression.density_settings import DensityLike, names_density
from lmeval.compression.encode import CodeLength, block_log_odds, encode_tokens, model_block
from lmeval.compression.settings import ModelSettings, as_meta
from lmeval.compression.survey import COLD_START_SHARE, Survey, survey
from lmeval.compression.tree import code_length_nats, path_bits
from lmeval.errors import InputError
from lmeval.models import CausalLM, ModelLike, as_model
from lmeval.models.spelling import ByteTokens, encode_bytes

BLOCK_LANES = 128
LANE_TOKENS = 8192  # of a lane in a large input: its cold start then costs next to nothing
BLOCK_DECISIONS = 1 << 22  # 24 bytes of memory for each while a block is coded
GROUP_LANES = {"cpu": 512, "cuda": 1024}  # of several blocks, coded and verified together: what decoding is fast with
CACHE_BYTES = 2 << 30  # keys and values of all lanes of a block, at most (a single lane always goes)
CUT_BYTES = 256  # how far before its goal a block may end
PLAIN_BLOCK_BYTES = 1 << 20  # where no model codes
PROBE_WINDOWS = 4
HOPELESS = 1.1  # times the size that a general-purpose codec reaches


class CompressSettings(NamedTuple):
    """How to compress. None means chosen: `lanes` from the input's size, `tolerance` (nats) from a measurement, `context`
    (input tokens of a window) and `overlap` from the model. `verify` decodes every block before it is written."""

    lanes: int | None = None
    tolerance: float | None = None
    context: int | None = None
    overlap: int | None = None
    verify: bool = True
    lanes_per_pass: int | None = None


@dataclass(frozen=True)
class Compression:
    """What a compression did. Bits of `length` sum over the model-coded blocks, with `model_bytes` of data in `n_tokens`
    tokens; `n_blocks` counts blocks by archive.KINDS; `n_not_verified` those that a decoder here could not decode, which
    were then coded without the model."""

    n_bytes: int
    n_archive_bytes: int
    n_header_bytes: int
    n_framing_bytes: int
    n_tokens: int
    model_bytes: int
    length: CodeLength
    n_blocks: tuple[int, ...]
    n_lanes: int
    n_not_verified: int
    settings: ModelSettings | None
    survey_seconds: float
    encode_seconds: float
    verify_seconds: float
    verified: bool

    @property
    def bits_per_byte(self) -> float:
        """Bits of the whole archive for each byte of the input."""
        return 8 * self.n_archive_bytes / self.n_bytes if self.n_bytes else float("nan")


Progress = Callable[[str, int, int], None]
"""Called with what is being done ("encoding" or "verifying"), the bytes of input just dealt with, and the archive's size."""


def compress(
    data: bytes,
    model: ModelLike | DensityLike = "bundled",
    settings: CompressSettings | ImageSettings = CompressSettings(),  # noqa: B008 (immutable)
    **options: Any,
) -> bytes:
    """An archive of the data, as bytes, by `compress_to`; by `compress_images_to` where the model is a density of images (or
    the name of one, a folder or a file). Settings and `options` as for those.

    >>> from lmeval.compression import decompress
    >>> decompress(compress(b"to be or not to be"))
    b'to be or not to be'
    """
    out = io.BytesIO()
    if names_density(model):
        images = settings if isinstance(settings, ImageSettings) else ImageSettings(verify=settings.verify)
        compress_images_to(out, memoryview(data), cast(Any, model), images, **options)
    else:
        compress_to(out, memoryview(data), cast(Any, model), cast(Any, settings), **options)
    return out.getvalue()


def compress_to(
    out: BinaryIO,
    data: memoryview,
    model: ModelLike = "bundled",
    settings: CompressSettings = CompressSettings(),  # noqa: B008 (immutable)
    *,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Compression:
    """Write an archive of `data` to `out`.

    Every input can be coded: what the model's tokens cannot spell or the model does not shorten is coded without it. Memory
    does not grow with the input. Raises InputError, ModelError and NumericalDrift.
    """
    _check(settings)
    if names_density(model):
        raise InputError("a density codes images and no text: compress_images_to writes archives of those")
    began = time.perf_counter()
    loaded = as_model(model, device, dtype)
    found = survey(loaded, data, settings.context, settings.overlap, settings.tolerance) if len(data) else None
    plan = _plan(found, len(data), settings.lanes, loaded)
    survey_seconds = time.perf_counter() - began
    header = archive.write_header(out, _meta(data, found, loaded))
    tally = _Tally(
        settings=None if found is None else found.settings,
        n_lanes=plan.n_lanes if found else 0,
        n_header_bytes=len(_header_bytes(header)),
        survey_seconds=survey_seconds,
    )
    for cuts in _grouped(_cuts(data, plan.block_bytes), plan.blocks_at_once):
        began = time.perf_counter()
        coded = [_code(loaded, found, data, cut, plan, settings, tally, progress) for cut in cuts]
        tally.encode_seconds += time.perf_counter() - began
        began = time.perf_counter()
        coded = _verified(loaded, found, coded, data, settings, tally, progress)
        tally.verify_seconds += time.perf_counter() - began
        for block, length in coded:
            tally.add(archive.write_block(out, block, header.seed), block, length)
    end = archive.write_end(out, tally.lines, tally.n_header_bytes, header.seed)
    return tally.finished(len(data), end, verified=settings.verify and tally.n_tokens > 0)


def _check(settings: CompressSettings) -> None:
    for name in ("lanes", "context", "lanes_per_pass"):
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number of at least 1, or None, not {value!r}")
    if settings.lanes is not None and settings.lanes > archive.MAX_LANES:
        raise InputError(f"{settings.lanes:,} lanes are more than the {archive.MAX_LANES:,} that an archive can hold")
    if settings.tolerance is not None and not 0 <= settings.tolerance <= 1:
        raise InputError(f"tolerance {settings.tolerance!r} must lie between 0 and 1 nat")


class _Plan(NamedTuple):
    block_bytes: int
    n_lanes: int
    blocks_at_once: int


def _plan(found: Survey | None, n_bytes: int, lanes: int | None, model: CausalLM) -> _Plan:
    """As many lanes as decode fast together, if their cold starts allow it, in as few blocks as hold them."""
    if found is None:
        n_blocks = max(1, -(-n_bytes // PLAIN_BLOCK_BYTES))
        return _Plan(-(-n_bytes // n_blocks), 1, 1)
    n_tokens = n_bytes / found.bytes_per_token
    in_memory = max(1, CACHE_BYTES // max(1, found.lane_bytes))
    together = min(GROUP_LANES.get(model.device.type, BLOCK_LANES), in_memory)
    shortest = max(2 * found.settings.layout.window, found.cold_start_bits / (COLD_START_SHARE * found.bits_per_token))
    length = min(max(shortest, n_tokens / together), max(shortest, LANE_TOKENS))
    per_block = min(BLOCK_LANES, in_memory) if lanes is None else lanes
    in_bounds = min(archive.MAX_BLOCK_TOKENS / 2, archive.MAX_BLOCK_BYTES / 2 / found.bytes_per_token)
    most = min(per_block * length, in_bounds, BLOCK_DECISIONS / found.settings.depth)
    n_blocks = max(1, math.ceil(n_tokens / most))
    if lanes is not None:  # as asked for, in blocks no smaller than they would be otherwise
        n_blocks = max(1, math.ceil(n_tokens / min(in_bounds, max(most, BLOCK_LANES * length))))
        return _Plan(-(-n_bytes // n_blocks), lanes, max(1, together // lanes))
    chosen = max(1, min(per_block, int(n_tokens / n_blocks / length)))
    return _Plan(-(-n_bytes // n_blocks), chosen, max(1, together // chosen))


def _meta(data: memoryview, found: Survey | None, model: CausalLM) -> dict[str, Any]:
    versions = {name: results.versions()[name] for name in ("lmeval", "torch", "transformers")}
    meta: dict[str, Any] = {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "versions": versions}
    if found is not None:
        meta["model"] = as_meta(found.settings)
        meta["made_on"] = {"device": str(model.device), "n_threads": torch.get_num_threads()}
    return meta


def _header_bytes(header: archive.Header) -> bytes:
    out = io.BytesIO()
    archive.write_header(out, header.meta)
    return out.getvalue()


@dataclass
class _Tally:
    """What is counted while blocks are written."""

    settings: ModelSettings | None
    n_lanes: int
    n_header_bytes: int
    survey_seconds: float

    def __post_init__(self) -> None:
        self.encode_seconds = self.verify_seconds = 0.0
        self.lines: list[tuple[int, int]] = []
        self.n_blocks = [0] * len(archive.KINDS)
        self.length = CodeLength(0.0, 0.0, 0.0, 0.0)
        self.n_tokens = self.model_bytes = self.payload_bytes = self.n_not_verified = 0

    @property
    def n_written(self) -> int:
        return self.n_header_bytes + sum(stored for stored, _ in self.lines)

    def add(self, line: tuple[int, int], block: Block, length: CodeLength | None) -> None:
        self.lines.append(line)
        self.n_blocks[block.kind] += 1
        self.payload_bytes += len(block.payload)
        if length is not None:
            self.length += length
            self.n_tokens += block.n_tokens
            self.model_bytes += block.n_bytes

    def finished(self, n_bytes: int, n_archive_bytes: int, *, verified: bool) -> Compression:
        return Compression(
            n_bytes=n_bytes,
            n_archive_bytes=n_archive_bytes,
            n_header_bytes=self.n_header_bytes,
            n_framing_bytes=n_archive_bytes - self.n_header_bytes - self.payload_bytes,
            n_tokens=self.n_tokens,
            model_bytes=self.model_bytes,
            length=self.length,
            n_blocks=tuple(self.n_blocks),
            n_lanes=self.n_lanes,
            n_not_verified=self.n_not_verified,
            settings=self.settings,
            survey_seconds=self.survey_seconds,
            encode_seconds=self.encode_seconds,
            verify_seconds=self.verify_seconds,
            verified=verified,
        )


class _Cut(NamedTuple):
    first: int
    stop: int


def _cuts(data: memoryview, block_bytes: int) -> Iterator[_Cut]:
    """Blocks of about `block_bytes`, cut behind a line or before a space where one is near, else between characters."""
    first = 0
    for goal in (*range(block_bytes, len(data), max(1, block_bytes)), len(data)):
        stop = _good_cut(data, first, goal)
        if stop > first:
            yield _Cut(first, stop)
        first = stop


def _good_cut(data: memoryview, first: int, goal: int) -> int:
    """The best place in (first, goal] to end a block at."""
    if goal == len(data):
        return goal
    tail = bytes(data[max(first, goal - CUT_BYTES) : goal])
    begin = goal - len(tail)
    if b"\n" in tail:
        return begin + tail.rfind(b"\n") + 1
    if b" " in tail[1:]:
        return begin + tail.rfind(b" ")
    return next((place for place in range(goal, max(first, goal - 4), -1) if data[place] & 0xC0 != 0x80), goal)


def _grouped(cuts: Iterator[_Cut], size: int) -> Iterator[list[_Cut]]:
    group: list[_Cut] = []
    for cut in cuts:
        group.append(cut)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


_Coded = tuple[Block, CodeLength | None]


def _code(
    model: CausalLM,
    found: Survey | None,
    data: memoryview,
    cut: _Cut,
    plan: _Plan,
    settings: CompressSettings,
    tally: _Tally,
    progress: Progress | None,
) -> _Coded:
    """One block, by the model if that makes it shorter."""
    piece = bytes(data[cut.first : cut.stop])
    block = archive.plain_block(piece, cut.first)
    done = 0

    def on_tokens(n: int) -> None:
        nonlocal done
        if progress and tokens is not None:
            following = min(len(piece), done + n * len(piece) // len(tokens.ids))
            progress("encoding", following - done, tally.n_written)
            done = following

    tokens = encode_bytes(model.encoder, piece) if found is not None else None
    if found is not None and tokens is not None and not _fits(tokens, found.settings.depth):
        tokens = None
    coded = None
    if found is not None and tokens is not None and _promising(model, found.settings, tokens, len(block.payload)):
        n_lanes = min(plan.n_lanes, len(tokens.ids))
        coded = encode_tokens(model, found.settings, tokens.ids, n_lanes, on_tokens)
        if coded is not None and len(coded.payload) < len(block.payload):
            block = model_block(coded, tokens, piece, cut.first, n_lanes)
    if progress and done < len(piece):
        progress("encoding", len(piece) - done, tally.n_written)
    return block, coded.length if coded is not None and block.kind == archive.MODEL else None


def _fits(tokens: ByteTokens, depth: int) -> bool:
    """Whether a block can hold these tokens: not too many, and none beyond the tree (a special token that spells text)."""
    n = len(tokens.ids)
    return 0 < n <= archive.MAX_BLOCK_TOKENS and int(tokens.ids.max()) < 1 << depth


def _promising(model: CausalLM, settings: ModelSettings, tokens: ByteTokens, plain_size: int) -> bool:
    """Whether a few windows of the block say that the model may beat a general-purpose codec."""
    window = settings.layout.window
    if len(tokens.ids) <= 2 * PROBE_WINDOWS * window:
        return len(tokens.ids) > 0
    firsts = [(len(tokens.ids) - window) * i // (PROBE_WINDOWS - 1) for i in range(PROBE_WINDOWS)]
    ids = np.concatenate([tokens.ids[first : first + window] for first in firsts])
    log_odds = block_log_odds(model, settings, ids, PROBE_WINDOWS)
    bits = path_bits(ids.reshape(PROBE_WINDOWS, -1).T.reshape(-1), settings.depth)
    expected_bytes = code_length_nats(log_odds, bits) / np.log(2) / 8 * len(tokens.ids) / len(ids)
    return expected_bytes < HOPELESS * plain_size


def _verified(
    model: CausalLM,
    found: Survey | None,
    coded: list[_Coded],
    data: memoryview,
    settings: CompressSettings,
    tally: _Tally,
    progress: Progress | None,
) -> list[_Coded]:
    """Decode the blocks that the model coded; those that fail are coded without it."""
    blocks = [block for block, _ in coded if block.kind == archive.MODEL]
    if not settings.verify or not blocks or found is None:
        return coded
    bytes_per_token = sum(b.n_bytes for b in blocks) / sum(b.n_tokens for b in blocks)
    owed = 0.0

    def on_tokens(n: int) -> None:
        nonlocal owed
        owed += n * bytes_per_token
        if progress:
            progress("verifying", int(owed), tally.n_written)
        owed -= int(owed)

    decoded = iter(decode_blocks(model, found.settings, blocks, settings.lanes_per_pass, on_tokens))
    kept: list[_Coded] = []
    for block, length in coded:
        piece = bytes(data[block.offset : block.offset + block.n_bytes])
        if block.kind == archive.MODEL and next(decoded) != piece:
            tally.n_not_verified += 1
            kept.append((archive.plain_block(piece, block.offset), None))
        else:
            kept.append((block, length))
    return kept


def without_header(found: Compression) -> Compression:
    """The same with the header's bytes taken off, to compare coded size with ideal code length."""
    return replace(found, n_archive_bytes=found.n_archive_bytes - found.n_header_bytes, n_header_bytes=0)
