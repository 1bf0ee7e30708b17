"""Functions of fixed-point numbers as integer tables, equal on every machine: no floating-point library has a part in them.

Arguments are whole numbers of 2^-16. A table holds a function at the multiples of 1/64, rounded to integers by the decimal
arithmetic of Python's standard library, which is exact to far more digits than the rounding needs; between them it is
interpolated in integers. The error is at most h^2/8 of the second derivative, 3e-5 of it: what is coded is the distribution
that the tables define, and next to that of the real functions it costs less than 1e-6 bits a decision.
"""

import functools
from collections.abc import Callable
from decimal import Decimal, localcontext

import numpy as np
from jaxtyping import Int64

FRACTION_BITS = 16
"""Arguments are integers in units of 2^-FRACTION_BITS."""
MASS_BITS = 38
"""Probabilities are integers in units of 2^-MASS_BITS: times a 24-bit number they still fit 64 bits."""
LIMIT = 27 << FRACTION_BITS
"""Beyond this argument exp(-x) is taken as exp(-27), half a unit."""
_STEP_BITS = 10  # of an argument, between two entries: 1/64
_PER_UNIT = 64
_CURVE_LIMIT = 12  # tanh, sigmoid and the bends of elu and softplus are flat beyond, to 2^-16

Integers = Int64[np.ndarray, "*shape"]


def exp_minus(x: Integers) -> Integers:
    """2^38 exp(-x) for x >= 0 in units of 2^-16; arguments above LIMIT count as LIMIT."""
    return _interpolated(_exponentials(), np.minimum(x, LIMIT))


def logistic(x: Integers) -> Integers:
    """The logistic function in units of 2^-38, for x in units of 2^-16. It never falls; at -x it is 2^38 less it at x."""
    at_size = _interpolated(_logistics(), np.minimum(np.abs(x), LIMIT))
    return np.where(x < 0, (1 << MASS_BITS) - at_size, at_size)


def curve(name: str, x: Integers) -> Integers:
    """An activation of x, both in units of 2^-16: "relu", "leaky_relu", "elu", "tanh", "sigmoid" or "softplus"."""
    if name == "relu":
        return np.maximum(x, 0)
    if name == "leaky_relu":  # slope 0.01, rounded to 2^-24
        return np.where(x < 0, (x * 167772 + (1 << 23)) >> 24, x)
    end = _CURVE_LIMIT << FRACTION_BITS
    value = _interpolated(_curve_table(name), np.clip(x, -end, end) + end, half=True)
    return np.where(x > (0 if name == "elu" else end), x, value) if name in ("elu", "softplus") else value


def _interpolated(table: Int64[np.ndarray, " n"], x: Integers, *, half: bool = False) -> Integers:
    """Between the two entries that enclose x >= 0, rounded down, or to the nearest."""
    i, rest = x >> _STEP_BITS, x & ((1 << _STEP_BITS) - 1)
    between = table[i] * ((1 << _STEP_BITS) - rest) + table[i + 1] * rest
    return (between + (1 << (_STEP_BITS - 1)) if half else between) >> _STEP_BITS


@functools.cache
def _exponentials() -> Int64[np.ndarray, " n"]:
    return _tabulated(lambda x: (-x).exp(), 0, (LIMIT >> FRACTION_BITS), MASS_BITS)


@functools.cache
def _logistics() -> Int64[np.ndarray, " n"]:
    return _tabulated(lambda x: 1 / (1 + (-x).exp()), 0, (LIMIT >> FRACTION_BITS), MASS_BITS)


_CURVES: dict[str, Callable[[Decimal], Decimal]] = {
    "elu": lambda x: x.exp() - 1 if x < 0 else x,
    "tanh": lambda x: 1 - 2 / (1 + (2 * x).exp()),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "softplus": lambda x: (1 + x.exp()).ln(),
}


@functools.cache
def _curve_table(name: str) -> Int64[np.ndarray, " n"]:
    return _tabulated(_CURVES[name], -_CURVE_LIMIT, _CURVE_LIMIT, FRACTION_BITS)


def _tabulated(function: Callable[[Decimal], Decimal], first: int, last: int, bits: int) -> Int64[np.ndarray, " n"]:
    """2^bits times the function at first, first + 1/64, ... last and, for interpolation's sake, once more the last."""
    with localcontext() as context:
        context.prec = 40
        values = [function(Decimal(i) / _PER_UNIT) * (1 << bits) for i in range(first * _PER_UNIT, last * _PER_UNIT + 1)]
        table = [int(value.to_integral_value()) for value in values]
    return np.array([*table, table[-1]], dtype=np.int64)


def powers_of_two(eighths: range, bits: int) -> Int64[np.ndarray, " n"]:
    """2^(bits - i/8) for each i, rounded."""
    with localcontext() as context:
        context.prec = 40
        root = (Decimal(2).ln() / 8).exp()
        return np.array([int((Decimal(1 << bits) / root**i).to_integral_value()) for i in eighths], dtype=np.int64)


def log_parts(whole: Integers) -> Integers:
    """Natural logarithm of integers 1 .. 2^24 in units of 2^-20."""
    octave = np.frexp(whole.astype(np.float64))[1].astype(np.int64) - 1  # exact: the numbers are whole and small
    scaled = (whole << (24 - octave)) - (1 << 24)
    i, rest = scaled >> 14, scaled & ((1 << 14) - 1)
    table = _logarithms()
    return octave * table[-1] + ((table[i] * ((1 << 14) - rest) + table[i + 1] * rest) >> 14)


@functools.cache
def _logarithms() -> Int64[np.ndarray, " n"]:
    """ln(1 + i/1024) in units of 2^-20, i = 0 .. 1024."""
    with localcontext() as context:
        context.prec = 40
        values = [(1 + Decimal(i) / 1024).ln() * (1 << 20) for i in range(1025)]
        return np.array([int(value.to_integral_value()) for value in values], dtype=np.int64)
