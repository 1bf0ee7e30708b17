"""The kind of blocks that bits-back coding makes of images.

What decodes them is imported when one is decoded: an archive can be inspected without it.
"""

from typing import Any

from lmeval.compression.container import frame
from lmeval.compression.container.frame import Block
from lmeval.compression.container.header import Header
from lmeval.compression.container.kinds import Decoder, Holder, Kind

BITSBACK = "bits-back"
MAX_INITIAL_WORDS = 1 << 16


def _numbers_fit(block: Block) -> bool:
    fit = 1 <= block.n_units <= min(frame.MAX_BLOCK_UNITS, block.n_bytes) and block.parameter <= MAX_INITIAL_WORDS
    return fit and block.n_lanes == block.flags == 0


def _describe(block: Block) -> dict[str, Any]:
    return {"n_images": block.n_units, "n_initial_words": block.parameter}


def _decoder(header: Header, holder: Holder) -> Decoder:
    from lmeval.compression.images.decode import images_decoder

    return images_decoder(header, holder)


KINDS: dict[str, Kind] = {BITSBACK: Kind(check=_numbers_fit, describe=_describe, decoder=_decoder)}
