"""The one result of everything that computes: measurements, tables, items, the ledger of what was done, provenance.

Its JSON is versioned: {"schema": 2, "kind", "results": [...], "ledger", "provenance", "tables", "items", "parts"}.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmeval.errors import NonFiniteScore
from lmeval.results import items as item_data
from lmeval.results import table as table_data
from lmeval.results.files import write_text
from lmeval.results.items import Items
from lmeval.results.measurement import Measurement, is_of
from lmeval.results.table import Table

SCHEMA = 2


@dataclass(frozen=True)
class Report:
    """All that a run says.

    `kind` names the capability. `results` are the measurements, `tables` named tables of raw values, `ledger` tells what was
    done and left out, `provenance` by what and when; `items` holds the values of each item where there are any that a
    comparison can pair. `parts` are the reports of several tasks that were run together.
    """

    kind: str
    results: tuple[Measurement, ...] = ()
    tables: Mapping[str, Table] = field(default_factory=dict)
    ledger: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    items: Items | None = None
    parts: tuple["Report", ...] = ()

    def __getitem__(self, name: str) -> float:
        """Value of the first measurement called `name`."""
        return find(self, name).value


def find(report: Report, name: str, **of: str) -> Measurement:
    """The first measurement called `name` of what the keywords say, such as `find(report, "acc", task="copa")`.

    Args:
        report: The report; measurements of its parts are found only if it lists them itself, as `together` does.
        name: The name of a quantity.
        **of: Keys and values that the measurement's own `of` must have.

    Returns:
        The first measurement, in the report's order, that fits.

    Raises:
        KeyError: It names the measurements that the report has.
    """
    for measurement in report.results:
        if measurement.name == name and is_of(measurement, of):
            return measurement
    raise KeyError(f"{name} is not among {', '.join(dict.fromkeys(m.name for m in report.results))}")


def together(kind: str, parts: tuple[Report, ...], provenance: Mapping[str, Any]) -> Report:
    """One report of several: it has all of their results, and each of them whole as a part. A single one stays itself.

    Args:
        kind: The kind of the new report.
        parts: The reports, in the order in which it holds them.
        provenance: Where the new report comes from; every part keeps its own.

    Returns:
        The new report, whose ledger counts the parts; or the only part, unchanged, without `kind` and `provenance`.
    """
    if len(parts) == 1:
        return parts[0]
    results = tuple(measurement for part in parts for measurement in part.results)
    return Report(kind, results, ledger={"n_parts": len(parts)}, provenance=provenance, parts=parts)


def with_of(report: Report, **of: str) -> Report:
    """The report whose measurements and items all say in addition what the keywords say."""
    items = report.items
    if items is not None:
        items = items._replace(records=tuple(record._replace(of={**of, **record.of}) for record in items.records))
    return replace(report, results=tuple(m._replace(of={**of, **m.of}) for m in report.results), items=items)


def leaves(report: Report) -> tuple[Report, ...]:
    """The reports of a report of several; itself where it has no parts."""
    return tuple(leaf for part in report.parts for leaf in leaves(part)) if report.parts else (report,)


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON-ready data.

    Args:
        report: The report, with its parts.

    Returns:
        A dictionary with the keys that the head of this module names, "items" and "parts" only where there are any.
        `from_json` reads it back.

    Raises:
        NonFiniteScore: A measurement, of the report or of a part, holds a number that JSON cannot.
    """
    for m in report.results:
        if not all(math.isfinite(x) for x in (m.value, m.stderr or 0.0, *(m.ci95 or ()))):
            raise NonFiniteScore(
                f"{m.name} is {m.value}, interval {m.ci95}: a result must be finite; look at the documents one by one"
            )
    data = {
        "schema": SCHEMA,
        "kind": report.kind,
        "results": [m._asdict() | {"of": dict(m.of)} for m in report.results],
        "ledger": dict(report.ledger),
        "provenance": dict(report.provenance),
        "tables": {name: table_data.as_json(table) for name, table in report.tables.items()},
    }
    if report.items is not None:
        data["items"] = item_data.as_json(report.items)
    if report.parts:
        data["parts"] = [as_json(part) for part in report.parts]
    return data


def from_json(data: Mapping[str, Any]) -> Report:
    """The report that `as_json` wrote. Raises one of `items.DAMAGED` for anything else."""
    return Report(
        kind=str(data["kind"]),
        results=tuple(_measurement(row) for row in data["results"]),
        tables={name: table_data.from_json(table) for name, table in data["tables"].items()},
        ledger=item_data.mapping_from_json(data["ledger"]),
        provenance=item_data.mapping_from_json(data["provenance"]),
        items=item_data.from_json(data["items"]) if "items" in data else None,
        parts=tuple(from_json(part) for part in data.get("parts", ())),
    )


def json_text(report: Report) -> str:
    """The JSON of a report as text.

    Args:
        report: The report, with its parts.

    Returns:
        What `as_json` gives, with a line for each value.

    Raises:
        NonFiniteScore: The report holds a number that JSON cannot.
    """
    try:
        return json.dumps(as_json(report), indent=2, allow_nan=False)
    except ValueError as error:
        raise NonFiniteScore(
            f"a number of this {report.kind} report is NaN or infinite, which JSON has no form for"
        ) from error


def write_json(report: Report, path: Path) -> None:
    """Write the report's JSON whole or not at all.

    Args:
        report: The report.
        path: The file; one that is there is replaced, and stays as it was where writing fails.

    Raises:
        NonFiniteScore: The report holds a number that JSON cannot.
        OutputError: `check_writable` refuses the path.
        OSError: The system fails while it writes, for example because the disk is full.
    """
    write_text(json_text(report) + "\n", path)


def _measurement(row: Mapping[str, Any]) -> Measurement:
    ci95 = row["ci95"]
    return Measurement(**{**row, "ci95": None if ci95 is None else (float(ci95[0]), float(ci95[1]))})
