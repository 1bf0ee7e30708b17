"""What a run reports: measurements, the ledger of what was scored, provenance; and their JSON.

The JSON is versioned: {"schema": 1, "results": [Measurement...], "ledger": {...}, "provenance": {...}}.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmeval.errors import NonFiniteScore
from lmeval.results.files import write_text
from lmeval.results.measurement import Measurement
from lmeval.results.provenance import now, versions

SCHEMA = 1


@dataclass(frozen=True)
class Report:
    """All that a run says: the measurements, and JSON-ready mappings. `tables` holds further named lists of rows."""

    results: tuple[Measurement, ...]
    ledger: Mapping[str, Any]
    provenance: Mapping[str, Any]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]

    def __getitem__(self, name: str) -> float:
        """Value of the measurement called `name`."""
        return find(self, name).value


def find(report: Report, name: str) -> Measurement:
    """The measurement called `name`; KeyError names those that the report has."""
    for measurement in report.results:
        if measurement.name == name:
            return measurement
    raise KeyError(f"{name} is not among {', '.join(m.name for m in report.results)}")


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON-ready data. Raises NonFiniteScore rather than write a number that JSON cannot hold."""
    for m in report.results:
        if not all(math.isfinite(x) for x in (m.value, m.stderr or 0.0, *(m.ci95 or ()))):
            raise NonFiniteScore(
                f"{m.name} is {m.value}, interval {m.ci95}: a result must be finite; look at the documents one by one"
            )
    return {
        "schema": SCHEMA,
        "results": [m._asdict() for m in report.results],
        "ledger": dict(report.ledger),
        "provenance": dict(report.provenance),
        **{name: list(rows) for name, rows in report.tables.items()},
    }


def several_as_json(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Reports of several tasks as one: all results with their task, and each report whole under "tasks"."""
    tasks = {name: as_json(report) for name, report in reports.items()}
    return {
        "schema": SCHEMA,
        "results": [{"task": name, **result} for name, task in tasks.items() for result in task["results"]],
        "ledger": {"n_tasks": len(tasks)},
        "provenance": {"date": now(), "versions": versions()},
        "tasks": tasks,
    }


def write_json(report: Report, path: Path) -> None:
    """Write the report's JSON whole or not at all."""
    write_text(json.dumps(as_json(report), indent=2, allow_nan=False) + "\n", path)
