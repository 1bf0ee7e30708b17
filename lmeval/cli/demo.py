"""`lmeval demo`."""

from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Group

from lmeval import compression, models, prompting, report, results
from lmeval.cli.shared import byte_progress, check_outputs, device_option, json_option, loading, print_table, write_json_data
from lmeval.compute import gather
from lmeval.data.documents import Corpus, file_corpus, python_manual

TASK = "sentiment"


@click.command("demo")
@click.argument("files", nargs=-1, type=click.Path(), metavar="[FILE]...")
@device_option
@json_option
def demo_command(files: tuple[str, ...], device: str, json_path: Path | None) -> None:
    """Score, compress, decode and compare with the bundled models, beside gzip, bzip2 and xz; then score a task.

    On this Python's manual, on your own text files, and on short reviews that ship with lmeval.
    """
    check_outputs([json_path] if json_path else [], files)
    with loading("the bundled model"):
        group = gather.connect(device)
        model = models.load_model("bundled", device=group.device)
    texts: list[tuple[str, Callable[[], Corpus]]] = [("Python manual (pydoc_data.topics)", python_manual)]
    texts += [(file, lambda file=file: file_corpus([file])) for file in files]
    for _, read in texts[1:]:
        read()  # a file that is missing is named before the work begins, not after it
    rows = [_row(model, name, read, device) for name, read in texts]
    print_table(report.demo_table(rows))
    task = prompting.run_task(TASK, "bundled", place=device)
    print_table(Group("", report.demo_task_table(task)))
    if json_path:
        write_json_data({"texts": [_json(row) for row in rows], "task": results.as_json(task)}, json_path)
    if not all(row.decoded for row in rows):
        raise click.ClickException("a decoded archive differs from its text: this must never happen; please report it")


def _row(model: "models.CausalLM", name: str, read: Callable[[], Corpus], device: str) -> "report.DemoRow":
    from lmeval.perplexity import Settings, Watch, perplexity

    window = model.context_length or 2
    corpus = read()
    with byte_progress(f"{name}: scoring", corpus.n_bytes_hint, show=True) as on_progress:
        # The windows that the coder uses, so that the score and the file tell of the same thing.
        settings = Settings(stride=window - window // 8)
        found = perplexity(model, corpus, settings, device=device, watch=Watch(on_progress))
    data = b"".join(piece.encode() for document in read().documents for piece in document.pieces)
    settings = compression.CompressSettings(verify=False)
    with byte_progress(f"{name}: compressing", len(data), show=True) as on_progress:
        archive = compression.compress(data, model, settings, progress=lambda _, n, __: on_progress(n))
    with byte_progress(f"{name}: decoding", len(data), show=True) as on_progress:
        decoded = compression.decompress(archive, model, progress=on_progress) == data
    return report.DemoRow(
        name, found, len(archive), decoded, compression.compressed_sizes([data], compression.STANDARD_LIBRARY)
    )


def _json(row: "report.DemoRow") -> dict[str, object]:
    baselines = [{**size._asdict(), "bits_per_byte": size.bits_per_byte} for size in row.sizes]
    archive = {"n_bytes": row.archive_bytes, "bits_per_byte": row.archive_bits_per_byte, "decoded_and_equal": row.decoded}
    archive["adapt"] = compression.CompressSettings().adapt
    return {**results.as_json(row.report), "archive": archive, "baselines": baselines}
