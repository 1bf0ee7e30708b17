"""View of `lmeval benchmark`: every corpus and compressor, then what others have published about the same files."""

from dataclasses import replace
from itertools import groupby
from typing import Any

from lmeval.report.blocks import GAP, Block
from lmeval.results import Report

DECODED = {True: "equal", False: "DIFFERENT", None: "refused"}
"""What the table says of an archive's decoding, by the row's "verified"."""


def view(report: Report) -> list[Block]:
    """A table with a gap between corpora, and the table of published results where there is one."""
    measured = report.tables["benchmark"]
    rows: list[dict[str, Any]] = []
    for _, of_corpus in groupby(measured, key=lambda row: row["corpus"]):
        rows += [{}] if rows else []
        rows += [{**row, "verified": DECODED[row["verified"]]} for row in of_corpus]
    published = [GAP, report.tables["published"]] if "published" in report.tables else []
    return [replace(measured, rows=tuple(rows)), *published]
