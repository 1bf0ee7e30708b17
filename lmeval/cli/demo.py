"""`lmeval demo`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import click

from lmeval import compression, models, prompting, results
from lmeval.cli.progress import drawn_progress
from lmeval.cli.shared import check_outputs, device_option, json_option, loading, memory_option, print_report
from lmeval.compute.gather import as_place
from lmeval.compute.place import Place, describe_place
from lmeval.data.documents import Corpus, file_corpus, python_manual
from lmeval.results import Measurement, Report, find
from lmeval.results.table import Column, Table, count, words

TASK = "sentiment"


@click.command("demo")
@click.argument("files", nargs=-1, type=click.Path(), metavar="[FILE]...")
@device_option
@memory_option
@json_option
def demo_command(files: tuple[str, ...], device: str, memory: int | None, json_path: Path | None) -> None:
    """Score, compress, decode and compare with the bundled models, beside gzip, bzip2 and xz; then score a task.

    On this Python's manual, on your own text files, and on short reviews that ship with lmeval.
    """
    check_outputs([json_path] if json_path else [], files)
    with loading("the bundled model"):
        place = as_place(device, memory)
        model = models.load_model("bundled", device=place.device)
    texts: list[tuple[str, Callable[[], Corpus]]] = [("Python manual (pydoc_data.topics)", python_manual)]
    texts += [(file, lambda file=file: file_corpus([file])) for file in files]
    for _, read in texts[1:]:
        read()  # a file that is missing is named before the work begins, not after it
    tried = [_try(model, name, read, place) for name, read in texts]
    task = prompting.run_task(TASK, "bundled", place=place)
    report = _report(tried, task, model, place)
    print_report(report, json_path)
    if not all(text.decoded for text in tried):
        raise click.ClickException("a decoded archive differs from its text: this must never happen; please report it")


class _Tried(NamedTuple):
    """One text: the model's score, whether its archive decoded to the same bytes, and sizes: of the archive, and of what
    general-purpose compressors make."""

    name: str
    score: Report
    decoded: bool
    archive: compression.CompressedSize
    others: list[compression.CompressedSize]


def _try(model: "models.CausalLM", name: str, read: Callable[[], Corpus], place: Place) -> _Tried:
    from lmeval.perplexity import PerplexitySettings, perplexity

    window = model.context_length or 2
    # The windows that the coder uses, so that the score and the file tell of the same thing.
    windows = PerplexitySettings(stride=window - window // 8)
    with drawn_progress() as progress:
        score = perplexity(model, read(), windows, place=place, progress=progress)
        data = b"".join(piece.encode() for document in read().documents for piece in document.pieces)
        settings = compression.CompressSettings(verify=False)
        archive = compression.compress(data, model, settings, place=place, progress=progress)
        decoded = compression.decompress(archive, model, place=place, progress=progress) == data
    size = compression.CompressedSize("archive", len(data), len(archive))
    return _Tried(name, score, decoded, size, compression.compressed_sizes([data], compression.STANDARD_LIBRARY))


def _report(tried: list[_Tried], task: Report, model: "models.CausalLM", place: Place) -> Report:
    measured = [m for text in tried for m in _measurements(text)] + [find(task, "acc"), find(task, "log_loss")]
    ledger = {
        "windows": {key: tried[0].score.ledger["windows"][key] for key in ("context", "stride")},
        "adapt": compression.CompressSettings().adapt,
        "decoded_and_equal": all(text.decoded for text in tried),
    }
    inputs = {text.name: text.score.provenance["inputs"]["corpus"] for text in tried}
    described = [models.describe_model(model), *task.provenance["models"]]
    return Report(
        kind="demo",
        results=tuple(measured),
        tables={"texts": _text_table(tried, model.name, ledger["windows"]), "task": _task_table(task)},
        ledger=ledger,
        provenance=results.provenance("demo", inputs=inputs, models=described, place=describe_place(place)),
    )


def _measurements(text: _Tried) -> list[Measurement]:
    of = {"corpus": text.name}
    sizes = [
        Measurement("bits_per_byte", size.bits_per_byte, "bits/byte", "exact", of={**of, "compressor": size.name})
        for size in (text.archive, *text.others)
    ]
    score = find(text.score, "bits_per_byte")
    return [score._replace(of={**score.of, **of}), *sizes]


def _text_table(tried: list[_Tried], model: str, windows: dict[str, int]) -> Table:
    how = f"{model}, context {windows['context']:,}, stride {windows['stride']:,}"
    columns = (
        words("text"),
        count("n_bytes", "bytes"),
        Column("score", "score", "bits/byte", digits=3),
        Column("score_ci95", "95% interval", "bits/byte", digits=3),
        Column("archive", "archive", "bits/byte", digits=3),
        Column("decoded", "decoded", style="words"),
        *(Column(size.name, size.name, "bits/byte", digits=3) for size in tried[0].others),
    )
    title = f"bits per byte (score: {how}; archive: model and online models)"
    return Table(columns, tuple(map(_text_row, tried)), title)


def _text_row(text: _Tried) -> dict[str, Any]:
    score = find(text.score, "bits_per_byte")
    return {
        "text": text.name,
        "n_bytes": text.score.ledger["n_bytes_scored"],
        "score": score.value,
        "score_ci95": score.ci95,
        "decoded": text.decoded,
        **{size.name: size.bits_per_byte for size in (text.archive, *text.others)},
    }


def _task_table(task: Report) -> Table:
    acc, loss = find(task, "acc"), find(task, "log_loss")
    (model,) = task.provenance["models"]
    columns = (
        words("task"),
        count("n_items", "items"),
        Column("acc", "accuracy", digits=3),
        Column("acc_ci95", "95% interval", digits=3),
        Column("log_loss", "log loss", "nats", digits=3),
        Column("log_loss_ci95", "95% interval", "nats", digits=3),
    )
    row = {
        "task": task.provenance["inputs"]["task"],
        "n_items": task.ledger["n_items_scored"],
        "acc": acc.value,
        "acc_ci95": acc.ci95,
        "log_loss": loss.value,
        "log_loss_ci95": loss.ci95,
    }
    return Table(columns, (row,), f"prompted task ({model['name']}, no examples in the prompt)")
