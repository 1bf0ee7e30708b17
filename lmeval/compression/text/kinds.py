"""Kinds of blocks of text: tokens of a language model, alone or adapted by online models, and bytes by those alone.

What decodes them is imported when a block of theirs is decoded: an archive can be inspected without it.
"""

from typing import Any

from lmeval.compression.container import frame
from lmeval.compression.container.frame import Block
from lmeval.compression.container.header import Header
from lmeval.compression.container.kinds import Decoder, Holder, Kind, one_by_one
from lmeval.compression.container.plain import WAITING_BYTES
from lmeval.compression.text.online.recipes import LEVELS, online_level
from lmeval.errors import CorruptArchive

MOST_DECISION_BYTES = 3  # no probability is below 2^-24
MOST_RANK_BYTES = 514  # a rank below 4096 in unary, and 12 bits
MOST_DEPTH = 32
MOST_STATE_BYTES = 16  # of the coder, and the byte in front


def _model_numbers_fit(block: Block) -> bool:
    most_units = min(frame.MAX_BLOCK_UNITS, block.n_bytes + 1)  # one token may spell no more than the space that is no data
    fit = 1 <= block.n_lanes <= block.n_units <= most_units and 1 <= block.parameter <= block.n_units
    return fit and len(block.payload) <= block.n_units * (MOST_DEPTH * MOST_DECISION_BYTES) + MOST_STATE_BYTES + (
        -(-block.n_units // block.parameter) * MOST_RANK_BYTES
    )


def _online_numbers_fit(block: Block) -> bool:
    fit = 1 <= block.n_units == block.n_bytes <= frame.MAX_BLOCK_UNITS and block.n_lanes == 1
    return fit and block.parameter == block.flags == 0 and _online_length_fits(block)


def _online_length_fits(block: Block) -> bool:
    return len(block.payload) <= block.n_units * (8 * MOST_DECISION_BYTES) + MOST_STATE_BYTES


def _describe_tokens(block: Block) -> dict[str, Any]:
    return {
        "n_lanes": block.n_lanes,
        "n_tokens": block.n_units,
        "group_tokens": block.parameter,
        "extra_space": bool(block.flags & 1),
    }


def _describe_online(block: Block) -> dict[str, Any]:
    return {"n_lanes": block.n_lanes, "n_tokens": block.n_units, "level": online_level(block.payload)}


def _model_decoder(header: Header, holder: Holder) -> Decoder:
    from lmeval.compression.text.reader import model_decoder

    return model_decoder(header, holder)


def _online_decoder(header: Header, _holder: Holder) -> Decoder:
    from lmeval.compression.text.online_only import online_data

    if header.meta.get("adapt") not in LEVELS[1:]:
        raise CorruptArchive("the archive has blocks of online models, but its header names no level of them")
    return one_by_one(online_data, WAITING_BYTES)


_BY_MODEL = Kind(check=_model_numbers_fit, describe=_describe_tokens, decoder=_model_decoder)
KINDS: dict[str, Kind] = {
    "model": _BY_MODEL,
    "adapted": _BY_MODEL,
    "online": Kind(check=_online_numbers_fit, describe=_describe_online, decoder=_online_decoder),
}
