"""View of `lmeval perplexity`: what was scored, every figure with its interval, and bits by the amount of context."""

from lmeval.report.blocks import GAP, Block
from lmeval.report.cells import count
from lmeval.report.measurements import measurement_table
from lmeval.results import Report
from lmeval.results.table import Table, facts, words

BOS = {"window": "at every window", "document": "at document starts", "none": "nowhere"}
SPAN = words("span", "tokens before")


def view(report: Report) -> list[Block]:
    """The corpus and how it was cut; its figures; bits by position in the window."""
    return [_head(report), GAP, measurement_table(report.results), GAP, _positions(report)]


def withheld_notice(report: Report) -> str | None:
    """A line that says why figures per byte, character and word are withheld; None where they stand."""
    trip = report.ledger["round_trip"]
    if trip["exact"]:
        return None
    return (
        f"the tokenizer does not give back the text of {count(trip['n_documents_not_exact'], 'document')} (first: "
        f"{trip['first_document_not_exact']}): figures per byte, character and word are withheld, those per token stand"
    )


def _head(report: Report) -> Table:
    ledger, provenance = report.ledger, report.provenance
    windows, (model,) = ledger["windows"], provenance["models"]
    counts = f"{ledger['n_bytes_scored']:,} bytes, {ledger['n_tokens_scored']:,} tokens in {windows['n']:,} windows"
    adapted = ""
    if "adapted" in ledger:
        adapted = (
            f"code length of model and online models ({ledger['adapted']['adapt']}), as compress reaches it, without header "
            "and framing: not the model's perplexity"
        )
    return facts(
        ("text", ", ".join(provenance["inputs"]["corpus"]["sources"])),
        ("scored", f"{count(ledger['n_documents'], 'document')}, {counts}"),
        ("not scored", _not_scored(report)),
        ("model", f"{model['name']}, {model['n_parameters']:,} parameters, {model['dtype']} on {provenance['device']}"),
        ("windows", f"context {windows['context']:,}, stride {windows['stride']:,}, BOS {BOS[windows['bos_policy']]}"),
        ("interval", _interval_method(report)),
        ("adapted", adapted),
    )


def _positions(report: Report) -> Table:
    context, table = report.ledger["windows"]["context"], report.tables["by_position"]
    shown = ["n_tokens", "bits_per_token", *(["bits_per_byte"] if report.ledger["round_trip"]["exact"] else [])]
    rows = tuple({**row, SPAN.name: _span(row["first"], min(row["stop"], context) - 1)} for row in table)
    return Table((SPAN, *table.select(*shown).columns), rows)


def _span(first: int, last: int) -> str:
    return f"{first}" if last == first else f"{first} to {last}"


def _not_scored(report: Report) -> str:
    ledger, parts = report.ledger, []
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
