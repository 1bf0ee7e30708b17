"""`lmeval benchmark`: language models beside general-purpose compressors."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from lmeval import compression, models
from lmeval.cli.progress import drawn_progress
from lmeval.cli.shared import (
    RunOptions,
    check_outputs,
    dtype_option,
    input_bytes,
    known_model,
    lanes_option,
    lanes_per_pass_option,
    loading,
    one_process,
    print_report,
    run_options,
)
from lmeval.errors import EmptyInput


@click.command("benchmark")
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option(
    "--model",
    "-m",
    "names",
    multiple=True,
    callback=known_model,
    help="As for compress; may be given several times.  [default: bundled]",
)
@click.option(
    "--adapt",
    "levels",
    type=click.Choice(compression.LEVELS),
    multiple=True,
    help="Levels of online models after each model; may be given several times.  [default: none and full]",
)
@lanes_option
@lanes_per_pass_option
@dtype_option
@run_options
def benchmark_command(
    paths: tuple[str, ...],
    names: tuple[str, ...],
    levels: tuple[str, ...],
    lanes: int | None,
    lanes_per_pass: int | None,
    dtype: str,
    options: RunOptions,
) -> None:
    """Language models beside gzip, bzip2, xz, zstd, brotli and ppmd: size, speed, and proof by decoding.

    For corpora that are known by their checksum (enwik8, enwik9, alice29, book1), results that others have published follow.
    """
    if not paths:
        raise EmptyInput("no file given: name one or more files to compress")
    check_outputs(options.outputs, paths)
    corpora = list(_corpora(paths))
    names = names or ("bundled",)
    with loading(f"model {', '.join(names)}"):
        place = one_process(options.device, options.memory)
        loaded = [models.load_model(name, device=place.device, dtype=dtype) for name in names]
        settings = compression.CompressSettings(lanes=lanes, lanes_per_pass=lanes_per_pass)
    with drawn_progress() as progress:
        report = compression.benchmark(
            corpora, loaded, settings, levels=levels or ("none", "full"), place=place, progress=progress
        )
    print_report(report, options.json_path, options.records_path)


def _corpora(paths: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of files. A name is the file's own, where two have the same their paths."""
    names = Counter(Path(path).name for path in paths)
    for path in paths:
        with input_bytes(path) as data:
            yield (Path(path).name if names[Path(path).name] == 1 else path), bytes(data)
