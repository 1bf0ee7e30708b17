"""`lmeval benchmark`: language models beside general-purpose compressors."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from lmeval import compression, models
from lmeval.cli.progress import drawn_progress
from lmeval.cli.shared import (
    STDOUT,
    check_outputs,
    device_option,
    dtype_option,
    input_bytes,
    json_option,
    known_model,
    lanes_option,
    lanes_per_pass_option,
    loading,
    memory_option,
    one_process,
    records_option,
    write_report,
)
from lmeval.errors import EmptyInput
from lmeval.report.terminal import print_blocks
from lmeval.report.views import view


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
@device_option
@memory_option
@dtype_option
@json_option
@records_option
def benchmark_command(
    paths: tuple[str, ...],
    names: tuple[str, ...],
    levels: tuple[str, ...],
    lanes: int | None,
    lanes_per_pass: int | None,
    device: str,
    memory: int | None,
    dtype: str,
    json_path: Path | None,
    records_path: Path | None,
) -> None:
    """Language models beside gzip, bzip2, xz, zstd, brotli and ppmd: size, speed, and proof by decoding.

    For corpora that are known by their checksum (enwik8, enwik9, alice29, book1), results that others have published follow.
    """
    if not paths:
        raise EmptyInput("no file given: name one or more files to compress")
    check_outputs([path for path in (json_path, records_path) if path], paths)
    corpora = list(_corpora(paths))
    names = names or ("bundled",)
    with loading(f"model {', '.join(names)}"):
        place = one_process(device, memory)
        loaded = [models.load_model(name, device=place.device, dtype=dtype) for name in names]
        settings = compression.CompressSettings(lanes=lanes, lanes_per_pass=lanes_per_pass)
    with drawn_progress() as progress:
        report = compression.benchmark(
            corpora, loaded, settings, levels=levels or ("none", "full"), place=place, progress=progress
        )
    print_blocks(view(report), to_stderr=json_path == STDOUT)
    write_report(report, json_path, records_path)


def _corpora(paths: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of files. A name is the file's own, where two have the same their paths."""
    names = Counter(Path(path).name for path in paths)
    for path in paths:
        with input_bytes(path) as data:
            yield (Path(path).name if names[Path(path).name] == 1 else path), bytes(data)
