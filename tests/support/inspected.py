"""What an archive says of itself, as plain data."""

from typing import Any

from lmeval.compression import Gap, inspect
from lmeval.results import Report
from lmeval.results.report import leaves


def inspected(data: memoryview) -> list[dict[str, Any]]:
    """For each archive of a file its header and sizes, and its blocks without empty cells."""
    return [
        {**part.ledger, "blocks": [{key: value for key, value in row.items() if value is not None} for row in blocks]}
        for part in leaves(inspect(data))
        for blocks in [part.tables["blocks"]]
    ]


def gaps_of(salvaged: Report) -> list[Gap]:
    """What is lost, by the report of `salvage`."""
    return [Gap(row["first"], row["stop"], row["n_zeros"]) for row in salvaged.tables["gaps"]]
