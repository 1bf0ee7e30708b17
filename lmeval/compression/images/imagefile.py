"""Files that hold a set of images as plain numbers: where they lie, and their levels in and out of bytes.

NumPy's .npy in C order, and MNIST's idx of unsigned bytes. The bytes in front of the numbers and behind them are not looked
at any further: a coder of images takes them as they are, so a file comes back byte for byte.
"""

import io
import math
import struct
from tokenize import TokenError
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from lmeval.errors import InputError

DTYPES = ("|u1", "|i1", "<u2", ">u2", "<i2", ">i2", "<i4", ">i4", "<i8", ">i8", "<f4", ">f4", "<f8", ">f8")
"""Numbers of an image file, in NumPy's spelling."""
_NPY = b"\x93NUMPY"
_PACKED = {b"\x1f\x8b": "gunzip", b"PK": "unzip", b"BZ": "bunzip2", b"\xfd7": "unxz"}
_CHUNK = 1 << 22


class ImageFile(NamedTuple):
    """`n` images of `n_dims` numbers of `dtype`, from byte `first` of a file to byte `stop`."""

    first: int
    stop: int
    n: int
    n_dims: int
    dtype: str

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return self.n_dims * np.dtype(self.dtype).itemsize


def read_layout(data: memoryview, n_dims: int) -> ImageFile:
    """Where the images are. Raises InputError, one line, for anything but a set of images of `n_dims` numbers."""
    head = bytes(data[:8])
    if head[:6] == _NPY:
        first, shape, dtype = _npy_header(data)
    elif head[:3] == b"\x00\x00\x08" and len(head) > 3 and head[3] >= 1:
        first, shape, dtype = _idx_header(data)
    else:
        packed = next((remedy for magic, remedy in _PACKED.items() if head.startswith(magic)), None)
        hint = f": {packed} it first" if packed else "; lmeval images makes one of many formats"
        raise InputError(f"a density codes image sets, and this is neither a .npy file nor an idx file of bytes{hint}")
    n, each = (shape[0], math.prod(shape[1:])) if shape else (0, 0)
    if not shape or each != n_dims:
        found = "no array of images" if not shape else f"{n:,} items of shape {list(shape[1:])}"
        raise InputError(f"the file holds {found}, and the model takes images of {n_dims:,} numbers: [n, ...] that fit them")
    stop = first + n * each * np.dtype(dtype).itemsize
    if stop > len(data):
        raise InputError(f"the file is cut off: its header promises {n:,} images, {stop:,} bytes, and it has {len(data):,}")
    return ImageFile(first, stop, n, n_dims, dtype)


def _npy_header(data: memoryview) -> tuple[int, tuple[int, ...], str]:
    stream = io.BytesIO(bytes(data[: 1 << 17]))
    try:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream)
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError, TokenError) as error:
        raise InputError("the .npy file has a damaged header, or one of a version that this lmeval does not know") from error
    kind = "|u1" if dtype == np.bool_ else dtype.str
    if kind not in DTYPES:
        raise InputError(f"the .npy file holds {dtype}, and levels are whole numbers: save it with .astype('uint8')")
    if fortran and sum(n > 1 for n in shape) > 1:
        raise InputError("the .npy file is in Fortran order: save numpy.ascontiguousarray(images)")
    if any(n < 0 for n in shape):
        raise InputError("the .npy file's header has a negative size")
    return stream.tell(), shape, kind


def _idx_header(data: memoryview) -> tuple[int, tuple[int, ...], str]:
    n_axes = data[3]
    first = 4 + 4 * n_axes
    if len(data) < first:
        raise InputError("the idx file is cut off inside its header")
    return first, struct.unpack(f">{n_axes}I", data[4:first]), "|u1"


def levels_of(
    data: memoryview, layout: ImageFile, first: int, n: int, levels: int, name: str
) -> UInt8[np.ndarray, "n dims"]:
    """Levels of `n` images from the `first` on. Raises InputError where a number is none of 0..levels-1."""
    begin = layout.first + first * layout.image_bytes
    values = np.frombuffer(data[begin : begin + n * layout.image_bytes], dtype=layout.dtype).reshape(n, layout.n_dims)
    found = values.astype(np.uint8) if values.dtype.kind != "f" else _whole(values)
    fits = (values >= 0) & (values < levels) & (found == values)
    if not np.all(fits):
        odd = values[~fits][0]
        remedy = (
            "make a binary set of them: lmeval images FILE -o NEW.npy --threshold 128, or --binarise SEED"
            if levels == 2
            else "give images of as many levels as the model has"
        )
        raise InputError(f"the images hold {odd:g}, and {name} takes whole numbers 0 to {levels - 1}: {remedy}")
    return found


def _whole(values: np.ndarray) -> UInt8[np.ndarray, "n dims"]:
    with np.errstate(invalid="ignore"):
        return np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8)


def bytes_of(images: UInt8[np.ndarray, "n dims"], dtype: str) -> bytes:
    """The bytes that these levels have in a file of such numbers."""
    return images.astype(np.dtype(dtype)).tobytes()
