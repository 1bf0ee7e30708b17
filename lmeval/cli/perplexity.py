"""`lmeval perplexity`."""

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import IO, NamedTuple

import click

from lmeval import compression, models, results
from lmeval.cli.progress import drawn_progress
from lmeval.cli.shared import (
    BatchSize,
    RunOptions,
    check_outputs,
    corpus_of,
    dtype_option,
    limit_option,
    loading,
    mapped,
    model_option,
    print_report,
    run_options,
    seed_option,
    task_inputs,
)
from lmeval.compute.gather import as_place, disconnect
from lmeval.compute.place import Place
from lmeval.data.documents import Corpus, DataSource, Document, begun, first_documents
from lmeval.errors import InputError
from lmeval.progress import Progress
from lmeval.report.views.perplexity import withheld_notice


@click.command("perplexity")
@click.argument("paths", nargs=-1, metavar="PATH...")
@model_option
@click.option("--context", type=click.IntRange(min=1), help="Input tokens of a window.  [default: all the model takes]")
@click.option("--stride", type=click.IntRange(min=1), help="Tokens scored by each window.  [default: the context]")
@click.option(
    "--bos",
    type=click.Choice(["auto", "window", "document", "none"]),
    default="auto",
    show_default=True,
    help="Where BOS stands, once and unscored: at every window, at document starts, nowhere. auto: at every window, but at "
    "document starts where stride = context, which is lm-evaluation-harness's rolling windows.",
)
@click.option("--batch-size", type=BatchSize(), default=None, help="Windows at once.  [default: auto]")
@click.option("--text-column", metavar="NAME", help="Read PATHs as tables (JSON lines, CSV, parquet), a row a document.")
@click.option("--dataset", metavar="ID", help="Score a data set: a hub id or a folder; needs --text-column.")
@click.option("--dataset-name", metavar="NAME", help="Configuration of the data set.")
@click.option("--split", default="test", show_default=True, help="Split of the data set.")
@click.option(
    "--adapt",
    type=click.Choice(compression.LEVELS[1:]),
    help="Also the code length that `compress --adapt` reaches on every document, by the model and online models.",
)
@dtype_option
@seed_option("Seed of the block bootstrap.")
@limit_option("Score the first N documents only.")
@run_options
def perplexity_command(
    paths: tuple[str, ...],
    model: str,
    context: int | None,
    stride: int | None,
    bos: str,
    batch_size: int | None,
    text_column: str | None,
    dataset: str | None,
    dataset_name: str | None,
    split: str,
    adapt: str | None,
    dtype: str,
    seed: int,
    limit: int | None,
    options: RunOptions,
) -> None:
    """Perplexity and bits per byte of a model on text.

    PATH is a file, a folder, a glob, '-' for standard input, a task file (YAML), or the name of one in tasks/.
    """
    check_outputs(options.outputs, (*paths, *task_inputs(paths)))
    source = DataSource(dataset, dataset_name, split) if dataset else None
    corpus = begun(first_documents(corpus_of(paths, text_column, source), limit))
    with loading(f"model {model}"):
        from lmeval.perplexity import PerplexitySettings, perplexity

        place = as_place(options.device, options.memory)
    if adapt and place.size > 1:
        raise InputError(f"--adapt is for one process, not for {place.size}: start lmeval without a launcher")
    with loading(f"model {model}"):
        loaded = models.load_model(model, device=place.device, dtype=dtype)
        coded = compression.of_library(loaded) if adapt else None
    settings = PerplexitySettings(context, stride, bos, batch_size, seed)
    with ExitStack() as stack:
        kept = _Kept(stack.enter_context(tempfile.TemporaryFile()), []) if adapt else None
        progress = stack.enter_context(drawn_progress(show=place.is_first))
        text = _keeping(corpus, kept) if kept else corpus
        report = perplexity(loaded, text, settings, place=place, progress=progress, records=options.records_path)
        if adapt and kept and coded:
            report = _with_adapted(report, coded, kept, adapt, place, progress)
    if place.is_first:
        print_report(report, options.json_path)
        if notice := withheld_notice(report):
            click.echo(f"lmeval: {notice}", err=True)
    disconnect(place)


class _Kept(NamedTuple):
    """The text that was scored, all documents end to end, and their lengths in bytes: a pipe can be read once."""

    spool: IO[bytes]
    lengths: list[int]


def _keeping(corpus: Corpus, kept: _Kept) -> Corpus:
    """The same corpus, whose text is written down while it is read."""

    def copied(document: Document) -> Document:
        i = len(kept.lengths)
        kept.lengths.append(0)

        def pieces() -> Iterator[str]:
            for piece in document.pieces:
                kept.lengths[i] += kept.spool.write(piece.encode())
                yield piece

        return Document(document.name, pieces())

    return replace(corpus, documents=map(copied, corpus.documents))


def _with_adapted(
    report: results.Report, model: "compression.TextModel", kept: _Kept, level: str, place: Place, progress: Progress
) -> results.Report:
    """The report with the code length of the same documents under the model and its online models."""
    kept.spool.flush()
    stops = itertools.accumulate(kept.lengths)
    with mapped(kept.spool) as text:
        texts = [text[stop - n : stop] for stop, n in zip(stops, kept.lengths, strict=True)]
        measured, ledger = compression.measure_adapted(texts, model, level, place=place, progress=progress)
    of = report.results[0].of
    added = measured._replace(of=of)
    return replace(report, results=(*report.results, added), ledger={**report.ledger, "adapted": ledger})
