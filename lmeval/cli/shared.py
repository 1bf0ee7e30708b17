"""What the commands share: options, progress bars, outputs, inputs as bytes."""

import functools
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click

from lmeval import interrupts, results
from lmeval.compute import gather
from lmeval.compute.memory import parse_bytes
from lmeval.compute.place import Place
from lmeval.data.documents import Corpus, DataSource, column, dataset_corpus, file_corpus, local_files, table_corpus
from lmeval.data.locate import check_model_name, find_spec
from lmeval.errors import EmptyInput, InputError, InputNotFound, OutputError
from lmeval.models.dtypes import DTYPES
from lmeval.report.terminal import print_blocks
from lmeval.report.views import view
from lmeval.results.records import records_of, write_records
from lmeval.results.report import json_text
from lmeval.specs.tasks import read_rolling_task, task_corpus

Option = Callable[[Callable[..., Any]], Callable[..., Any]]
"""What adds an option to a command."""


def known_model(_ctx: click.Context, _param: click.Parameter, value: Any) -> Any:
    """Callback of options that name models: a misspelt bundled one is named before anything slow is imported."""
    for name in value if isinstance(value, tuple) else (value,):
        if name is not None:
            check_model_name(name)
    return value


model_option = click.option(
    "--model",
    "-m",
    default="bundled",
    show_default=True,
    callback=known_model,
    help="'bundled', a folder in Hugging Face format, or a hub id.",
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
dtype_option = click.option(
    "--dtype", type=click.Choice(sorted(DTYPES)), default="float32", show_default=True, help="Precision of the network."
)
data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="LMEVAL_DATA",
    show_envvar=True,
    metavar="DIR",
    help="Folder where the files that a task, comparison or density names may lie. Without it tasks read data from the hub.",
)
STDOUT = Path("-")
json_option = click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path),
    help="Write the results here as JSON; '-' is standard output, and tables then go to standard error.",
)


def _as_file(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """The path of --records. Raises BadParameter for standard output."""
    if path == STDOUT:
        raise click.BadParameter("records go to a file, not to standard output: name one")
    return path


records_option = click.option(
    "--records",
    "records_path",
    type=click.Path(path_type=Path),
    callback=_as_file,
    help="Write every item here, one JSON object a line.",
)
lanes_option = click.option(
    "--lanes", type=click.IntRange(min=1), help="Stretches of a block coded side by side.  [default: from the input's size]"
)
lanes_per_pass_option = click.option(
    "--lanes-per-pass", type=click.IntRange(min=1), help="Lanes that go through the network at once."
)
force_option = click.option("--force", "-f", is_flag=True, help="Overwrite the output if it exists.")


class BatchSize(click.ParamType):
    """A number of sequences, or "auto" (None)."""

    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """The number."""
        if value in (None, "auto"):
            return None
        if not str(value).isdecimal() or int(value) < 1:
            self.fail(f"{value!r} is neither auto nor a whole number of at least 1", param, ctx)
        return int(value)


class MemorySize(click.ParamType):
    """A number of bytes as people write it."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes."""
        try:
            return value if isinstance(value, int) else parse_bytes(value)
        except InputError as error:
            self.fail(str(error), param, ctx)


memory_option = click.option(
    "--memory",
    type=MemorySize(),
    envvar="LMEVAL_MEMORY",
    show_envvar=True,
    help="Memory for what is computed at once, beside the model's weights, such as 4GB.  [default: what is fastest on a "
    "CPU, all that is free on an accelerator]",
)


def seed_option(text: str, default: int | None = 0) -> Option:
    """--seed, whose help says what it is the seed of."""
    return click.option("--seed", type=click.IntRange(min=0), default=default, show_default=True, help=text)


def limit_option(text: str) -> Option:
    """--limit, whose help says what it counts."""
    return click.option("--limit", type=click.IntRange(min=1), help=text)


class RunOptions(NamedTuple):
    """What `run_options` asks for: where to compute, and what to write."""

    device: str
    memory: int | None
    json_path: Path | None
    records_path: Path | None

    @property
    def outputs(self) -> tuple[Path | None, ...]:
        """The files that are to be written; None for what nobody asked for."""
        return (self.json_path, self.records_path)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every command that scores, each with one meaning; the command gets them as one argument, `options`."""

    @functools.wraps(command)
    def collected(**params: Any) -> None:
        command(options=RunOptions(**{name: params.pop(name) for name in RunOptions._fields}), **params)

    for option in (records_option, json_option, memory_option, device_option):  # the help lists them the other way round
        collected = option(collected)
    return collected


@contextmanager
def loading(what: str) -> Iterator[None]:
    """While the block imports libraries and loads a model: a line on the terminal, and Ctrl-C ends the process at once.

    The line is taken back in the end. Nothing may be open for writing in the block.
    """
    show = sys.stderr.isatty() and os.environ.get("RANK", "0") == "0"  # one of several processes speaks for all
    line = f"loading {what} ..."
    if show:
        click.echo(line, nl=False, err=True)
    try:
        with interrupts.leaving_at_once():
            yield
    finally:
        if show:
            click.echo("\r" + " " * len(line) + "\r", nl=False, err=True)


def check_outputs(outputs: Iterable[Path | None], inputs: Iterable[str]) -> None:
    """Refuse at the start what could not be written at the end, or would overwrite an input or another output."""
    taken = {Path(name).resolve() for name in inputs}
    for output in outputs:
        if output is None or output == STDOUT:
            continue
        results.check_writable(output)
        if output.resolve() in taken:
            raise OutputError(f"cannot write {output}: it is an input or another output of this run; name a new file")
        taken.add(output.resolve())


def print_report(
    report: results.Report, json_path: Path | None, records_path: Path | None = None, *, to_stderr: bool = False
) -> None:
    """Print a report's tables, on standard error where its JSON goes to standard output, and write what --json and
    --records ask for."""
    print_blocks(view(report), to_stderr=to_stderr or json_path == STDOUT)
    write_report(report, json_path, records_path)


def write_report(report: results.Report, json_path: Path | None, records_path: Path | None = None) -> None:
    """Write what --json and --records ask for: the report, and its items with all details."""
    if json_path == STDOUT:
        click.echo(json_text(report))
    elif json_path:
        results.write_json(report, json_path)
    if records_path:
        write_records(records_of(report), records_path)


def task_inputs(paths: tuple[str, ...]) -> tuple[str, ...]:
    """The files that the tasks among the paths are read from."""
    tasks = [read_rolling_task(file) for path in paths if (file := find_spec(path))]
    return tuple(name for task in tasks for name in (*task.files, *local_files(task.source)))


def corpus_of(paths: tuple[str, ...], text_column: str | None, source: DataSource | None) -> Corpus:
    """The one corpus that the arguments name."""
    if source is not None:
        if paths or not text_column:
            raise InputError("--dataset stands alone and needs --text-column, the name of the column with the text")
        return dataset_corpus(source, column(text_column))
    if not paths:
        raise EmptyInput("no text given: name files, folders, '-' for standard input, a task, or --dataset")
    tasks = [task for path in paths if (task := find_spec(path))]
    if tasks:
        if len(paths) > 1:
            raise InputError(f"{tasks[0]} is a task: score one task at a time, by itself")
        return task_corpus(read_rolling_task(tasks[0]))
    return table_corpus(paths, column(text_column)) if text_column else file_corpus(paths)


def check_input(name: str) -> None:
    """Refuse what is no file, nor '-' for standard input, before anything slow is imported."""
    if name != "-" and not Path(name).exists():
        raise InputNotFound(f"no file {name}: give a file, or '-' for standard input")
    if name != "-" and Path(name).is_dir():
        raise InputError(f"{name} is a folder: give a file; tar makes one of a folder")


@contextmanager
def input_bytes(name: str) -> Iterator[memoryview]:
    """The bytes of a file, or of standard input for '-', without holding a file in memory."""
    check_input(name)
    with tempfile.TemporaryFile() as spool:
        if name != "-" and Path(name).is_file():
            with Path(name).open("rb") as stream, mapped(stream) as view:
                yield view
            return
        if name == "-":
            shutil.copyfileobj(sys.stdin.buffer, spool)
        else:  # a pipe
            with Path(name).open("rb") as stream:
                shutil.copyfileobj(stream, spool)
        spool.flush()
        with mapped(spool) as view:
            yield view


@contextmanager
def mapped(stream: Any) -> Iterator[memoryview]:
    """A file's bytes as memory that is read when it is looked at."""
    if not stream.seek(0, 2):
        yield memoryview(b"")
        return
    # Closed when nothing looks at it any more: an error's traceback may.
    yield memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


@contextmanager
def output_bytes(path: Path | None) -> Iterator[BinaryIO]:
    """A file that appears when the block ends well; for None, standard output, which gets everything then or nothing."""
    if path is not None:
        with results.atomic_binary_writer(path) as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as spool:
        yield spool  # pyright: ignore[reportReturnType]
        spool.seek(0)
        shutil.copyfileobj(spool, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def check_new(path: Path, *, force: bool) -> None:
    """Refuse to overwrite what exists, unless asked to."""
    if path.exists() and not force:
        raise OutputError(f"{path} exists already: name another file with -o, or overwrite it with --force")
    results.check_writable(path)


def one_process(device: str, memory: int | None = None) -> Place:
    """The place of a command that one process runs alone. Raises InputError where a launcher started several."""
    place = gather.as_place(device, memory)
    if place.size > 1:
        raise InputError(
            f"archives are written and read by one process, not by {place.size}: start lmeval without a launcher"
        )
    return place
