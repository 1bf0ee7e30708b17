"""Reading what `coder.encode_bits` wrote, in compiled code: for loops in which every probability needs the bit before.

It gives the bits that `coder.BitReader` gives, of damaged words too. Definition: compression/FORMAT.md, section 5.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt32, UInt64

from lmeval.compression.coding.grid import FREQUENCY_BITS
from lmeval.compute.compiled import Int, compiled
from lmeval.errors import CorruptArchive

# Numba would turn signed and unsigned numbers of 64 bits in one operation into floating point.
_PARTS, _MASK, _LEAST = np.uint64(1 << 24), np.uint64((1 << 24) - 1), np.uint64(1 << 32)
_WORD, _PART_BITS = np.uint64(32), np.uint64(24)
_ONE, _SHARED = 1 << FREQUENCY_BITS, (1 << 24) - 2


class Stack(NamedTuple):
    """Words of which `left` are not read yet, from the end, and the coder's state."""

    words: UInt32[np.ndarray, " words"]
    state: UInt64[np.ndarray, " 1"]
    left: Int64[np.ndarray, " 1"]


def open_stack(data: bytes) -> Stack:
    """The whole words at the head of `data`, ready to be read.

    Raises CorruptArchive for what no encoder writes: an empty word at the end.
    """
    words = np.frombuffer(data[: len(data) // 4 * 4], dtype="<u4").astype(np.uint32)
    if len(words) and not words[-1]:
        raise CorruptArchive("the coded data of a block cannot have been written by the encoder")
    state, left = 0, len(words)
    while left and state < 1 << 32:
        left -= 1
        state = state << 32 | int(words[left])
    return Stack(words, np.array([state], dtype=np.uint64), np.array([left], dtype=np.int64))


def is_used_up(stack: Stack) -> bool:
    """Whether everything that was written has been read, and nothing else."""
    return not stack.left[0] and not stack.state[0]


@compiled
def pop_bit(stack: Stack, frequency: Int) -> Int:
    """The next bit, whose probability of being 1 is frequency / 2^FREQUENCY_BITS. Past the end, bits without meaning."""
    zero = np.uint64(((_ONE - frequency) * _SHARED >> FREQUENCY_BITS) + 1)
    place, above = stack.state[0] & _MASK, stack.state[0] >> _PART_BITS
    bit = 1 if place >= zero else 0
    stack.state[0] = above * (_PARTS - zero) + (place - zero) if bit else above * zero + place
    if stack.state[0] < _LEAST and stack.left[0]:
        stack.left[0] -= 1
        stack.state[0] = stack.state[0] << _WORD | np.uint64(stack.words[stack.left[0]])
    return bit
