"""`lmeval benchmark`: language models beside general-purpose compressors."""

from pathlib import Path

import click

from lmeval import compression, report, results
from lmeval.cli.shared import (
    check_outputs,
    device_option,
    dtype_option,
    input_bytes,
    json_option,
    labelled_progress,
    lanes_option,
    lanes_per_pass_option,
    one_process,
    print_table,
)
from lmeval.compression import CompressSettings
from lmeval.errors import EmptyInput
from lmeval.models import load_model


@click.command("benchmark")
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option(
    "--model", "-m", "models", multiple=True, help="As for compress; may be given several times.  [default: bundled]"
)
@click.option(
    "--adapt",
    "levels",
    type=click.Choice(compression.LEVELS),
    multiple=True,
    help="Levels of online models behind each model; may be given several times.  [default: none and full]",
)
@lanes_option
@lanes_per_pass_option
@device_option
@dtype_option
@json_option
def benchmark_command(
    paths: tuple[str, ...],
    models: tuple[str, ...],
    levels: tuple[str, ...],
    lanes: int | None,
    lanes_per_pass: int | None,
    device: str,
    dtype: str,
    json_path: Path | None,
) -> None:
    """Language models beside gzip, bzip2, xz, zstd, brotli and ppmd: size, speed, and proof by decoding.

    For corpora that are known by their checksum (enwik8, enwik9, alice29, book1), results that others have published follow.
    """
    if not paths:
        raise EmptyInput("no file given: name one or more files to compress")
    if json_path:
        check_outputs([json_path], paths)
    corpora = []
    for path in paths:
        with input_bytes(path) as data:
            corpora.append((Path(path).name, bytes(data)))
    place = one_process(device)
    loaded = [load_model(model, device=place.device, dtype=dtype) for model in models or ("bundled",)]
    settings = CompressSettings(lanes=lanes, lanes_per_pass=lanes_per_pass)
    with labelled_progress("benchmark", None, show=True) as on_progress:
        found = compression.benchmark(corpora, loaded, settings, on_progress, levels=levels or ("none", "full"))
    print_table(report.benchmark_table(found))
    if json_path:
        results.write_json(found, json_path)
