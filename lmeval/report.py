"""Results for people: aligned tables on a terminal. Reads reports, never a model."""

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from lmeval.compression import CompressedSize
from lmeval.results import Measurement, Report, find


class DemoRow(NamedTuple):
    """One text: its name, what the model makes of it, and the sizes that general-purpose compressors make of it."""

    name: str
    report: Report
    sizes: Sequence[CompressedSize]


def perplexity_tables(report: Report) -> RenderableType:
    """What was scored, every measurement with its interval, and bits by the amount of context."""
    ledger, model = report.ledger, report.provenance["model"]
    windows = ledger["windows"]
    head = _plain_table("", "")
    head.add_row("text", escape(", ".join(report.provenance["corpus"]["sources"])))
    counts = f"{ledger['n_bytes_scored']:,} bytes, {ledger['n_tokens_scored']:,} tokens in {windows['n']:,} windows"
    head.add_row("scored", f"{_count(ledger['n_documents'], 'document')}, {counts}")
    left_out = _left_out(report)
    if left_out:
        head.add_row("not scored", left_out)
    name = f"{model['name']}, {model['n_parameters']:,} parameters, {model['dtype']} on {report.provenance['device']}"
    head.add_row("model", escape(name))
    bos = {"window": "at every window", "document": "at document starts", "none": "nowhere"}[windows["bos_policy"]]
    head.add_row("windows", f"context {windows['context']:,}, stride {windows['stride']:,}, BOS {bos}")
    head.add_row("interval", _interval_method(report))
    return Group(head, "", _measurement_table(report.results), "", _position_table(report))


def withheld_notice(report: Report) -> str | None:
    """One line where figures per byte, character and word had to be withheld, else None."""
    trip = report.ledger["round_trip"]
    if trip["exact"]:
        return None
    return (
        f"the tokenizer does not give back the text of {_count(trip['n_documents_not_exact'], 'document')} (first: "
        f"{trip['first_document_not_exact']}): figures per byte, character and word are withheld, those per token stand"
    )


def demo_table(rows: Sequence[DemoRow]) -> RenderableType:
    """Bits per byte of the model, with 95% interval, beside the general-purpose compressors; smallest in bold."""
    model = rows[0].report.provenance["model"]["name"]
    columns = [size.name for size in rows[0].sizes]
    windows = rows[0].report.ledger["windows"]
    title = f"bits per byte (model: context {windows['context']:,}, stride {windows['stride']:,})"
    table = _plain_table("text", "bytes", model, "95% interval", *columns, title=title)
    for row in rows:
        ours = find(row.report, "bits_per_byte")
        values = [ours.value, *(size.bits_per_byte for size in row.sizes)]
        cells = [f"[bold]{value:.3f}[/bold]" if value == min(values) else f"{value:.3f}" for value in values]
        table.add_row(escape(row.name), f"{row.report.ledger['n_bytes_scored']:,}", cells[0], _interval(ours, 3), *cells[1:])
    return table


def _plain_table(*columns: str, title: str | None = None) -> Table:
    table = Table(
        title=title, title_justify="left", box=None, show_header=any(columns), pad_edge=False, padding=(0, 2, 0, 0)
    )
    for i, column in enumerate(columns):
        left = i == 0 or not any(columns)
        table.add_column(column, justify="left" if left else "right", no_wrap=True, overflow="ignore")
    return table


def _measurement_table(measurements: Sequence[Measurement]) -> Table:
    table = _plain_table("metric", "value", "95% interval", "standard error")
    for m in measurements:
        digits = 1 if m.name == "nll_nats" else 4
        error = "" if m.stderr is None else _number(m.stderr, digits)
        table.add_row(m.name, _number(m.value, digits), _interval(m, digits), error)
    return table


def _interval(m: Measurement, digits: int) -> str:
    return "" if m.ci95 is None else f"{_number(m.ci95[0], digits)} to {_number(m.ci95[1], digits)}"


def _number(x: float, digits: int) -> str:
    return f"{x:,.{digits}f}" if abs(x) < 1e9 else f"{x:.{digits}e}"


def _position_table(report: Report) -> Table:
    exact = report.ledger["round_trip"]["exact"]
    table = _plain_table("tokens before", "tokens scored", "bits/token", *(["bits/byte"] if exact else []))
    for row in report.tables["by_position"]:
        last = min(row["stop"], report.ledger["windows"]["context"]) - 1
        span = f"{row['first']}" if last == row["first"] else f"{row['first']} to {last}"
        cells = [f"{row['bits_per_token']:.4f}"]
        if exact:
            cells.append("" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}")
        table.add_row(span, f"{row['n_tokens']:,}", *cells)
    return table


def _left_out(report: Report) -> str:
    ledger = report.ledger
    parts = []
    if ledger["n_tokens_not_scored"]:
        parts.append(f"{_count(ledger['n_tokens_not_scored'], 'token')} with nothing before them")
    if ledger["n_documents_empty"]:
        parts.append(_count(ledger["n_documents_empty"], "empty document"))
    return ", ".join(parts)


def _interval_method(report: Report) -> str:
    interval = report.ledger["interval"]
    if interval["method"] == "documents":
        return f"ratio estimator over {interval['n_units']:,} documents"
    if interval["method"] == "blocks":
        blocks = f"blocks of {interval['block_length']:,} of {interval['n_units']:,} pieces of text"
        return f"block bootstrap, {blocks}"
    return "none: one short document says nothing about spread"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")
