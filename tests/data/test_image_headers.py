import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmeval.compression.images.imagefile import levels_of, read_layout
from lmeval.data.image_headers import ArrayHeader, array_of, read_header
from lmeval.data.images import read_images
from lmeval.errors import InputError

X = np.random.default_rng(0).integers(0, 16, (6, 3, 4)).astype(np.uint8)


def npy(array: np.ndarray[Any, Any], version: tuple[int, int] = (1, 0)) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, version, allow_pickle=True)
    return out.getvalue()


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


FILES = {
    "npy 1.0": npy(X),
    "npy 2.0": npy(X, (2, 0)),
    "npy 3.0": npy(X, (3, 0)),
    "big-endian": npy(X.astype(">i2")),
    "flat": npy(X.reshape(6, 12)),
    "idx": idx(X),
    "idx of many axes": idx(X.reshape(6, 3, 1, 1, 1, 4)),
}


@pytest.mark.parametrize("name", FILES)
def test_images_and_archives_read_the_same_files(tmp_path: Path, name: str):
    (tmp_path / "x").write_bytes(FILES[name])
    assert np.array_equal(read_images(tmp_path / "x").x.numpy(), X.reshape(6, 12))
    data = memoryview(FILES[name])
    layout = read_layout(data, 12)
    assert np.array_equal(levels_of(data, layout, 0, 6, 256, "m"), X.reshape(6, 12))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["|u1", ">u4", "<i8", "<f4", "|b1", "<c8"])
def test_an_array_comes_back(order: Any, dtype: str):
    array = np.asarray(X.astype(dtype), order=order)
    data = npy(array) + b"after it"
    header = read_header(data, "x")
    assert header is not None
    assert (header.shape, header.dtype, header.is_fortran) == (X.shape, array.dtype, order == "F")
    assert header.stop == len(data) - 8
    assert np.array_equal(array_of(data, header), array)


def test_other_files_are_none_of_them():
    for data in (b"", b"\0\0", b"\0\0\x0d\x03" + bytes(50), b"\x93NUMP", b"PK\x03\x04"):
        assert read_header(data, "x") is None


def headed(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


REFUSED: dict[str, tuple[bytes, str]] = {
    "no magic": (b"\x93NUMPY", "damaged .npy"),
    "version 9": (npy(X)[:6] + b"\x09" + npy(X)[7:], "version"),
    "negative": (headed("(-6, -12)") + bytes(72), r"sizes \[-6, -12\]"),
    "huge": (headed("(1000000000000000000000, 4)") + bytes(72), "cut off"),
    "no tuple": (headed("6") + bytes(6), "damaged .npy"),
    "text": (headed("('a', 2)") + bytes(6), "damaged .npy"),
    "33 axes": (headed(str((1,) * 33)) + bytes(1), "33 axes"),
    "objects": (npy(np.array([{}, 1], dtype=object)), "Python objects"),
    "nothing": (headed("(4, 3)", "'|V0'"), "not of numbers"),
    "cut": (npy(X)[:-1], r"\[6, 3, 4\] need 72 bytes, and 71 follow"),
    "cut idx": (idx(X)[:-1], r"\[6, 3, 4\] need 72 bytes, and 71 follow"),
    "cut idx header": (idx(X)[:9], "9 bytes do not hold an idx header of 3 sizes"),
    "huge idx": (struct.pack(">HBB3I", 0, 8, 3, *[2**32 - 1] * 3) + bytes(9), "cut off"),
    "idx of 255 axes": (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\5", "255 axes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_header_cannot_say_is_refused(name: str):
    data, message = REFUSED[name]
    with pytest.raises(InputError, match=message) as caught:
        read_header(data, "x.npy")
    assert str(caught.value).startswith("x.npy ") and "\n" not in str(caught.value)


@given(st.sampled_from([npy(X), npy(X, (2, 0)), idx(X)]), st.data())
def test_damage_is_an_error_or_an_array_within_the_file(content: bytes, data: st.DataObject):
    damaged = bytearray(content)
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 139), st.integers(0, 255)), max_size=4)):
        damaged[place % len(damaged)] = value
    try:
        header: ArrayHeader | None = read_header(bytes(damaged), "x")
    except InputError:
        return
    if header is not None:
        assert 0 <= header.first <= header.stop <= len(damaged)
        assert array_of(bytes(damaged), header).shape == header.shape


@pytest.mark.parametrize("make", [npy, idx])
def test_an_empty_set_is_an_array(make: Callable[[np.ndarray[Any, Any]], bytes]):
    data = make(X[:0])
    header = read_header(data, "x")
    assert header is not None
    assert array_of(data, header).shape == (0, 3, 4)
