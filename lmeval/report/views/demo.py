"""View of `lmeval demo`: texts scored and compressed, and a prompted task."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmeval.report.blocks import GAP, Block
from lmeval.results import Report

NOT_OF_A_FILE = ("text", "n_bytes", "score", "score_ci95", "decoded")  # columns that are no size of a compressed file


def view(report: Report) -> list[Block]:
    """Bits per byte of every text, the smallest file in bold; the task in a line."""
    texts = report.tables["texts"]
    files = [column.name for column in texts.columns if column.name not in NOT_OF_A_FILE]
    rows = tuple({**row, "decoded": "equal" if row["decoded"] else "DIFFERENT", "bold": _least(row, files)} for row in texts)
    return [replace(texts, rows=rows), GAP, report.tables["task"]]


def _least(row: Mapping[str, Any], files: list[str]) -> tuple[str, ...]:
    least = min(row[name] for name in files)
    return tuple(name for name in files if row[name] == least)
