"""One block of the input: coded in every way that may be the shortest, and decoded again before it is believed."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lmeval.compression.container import frame
from lmeval.compression.container.frame import Block
from lmeval.compression.container.kinds import Lost
from lmeval.compression.container.plain import plain_block
from lmeval.compression.text.account import DECODED_TO_VERIFY, Tally
from lmeval.compression.text.decisions import code_length_nats, path_bits
from lmeval.compression.text.decode import decode_blocks
from lmeval.compression.text.encode import BY_MODEL, CodeLength, encode_tokens, model_block
from lmeval.compression.text.log_odds import block_log_odds
from lmeval.compression.text.model_header import ModelSettings
from lmeval.compression.text.online_only import ONLINE, online_block, online_data
from lmeval.compression.text.plan import CompressSettings, Cut, Plan
from lmeval.compression.text.survey import Survey
from lmeval.compression.text.text_model import TextModel
from lmeval.errors import CorruptArchive
from lmeval.models.byte_table import ByteTokens
from lmeval.progress import SILENT, Progress, counting

PROBE_WINDOWS = 4
HOPELESS = 1.1  # times the size that a general-purpose codec reaches
ADAPTED_HOPELESS = 2.5  # the same where online models make up for what the model does not know
INCOMPRESSIBLE = 0.99  # a codec that saves less than 1% has met random or compressed data
TELLING_BYTES = 1 << 12  # of a block from which on that says something: a codec saves nothing on a short text either
MODEL_HEADER_BYTES = 48  # of a header, about: an archive of one block that needs no model is spared them
BOTH_BYTES = 1 << 16  # below it a block is coded with the model and without it, whatever a probe would say
MUCH_SHORTER = 0.65  # times what a codec reaches: where the model alone does so well, online models alone do not come near

Coded = tuple[Block, CodeLength | None]
"""A block, with the account of its bits if the model coded it."""


class Job(NamedTuple):
    """What all blocks of an input share. `surveyed` is None where the model codes nothing."""

    model: TextModel
    surveyed: Survey | None
    data: memoryview
    plan: Plan
    settings: CompressSettings
    tally: Tally
    progress: Progress


def code_block(job: Job, cut: Cut) -> Coded:
    """One block, in the shortest way."""
    piece = bytes(job.data[cut.first : cut.stop])
    done = 0.0

    def on_bytes(n: float) -> None:
        nonlocal done
        before, done = int(done), min(len(piece), done + n)
        job.progress.advance(int(done) - before, _running_rate(job.tally.n_written, cut.first + int(done)))

    plain = plain_block(piece, cut.first)
    coded = (_adapted if job.settings.adapting else _modelled)(job, piece, plain, on_bytes)
    on_bytes(len(piece))
    return coded


def _running_rate(n_archive_bytes: int, n_bytes: int) -> str:
    """Bits per byte so far, for whoever waits."""
    return f"{8 * n_archive_bytes / n_bytes:.3f} bits/byte" if n_bytes and n_archive_bytes else ""


def _modelled(job: Job, piece: bytes, plain: Block, on_bytes: Callable[[float], None]) -> Coded:
    """The block coded by the model, if that makes it shorter."""
    tokens = _tokens(job, piece)
    if tokens is None or not _promising(job, tokens, HOPELESS * len(plain.payload)):
        return plain, None
    coded = _by_model(job, piece, plain.offset, tokens, on_bytes)
    return (plain, None) if coded is None else _shortest([(plain, None), coded])


def _adapted(job: Job, piece: bytes, plain: Block, on_bytes: Callable[[float], None]) -> Coded:
    """The block coded by the model and the online models, or by those alone, if that makes it shorter."""
    if len(piece) >= TELLING_BYTES and len(plain.payload) > INCOMPRESSIBLE * len(piece):
        return plain, None
    ways: list[Coded] = [(plain, None)]
    tokens, small = _tokens(job, piece), len(piece) < BOTH_BYTES
    if tokens is not None and (small or _promising(job, tokens, ADAPTED_HOPELESS * len(plain.payload))):
        coded = _by_model(job, piece, plain.offset, tokens, on_bytes)
        ways += [] if coded is None else [coded]
    length = ways[1][1] if len(ways) > 1 else None
    by_model = length is not None and length.ideal / 8 < MUCH_SHORTER * len(plain.payload)
    if (small and not by_model) or len(ways) == 1:
        ways.append((online_block(piece, plain.offset, job.settings.adapt, on_bytes), None))
    return _shortest(ways, MODEL_HEADER_BYTES if len(piece) == len(job.data) else 0)


def _shortest(ways: list[Coded], for_model: int = 0) -> Coded:
    """The way of the fewest bytes; `for_model` are those that the model's description takes beside its block."""
    return min(ways, key=lambda way: len(way[0].payload) + (for_model if way[0].kind in BY_MODEL else 0))


def _tokens(job: Job, piece: bytes) -> ByteTokens | None:
    """Tokens that spell the block, if a block can hold them: not too many, and none beyond the tree (a special token that
    spells text)."""
    tokens = None if job.surveyed is None else job.model.spell(piece)
    if job.surveyed is None or tokens is None:
        return None
    n = len(tokens.ids)
    fits = 0 < n <= frame.MAX_BLOCK_UNITS and int(tokens.ids.max()) < 1 << job.surveyed.settings.depth
    return tokens if fits else None


def _by_model(job: Job, piece: bytes, offset: int, tokens: ByteTokens, on_bytes: Callable[[float], None]) -> Coded | None:
    """The block coded by the model; None where the grid has no safe phase."""
    assert job.surveyed is not None
    n_lanes = min(job.plan.n_lanes, len(tokens.ids))
    bytes_per_token = len(piece) / len(tokens.ids)
    coded = encode_tokens(job.model, job.surveyed.settings, tokens.ids, n_lanes, lambda n: on_bytes(n * bytes_per_token))
    return None if coded is None else (model_block(coded, tokens, piece, offset, n_lanes), coded.length)


def _promising(job: Job, tokens: ByteTokens, most_bytes: float) -> bool:
    """Whether a few windows of the block say that the model's own code may be shorter than that."""
    assert job.surveyed is not None
    settings: ModelSettings = job.surveyed.settings
    window = settings.layout.window
    if len(tokens.ids) <= 2 * PROBE_WINDOWS * window:
        return True
    firsts = [(len(tokens.ids) - window) * i // (PROBE_WINDOWS - 1) for i in range(PROBE_WINDOWS)]
    ids = np.concatenate([tokens.ids[first : first + window] for first in firsts])
    log_odds = block_log_odds(job.model, settings, ids, PROBE_WINDOWS)
    bits = path_bits(ids.reshape(PROBE_WINDOWS, -1).T.reshape(-1), settings.depth)
    expected_bytes = code_length_nats(log_odds, bits) / np.log(2) / 8 * len(tokens.ids) / len(ids)
    return expected_bytes < most_bytes


def verify_blocks(job: Job, coded: list[Coded]) -> list[Coded]:
    """Decode the blocks; those that the model coded and that do not come back are coded without it."""
    blocks = [block for block, _ in coded if block.kind in DECODED_TO_VERIFY]
    if not job.settings.verify or not blocks:
        return coded
    job.progress.stage("verifying", len(job.data), "bytes")
    decoded = iter(_decoded(job, [block for block in blocks if block.kind in BY_MODEL]))
    kept: list[Coded] = []
    for block, length in coded:
        piece = bytes(job.data[block.offset : block.offset + block.n_bytes])
        if block.kind in BY_MODEL and next(decoded) != piece:
            job.tally.n_not_verified += 1
            kept.append((_coded_without_model(job, piece, block.offset), None))
        elif block.kind == ONLINE and not _comes_back(block, piece, job.progress):
            kept.append((plain_block(piece, block.offset), None))
        else:
            kept.append((block, length))
    return kept


def _decoded(job: Job, blocks: list[Block]) -> list[bytes | Lost]:
    if not blocks or job.surveyed is None:
        return []
    on_tokens = counting(job.progress, sum(b.n_bytes for b in blocks) / sum(b.n_units for b in blocks))
    return decode_blocks(job.model, job.surveyed.settings, blocks, job.settings.lanes_per_pass, on_tokens)


def _coded_without_model(job: Job, piece: bytes, offset: int) -> Block:
    plain = plain_block(piece, offset)
    if not job.settings.adapting:
        return plain
    online = online_block(piece, offset, job.settings.adapt)
    return online if len(online.payload) < len(plain.payload) and _comes_back(online, piece, SILENT) else plain


def _comes_back(block: Block, piece: bytes, progress: Progress) -> bool:
    try:
        return online_data(block, progress.advance) == piece
    except CorruptArchive:
        return False
