"""Weights of few bits in one file, `model.packed`: integers with one step a row, entropy-coded, the same on every machine.

A matrix [rows, columns] of b bits lies on a grid: weight = level x step of its row, where levels are whole numbers of
magnitude at most 2^(b - 1) - 1 and steps are float16. A level has at most 7 bits beside its sign and a step has 11, so
their product is exact in float32, and whoever reads the file has the same float32 numbers, bit for bit. Vectors (the
weights of norms) are kept as they are, in the narrowest of float16, bfloat16 and float32 that holds them exactly.

The file, all numbers little-endian:

    8 bytes        "lmpacked"
    1 byte         version, 1
    32 bytes       SHA-256 of all that follows
    4 bytes        length of the head
    head           JSON, compressed by zlib
    steps          of each matrix: the low byte of each row's step
    vectors        of each vector: its numbers
    coded          32-bit words of constriction's ANS coder, to the end of the file

The head has "tensors", a list of {"name", "shape", "bits" (a matrix) or "dtype" (a vector)} which sets the order of
everything else; "weights_sha256", the fingerprint (`fingerprints.arrays_sha256`) of the float32 numbers; and "tables". A
table is the list of whole numbers, of sum 2^16, that the symbols of one stream have as frequencies. Streams are coded one
after the other:

    "steps"        the high byte of each row's step
    "columns"      the class of each column: what the encoder wrote, as float16's high byte, for its mean magnitude
    [b, c]         level + 2^(b - 1) - 1 of all weights of b bits and context c, in ascending order of (b, c)

The context of a weight is the class of its column less the high byte of its row's step, clipped to CONTEXTS: four times the
binary logarithm, roughly, of the magnitude in steps that its column lets expect. Levels are distributed nearly alike where
it is equal, in whatever matrix. On the bundled model this saves 1.5% beside one table for each matrix.
"""

import hashlib
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import constriction  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from jaxtyping import Float32, Int, Int8, Int16, UInt8, UInt16

from lmeval.errors import ModelError
from lmeval.models.fingerprints import arrays_sha256

PACKED_NAME = "model.packed"
"""Name of the file in a model's folder, where others have model.safetensors."""

BITS = range(2, 9)
CONTEXTS = (-16, 47)
FREQUENCY_BITS = 16

_FIRST = struct.Struct("<8sB32s")
_LENGTH = struct.Struct("<I")
_MAGIC, _VERSION = b"lmpacked", 1
_KEYS = CONTEXTS[1] - CONTEXTS[0] + 1  # contexts of one number of bits
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]


class PackedMatrix(NamedTuple):
    """A matrix on a grid: levels[i, j] * steps[i]. Every step is a float16 number; `bits` bounds the levels."""

    levels: Int8[np.ndarray, "rows columns"]
    steps: Float32[np.ndarray, " rows"]
    bits: int


class PackedWeights(NamedTuple):
    """All weights of a network by name: matrices on their grids, and vectors."""

    matrices: Mapping[str, PackedMatrix]
    vectors: Mapping[str, Float32[np.ndarray, " n"]]


class _Stream(NamedTuple):
    """Symbols in order, from one table."""

    name: str | list[int]
    symbols: Int[np.ndarray, " n"]
    n_values: int


def top_level(bits: int) -> int:
    """The largest level of a grid of so many bits: grids are symmetric around zero.

    >>> [top_level(bits) for bits in (2, 4, 8)]
    [1, 7, 127]
    """
    return 2 ** (bits - 1) - 1


def dequantise(matrix: PackedMatrix) -> Float32[np.ndarray, "rows columns"]:
    """The matrix as numbers. The product is exact: see the module's first paragraph."""
    return matrix.levels * matrix.steps[:, None]


def as_arrays(weights: PackedWeights) -> dict[str, Float32[np.ndarray, "..."]]:
    """All weights as float32 numbers, by name."""
    return {name: dequantise(matrix) for name, matrix in weights.matrices.items()} | dict(weights.vectors)


def to_packed(weights: PackedWeights) -> bytes:
    """The file that holds these weights.

    Args:
        weights: Matrices whose steps are float16 numbers, not negative, and whose levels their bits allow; vectors.

    Returns:
        The file's bytes; `from_packed` gives the weights back, exactly.
    """
    matrices, vectors = weights
    halves = {name: matrix.steps.astype(np.float16).view(np.uint16) for name, matrix in matrices.items()}
    classes = {name: _column_classes(matrix) for name, matrix in matrices.items()}
    streams = [
        _Stream("steps", np.concatenate([half >> 8 for half in halves.values()] or [_NOTHING]), 256),
        _Stream("columns", np.concatenate([*classes.values()] or [_NOTHING]), 256),
    ]
    keys = np.concatenate(
        [_keys(halves[n], classes[n], matrix.bits).ravel() for n, matrix in matrices.items()] or [_NOTHING]
    )
    symbols = [(matrix.levels.astype(np.int16) + top_level(matrix.bits)).ravel() for matrix in matrices.values()]
    sorted_symbols = np.concatenate([*symbols, _NOTHING])[np.argsort(keys, kind="stable")]
    stops = np.cumsum(np.bincount(keys))
    for key in np.unique(keys).tolist():
        bits, context = divmod(key, _KEYS)
        part = sorted_symbols[stops[key - 1] if key else 0 : stops[key]]
        streams.append(_Stream([bits, context + CONTEXTS[0]], part, 2 * top_level(bits) + 1))
    streams = [stream for stream in streams if len(stream.symbols)]
    tables = [_frequencies(stream) for stream in streams]
    kinds = {name: _narrowest(vector) for name, vector in vectors.items()}
    head = {
        "tensors": [{"name": n, "shape": list(m.levels.shape), "bits": m.bits} for n, m in matrices.items()]
        + [{"name": name, "shape": list(vector.shape), "dtype": kinds[name]} for name, vector in vectors.items()],
        "tables": [[stream.name, table.tolist()] for stream, table in zip(streams, tables, strict=True)],
        "weights_sha256": arrays_sha256(as_arrays(weights)),
    }
    packed_head = zlib.compress(json.dumps(head, separators=(",", ":")).encode(), 9)
    plain = [(half & 255).astype(np.uint8).tobytes() for half in halves.values()]
    plain += [_narrowed(vector, kinds[name]).tobytes() for name, vector in vectors.items()]
    coder = _stream.stack.AnsCoder()
    for stream, table in zip(reversed(streams), reversed(tables), strict=True):  # what is read first goes on last
        coder.encode_reverse(stream.symbols.astype(np.int32), _model(table))
    coded = coder.get_compressed().astype("<u4").tobytes()
    rest = b"".join([_LENGTH.pack(len(packed_head)), packed_head, *plain, coded])
    return _FIRST.pack(_MAGIC, _VERSION, hashlib.sha256(rest).digest()) + rest


def read_packed(path: Path) -> PackedWeights:
    """The weights that a file holds.

    Args:
        path: A file that `to_packed` made.

    Returns:
        Levels, steps and vectors. Their float32 numbers have the fingerprint that the file names.

    Raises:
        ModelError: The file cannot be read, is damaged, or is none of ours.
    """
    head, body = _head_and_body(path)
    try:
        weights = _unpacked(head, body)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise ModelError(f"{path} cannot be unpacked: {error}") from error
    if arrays_sha256(as_arrays(weights)) != head["weights_sha256"]:
        raise ModelError(
            f"{path} gives other weights on this machine than where it was packed: install the version of constriction that "
            "lmeval asks for"
        )
    return weights


def packed_sha256(path: Path) -> str:
    """The fingerprint of a file's weights, which is that of a network that holds them as float32, without unpacking them.

    Args:
        path: A file that `to_packed` made.

    Raises:
        ModelError: The file cannot be read, is damaged, or is none of ours.
    """
    return _head_and_body(path)[0]["weights_sha256"]


def _head_and_body(path: Path) -> tuple[dict[str, Any], bytes]:
    """The head, and all that follows it, of a file whose checksum is right."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if len(data) < _FIRST.size + _LENGTH.size or data[:8] != _MAGIC:
        raise ModelError(f"{path} holds no packed weights: scripts/pack_model.py makes such files")
    _, version, digest = _FIRST.unpack_from(data)
    if version != _VERSION:
        raise ModelError(f"{path} is packed in version {version}, and this lmeval reads version {_VERSION}: update lmeval")
    if hashlib.sha256(data[_FIRST.size :]).digest() != digest:
        raise ModelError(f"{path} is damaged: its checksum does not match; install lmeval, or copy the model, again")
    first = _FIRST.size + _LENGTH.size
    stop = first + _LENGTH.unpack_from(data, _FIRST.size)[0]
    return json.loads(zlib.decompress(data[first:stop])), data[stop:]


def _unpacked(head: dict[str, Any], body: bytes) -> PackedWeights:
    shapes = {t["name"]: (*t["shape"], t["bits"]) for t in head["tensors"] if "bits" in t}
    n_rows, n_columns = (sum(shape[axis] for shape in shapes.values()) for axis in (0, 1))
    vectors, place = {}, n_rows
    for tensor in head["tensors"]:
        if "dtype" in tensor:
            kind, n = _DTYPES[tensor["dtype"]], tensor["shape"][0]
            vectors[tensor["name"]] = _widened(np.frombuffer(body, kind, n, place), tensor["dtype"])
            place += n * kind.itemsize
    coder = _stream.stack.AnsCoder(np.frombuffer(body, "<u4", offset=place).astype(np.uint32))
    tables = {str(name): np.array(table, dtype=np.int64) for name, table in head["tables"]}

    def read(name: str, n: int) -> Int[np.ndarray, " n"]:
        return coder.decode(_model(tables[name]), n) if n else np.zeros(0, dtype=np.int32)

    halves = read("steps", n_rows).astype(np.uint16) << 8 | np.frombuffer(body, np.uint8, n_rows)
    classes = read("columns", n_columns).astype(np.uint8)
    in_rows = _cut(halves, [rows for rows, _, _ in shapes.values()])
    in_columns = _cut(classes, [columns for _, columns, _ in shapes.values()])
    grids = list(zip(in_rows, in_columns, [bits for _, _, bits in shapes.values()], strict=True))
    keys = np.concatenate([_keys(*grid).ravel() for grid in grids] or [_NOTHING])
    counts = np.bincount(keys)
    parts = []
    for key in np.flatnonzero(counts).tolist():
        bits, context = divmod(key, _KEYS)
        decoded = read(str([bits, context + CONTEXTS[0]]), int(counts[key]))
        parts.append((decoded - top_level(bits)).astype(np.int8))
    levels = np.empty(len(keys), dtype=np.int8)
    levels[np.argsort(keys, kind="stable")] = np.concatenate([*parts, np.zeros(0, dtype=np.int8)])
    if not coder.is_empty():
        raise ValueError("something is left over")
    in_matrices = _cut(levels, [rows * columns for rows, columns, _ in shapes.values()])
    matrices = {
        name: PackedMatrix(flat.reshape(rows, columns), half.view(np.float16).astype(np.float32), bits)
        for (name, (rows, columns, bits)), half, flat in zip(shapes.items(), in_rows, in_matrices, strict=True)
    }
    return PackedWeights(matrices, vectors)


def _cut(values: np.ndarray, lengths: list[int]) -> Iterator[np.ndarray] | list[np.ndarray]:
    return np.split(values, np.cumsum(lengths)[:-1]) if lengths else []


_NOTHING = np.zeros(0, dtype=np.int16)


def _keys(
    halves: UInt16[np.ndarray, " rows"], classes: UInt8[np.ndarray, " columns"], bits: int
) -> Int16[np.ndarray, "rows columns"]:
    """Number of the stream that each weight of a matrix belongs to: one for each number of bits and context."""
    contexts = classes.astype(np.int16) - (halves >> 8).astype(np.int16)[:, None]
    return contexts.clip(*CONTEXTS) + np.int16(bits * _KEYS - CONTEXTS[0])


def _column_classes(matrix: PackedMatrix) -> UInt8[np.ndarray, " columns"]:
    means = np.abs(dequantise(matrix)).mean(axis=0, dtype=np.float64) if len(matrix.levels) else np.zeros(0)
    return (means.astype(np.float16).view(np.uint16) >> 8).astype(np.uint8)


def _frequencies(stream: _Stream) -> Int[np.ndarray, " values"]:
    """Whole numbers of sum 2^FREQUENCY_BITS, in the proportion of the symbols' counts; at least 1 for what occurs."""
    counts = np.bincount(stream.symbols, minlength=stream.n_values).astype(np.int64)
    shares = np.maximum(counts * (1 << FREQUENCY_BITS) // len(stream.symbols), counts > 0)
    shares[np.argmax(shares)] += (1 << FREQUENCY_BITS) - shares.sum()
    return shares


def _model(table: Int[np.ndarray, " values"]) -> Any:
    """Sums of these whole numbers, and their products with the coder's scale, are exact in its floating point: a power of
    two is the whole."""
    return _stream.model.Categorical(table.astype(np.float64), perfect=False)


_DTYPES = {"float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2"), "float32": np.dtype("<f4")}


def _narrowest(vector: Float32[np.ndarray, " n"]) -> str:
    with np.errstate(over="ignore"):
        return next(k for k in _DTYPES if np.array_equal(_widened(_narrowed(vector, k), k), vector))


def _narrowed(vector: Float32[np.ndarray, " n"], kind: str) -> np.ndarray:
    if kind == "bfloat16":  # the upper half of a float32
        return (vector.astype("<f4").view("<u4") >> 16).astype("<u2")
    return vector.astype(_DTYPES[kind])


def _widened(numbers: np.ndarray, kind: str) -> Float32[np.ndarray, " n"]:
    if kind == "bfloat16":
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    return numbers.astype(np.float32)
