"""`lmeval perplexity`."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import click

from lmeval import compression, models, report, results
from lmeval.cli.shared import (
    BatchSize,
    byte_progress,
    check_outputs,
    corpus_of,
    device_option,
    dtype_option,
    json_option,
    loading,
    mapped,
    model_option,
    print_table,
    task_inputs,
)
from lmeval.compute import gather
from lmeval.data.documents import Corpus, DataSource, Document
from lmeval.errors import InputError

if TYPE_CHECKING:
    from lmeval.perplexity.tally import DocumentSums


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
@click.option(
    "--adapt",
    type=click.Choice(compression.LEVELS[1:]),
    help="Also the code length that `compress --adapt` reaches on every document, by the model and online models.",
)
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
    adapt: str | None,
    seed: int,
    json_path: Path | None,
    documents_path: Path | None,
) -> None:
    """Perplexity and bits per byte of a model on text.

    PATH is a file, a folder, a glob, '-' for standard input, a task file (YAML), or the name of one in tasks/.
    """
    check_outputs([path for path in (json_path, documents_path) if path], (*paths, *task_inputs(paths)))
    corpus = corpus_of(paths, text_column, DataSource(dataset, dataset_name, split) if dataset else None)
    with loading(f"model {model}"):
        from lmeval.perplexity import Settings, Watch, perplexity

        group = gather.connect(device)
    leader = group.rank == 0
    if adapt and group.size > 1:
        raise InputError(f"--adapt is for one process, not for {group.size}: start lmeval without a launcher")
    with loading(f"model {model}"):
        loaded = models.load_model(model, device=group.device, dtype=dtype)
        if adapt:
            compression.check_codable(loaded)
    with ExitStack() as stack:
        kept = _Kept(stack.enter_context(tempfile.TemporaryFile()), []) if adapt else None
        on_document = stack.enter_context(_document_lines(documents_path)) if documents_path and leader else None
        on_progress = stack.enter_context(byte_progress("scoring", corpus.n_bytes_hint, show=leader))
        found = perplexity(
            loaded,
            _keeping(corpus, kept) if kept else corpus,
            Settings(context, stride, bos, batch_size, seed),
            device=device,
            watch=Watch(on_progress, on_document),
        )
        if adapt and kept:
            found = _with_adapted(found, loaded, kept, adapt)
    if leader:
        notice = report.withheld_notice(found)
        if json_path:
            results.write_json(found, json_path)
        print_table(report.perplexity_tables(found))
        if notice:
            click.echo(f"lmeval: {notice}", err=True)
    gather.disconnect(group)


@contextmanager
def _document_lines(path: Path) -> Iterator[Callable[["DocumentSums"], None]]:
    from lmeval.perplexity import document_row

    with results.atomic_writer(path) as stream:

        def write(document: "DocumentSums") -> None:
            stream.write(json.dumps(document_row(document)) + "\n")

        yield write


class _Kept(NamedTuple):
    """The text that was scored, one document behind the other, and their lengths in bytes: a pipe can be read once."""

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


def _with_adapted(found: results.Report, model: "models.CausalLM", kept: _Kept, adapt: str) -> results.Report:
    """The report with the code length of the same documents under the model and its online models, each coded on its own."""
    kept.spool.flush()
    settings, coded, first = compression.CompressSettings(adapt=adapt), [], 0
    show = byte_progress("coding", sum(kept.lengths), show=True)
    with mapped(kept.spool) as text, show as on_progress:
        for n_bytes in kept.lengths:
            piece, first = text[first : first + n_bytes], first + n_bytes
            if n_bytes:
                coded.append(compression.code_length(piece, model, settings, progress=lambda _, n, __: on_progress(n)))
    n_payload, n_bytes = sum(one.n_payload_bytes for one in coded), sum(kept.lengths)
    value = 8 * n_payload / n_bytes
    measured = results.Measurement("adapted_bits_per_byte", value, "bits/byte", "exact", None, None, len(coded), False)
    terms = {name: float(sum(getattr(one.length, name) for one in coded)) for name in compression.CodeLength._fields}
    ledger = {
        "adapt": adapt,
        "what": "code length of model and online models, as compress --adapt reaches it, without headers and framing: not "
        "the model's own perplexity",
        "n_documents": len(coded),
        "n_bytes": n_bytes,
        "n_payload_bytes": n_payload,
        "model_bytes": sum(one.model_bytes for one in coded),
        "bits_of_model_bytes": terms,
    }
    return replace(found, results=(*found.results, measured), ledger={**found.ledger, "adapted": ledger})
