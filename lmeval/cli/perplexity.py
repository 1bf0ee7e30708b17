"""`lmeval perplexity`."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from lmeval import parallel, report, results
from lmeval.cli.shared import (
    BatchSize,
    byte_progress,
    check_outputs,
    corpus_of,
    device_option,
    dtype_option,
    json_option,
    model_option,
    print_table,
    task_inputs,
)
from lmeval.documents import DataSource
from lmeval.models import load_model
from lmeval.perplexity import Settings, Watch, document_row, perplexity
from lmeval.tally import DocumentSums


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
@device_option
@dtype_option
@click.option("--text-column", metavar="NAME", help="Read PATHs as tables (JSON lines, CSV, parquet), a row a document.")
@click.option("--dataset", metavar="ID", help="Score a data set: a hub id or a folder; needs --text-column.")
@click.option("--dataset-name", metavar="NAME", help="Configuration of the data set.")
@click.option("--split", default="test", show_default=True, help="Split of the data set.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the block bootstrap.")
@json_option
@click.option("--documents", "documents_path", type=click.Path(path_type=Path), help="Write each document as JSON lines.")
def perplexity_command(
    paths: tuple[str, ...],
    model: str,
    context: int | None,
    stride: int | None,
    bos: str,
    batch_size: int | None,
    device: str,
    dtype: str,
    text_column: str | None,
    dataset: str | None,
    dataset_name: str | None,
    split: str,
    seed: int,
    json_path: Path | None,
    documents_path: Path | None,
) -> None:
    """Perplexity and bits per byte of a model on text.

    PATH is a file, a folder, a glob, '-' for standard input, a task file (YAML), or the name of one in tasks/.
    """
    check_outputs([path for path in (json_path, documents_path) if path], (*paths, *task_inputs(paths)))
    corpus = corpus_of(paths, text_column, DataSource(dataset, dataset_name, split) if dataset else None)
    group = parallel.connect(device)
    leader = group.rank == 0
    loaded = load_model(model, device=group.device, dtype=dtype)
    with ExitStack() as stack:
        on_document = stack.enter_context(_document_lines(documents_path)) if documents_path and leader else None
        on_progress = stack.enter_context(byte_progress("scoring", corpus.n_bytes_hint, show=leader))
        found = perplexity(
            loaded,
            corpus,
            Settings(context, stride, bos, batch_size, seed),
            device=device,
            watch=Watch(on_progress, on_document),
        )
    if leader:
        notice = report.withheld_notice(found)
        if json_path:
            results.write_json(found, json_path)
        print_table(report.perplexity_tables(found))
        if notice:
            click.echo(f"lmeval: {notice}", err=True)
    parallel.disconnect(group)


@contextmanager
def _document_lines(path: Path) -> Iterator[Callable[[DocumentSums], None]]:
    with results.atomic_writer(path) as stream:

        def write(document: DocumentSums) -> None:
            stream.write(json.dumps(document_row(document)) + "\n")

        yield write
