"""View of `lmeval demo`: lines of texts that are scored and compressed, a prompted task, a table of likelihoods."""

from collections.abc import Mapping
from typing import Any

from lmeval.report.blocks import GAP, Block, Note
from lmeval.report.cells import interval, number
from lmeval.results import Report, find
from lmeval.results.table import Column, Table, count, words

WIDTH = 10  # of the first column of a text's lines
NEXT = (
    "to try next:",
    "  lmeval compress YOUR_FILE             the file as an archive that decodes on any machine",
    "  lmeval perplexity YOUR_FILE           every figure of it, with intervals; --model takes any causal language model",
    "  lmeval likelihood digits              the table above on all images, bounded from both sides",
)


def view(report: Report) -> list[Block]:
    """The whole demo: a line for each thing that was done with a text, the task's rules, and the bounds."""
    lines = [Note(f"{row['text']}: {step_line(row).strip()}") for row in report.tables["texts"]]
    return [*lines, GAP, report.tables["task"].select("rule", "acc", "acc_ci95"), GAP, _bounds(report.tables["likelihood"])]


def text_title(name: str, n_bytes: int, n_in_all: int, model: str) -> str:
    """A text and how much of it is tried."""
    part = f"all its {n_bytes:,} bytes" if n_bytes == n_in_all else f"the first {n_bytes:,} of its {n_in_all:,} bytes"
    return f"{name}, {part} (model: {model})"


def step_line(step: Mapping[str, Any]) -> str:
    """One thing that was done with a text, in a line."""
    parts = [f"  {step['what']:<{WIDTH}}"]
    if step["bits_per_byte"] is not None:
        parts.append(f"{number(step['bits_per_byte'], 3):>7} bits/byte")
    if step["ci95"] is not None:
        parts.append(f"(95%: {interval(step['ci95'], 3)})")
    if step["n_bytes"] is not None:
        parts.append(f"{step['n_bytes']:>10,} bytes")
    if step["equal"] is not None:
        parts.append("to the same bytes" if step["equal"] else "to OTHER bytes")
    if step["seconds"] is not None:
        parts.append(f"in {number(step['seconds'], 1)} s")
    return "  ".join([*parts, *([step["note"]] if step["note"] else [])])


def task_part(task: Report) -> list[Block]:
    """Accuracy and log loss of a prompted task, in a line."""
    acc, loss, (model,) = find(task, "acc"), find(task, "log_loss"), task.provenance["models"]
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
    title = f"accuracy of a prompted task, through next-token probabilities (model: {model['name']})"
    return [Note(title), Table(columns, (row,))]


def likelihood_part(report: Report) -> list[Block]:
    """The bounds of every model, each with the side it lies on."""
    ledger = report.ledger
    title = f"log p of {ledger['n']:,} images ({ledger['data']}) under four kinds of density, each with its side"
    return [Note(title), _bounds(report.tables["bounds"])]


def _bounds(table: Table) -> Table:
    return table.select("model", "kind", "bound", "side", "nats", "nats_ci95", "bits_per_dim", "seconds")
