"""Files that hold a set of images as plain numbers: where they lie, and their levels in and out of bytes.

NumPy's .npy in C order, and MNIST's idx of unsigned bytes. The bytes before the numbers and after them are not looked
at any further: a coder of images takes them as they are, so a file comes back byte for byte.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from lmeval.data.image_headers import read_header
from lmeval.errors import InputError

DTYPES = ("|u1", "|i1", "<u2", ">u2", "<i2", ">i2", "<i4", ">i4", "<i8", ">i8", "<f4", ">f4", "<f8", ">f8")
"""Numbers of an image file, in NumPy's spelling."""
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
    """Where the images of a file are.

    Args:
        data: The whole file.
        n_dims: The numbers that an image must have.

    Raises:
        InputError: The file holds no set of such images; one line.
    """
    header = read_header(data, "the file")
    if header is None:
        begins = bytes(data[:8])
        packed = next((remedy for magic, remedy in _PACKED.items() if begins.startswith(magic)), None)
        hint = f": {packed} it first" if packed else "; lmeval images makes one of many formats"
        raise InputError(f"a density codes image sets, and this is neither a .npy file nor an idx file of bytes{hint}")
    shape = header.shape
    dtype = "|u1" if header.dtype == np.bool_ else header.dtype.str
    if dtype not in DTYPES:
        raise InputError(f"the .npy file holds {header.dtype}, and levels are whole numbers: save it with .astype('uint8')")
    if header.is_fortran and sum(n > 1 for n in shape) > 1:
        raise InputError("the .npy file is in Fortran order: save numpy.ascontiguousarray(images)")
    if not shape or math.prod(shape[1:]) != n_dims:
        held = f"{shape[0]:,} items of shape {list(shape[1:])}" if shape else "no array of images"
        raise InputError(f"the file holds {held}, and the model takes images of {n_dims:,} numbers: [n, ...] that fit them")
    return ImageFile(header.first, header.stop, shape[0], n_dims, dtype)


def levels_of(
    data: memoryview, layout: ImageFile, first: int, n: int, levels: int, name: str
) -> UInt8[np.ndarray, "n dims"]:
    """Levels of `n` images from the `first` on. Raises InputError where a number is none of 0..levels-1."""
    begin = layout.first + first * layout.image_bytes
    values = np.frombuffer(data[begin : begin + n * layout.image_bytes], dtype=layout.dtype).reshape(n, layout.n_dims)
    whole = values.astype(np.uint8) if values.dtype.kind != "f" else _whole(values)
    fits = (values >= 0) & (values < levels) & (whole == values)
    if not np.all(fits):
        odd = values[~fits][0]
        remedy = (
            "make a binary set of them: lmeval images FILE -o NEW.npy --threshold 128, or --binarise SEED"
            if levels == 2
            else "give images of as many levels as the model has"
        )
        raise InputError(f"the images hold {odd:g}, and {name} takes whole numbers 0 to {levels - 1}: {remedy}")
    return whole


def _whole(values: np.ndarray) -> UInt8[np.ndarray, "n dims"]:
    with np.errstate(invalid="ignore"):
        return np.clip(np.nan_to_num(values), 0, 255).astype(np.uint8)


def bytes_of(images: UInt8[np.ndarray, "n dims"], dtype: str) -> bytes:
    """The bytes that these levels have in a file of such numbers."""
    return images.astype(np.dtype(dtype)).tobytes()
