"""Files that hold one array of numbers, NumPy's .npy and MNIST's idx: what their headers say, and the array.

An idx file begins with two zero bytes, the type of its numbers (8: unsigned bytes, the only one that is read here) and the
number of axes; the sizes of the axes follow, big-endian. Bytes after the array are not looked at.
"""

import io
import math
import struct
from tokenize import TokenError
from typing import Any, NamedTuple

import numpy as np

from lmeval.errors import InputError, first_line

NPY, IDX = b"\x93NUMPY", b"\0\0\x08"  # how files of the two formats begin
MAX_AXES = 32  # NumPy 1 has no arrays of more
_MAX_HEADER_BYTES = 1 << 17
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # differs in names of fields alone, which arrays of numbers have none of
}

Array = np.ndarray[Any, np.dtype[Any]]


class ArrayHeader(NamedTuple):
    """What the header of a file says of its array.

    Attributes:
        first: The byte of the file at which the array begins.
        shape: Sizes of the axes.
        dtype: Type of the numbers, byte order included.
        is_fortran: Whether the first axis varies fastest, not the last.
    """

    first: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool

    @property
    def stop(self) -> int:
        """The byte of the file at which the array ends."""
        return self.first + math.prod(self.shape) * self.dtype.itemsize


def read_header(data: bytes | memoryview, name: str) -> ArrayHeader | None:
    """The header of a .npy file or an idx file of bytes.

    Args:
        data: The whole file.
        name: What messages call the file.

    Returns:
        The header, whose array lies within the file; None for a file that begins like neither.

    Raises:
        InputError: The header is damaged, the file is cut off, or the array is not one of numbers.
    """
    head = bytes(data[:6])
    if head == NPY:
        header = _npy_header(data, name)
    elif head.startswith(IDX):
        header = _idx_header(data, name)
    else:
        return None
    if len(header.shape) > MAX_AXES:
        raise InputError(f"{name} has a damaged header: an array of {len(header.shape)} axes; get it again")
    if header.stop > len(data):
        raise InputError(
            f"{name} is cut off: {list(header.shape)} need {header.stop - header.first:,} bytes, and "
            f"{len(data) - header.first:,} follow; get it again"
        )
    return header


def array_of(data: bytes | memoryview, header: ArrayHeader) -> Array:
    """The array of a file, from its header; it shares memory with the file's bytes."""
    numbers = np.frombuffer(data[header.first : header.stop], dtype=header.dtype)
    return numbers.reshape(header.shape, order="F" if header.is_fortran else "C")


def as_levels(array: Array, name: str, levels: int | None) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The levels of images, of any integer type, as bytes.

    Args:
        array: Levels; those of type bool are 0 and 1.
        name: What messages call the file.
        levels: How many values a pixel can take, 2 to 256; None for 256.

    Returns:
        The same values as uint8, in the array's shape.

    Raises:
        InputError: The numbers are not integers by type, or one is no level.
    """
    if array.dtype.kind not in "bui":
        raise InputError(
            f"{name} holds {array.dtype} values, and images are levels, whole numbers from 0: save them as uint8 "
            "(a likelihood of rescaled or rounded pixels is another number)"
        )
    low, high, limit = int(array.min()), int(array.max()), 256 if levels is None else levels
    if not 2 <= limit <= 256:
        raise InputError(f"levels is {limit}: give 2 to 256")
    if low < 0 or high >= limit:
        raise InputError(f"{name} holds values from {low} to {high}, and {limit} levels are 0 to {limit - 1}")
    return np.array(array, dtype=np.uint8)


def _npy_header(data: bytes | memoryview, name: str) -> ArrayHeader:
    stream = io.BytesIO(bytes(data[:_MAX_HEADER_BYTES]))
    try:
        shape, is_fortran, dtype = _NPY_HEADERS[np.lib.format.read_magic(stream)](stream)
    except KeyError as error:
        raise InputError(f"{name} is a damaged .npy file, or one of a version that is not known here") from error
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError, OverflowError, TokenError) as error:
        raise InputError(f"{name} is a damaged .npy file: {first_line(error):.150}") from error
    if dtype.hasobject or not dtype.itemsize:
        raise InputError(f"{name} is a .npy file of {'Python objects' if dtype.hasobject else dtype}, not of numbers")
    if any(size < 0 for size in shape):
        raise InputError(f"{name} is a damaged .npy file: its header has the sizes {list(shape)}")
    return ArrayHeader(stream.tell(), shape, dtype, bool(is_fortran))


def _idx_header(data: bytes | memoryview, name: str) -> ArrayHeader:
    n_axes = data[3] if len(data) > 3 else 0
    first = 4 + 4 * n_axes
    if len(data) < first:
        raise InputError(f"{name} is cut off: {len(data)} bytes do not hold an idx header of {n_axes} sizes; get it again")
    return ArrayHeader(first, struct.unpack(f">{n_axes}I", data[4:first]), np.dtype(np.uint8), False)
