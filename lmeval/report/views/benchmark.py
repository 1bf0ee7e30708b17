"""View of `lmeval benchmark`: every corpus and compressor, then what others have published about the same files."""

from dataclasses import replace
from itertools import groupby
from typing import Any

from lmeval.report.blocks import GAP, Block
from lmeval.results import Report

DECODED = {True: "equal", False: "DIFFERENT", None: "refused"}
"""What the table says of an archive's decoding, by the row's "verified"."""
SAID = {True: "yes", False: "no", None: None}
"""The same of published results, by the row's "decoded"."""


def view(report: Report) -> list[Block]:
    """A table with a gap between corpora, and the table of published results where there is one."""
    measured = report.tables["benchmark"]
    rows: list[dict[str, Any]] = []
    for _, of_corpus in groupby(measured, key=lambda row: row["corpus"]):
        rows += [{}] if rows else []
        rows += [{**row, "verified": DECODED[row["verified"]]} for row in of_corpus]
    return [replace(measured, rows=tuple(rows)), *_published(report)]


def _published(report: Report) -> list[Block]:
    if "published" not in report.tables:
        return []
    table = report.tables["published"]
    return [GAP, replace(table, rows=tuple({**row, "decoded": SAID[row.get("decoded")]} for row in table))]
