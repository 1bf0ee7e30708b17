"""Sets of images: levels 0 .. L-1 from files, and what was done to them, so that numbers on different data stay apart.

Files: idx (MNIST's), gzipped or not, .npy, .npz, and .png sheets with one image a row; and "digits", the 8x8 digits of
scikit-learn. What a file is is read from its first bytes. An image is a row of D = height * width (* channels) levels,
channels last.
"""

import gzip
import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from lmeval.data.image_headers import IDX, NPY, Array, array_of, as_levels, read_header
from lmeval.data.locate import find_in
from lmeval.data.tags import Tags
from lmeval.errors import EmptyInput, InputError, InputNotFound, first_line
from lmeval.messages import shown

DIGITS = "digits"
DIGITS_TRAIN = 1437  # of scikit-learn's 1797 digits; the other 360 are the test set
KINDS = "idx (gzipped or not), .npy, .npz, or a .png sheet with one image a row"


@dataclass(frozen=True)
class ImageSet:
    """Images as levels. `image_set` makes one, with its checks.

    `shape` is that of one image, `sha256` the hash of the bytes of `x`, `n_source` the number of images in the source.
    """

    x: UInt8[Tensor, "n dims"]
    shape: tuple[int, ...]
    tags: Tags
    name: str
    sha256: str
    n_source: int

    def __len__(self) -> int:
        """Number of images."""
        return len(self.x)

    @property
    def levels(self) -> int:
        """Number of values of a pixel."""
        return self.tags.levels

    @property
    def n_dims(self) -> int:
        """Numbers in an image: what bits a dimension are counted over."""
        return self.x.shape[1]

    @property
    def mean_level(self) -> float:
        """Mean over all pixels of all images."""
        return int(self.x.sum()) / self.x.numel()


def image_set(
    x: UInt8[Tensor, "n dims"], shape: Sequence[int], tags: Tags, name: str, n_source: int | None = None
) -> ImageSet:
    """A set of images from levels that lie in memory.

    Args:
        x: Levels, whole numbers from 0 to tags.levels - 1, as uint8 [n, dims].
        shape: Of one image, such as (28, 28) or (32, 32, 3); its product is dims.
        tags: The space that the levels lie in.
        name: What messages and tables call the set.
        n_source: How many images the source has; None for those of x.

    Returns:
        The set, with the SHA-256 of the levels.

    Raises:
        EmptyInput: x holds no images.
        InputError: x is no uint8 tensor of two dimensions, does not fit the shape, or holds a value that is no level.
    """
    if x.ndim != 2 or x.dtype != torch.uint8:
        raise InputError(f"{name}: images must be a uint8 tensor [n, dims], not {x.dtype} {list(x.shape)}")
    if x.numel() == 0:
        raise EmptyInput(f"{name} holds no images")
    if math.prod(shape) != x.shape[1]:
        raise InputError(
            f"{name}: an image of shape {list(shape)} has {math.prod(shape)} numbers, and these have {x.shape[1]}"
        )
    if int(x.max()) >= tags.levels:
        raise InputError(f"{name} holds the value {int(x.max())}, and {tags.levels} levels are 0 to {tags.levels - 1}")
    x = x.contiguous()
    digest = hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest()
    return ImageSet(x, tuple(int(size) for size in shape), tags, name, digest, len(x) if n_source is None else n_source)


def limited(images: ImageSet, limit: int | None) -> ImageSet:
    """The first images of a set, which keeps the number of its source.

    Args:
        images: The set.
        limit: How many to keep, at least 1; None, or more than there are, keeps all.

    Returns:
        A set of min(limit, n) images.

    Raises:
        InputError: The limit is below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}: at least one image is needed")
    if limit is None or limit >= len(images):
        return images
    return image_set(images.x[:limit], images.shape, images.tags, images.name, images.n_source)


def binarise(images: ImageSet, seed: int = 0) -> ImageSet:
    """Sample a binary image from every grey one, once: x = 1 with probability level / (levels - 1), independently.

    The draws are torch.rand(n, dims, generator=torch.Generator().manual_seed(seed)) in float32 for the whole set, compared
    with float32 levels divided by levels - 1: equal seeds give equal images wherever torch does.

    Args:
        images: All grey images of their source.
        seed: Of the draws.

    Returns:
        A set of the same shape with 2 levels, tagged "sampled" with the seed.

    Raises:
        InputError: The images are binary, or a part of their source, whose draws would not be those of the whole.
    """
    _refuse_binary(images, "binarise")
    if len(images) != images.n_source:
        raise InputError(
            f"{images.name}: binarise all {images.n_source:,} images first, then take {len(images):,}: "
            "the draws of a part are not those of the whole"
        )
    generator = torch.Generator().manual_seed(seed)
    ones = torch.rand(images.x.shape, generator=generator) < images.x.float() / (images.levels - 1)
    return image_set(ones.to(torch.uint8), images.shape, Tags(2, "sampled", seed=seed), images.name)


def threshold(images: ImageSet, at: int | None = None) -> ImageSet:
    """Binary images: x = 1 where the level is at least `at`; by default where level / (levels - 1) exceeds one half.

    Args:
        images: Grey images.
        at: The least level that becomes 1, from 1 to levels - 1.

    Returns:
        A set of the same shape with 2 levels, tagged "threshold" with the level.

    Raises:
        InputError: The images are binary, or `at` would make every level a 0 or every level a 1.
    """
    _refuse_binary(images, "threshold")
    at = (images.levels - 1) // 2 + 1 if at is None else at
    if not 1 <= at < images.levels:
        raise InputError(
            f"{images.name}: a threshold of {at} tells nothing apart: give a level from 1 to {images.levels - 1}"
        )
    ones = (images.x >= at).to(torch.uint8)
    return image_set(ones, images.shape, Tags(2, "threshold", at=at), images.name, images.n_source)


def _refuse_binary(images: ImageSet, verb: str) -> None:
    if images.levels == 2:
        raise InputError(f"{images.name} is binary already ({images.tags.describe()}): {verb} grey images, and only once")


def read_images(
    source: str | Path,
    shape: Sequence[int] | None = None,
    data_dir: str | Path | None = None,
    split: str | None = None,
    *,
    key: str | None = None,
    levels: int | None = None,
) -> ImageSet:
    """Read a set of images.

    Args:
        source: A file, looked for from the working folder and then in `data_dir`; or "digits".
        shape: Of one image, [height, width] or [height, width, channels]. Needed for PNG sheets, and where it is not the
            file's own.
        data_dir: Where else the file may lie.
        split: "train" or "test", for "digits" alone.
        key: Which array of an .npz file; needed where it holds several.
        levels: How many values a pixel can take, 2 to 256. None: 2 for a file of zeros and ones, else 256.

    Returns:
        The set [n, dims]; one of 2 levels is tagged "static".

    Raises:
        InputNotFound: There is no such file.
        EmptyInput: The file holds no images.
        InputError: The file cannot be read, is damaged or of another kind, or does not fit shape, split, key or levels.
    """
    if str(source) == DIGITS:
        return _digits(split)
    if split is not None:
        raise InputError(f"{source} has no splits (only {DIGITS!r} has): name the file of the split {split!r}")
    if shape is not None and not (shape and all(isinstance(size, int) and size > 0 for size in shape)):
        raise InputError(f"shape of {source} is {shape}: give whole numbers such as [28, 28] or [32, 32, 3]")
    path = find_file(source, data_dir)
    name = shown(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or first_line(error)}") from error
    array, own_shape = _read(content, name, None if shape is None else tuple(shape), key)
    values = as_levels(array, name, levels)
    if levels is None:
        levels = 2 if len(values) and int(values.max()) <= 1 else 256
    tags = Tags(levels, "static" if levels == 2 else None)
    return image_set(torch.from_numpy(values), own_shape if shape is None else shape, tags, shown(source))


def find_file(source: str | Path, data_dir: str | Path | None = None) -> Path:
    """The file `source`, from the working folder or else from `data_dir`. Raises InputNotFound."""
    path = find_in([Path(), data_dir], source, Path.is_file)
    if path is not None:
        return path
    name = f"{shown(source):.100}"
    if find_in([Path(), data_dir], source, Path.is_dir):
        raise InputNotFound(f"{name} is a folder: name a file of images, {KINDS}")
    where = "" if data_dir is None else f" here or in {data_dir}"
    raise InputNotFound(f"no file {name}{where}: name a file of images ({KINDS}), or {DIGITS!r}")


def _digits(split: str | None) -> ImageSet:
    if split not in ("train", "test"):
        told = "none" if split is None else repr(split)
        raise InputError(f"{DIGITS} has the splits train ({DIGITS_TRAIN}) and test (360), and {told} was named: name one")
    from sklearn.datasets import load_digits

    x = torch.from_numpy(np.asarray(load_digits().data).astype(np.uint8))  # pyright: ignore[reportAttributeAccessIssue]
    part = x[:DIGITS_TRAIN] if split == "train" else x[DIGITS_TRAIN:]
    return image_set(part, (8, 8), Tags(17), f"{DIGITS} {split}")


def _read(content: bytes, name: str, shape: tuple[int, ...] | None, key: str | None) -> tuple[Array, tuple[int, ...]]:
    """The array [n, dims] of a file, and the shape of one image."""
    if not content:
        raise EmptyInput(f"{name} is empty (0 bytes): name a file of images")
    if content[:2] == b"\x1f\x8b":
        content = _unzipped(content, name)
    if content[:4] == b"PK\x03\x04":
        array = _from_npz(content, name, key)
    elif content[:8] == b"\x89PNG\r\n\x1a\n":
        array = _from_sheet(content, name, shape)
    elif content.startswith((NPY, b"\0\0")):
        array = _from_array_file(content, name)
    else:
        lossy = " (a JPEG is lossy: its likelihood is not the images')" if content[:3] == b"\xff\xd8\xff" else ""
        raise InputError(f"{name} is no file of images{lossy}: it begins with {content[:4].hex()}; give {KINDS}")
    if array.ndim < 2:
        raise InputError(f"{name} holds {list(array.shape)} numbers, not images [n, height, width]: is it a file of labels?")
    if array.size == 0:
        raise EmptyInput(f"{name} holds no images: its shape is {list(array.shape)}")
    own = tuple(array.shape[1:])
    if shape is not None and math.prod(shape) != math.prod(own):
        raise InputError(f"{name} has images of shape {list(own)}, and shape {list(shape)} was asked for")
    return array.reshape(len(array), -1), own


def _unzipped(content: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(content)
    except EOFError as error:
        raise InputError(f"{name} is cut off: its gzip stream ends early; get it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{name} is a damaged gzip file ({first_line(error)}): get it again") from error


def _from_array_file(content: bytes, name: str) -> Array:
    header = read_header(content, name)
    if header is None:
        raise InputError(f"{name} is no idx file of bytes: it begins with {content[:4].hex()}, not 000008; give {KINDS}")
    if content.startswith(IDX) and header.stop < len(content):
        raise InputError(
            f"{name} is longer than its header says: {list(header.shape)} need {header.stop - header.first:,} bytes, and "
            f"{len(content) - header.first:,} follow; get it again"
        )
    return array_of(content, header)


def _from_npz(content: bytes, name: str, key: str | None) -> Array:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [member.removesuffix(".npy") for member in archive.namelist() if member.endswith(".npy")]
            if key is None and len(names) != 1:
                raise InputError(f"{name} holds {len(names)} arrays ({', '.join(names)}): name one as key")
            key = names[0] if key is None else key
            if key not in names:
                raise InputError(f"{name} has no array {key!r}: it has {', '.join(names)}")
            return _from_array_file(archive.read(f"{key}.npy"), name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError(f"{name} is a damaged .npz file ({first_line(error):.150}): get it again") from error


def _from_sheet(content: bytes, name: str, shape: tuple[int, ...] | None) -> Array:
    from PIL import Image

    if shape is None:
        raise InputError(f"{name} is a sheet with one image a row: say the shape of an image, e.g. [28, 28] or [32, 32, 3]")
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as sheet:
            mode, pixels = sheet.mode, np.asarray(sheet)
    except (OSError, SyntaxError, ValueError, zlib.error, struct.error, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is a damaged .png file: {first_line(error):.150}") from error
    channels = {"1": 1, "L": 1, "RGB": 3}.get(mode)
    if channels is None:
        raise InputError(f"{name} has pixels of mode {mode}, and a sheet has 8-bit grey (L), RGB or black and white ones")
    wanted = tuple(shape) if channels == 1 else tuple(shape[:2])
    if (channels > 1 and (len(shape) != 3 or shape[2] != channels)) or math.prod(wanted) != pixels.shape[1]:
        raise InputError(
            f"{name} has {pixels.shape[1]} {mode} pixels a row, which are no image of shape {list(shape)}: "
            "a row is height * width pixels, and RGB images have shape [height, width, 3]"
        )
    return pixels.reshape(len(pixels), *shape)
