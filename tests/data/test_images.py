import gzip
import hashlib
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from samples import shared

from lmeval.densities import (
    ImageSet,
    Tags,
    binarise,
    image_set,
    limited,
    read_images,
    threshold,
)
from lmeval.errors import EmptyInput, InputError, InputNotFound, LmevalError

GREY = np.random.default_rng(0).integers(0, 256, (7, 4, 5), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
MNIST_TEST = "images/mnist/t10k-images-idx3-ubyte.gz"


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def npy(array: np.ndarray[Any, Any], **kwargs: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **kwargs)
    return stream.getvalue()


def npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


def sheet(array: np.ndarray[Any, Any], mode: str | None = None) -> bytes:
    """One image a row."""
    rows = array.reshape(len(array), -1, 3) if array.ndim == 4 else array.reshape(len(array), -1)
    stream, picture = io.BytesIO(), Image.fromarray(rows)
    (picture.convert(mode) if mode else picture).save(stream, format="PNG")
    return stream.getvalue()


def grey_set(levels: int = 256, n: int = 50, seed: int = 0) -> ImageSet:
    x = torch.from_numpy(np.random.default_rng(seed).integers(0, levels, (n, 20), dtype=np.uint8))
    return image_set(x, (4, 5), Tags(levels), "grey")


FILES = {
    "idx": (idx(GREY), {}),
    "idx.gz": (gzip.compress(idx(GREY)), {}),
    "npy": (npy(GREY), {}),
    "npy of int64": (npy(GREY.astype(np.int64)), {}),
    "npy in Fortran order": (npy(np.asfortranarray(GREY)), {}),
    "flat npy": (npy(GREY.reshape(7, -1)), {"shape": (4, 5)}),
    "npz": (npz(images=GREY), {}),
    "npz with a key": (npz(train=GREY[:2], test=GREY), {"key": "test"}),
    "png": (sheet(GREY), {"shape": [4, 5]}),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_same_images_come_from_every_kind_of_file(kind: str, tmp_path: Path):
    content, arguments = FILES[kind]
    (tmp_path / "file").write_bytes(content)
    found = read_images(tmp_path / "file", **arguments)
    assert torch.equal(found.x, torch.from_numpy(GREY.reshape(7, 20)))
    assert (found.shape, found.tags, found.levels, found.n_dims, len(found)) == ((4, 5), Tags(256), 256, 20, 7)
    assert found.sha256 == hashlib.sha256(GREY.tobytes()).hexdigest()


def test_colours_lie_last(tmp_path: Path):
    for name, content in {"a.png": sheet(COLOUR), "a.npy": npy(COLOUR), "a.idx": idx(COLOUR)}.items():
        (tmp_path / name).write_bytes(content)
        found = read_images(tmp_path / name, (4, 5, 3))
        assert np.array_equal(found.x.numpy().reshape(COLOUR.shape), COLOUR), name


def test_a_file_of_zeros_and_ones_is_static(tmp_path: Path):
    ones = GREY > 100
    for name, content in {"a": npy(ones), "b": npy(ones.astype(np.uint8)), "c": sheet(ones.reshape(7, -1))}.items():
        (tmp_path / name).write_bytes(content)
        found = read_images(tmp_path / name, (4, 5))
        assert found.tags == Tags(2, "static") and np.array_equal(found.x.numpy().reshape(ones.shape), ones), name
    (tmp_path / "dark").write_bytes(npy(ones.astype(np.uint8)))
    assert read_images(tmp_path / "dark", levels=256).tags == Tags(256)


def test_levels_can_be_told(tmp_path: Path):
    (tmp_path / "coarse").write_bytes(npy(GREY // 16))
    assert read_images(tmp_path / "coarse", levels=16).levels == 16
    with pytest.raises(InputError, match="from 0 to 15, and 8 levels are 0 to 7"):
        read_images(tmp_path / "coarse", levels=8)
    with pytest.raises(InputError, match="give 2 to 256"):
        read_images(tmp_path / "coarse", levels=300)


def test_files_are_looked_for_here_and_then_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, here = tmp_path / "data", tmp_path / "here"
    data.mkdir()
    here.mkdir()
    (data / "set.npy").write_bytes(npy(GREY))
    monkeypatch.chdir(here)
    assert len(read_images("set.npy", data_dir=data)) == 7
    (here / "set.npy").write_bytes(npy(GREY[:3]))
    assert len(read_images("set.npy", data_dir=data)) == 3
    with pytest.raises(InputNotFound, match=r"no file other\.npy here or in"):
        read_images("other.npy", data_dir=data)


def test_digits_have_their_fixed_split():
    train, test = read_images("digits", split="train"), read_images("digits", split="test")
    assert (len(train), len(test), train.shape, train.tags) == (1437, 360, (8, 8), Tags(17))
    assert int(train.x.max()) == int(test.x.max()) == 16
    for split in (None, "validation"):
        with pytest.raises(InputError, match="splits train"):
            read_images("digits", split=split)


WRONG = {
    "empty": (b"", {}, EmptyInput, "0 bytes"),
    "text": (b"not images", {}, InputError, "begins with 6e6f7420"),
    "JPEG": (b"\xff\xd8\xff\xe0", {}, InputError, "lossy"),
    "cut gzip": (gzip.compress(idx(GREY))[:-30], {}, InputError, "cut off"),
    "damaged gzip": (gzip.compress(idx(GREY))[:10] + b"\xff" * 50, {}, InputError, "damaged gzip"),
    "gzip checksum": (gzip.compress(idx(GREY))[:-8] + b"\1" * 8, {}, InputError, "damaged gzip"),
    "gzip of text": (gzip.compress(b"hello there"), {}, InputError, "begins with 68656c6c"),
    "cut idx": (idx(GREY)[:-1], {}, InputError, r"cut off: \[7, 4, 5\] need 140 bytes, and 139 follow"),
    "long idx": (idx(GREY) + b"\0", {}, InputError, "longer than its header says"),
    "idx of ints": (b"\0\0\x0c\3" + idx(GREY)[4:], {}, InputError, "begins with 00000c03, not 000008"),
    "idx header cut": (idx(GREY)[:9], {}, InputError, "do not hold an idx header"),
    "two zeros": (b"\0\0", {}, InputError, "begins with 0000"),
    "labels": (idx(GREY[:, 0, 0]), {}, InputError, "labels"),
    "no images": (idx(GREY[:0]), {}, EmptyInput, "no images"),
    "no pixels": (npy(GREY[:, :0]), {}, EmptyInput, "no images"),
    "a huge header": (struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3), {}, InputError, "cut off"),
    "floats": (npy(GREY / 255), {}, InputError, "float64 values, and images are levels"),
    "whole floats": (npy(GREY.astype(np.float32)), {}, InputError, "float32"),
    "negative": (npy(GREY.astype(np.int16) - 1), {}, InputError, "from -1 to"),
    "16 bits": (npy(GREY.astype(np.uint16) * 100), {}, InputError, "256 levels are 0 to 255"),
    "objects": (npy(np.array([[1, None]], dtype=object), allow_pickle=True), {}, InputError, "Python objects"),
    "cut npy": (npy(GREY)[:-5], {}, InputError, r"cut off: \[7, 4, 5\] need 140 bytes, and 135 follow"),
    "many axes": (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\5", {}, InputError, "255 axes"),
    "cut npy header": (npy(GREY)[:30], {}, InputError, "damaged .npy"),
    "a number": (npy(np.array(3)), {}, InputError, "not images"),
    "npz without key": (npz(train=GREY, test=GREY), {}, InputError, r"2 arrays \(train, test\): name one"),
    "npz, wrong key": (npz(train=GREY), {"key": "test"}, InputError, "no array 'test': it has train"),
    "npz of floats": (npz(train=GREY / 255), {}, InputError, "float64"),
    "cut npz": (npz(train=GREY)[:-40], {}, InputError, "damaged .npz"),
    "png without shape": (sheet(GREY), {}, InputError, "say the shape"),
    "png, wrong shape": (sheet(GREY), {"shape": (4, 4)}, InputError, "20 L pixels a row"),
    "grey png as colour": (sheet(GREY), {"shape": (4, 5, 3)}, InputError, "no image of shape"),
    "colour png as grey": (sheet(COLOUR), {"shape": (4, 5)}, InputError, r"\[height, width, 3\]"),
    "png with alpha": (sheet(COLOUR, "RGBA"), {"shape": (4, 5, 3)}, InputError, "mode RGBA"),
    "png of a palette": (sheet(GREY, "P"), {"shape": (4, 5)}, InputError, "mode P"),
    "cut png": (sheet(GREY)[:70], {"shape": (4, 5)}, InputError, "damaged .png"),
    "other shape": (npy(GREY), {"shape": (5, 5)}, InputError, r"shape \[4, 5\], and shape \[5, 5\]"),
    "shape of words": (npy(GREY), {"shape": ("4", 5)}, InputError, "whole numbers"),
    "a split": (npy(GREY), {"split": "test"}, InputError, "no splits"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_cannot_be_read_is_said_in_one_line(fault: str, tmp_path: Path):
    content, arguments, kind, expected = WRONG[fault]
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(kind, match=expected) as caught:
        read_images(tmp_path / "file", **arguments)
    assert type(caught.value) is kind and "\n" not in str(caught.value) and "file" in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.npy", "a\0b", "x" * 5000, ".", "new\nline"])
def test_what_is_not_there_is_said_in_one_line(name: str):
    with pytest.raises(InputNotFound) as caught:
        read_images(name, data_dir="/nonexistent")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@given(
    st.sampled_from(sorted(FILES)), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4), st.data()
)
def test_damage_never_ends_in_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[int, int]], data: st.DataObject
):
    content, arguments = FILES[kind]
    damaged = bytearray(content)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    kept = data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(bytes(damaged[:kept]))
    try:
        found = read_images(path, **arguments)
        assert found.x.dtype == torch.uint8
    except LmevalError as error:
        assert "\n" not in str(error)


def test_binarised_images_are_draws_of_their_grey_levels():
    images = image_set(torch.arange(256, dtype=torch.uint8).repeat(4000, 1), (256,), Tags(256), "ramp")
    ones = binarise(images, seed=5)
    assert ones.tags == Tags(2, "sampled", seed=5) and set(ones.x.unique().tolist()) == {0, 1}
    share = ones.x.double().mean(0)
    probability = torch.arange(256) / 255
    assert ((share - probability).abs() <= 5 * (probability * (1 - probability) / 4000).sqrt()).all()  # 0 and 255 exactly


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-24])
def test_black_stays_black_and_white_white_whatever_is_drawn(draw: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "rand", lambda shape, generator: torch.full(shape, draw))
    images = image_set(torch.tensor([[0, 255]], dtype=torch.uint8), (2,), Tags(256), "extremes")
    assert binarise(images).x.tolist() == [[0, 1]]


def test_binarisation_depends_on_seed_and_set_alone():
    images = grey_set()
    before = torch.random.get_rng_state()
    assert binarise(images, 1).sha256 == binarise(images, 1).sha256 != binarise(images, 2).sha256
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(limited(binarise(images, 1), 10).x, binarise(images, 1).x[:10])


def test_binarise_before_taking_a_part():
    with pytest.raises(InputError, match="binarise all 50 images first, then take 10"):
        binarise(limited(grey_set(), 10))
    assert threshold(limited(grey_set(), 10)).n_source == 50


def test_nothing_is_binarised_twice():
    for once in (
        binarise(grey_set()),
        threshold(grey_set()),
        image_set(torch.ones(2, 3).byte(), (3,), Tags(2, "static"), "s"),
    ):
        for again in (binarise, threshold):
            with pytest.raises(InputError, match="binary already"):
                again(once)


@pytest.mark.parametrize(("levels", "at"), [(256, 128), (17, 9), (3, 2)])
def test_the_default_threshold_is_more_than_half(levels: int, at: int):
    images = grey_set(levels)
    found = threshold(images)
    assert found.tags == Tags(2, "threshold", at=at)
    assert torch.equal(found.x.bool(), images.x / (levels - 1) > 0.5)


@pytest.mark.parametrize("at", [0, -1, 256])
def test_a_threshold_tells_something_apart(at: int):
    with pytest.raises(InputError, match="tells nothing apart"):
        threshold(grey_set(), at)


def test_mnist_is_binarised_as_the_anchor_was():
    path = shared(MNIST_TEST)
    found = binarise(read_images(path), seed=0)
    assert int(found.x.sum()) == 1_038_635
    packed = hashlib.sha256(np.packbits(found.x.numpy(), axis=1).tobytes()).hexdigest()
    assert packed == "90bfcb1e870be9fb315a152fabfd4759b3171dd6b7ef4d15573353aa13307193"


def test_cifar_is_read_as_it_was_packed():
    path = shared("images/cifar10/cifar10_test_first1000.png")
    found = read_images(path, (32, 32, 3))
    assert (len(found), found.n_dims) == (1000, 3072)
    neighbours = found.x.double().view(1000, 32, 32, 3)  # an image is smooth along both of its axes
    across, down = (neighbours.diff(dim=axis).abs().mean() for axis in (2, 1))
    assert across < 20 and down < 20  # of pixels in another order it is above 40


def test_limits():
    images = grey_set()
    assert limited(images, None) is images and limited(images, 99) is images
    assert len(limited(images, 3)) == 3 and limited(images, 3).sha256 != images.sha256
    for limit in (0, -1):
        with pytest.raises(InputError, match="limit"):
            limited(images, limit)


@pytest.mark.parametrize(
    ("x", "shape", "tags", "expected"),
    [
        (torch.zeros(2, 3), (3,), Tags(256), "uint8"),
        (torch.zeros(2, 3, 3).byte(), (3, 3), Tags(256), "uint8 tensor"),
        (torch.zeros(2, 3).byte(), (2, 2), Tags(256), "4 numbers, and these have 3"),
        (torch.full((2, 3), 2).byte(), (3,), Tags(2, "static"), "holds the value 2, and 2 levels are 0 to 1"),
    ],
)
def test_sets_are_checked(x: Any, shape: tuple[int, ...], tags: Tags, expected: str):
    with pytest.raises(InputError, match=expected):
        image_set(x, shape, tags, "set")


def test_an_npz_that_asks_for_too_much_memory_is_refused(tmp_path: Path):
    header = npy(GREY).replace(b"(7, 4, 5)", b"(1000000000000000, 4, 5)")
    with zipfile.ZipFile(tmp_path / "bomb", "w") as archive:
        archive.writestr("a.npy", header)
    with pytest.raises(InputError):
        read_images(tmp_path / "bomb")
