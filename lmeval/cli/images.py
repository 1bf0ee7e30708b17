"""`lmeval images`: sets of images as files that other commands take, with every choice on record."""

import io
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmeval import results
from lmeval.cli.shared import check_new, check_outputs, data_dir_option, force_option, json_option, loading, print_report
from lmeval.errors import InputError
from lmeval.results import Measurement, Report

if TYPE_CHECKING:
    from lmeval.data.images import ImageSet


@click.command("images")
@click.argument("source", metavar="SOURCE")
@click.option("--output", "-o", type=click.Path(path_type=Path), required=True, help="The .npy file to write.")
@click.option(
    "--binarise",
    "seed",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="Sample every pixel, 1 with probability level/max.",
)
@click.option(
    "--threshold", "at", type=click.IntRange(min=1), metavar="LEVEL", help="1 where a pixel has at least this level."
)
@click.option("--limit", type=click.IntRange(min=1), help="The first N images only (binarised as part of all).")
@click.option("--split", type=click.Choice(["train", "test"]), help="Of the set 'digits'.")
@click.option("--shape", help="Of an image, as 28x28 or 32x32x3: a .png sheet needs it.")
@data_dir_option
@json_option
@force_option
def images_command(
    source: str,
    output: Path,
    seed: int | None,
    at: int | None,
    limit: int | None,
    split: str | None,
    shape: str | None,
    data_dir: Path | None,
    json_path: Path | None,
    force: bool,
) -> None:
    """Write a set of images as a .npy file of bytes.

    SOURCE is a file of images (.npy, .npz, idx, gzipped idx, a .png sheet with one image a row) or 'digits'. --binarise and
    --threshold make binary images, once, of grey ones.
    """
    if seed is not None and at is not None:
        raise InputError("--binarise and --threshold exclude each other: a binary set is made in one way")
    if output.suffix != ".npy":
        raise InputError(f"{output} does not end in .npy: images are written in NumPy's format")
    check_new(output, force=force)
    with loading("PyTorch"):
        import numpy as np

        from lmeval.data.images import binarise, find_file, limited, read_images, threshold
    inputs = () if source == "digits" else (str(find_file(source, data_dir)),)
    check_outputs([output, json_path], inputs)
    began = time.perf_counter()
    images = read_images(source, _sizes(shape), data_dir, split)
    if seed is not None:
        images = binarise(images, seed)
    if at is not None:
        images = threshold(images, at)
    images = limited(images, limit)
    content = io.BytesIO()
    np.save(content, images.x.numpy().reshape(len(images), *images.shape))
    with results.atomic_binary_writer(output) as out:
        out.write(content.getvalue())
    settings = {"binarise": seed, "threshold": at, "limit": limit, "split": split, "shape": shape}
    print_report(_report(images, output, source, settings, time.perf_counter() - began), json_path)


def _report(images: "ImageSet", output: Path, source: str, settings: dict[str, Any], seconds: float) -> Report:
    """A report of kind "images": what the set is that was written, and its mean level."""
    of = {"file": str(output)}
    ledger = {
        "file": str(output),
        "n_images": len(images),
        "n_source": images.n_source,
        "shape": list(images.shape),
        "tags": asdict(images.tags),
        "space": images.tags.describe(),
        "sha256": images.sha256,
    }
    provenance = results.provenance("images", inputs={"images": {"source": source}}, settings=settings, seconds=seconds)
    mean = Measurement("mean_level", images.mean_level, "levels", "exact", n=len(images), of=of)
    return Report("images", (mean,), ledger=ledger, provenance=provenance)


def _sizes(shape: str | None) -> tuple[int, ...] | None:
    if shape is None:
        return None
    sizes = shape.split("x")
    if not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(f"shape '{shape}' is not of whole numbers such as 28x28 or 32x32x3")
    return tuple(int(size) for size in sizes)
