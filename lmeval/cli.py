"""The command line: arguments -> one call -> a table for people and JSON for machines. No arithmetic."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lmeval import __version__, parallel, report, results
from lmeval.compression import STANDARD_LIBRARY, compressed_sizes
from lmeval.documents import Corpus, DataSource, column, dataset_corpus, file_corpus, python_manual, table_corpus
from lmeval.errors import EmptyInput, InputError, LmevalError, OutputError, first_line
from lmeval.models import DTYPES, load_model
from lmeval.perplexity import Settings, Watch, document_row, perplexity
from lmeval.tally import DocumentSums
from lmeval.taskfile import find_task, read_rolling_task, task_corpus


def main() -> None:
    """Run the command line; a mistake of the user's is one line on standard error and a non-zero status."""
    try:
        commands.main(prog_name="lmeval", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(f"{error.format_message()} (lmeval --help lists commands and options)", error.exit_code)
    except LmevalError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, click.Abort):
        _fail("interrupted: nothing was written", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: say nothing
        sys.exit(141)
    except OSError as error:  # a full disk, a name too long
        _fail(first_line(error), 1)


def _fail(message: str, status: int) -> None:
    click.echo(f"lmeval: {' '.join(message.split())}", err=True)
    sys.exit(status)


_model = click.option(
    "--model", "-m", default="bundled", show_default=True, help="'bundled', a folder in Hugging Face format, or a hub id."
)
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
_dtype = click.option(
    "--dtype", type=click.Choice(sorted(DTYPES)), default="float32", show_default=True, help="Precision of the network."
)
_json = click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the results here as JSON.")


class _BatchSize(click.ParamType):
    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        if value in (None, "auto"):
            return None
        return click.IntRange(min=1).convert(value, param, ctx)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="lmeval")
def commands() -> None:
    """Evaluate models that assign probabilities."""


@commands.command("perplexity")
@click.argument("paths", nargs=-1, metavar="PATH...")
@_model
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
@click.option("--batch-size", type=_BatchSize(), default=None, help="Windows at once.  [default: auto]")
@_device
@_dtype
@click.option("--text-column", metavar="NAME", help="Read PATHs as tables (JSON lines, CSV, parquet), a row a document.")
@click.option("--dataset", metavar="ID", help="Score a data set: a hub id or a folder; needs --text-column.")
@click.option("--dataset-name", metavar="NAME", help="Configuration of the data set.")
@click.option("--split", default="test", show_default=True, help="Split of the data set.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the block bootstrap.")
@_json
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
    _check_outputs([path for path in (json_path, documents_path) if path], paths)
    corpus = _corpus(paths, text_column, DataSource(dataset, dataset_name, split) if dataset else None)
    group = parallel.connect(device)
    leader = group.rank == 0
    loaded = load_model(model, device=group.device, dtype=dtype)
    with ExitStack() as stack:
        on_document = stack.enter_context(_document_lines(documents_path)) if documents_path and leader else None
        on_progress = stack.enter_context(_progress("scoring", corpus.n_bytes_hint, show=leader))
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
        _print(report.perplexity_tables(found))
        if notice:
            click.echo(f"lmeval: {notice}", err=True)
    parallel.disconnect(group)


@commands.command("demo")
@click.argument("files", nargs=-1, type=click.Path(), metavar="[FILE]...")
@_device
@_json
def demo_command(files: tuple[str, ...], device: str, json_path: Path | None) -> None:
    """Bits per byte of the bundled model beside gzip, bzip2 and xz, on this Python's manual and on your own files."""
    _check_outputs([json_path] if json_path else [], files)
    group = parallel.connect(device)
    model = load_model("bundled", device=group.device)
    texts: list[tuple[str, Callable[[], Corpus]]] = [("Python manual (pydoc_data.topics)", python_manual)]
    texts += [(file, lambda file=file: file_corpus([file])) for file in files]
    for _, read in texts[1:]:
        read()  # a file that is missing is named before the work begins, not after it
    rows = []
    for name, read in texts:
        corpus = read()
        with _progress(name, corpus.n_bytes_hint, show=group.rank == 0) as on_progress:
            found = perplexity(
                model, corpus, Settings(stride=(model.context_length or 2) // 2), device=device, watch=Watch(on_progress)
            )
        chunks = (piece.encode() for document in read().documents for piece in document.pieces)
        rows.append(report.DemoRow(name, found, compressed_sizes(chunks, STANDARD_LIBRARY)))
    if group.rank == 0:
        _print(report.demo_table(rows))
        if json_path:
            results.write_text(json.dumps([_demo_json(row) for row in rows], indent=2) + "\n", json_path)
    parallel.disconnect(group)


def _print(table: RenderableType) -> None:
    """To standard output, at the terminal's width there and at the table's own elsewhere."""
    console = Console(highlight=False)
    natural = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    # Never narrower than the table: a terminal wraps a long line, but a cropped number reads as another number.
    Console(highlight=False, width=max(natural, 20)).print(table)


def _demo_json(row: report.DemoRow) -> dict[str, Any]:
    baselines = [{**size._asdict(), "bits_per_byte": size.bits_per_byte} for size in row.sizes]
    return {**results.as_json(row.report), "baselines": baselines}


def _check_outputs(outputs: list[Path], inputs: tuple[str, ...]) -> None:
    """Refuse at the start what could not be written at the end, or would overwrite an input or another output."""
    taken = {Path(name).resolve() for name in inputs}
    for output in outputs:
        results.check_writable(output)
        if output.resolve() in taken:
            raise OutputError(f"cannot write {output}: it is an input or another output of this run; name a new file")
        taken.add(output.resolve())


def _corpus(paths: tuple[str, ...], text_column: str | None, source: DataSource | None) -> Corpus:
    """The one corpus that the arguments name."""
    if source is not None:
        if paths or not text_column:
            raise InputError("--dataset stands alone and needs --text-column, the name of the column with the text")
        return dataset_corpus(source, column(text_column))
    if not paths:
        raise EmptyInput("no text given: name files, folders, '-' for standard input, a task, or --dataset")
    tasks = [task for path in paths if (task := find_task(path))]
    if tasks:
        if len(paths) > 1:
            raise InputError(f"{tasks[0]} is a task: score one task at a time, by itself")
        return task_corpus(read_rolling_task(tasks[0]))
    return table_corpus(paths, column(text_column)) if text_column else file_corpus(paths)


@contextmanager
def _document_lines(path: Path) -> Iterator[Callable[[DocumentSums], None]]:
    with results.atomic_writer(path) as stream:

        def write(document: DocumentSums) -> None:
            stream.write(json.dumps(document_row(document)) + "\n")

        yield write


@contextmanager
def _progress(label: str, n_bytes: int | None, *, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error, in bytes of text; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal)) as progress:
        task = progress.add_task(label, total=n_bytes)
        yield lambda n: progress.advance(task, n)
