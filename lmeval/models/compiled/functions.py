"""Functions of float32 numbers for a compiled step: written so that loops over them become loops over vectors."""

from typing import Any

import numpy as np
from llvmlite import ir  # pyright: ignore[reportMissingTypeStubs]
from numba import types  # pyright: ignore[reportMissingTypeStubs]
from numba.extending import intrinsic  # pyright: ignore[reportMissingTypeStubs]

from lmeval.compute.compiled import compiled

_f = np.float32
_LOG2_E = _f(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = _f(0.693359375), _f(-2.12194440e-4)  # their sum is ln 2; the first has few bits
_LEAST, _MOST = _f(-87.0), _f(88.0)


@intrinsic
def _as_float(typing: Any, bits: Any) -> Any:
    """The float32 number of 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


@compiled
def exp(x: Any) -> Any:
    """e^x to 2 units in the last place, for x within [-87, 88]; numbers outside count as the nearest end."""
    x = min(max(x, _LEAST), _MOST)
    n = np.floor(x * _LOG2_E + _f(0.5))
    r = x - n * _LN2_HIGH - n * _LN2_LOW
    p = _f(1.9875691500e-4)
    p = p * r + _f(1.3981999507e-3)
    p = p * r + _f(8.3334519073e-3)
    p = p * r + _f(4.1665795894e-2)
    p = p * r + _f(1.6666665459e-1)
    p = p * r + _f(5.0000001201e-1)
    p = p * r * r + r + _f(1.0)
    return p * _as_float(np.int32(np.int32(n) + np.int32(127)) << np.int32(23))  # pyright: ignore[reportCallIssue]
