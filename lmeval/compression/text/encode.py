"""Tokens of a block to its payload."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from lmeval.compression.coding import coder, grid
from lmeval.compression.container.frame import Block, digest
from lmeval.compression.text import adaptive, decisions, lanes
from lmeval.compression.text.log_odds import block_log_odds
from lmeval.compression.text.model_header import ModelSettings
from lmeval.compression.text.text_model import TextModel
from lmeval.models.byte_table import ByteTokens

MODEL, ADAPTED = "model", "adapted"
BY_MODEL = (MODEL, ADAPTED)
"""Kinds of blocks that hold tokens of a language model: coded by it alone, and by it and online models after it."""
EXTRA_SPACE = 1  # flag: the space that the tokens spell first is not data


class CodeLength(NamedTuple):
    """Where the bits of model-coded blocks go. `ideal` is the model's own code length in the pass that encoded; the other
    terms are what the archive adds to it: quantisation by the grid, the phases, what the online models make of it (less than
    0 where they save), the coder's rounding."""

    ideal: float
    grid: float
    phases: float
    adaptation: float
    coder: float

    def __add__(self, other: "CodeLength") -> "CodeLength":  # pyright: ignore[reportIncompatibleMethodOverride]
        """Term by term."""
        return CodeLength(*(a + b for a, b in zip(self, other, strict=True)))


class CodedTokens(NamedTuple):
    """A payload with its block's kind and the length of its groups, and an account of its bits."""

    kind: str
    payload: bytes
    group_tokens: int
    length: CodeLength


def encode_tokens(
    model: TextModel,
    settings: ModelSettings,
    ids: Int64[np.ndarray, " tokens"],
    n_lanes: int,
    progress: Callable[[float], None] | None = None,
) -> CodedTokens | None:
    """Code the tokens of a block; None where the grid has no safe phase for them. `progress` is told of tokens, each of them
    half where online models read them too.

    A block has up to 2^24 decisions, so what is no longer needed is let go: at most 24 bytes of memory for each are in use,
    beside the online models' tables.
    """
    adapting = settings.adapt != "none"
    on_tokens = progress and _halved(progress) if adapting else progress
    log_odds = block_log_odds(model, settings, ids, n_lanes, on_tokens)
    phases = grid.choose_phases(log_odds, settings.grid)
    if phases is None:
        return None
    in_order = np.empty_like(ids)
    in_order[lanes.coding_order(len(ids), n_lanes)] = ids
    bits = decisions.path_bits(in_order, settings.depth)
    ideal = decisions.code_length_nats(log_odds, bits) / np.log(2)
    frequencies = grid.block_frequencies(log_odds, phases, settings.grid)
    del log_odds
    quantised = adapted = coder.quantised_bits(bits, frequencies)
    if adapting:
        del bits
        state = adaptive.open_adaptive(settings.adapt, settings.depth, len(ids), n_lanes)
        frequencies = adaptive.adapt_known(state, frequencies, in_order, on_tokens)
        del state
        frequencies = frequencies.astype(np.int32)
        bits = decisions.path_bits(in_order, settings.depth)
        adapted = coder.quantised_bits(bits, frequencies)
    words = coder.encode_bits(*(_as_decoded(part, n_lanes) for part in (bits, frequencies)))
    ranks = coder.encode_ranks(phases.ranks)
    length = CodeLength(ideal, quantised - ideal, 8.0 * len(ranks), adapted - quantised, 8.0 * len(words) - adapted)
    kind = ADAPTED if adapting else MODEL
    return CodedTokens(kind, ranks + words, phases.group_tokens, length)


def _halved(progress: Callable[[float], None]) -> Callable[[int], None]:
    return lambda n: progress(n / 2)


def _as_decoded(part: Int32[np.ndarray, "tokens depth"], n_lanes: int) -> Int32[np.ndarray, " decisions"]:
    """Decoding goes step by step, and in a step decision by decision for all lanes."""
    n_tokens, depth = part.shape
    whole = n_tokens // n_lanes * n_lanes
    ordered = np.empty(part.size, dtype=np.int32)
    steps = part[:whole].reshape(-1, n_lanes, depth).transpose(0, 2, 1)
    ordered[: whole * depth].reshape(steps.shape)[...] = steps
    ordered[whole * depth :] = part[whole:].T.reshape(-1)
    return ordered


def model_block(coded: CodedTokens, tokens: ByteTokens, data: bytes, offset: int, n_lanes: int) -> Block:
    """The block of the archive that holds coded tokens."""
    return Block(
        kind=coded.kind,
        flags=EXTRA_SPACE if tokens.extra_space else 0,
        offset=offset,
        n_bytes=len(data),
        n_lanes=n_lanes,
        n_units=len(tokens.ids),
        parameter=coded.group_tokens,
        digest=digest(data),
        payload=coded.payload,
    )
