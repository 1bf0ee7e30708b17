import struct

import numpy as np
import pytest
from vaes import npy

from lmeval.compression.images.imagefile import DTYPES, bytes_of, levels_of, read_layout
from lmeval.errors import InputError

X = np.random.default_rng(0).integers(0, 2, (6, 3, 4))


def idx(images: np.ndarray) -> bytes:
    return struct.pack(f">HBB{images.ndim}I", 0, 8, images.ndim, *images.shape) + images.astype(np.uint8).tobytes()


def levels(data: bytes, n_dims: int = 12, n_levels: int = 2) -> np.ndarray:
    layout = read_layout(memoryview(data), n_dims)
    return levels_of(memoryview(data), layout, 0, layout.n, n_levels, "the model")


def refused(data: bytes, n_dims: int = 12, n_levels: int = 2) -> str:
    with pytest.raises(InputError) as caught:
        levels(data, n_dims, n_levels)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", [*DTYPES, "?"])
def test_arrays_of_any_numbers(dtype: str):
    data = npy(X.astype(dtype))
    layout = read_layout(memoryview(data), 12)
    assert (layout.n, layout.n_dims, layout.stop) == (6, 12, len(data))
    assert np.array_equal(levels(data), X.reshape(6, 12))
    assert data[layout.first :] == bytes_of(levels(data), layout.dtype)


@pytest.mark.parametrize("shape", [(6, 12), (6, 3, 4), (6, 1, 12, 1), (6, 2, 3, 2)])
def test_any_shape_of_images(shape: tuple[int, ...]):
    for data in (npy(X.reshape(shape).astype(np.uint8)), idx(X.reshape(shape))):
        assert np.array_equal(levels(data), X.reshape(6, 12))


def test_what_is_behind_the_images_is_left_alone():
    data = idx(X) + b"behind"
    assert read_layout(memoryview(data), 12).stop == len(data) - 6


def test_no_images():
    for data in (npy(X[:0].astype(np.uint8)), idx(X[:0])):
        assert read_layout(memoryview(data), 12).n == 0


def test_a_part_of_the_images():
    data = npy(X.astype("<i4"))
    layout = read_layout(memoryview(data), 12)
    assert np.array_equal(levels_of(memoryview(data), layout, 2, 3, 2, "m"), X.reshape(6, 12)[2:5])


def test_files_that_hold_no_images_are_refused():
    assert "neither" in refused(b"")
    assert "neither" in refused(b"plain text that is no image")
    assert "gunzip" in refused(b"\x1f\x8b\x08" + bytes(50))
    assert "unzip" in refused(b"PK\x03\x04" + bytes(50))
    assert "neither" in refused(b"\x00\x00\x0d\x03" + bytes(50))  # idx of floats


def test_damaged_headers_are_refused():
    data = npy(X.astype(np.uint8))
    for changed in (data[:9], data[:40], data[:10] + b"\xff" * 20 + data[30:], data[:6] + b"\x09" + data[7:]):
        refused(changed)
    assert "cut off" in refused(data[:-1])
    assert "cut off" in refused(idx(X)[:-1])
    assert "cut off" in refused(idx(X)[:9])
    assert "cut off" in refused(struct.pack(">HBB3I", 0, 8, 3, 1 << 31, 3, 4) + bytes(12))
    refused(
        b"\x93NUMPY\x01\x00"
        + struct.pack("<H", 70)
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (-6, -12), }".ljust(70)
    )


def test_arrays_of_another_kind_are_refused():
    assert "Fortran" in refused(npy(np.asfortranarray(X.astype(np.uint8))))
    assert "complex" in refused(npy(X.astype(complex)))
    assert "object" in refused(npy(np.array([{}, 1], dtype=object), allow_pickle=True))
    assert "12 numbers" in refused(npy(X.reshape(12, 6).astype(np.uint8)))
    assert "no array" in refused(npy(np.array(1, dtype=np.uint8)))


@pytest.mark.parametrize("value", [2, 255, -1, 0.5, float("nan"), float("inf"), 1e30, -0.25])
def test_numbers_that_are_no_levels_are_refused(value: float):
    x = X.astype(np.int64 if isinstance(value, int) else np.float64)
    x[3, 1, 1] = value
    message = refused(npy(x))
    assert f"{value:g}" in message and "lmeval images" in message and "0 to 1" in message
    assert "levels as the model" in refused(npy(x + 300), 12, 17)


def test_levels_of_a_byte():
    x = np.arange(256).reshape(1, 256)
    for dtype in ("|u1", "<u2", ">i8", "<f4"):
        assert np.array_equal(levels(npy(x.astype(dtype)), 256, 256), x)
    assert "256" in refused(npy(x.astype("<u2") + 1), 256, 256)
