"""Products of a few rows with a matrix that is packed for them: the arithmetic of a compiled step.

A matrix [k, n] is packed into panels [ceil(n / PANEL), k, PANEL]: PANEL columns beside each other, filled up with zeros. A
product reads a panel once for up to eight rows, whose sums stay in the processor's registers: one row costs the reading of
the matrix, and from eight rows on the processor is busy. Every row adds up its terms in the order of k, so its result does
not depend on how many rows there are.

The inner loop is written in LLVM's vectors, as no compiler finds it by itself: 16 numbers where the processor has registers
for them (AVX-512), else 8, which LLVM divides where they are still too wide.
"""

from typing import Any, NamedTuple

import llvmlite.binding  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from jaxtyping import Float32
from llvmlite import ir  # pyright: ignore[reportMissingTypeStubs]
from numba import types  # pyright: ignore[reportMissingTypeStubs]
from numba.core import cgutils  # pyright: ignore[reportMissingTypeStubs]
from numba.extending import intrinsic  # pyright: ignore[reportMissingTypeStubs]

from lmeval.compute.compiled import compiled

PANEL = 32
"""Columns of a panel."""
_WIDTH = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f") else 8


@compiled
def n_panels(n_columns: int) -> int:
    """Panels that hold so many columns.

    >>> [n_panels(n) for n in (1, 32, 33)]
    [1, 1, 2]
    """
    return -(-n_columns // PANEL)


def pack(matrix: Float32[np.ndarray, "k n"]) -> Float32[np.ndarray, "panels k panel"]:
    """A matrix as `multiply` reads it."""
    k, n = matrix.shape
    filled = np.zeros((k, n_panels(n) * PANEL), dtype=np.float32)
    filled[:, :n] = matrix
    return np.ascontiguousarray(filled.reshape(k, -1, PANEL).transpose(1, 0, 2))


def _multiply_add(module: Any, vector: Any) -> Any:
    """LLVM's function of three vectors: the first times the second, plus the third, in one rounding where it is as fast."""
    return cgutils.get_or_insert_function(module, ir.FunctionType(vector, [vector] * 3), f"llvm.fmuladd.v{_WIDTH}f32")


def _spread(builder: Any, number: Any, vector: Any) -> Any:
    """A vector whose elements are all the same number."""
    undefined = ir.Constant(vector, ir.Undefined)
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), _WIDTH), [0] * _WIDTH)
    first = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, everywhere)


def _product(n_rows: int) -> Any:
    """c[r, :PANEL] (+)= sum over k of a[r, k] b[k, :PANEL], for `n_rows` rows, as an intrinsic of compiled code.

    Its arguments: for a and for c the array, its first element and what lies between two rows; for b the array and its first
    element; the number of terms; whether c is added to (1) or written over (0).
    """
    n_vectors = PANEL // _WIDTH
    vector, index = ir.VectorType(ir.FloatType(), _WIDTH), ir.IntType(64)
    zeros = ir.Constant(vector, None)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def start(n: int, first: Any) -> Any:
            data = context.make_array(signature.args[n])(context, builder, arguments[n]).data
            return builder.gep(data, [first])

        def row(begin: Any, stride: Any, r: int) -> Any:
            return builder.gep(begin, [builder.mul(stride, ir.Constant(index, r))])

        def part(begin: Any, j: int) -> Any:
            return builder.bitcast(builder.gep(begin, [ir.Constant(index, j * _WIDTH)]), vector.as_pointer())

        _, a_first, a_stride, _, b_first, n_terms, _, c_first, c_stride, added = arguments
        a, b, c = start(0, a_first), start(3, b_first), start(6, c_first)
        multiply_add = _multiply_add(builder.module, vector)
        rows = [row(a, a_stride, r) for r in range(n_rows)]
        before = builder.block
        loop, behind = builder.append_basic_block("terms"), builder.append_basic_block("sums")
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(index)
        k.add_incoming(ir.Constant(index, 0), before)
        sums = [[builder.phi(vector) for _ in range(n_vectors)] for _ in range(n_rows)]
        line = builder.gep(b, [builder.mul(k, ir.Constant(index, PANEL))])
        factors = [builder.load(part(line, j), align=4) for j in range(n_vectors)]
        new: list[list[Any]] = []
        for r in range(n_rows):
            spread = _spread(builder, builder.load(builder.gep(rows[r], [k])), vector)
            new.append([builder.call(multiply_add, [spread, factors[j], sums[r][j]]) for j in range(n_vectors)])
        following = builder.add(k, ir.Constant(index, 1))
        k.add_incoming(following, loop)
        for r in range(n_rows):
            for j in range(n_vectors):
                sums[r][j].add_incoming(zeros, before)
                sums[r][j].add_incoming(new[r][j], loop)
        builder.cbranch(builder.icmp_signed("<", following, n_terms), loop, behind)
        builder.position_at_end(behind)
        adding = builder.icmp_signed("!=", added, ir.Constant(index, 0))
        for r in range(n_rows):
            for j in range(n_vectors):
                place = part(row(c, c_stride, r), j)
                held = builder.select(adding, builder.load(place, align=4), zeros)
                builder.store(builder.fadd(new[r][j], held), place, align=4)
        return context.get_dummy_value()

    @intrinsic
    def product(  # pyright: ignore[reportUnusedFunction]
        typing: Any, a: Any, a_first: Any, a_stride: Any, b: Any, b_first: Any, n_terms: Any, c: Any, c_first: Any,
        c_stride: Any, added: Any,
    ) -> Any:  # fmt: skip
        n = types.intp
        return types.void(a, n, n, b, n, n, c, n, n, n), generate

    return product


_eight, _four, _two, _one = (_product(n) for n in (8, 4, 2, 1))


class Rows(NamedTuple):
    """Rows of numbers in an array's memory: the place of the first, and what lies between the beginnings of two rows."""

    array: Float32[np.ndarray, "*shape"]
    first: int
    stride: int


@compiled
def panel_product(
    a: Rows, b: Float32[np.ndarray, "*shape"], b_first: int, n_terms: int, c: Rows, n_rows: int, added: int
) -> None:
    """One panel's columns of a product, for any number of rows; the panel stands at place `b_first` of b's memory."""
    r = 0
    while r + 8 <= n_rows:
        at, to = a.first + r * a.stride, c.first + r * c.stride
        _eight(a.array, at, a.stride, b, b_first, n_terms, c.array, to, c.stride, added)
        r += 8
    if r + 4 <= n_rows:
        at, to = a.first + r * a.stride, c.first + r * c.stride
        _four(a.array, at, a.stride, b, b_first, n_terms, c.array, to, c.stride, added)
        r += 4
    if r + 2 <= n_rows:
        at, to = a.first + r * a.stride, c.first + r * c.stride
        _two(a.array, at, a.stride, b, b_first, n_terms, c.array, to, c.stride, added)
        r += 2
    if r < n_rows:
        at, to = a.first + r * a.stride, c.first + r * c.stride
        _one(a.array, at, a.stride, b, b_first, n_terms, c.array, to, c.stride, added)


@compiled
def multiply(
    a: Float32[np.ndarray, "rows k"],
    packed: Float32[np.ndarray, "layers panels k panel"],
    layer: int,
    c: Float32[np.ndarray, "rows n"],
    added: int,
) -> None:
    """c = a times the packed matrix of a layer, or c plus that where `added` is 1. Rows of `a` may be longer than k; rows of
    `c` hold whole panels."""
    panels, k = packed.shape[1], packed.shape[2]
    for p in range(panels):
        b_first = (layer * panels + p) * k * PANEL
        panel_product(Rows(a, 0, a.shape[1]), packed, b_first, k, Rows(c, p * PANEL, c.shape[1]), len(a), added)
