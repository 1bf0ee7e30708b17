"""View of `lmeval inspect`: the header, and every block."""

from collections.abc import Iterator, Mapping
from typing import Any

from lmeval.report.blocks import GAP, Block
from lmeval.results import Report
from lmeval.results.table import facts

HIDDEN = ("digest", "extra_space")


def view(report: Report) -> list[Block]:
    """The header, a fact a line, and a table of the blocks."""
    blocks = report.tables["blocks"]
    shown = (column.name for column in blocks.columns if column.name not in HIDDEN)
    return [facts(*_facts(report.ledger)), GAP, blocks.select(*shown)]


def _facts(ledger: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, str]]:
    for key, value in ledger.items():
        if isinstance(value, Mapping):
            yield from _facts(value, f"{within}{key}.")
        else:
            yield f"{within}{key}", f"{value:,}" if isinstance(value, int) else str(value)
