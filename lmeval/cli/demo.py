"""`lmeval demo`: what lmeval does, in a minute. Every number is printed when it is known."""

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from lmeval import compression, models, prompting, results
from lmeval.cli.progress import drawn_progress
from lmeval.cli.shared import STDOUT, check_outputs, device_option, json_option, loading, memory_option, write_report
from lmeval.data.documents import python_manual, text_corpus
from lmeval.data.locate import exists
from lmeval.errors import InputNotFound
from lmeval.report.blocks import GAP, Note
from lmeval.report.terminal import print_blocks
from lmeval.report.views.demo import NEXT, likelihood_part, step_line, task_part, text_title
from lmeval.results import Measurement, Report, find
from lmeval.results.table import Column, Table, count, words

if TYPE_CHECKING:
    from lmeval.compute.place import Place

TASK = "sentiment"
SPEC = "digits"
N_IMAGES = 20
MANUAL_BYTES = 8_000  # what two cores score, code, decode and compare in about half a minute, compilation included
FILE_BYTES = 100_000


class Text(NamedTuple):
    """A text to try: its name, its first bytes, and how many it has in all."""

    name: str
    data: bytes
    n_bytes: int


class Step(NamedTuple):
    """One thing that was done with a text. `what` is "score", "archive", "decoded" or a compressor's name; what a step does
    not have is None."""

    text: str
    what: str
    bits_per_byte: float | None = None
    ci95: tuple[float, float] | None = None
    n_bytes: int | None = None
    equal: bool | None = None
    seconds: float | None = None
    note: str = ""


COLUMNS = (
    words("text"),
    words("what", ""),
    Column("bits_per_byte", "bits/byte", "bits/byte", digits=3),
    Column("ci95", "95% interval", "bits/byte", digits=3),
    count("n_bytes", "bytes"),
    Column("equal", "decoded"),
    Column("seconds", "s", "s", digits=1),
    words("note", ""),
)


@click.command("demo")
@click.argument("files", nargs=-1, type=click.Path(), metavar="[FILE]...")
@click.option("--full", is_flag=True, help=f"Take files whole.  [default: their first {FILE_BYTES:,} bytes]")
@device_option
@memory_option
@json_option
def demo_command(files: tuple[str, ...], full: bool, device: str, memory: int | None, json_path: Path | None) -> None:
    """Score, compress, decode and compare with the bundled models, in about a minute; then a task, then likelihoods.

    On a part of this Python's manual, on your own files, on short reviews and on images of digits: no network is needed.
    """
    to_stderr = json_path == STDOUT
    check_outputs([json_path], files)
    texts = [_manual(), *(_read(file, None if full else FILE_BYTES) for file in files)]
    print_blocks(
        [Note("lmeval: bits per byte of a text, as a score and as a file that decodes to the same bytes")],
        to_stderr=to_stderr,
    )
    with loading("the bundled model"):
        from lmeval.compute.gather import as_place
        from lmeval.compute.place import describe_place

        place = as_place(device, memory)
        model = models.load_model("bundled", device=place.device)
    began, steps = time.perf_counter(), list[Step]()
    for text in texts:
        print_blocks([GAP, Note(text_title(text.name, len(text.data), text.n_bytes, model.name))], to_stderr=to_stderr)
        for step in _try(model, text, place):
            print_blocks([Note(step_line(step._asdict()))], to_stderr=to_stderr)
            steps.append(step)
    with drawn_progress() as progress:
        task = prompting.run_task(TASK, "bundled", place=place, progress=progress)
    print_blocks([GAP, *task_part(task)], to_stderr=to_stderr)
    likelihoods = _likelihoods(place)
    print_blocks([GAP, *likelihood_part(likelihoods), GAP, *map(Note, NEXT)], to_stderr=to_stderr)
    if json_path:
        inputs = {
            "texts": [{"name": text.name, "n_bytes": len(text.data), "n_bytes_in_all": text.n_bytes} for text in texts]
        }
        provenance = results.provenance(
            "demo",
            inputs=inputs,
            models=[models.describe_model(model), *task.provenance["models"]],
            place=describe_place(place),
            seconds=time.perf_counter() - began,
        )
        write_report(_report(steps, (task, likelihoods), provenance), json_path)
    if not all(step.equal is not False for step in steps):
        raise click.ClickException("a decoded archive differs from its text: this must never happen; please report it")


def _manual() -> Text:
    """The beginning of the manual: whole topics one under the other, cut at MANUAL_BYTES."""
    whole = b"".join(piece.encode() for document in python_manual().documents for piece in document.pieces)
    return Text("Python's manual (pydoc_data.topics)", _whole_characters(whole[:MANUAL_BYTES]), len(whole))


def _read(file: str, most: int | None) -> Text:
    path = Path(file)
    if not exists(path) or not path.is_file():
        raise InputNotFound(f"no file {file}: name a file to try")
    with path.open("rb") as stream:
        data = stream.read() if most is None else stream.read(most)
    return Text(file, _whole_characters(data), path.stat().st_size)


def _whole_characters(data: bytes) -> bytes:
    """The data without a UTF-8 character that a cut has left in part; as they are where they are no text."""
    for end in range(len(data), max(0, len(data) - 4), -1):
        try:
            data[:end].decode()
        except UnicodeDecodeError:
            continue
        return data[:end]
    return data


def _try(model: "models.CausalLM", text: Text, place: "Place") -> Iterator[Step]:
    """What is done with a text, step by step: scored, compressed, decoded and compared, compressed by others."""
    if not text.data:
        yield Step(text.name, "score", note="nothing: the file is empty")
        return
    yield _score(model, text, place)
    began, out = time.perf_counter(), io.BytesIO()
    with drawn_progress() as progress:
        made = compression.compress_to(
            out, memoryview(text.data), model, compression.CompressSettings(verify=False), place=place, progress=progress
        )
    yield Step(
        text.name,
        "archive",
        bits_per_byte=made["bits_per_byte"],
        n_bytes=len(out.getvalue()),
        seconds=time.perf_counter() - began,
        note="" if made.ledger["model_bytes"] else "by the online models alone, or plain: the model does not shorten it",
    )
    began = time.perf_counter()
    with drawn_progress() as progress:
        decoded = compression.decompress(out.getvalue(), model, progress=progress)
    yield Step(text.name, "decoded", equal=decoded == text.data, seconds=time.perf_counter() - began)
    for size in compression.compressed_sizes([text.data], compression.STANDARD_LIBRARY):
        yield Step(text.name, size.name, bits_per_byte=size.bits_per_byte, n_bytes=size.n_bytes_out)


def _score(model: "models.CausalLM", text: Text, place: "Place") -> Step:
    from lmeval.perplexity import PerplexitySettings, perplexity

    try:
        characters = text.data.decode()
    except UnicodeDecodeError:
        return Step(text.name, "score", note="none: the file is not UTF-8 text; any bytes can be compressed all the same")
    began, window = time.perf_counter(), model.context_length or 2
    # The windows that the coder uses, so that the score and the file tell of the same thing.
    windows = PerplexitySettings(stride=window - window // 8)
    with drawn_progress() as progress:
        scored = perplexity(model, text_corpus([characters]), windows, place=place, progress=progress)
    bits = find(scored, "bits_per_byte")
    return Step(text.name, "score", bits_per_byte=bits.value, ci95=bits.ci95, seconds=time.perf_counter() - began)


def _likelihoods(place: "Place") -> Report:
    """Four kinds of density on the first images of a bundled set; without simulated data, which take most of the time."""
    from lmeval.likelihood.compare import compare
    from lmeval.likelihood.prepare import prepare
    from lmeval.likelihood.spec import read_spec, spec_path, with_overrides

    spec = with_overrides(read_spec(spec_path(SPEC), None), N_IMAGES, None)
    spec = spec._replace(models=tuple(model._replace(sandwich=0) for model in spec.models))
    with drawn_progress() as progress:
        return compare(prepare(spec, place), place=place, progress=progress)


def _report(steps: list[Step], parts: tuple[Report, ...], provenance: dict[str, Any]) -> Report:
    measured = [
        Measurement(
            "bits_per_byte",
            step.bits_per_byte,
            "bits/byte",
            "exact",
            ci95=step.ci95,
            of={"corpus": step.text, "what": step.what},
        )
        for step in steps
        if step.bits_per_byte is not None
    ]
    ledger = {"adapt": compression.CompressSettings().adapt, "decoded_and_equal": all(s.equal is not False for s in steps)}
    texts = Table(COLUMNS, tuple(step._asdict() for step in steps), "bits per byte of texts")
    tables = {"texts": texts, "task": parts[0].tables["rules"], "likelihood": parts[1].tables["bounds"]}
    results_of_parts = (find(parts[0], "acc"), find(parts[0], "log_loss"), *parts[1].results)
    return Report("demo", (*measured, *results_of_parts), tables, ledger, provenance)
