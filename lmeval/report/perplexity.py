"""Tables of `lmeval perplexity`."""

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from lmeval.report.tables import count, measurement_table, plain_table
from lmeval.results import Report


def perplexity_tables(report: Report) -> RenderableType:
    """What was scored, every measurement with its interval, and bits by the amount of context."""
    ledger, model = report.ledger, report.provenance["model"]
    windows = ledger["windows"]
    head = plain_table("", "")
    head.add_row("text", escape(", ".join(report.provenance["corpus"]["sources"])))
    counts = f"{ledger['n_bytes_scored']:,} bytes, {ledger['n_tokens_scored']:,} tokens in {windows['n']:,} windows"
    head.add_row("scored", f"{count(ledger['n_documents'], 'document')}, {counts}")
    left_out = _left_out(report)
    if left_out:
        head.add_row("not scored", left_out)
    name = f"{model['name']}, {model['n_parameters']:,} parameters, {model['dtype']} on {report.provenance['device']}"
    head.add_row("model", escape(name))
    bos = {"window": "at every window", "document": "at document starts", "none": "nowhere"}[windows["bos_policy"]]
    head.add_row("windows", f"context {windows['context']:,}, stride {windows['stride']:,}, BOS {bos}")
    head.add_row("interval", _interval_method(report))
    if "adapted" in ledger:
        what = f"code length of model and online models ({ledger['adapted']['adapt']}), as compress reaches it"
        head.add_row("adapted", f"{what}, without header and framing: not the model's perplexity")
    return Group(head, "", measurement_table(report.results), "", _position_table(report))


def withheld_notice(report: Report) -> str | None:
    """One line where figures per byte, character and word had to be withheld, else None."""
    trip = report.ledger["round_trip"]
    if trip["exact"]:
        return None
    return (
        f"the tokenizer does not give back the text of {count(trip['n_documents_not_exact'], 'document')} (first: "
        f"{trip['first_document_not_exact']}): figures per byte, character and word are withheld, those per token stand"
    )


def _position_table(report: Report) -> Table:
    exact = report.ledger["round_trip"]["exact"]
    table = plain_table("tokens before", "tokens scored", "bits/token", *(["bits/byte"] if exact else []))
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
        parts.append(f"{count(ledger['n_tokens_not_scored'], 'token')} with nothing before them")
    if ledger["n_documents_empty"]:
        parts.append(count(ledger["n_documents_empty"], "empty document"))
    return ", ".join(parts)


def _interval_method(report: Report) -> str:
    interval = report.ledger["interval"]
    if interval["method"] == "documents":
        return f"ratio estimator over {interval['n_units']:,} documents"
    if interval["method"] == "blocks":
        blocks = f"blocks of {interval['block_length']:,} of {interval['n_units']:,} pieces of text"
        return f"block bootstrap, {blocks}"
    return "none: one short document says nothing about spread"
