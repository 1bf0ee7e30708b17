"""Blocks that the online models code alone, byte by byte, with no language model: for what no model reads well.

A byte has eight decisions, and every one needs the last. So decoding is one compiled loop, coder included.
"""

from collections.abc import Callable

import numpy as np

from lmeval.compression.coding import coder
from lmeval.compression.coding.grid import FREQUENCY_BITS
from lmeval.compression.coding.stack import Stack, is_used_up, open_stack, pop_bit
from lmeval.compression.container.frame import Block, checked, digest
from lmeval.compression.text import adaptive, decisions
from lmeval.compression.text.online.recipes import LEVELS, online_level
from lmeval.compression.text.online.state import State, decide_step, learn_step
from lmeval.compute.compiled import compiled
from lmeval.errors import CorruptArchive

ONLINE = "online"
BYTE_BITS = 8
EVEN = 1 << (FREQUENCY_BITS - 1)
BYTES_AT_ONCE = 4096  # between two calls of `progress`


def online_block(data: bytes, offset: int, level: str, progress: Callable[[int], None] | None = None) -> Block:
    """The block of some bytes, at least one and at most frame.MAX_BLOCK_UNITS. `progress` is told of bytes."""
    ids = np.frombuffer(data, dtype=np.uint8).astype(np.int64)
    even = np.broadcast_to(np.int32(EVEN), (len(ids), BYTE_BITS))
    adapted = adaptive.adapt_known(_opened(level, len(ids)), even, ids, progress)
    words = coder.encode_bits(decisions.path_bits(ids, BYTE_BITS).reshape(-1), adapted.reshape(-1))
    payload = bytes([LEVELS.index(level)]) + words
    return Block(ONLINE, 0, offset, len(data), 1, len(data), 0, digest(data), payload)


def _opened(level: str, n_bytes: int) -> adaptive.Adaptive:
    return adaptive.open_adaptive(level, BYTE_BITS, n_bytes, 1, use_model=False)


def online_data(block: Block, progress: Callable[[int], None] | None = None) -> bytes:
    """The data of such a block. Raises CorruptArchive where they do not match their checksum."""
    level, words = online_level(block.payload), block.payload[1:]
    if len(words) % 4:
        raise CorruptArchive("the coded data of a block end within a word")
    stack = open_stack(words)
    state = _opened(level, block.n_units).state
    for first in range(0, block.n_units, BYTES_AT_ONCE):
        stop = min(first + BYTES_AT_ONCE, block.n_units)
        _decode(state, stack, first, stop)
        if progress:
            progress(stop - first)
    if not is_used_up(stack):
        raise CorruptArchive("an online block holds more than its data")
    return checked(block, state.ids.astype(np.uint8).tobytes())


@compiled
def _decode(state: State, stack: Stack, first: int, stop: int) -> None:
    """Bytes [first, stop) of the block, into the ids of the online models."""
    even, adapted, bits = np.full(1, EVEN, np.int32), np.empty(1, np.int32), np.empty(1, np.int64)
    for step in range(first, stop):
        for decision in range(BYTE_BITS):
            decide_step(state, step, decision, even, adapted)
            bits[0] = pop_bit(stack, np.int64(adapted[0]))
            learn_step(state, step, decision, bits)
