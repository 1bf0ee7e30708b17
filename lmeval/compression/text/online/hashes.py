"""Hashes of contexts.

Numba's integers wrap around like the hardware's, so a compiled function computes the same on every platform. Hashes are
unsigned 64-bit numbers and never meet signed ones in one operation (Numba would go over to floating point).
"""

import numpy as np

from lmeval.compute.compiled import Int, compiled

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(29)


@compiled
def fold(hashed: np.uint64, value: Int) -> np.uint64:
    """A hash with one more number in it: h = (hashed + value) 0x9E3779B97F4A7C15 mod 2^64, then h xor (h >> 29)."""
    multiplied = (hashed + np.uint64(value)) * _MULTIPLIER
    return multiplied ^ (multiplied >> _HALF)
