"""`lmeval benchmark`: language models and scorers of others beside general-purpose compressors."""

from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
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
    limit_option,
    loading,
    one_process,
    print_report,
    run_options,
)
from lmeval.errors import EmptyInput, ModelError


@click.command("benchmark")
@click.argument("paths", nargs=-1, metavar="PATH...")
@click.option(
    "--model",
    "-m",
    "names",
    multiple=True,
    callback=known_model,
    help="As for compress; may be given several times.  [default: bundled, or none with --scorer]",
)
@click.option(
    "--scorer",
    "scorers",
    multiple=True,
    metavar="MODULE:FUNCTION",
    help="A Python function that claims the probabilities of what comes next; may be given several times. They are checked, "
    "and coded into a file that is decoded.",
)
@click.option(
    "--adapt",
    "levels",
    type=click.Choice(compression.LEVELS),
    multiple=True,
    help="Levels of online models after each model; may be given several times.  [default: none and full]",
)
@limit_option("Compress the first N bytes of every file only.")
@lanes_option
@lanes_per_pass_option
@dtype_option
@run_options
def benchmark_command(
    paths: tuple[str, ...],
    names: tuple[str, ...],
    scorers: tuple[str, ...],
    levels: tuple[str, ...],
    limit: int | None,
    lanes: int | None,
    lanes_per_pass: int | None,
    dtype: str,
    options: RunOptions,
) -> None:
    """Language models beside gzip, bzip2, xz, zstd, brotli and ppmd: size, speed, and proof by decoding.

    --scorer takes any program at its word. What does not sum to one, or depends on what comes later, gets no score but the
    reason. The status is 1 if all that was asked for is refused.

    For corpora that are known by their checksum (enwik8 and its test megabyte, enwik9, alice29, book1), published results
    follow.
    """
    if not paths:
        raise EmptyInput("no file given: name one or more files to compress")
    check_outputs(options.outputs, paths)
    corpora = list(_corpora(paths, limit))
    with loading(f"scorer {', '.join(scorers)}") if scorers else nullcontext():
        programs = [compression.as_scorer(scorer) for scorer in scorers]
    names = names or (() if scorers else ("bundled",))
    with loading(f"model {', '.join(names)}" if names else "libraries"):
        place = one_process(options.device, options.memory)
        loaded = [models.load_model(name, device=place.device, dtype=dtype) for name in names]
        settings = compression.CompressSettings(lanes=lanes, lanes_per_pass=lanes_per_pass)
    with drawn_progress() as progress:
        report = compression.benchmark(
            corpora,
            loaded,
            settings,
            levels=levels or ("none", "full"),
            scorers=programs,
            place=place,
            progress=progress,
        )
    print_report(report, options.json_path, options.records_path)
    refused = report.ledger["refused"]
    if not names and len(refused) == len(corpora) * len(scorers):
        first = refused[0]
        raise ModelError(
            f"nothing that was asked for has a score: on {first['corpus']}, {first['compressor']} {first['reason']}"
        )


def _corpora(paths: tuple[str, ...], limit: int | None) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of files, cut to `limit` bytes. A name is the file's own, where two have the same their paths; that
    of a file that was cut says so: "enwik8[:1000]"."""
    names = Counter(Path(path).name for path in paths)
    for path in paths:
        name = Path(path).name if names[Path(path).name] == 1 else path
        with input_bytes(path) as data:
            yield (f"{name}[:{limit}]" if limit and limit < len(data) else name), bytes(data[:limit])
