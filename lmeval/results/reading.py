"""Results and records of any kind, read back from the files that --json and --records wrote."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmeval.errors import InputError, InputNotFound
from lmeval.results import report as report_data
from lmeval.results.items import DAMAGED, ItemMetric, ItemRecord, Items
from lmeval.results.measurement import Measurement
from lmeval.results.records import OldReader, RecordSet, is_records, read_records
from lmeval.results.report import SCHEMA, Report

BITS = 1.4426950408889634  # bits in a nat
OLD_LIKELIHOOD = '{"kind": "lmeval.likelihood"'  # the beginning of records of `likelihood` of schema 1


def read_results(path: Path, old: OldReader | None = None) -> Report:
    """The report in a file that --json wrote, or, without measurements, the items in one that --records wrote.

    Args:
        path: Results or records of schema 2; or of schema 1, as far as `compare` needs them: what they are of, and items.
        old: Reads sets of records of schema 1, whose rows were a capability's own; without it they are refused.

    Returns:
        The report. Records give one with the items of a set and no measurements, or, of several sets, one with a part each.

    Raises:
        InputNotFound: There is no such file, or it cannot be read.
        InputError: It holds neither results nor records, or was cut or changed.
    """
    if is_records(path):
        parts = tuple(map(_items_alone, read_records(path, old)))
        return parts[0] if len(parts) == 1 else Report(parts[0].kind, parts=parts)
    wrong = f"{path} is neither results JSON nor records of lmeval"
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(OLD_LIKELIHOOD):
            return _old_likelihood([json.loads(line) for line in text.splitlines()])
        data = json.loads(text)
        schema = data["schema"]
        if schema in (1, SCHEMA):
            return report_data.from_json(data) if schema == SCHEMA else _old_report(data)
    except OSError as error:
        raise InputNotFound(f"cannot read {path}: {error.strerror}") from error
    except DAMAGED as error:
        raise InputError(f"{wrong}, or was cut or changed") from error
    raise InputError(f"{path}: results of schema {schema!r:.20}; this reads 1 and {SCHEMA}")


def _items_alone(records: RecordSet) -> Report:
    header = records.header
    return Report(header.report, ledger=header.ledger, provenance=header.provenance, items=records.items)


def _old_report(data: Mapping[str, Any]) -> Report:
    """A report of schema 1. Raises one of DAMAGED for anything else."""
    if "tasks" in data:
        return Report("run", parts=tuple(_old_report(part) for part in data["tasks"].values()))
    provenance = data["provenance"]
    results = tuple(map(_old_measurement, data["results"]))
    for kind, (table, read_items) in OLD_ITEMS.items():
        if data.get(table):
            items = read_items(data)
            return Report(kind, results, ledger=data["ledger"], provenance=provenance, items=items)
    kind = "likelihood" if "bounds" in data else "run"
    return Report(kind, results, ledger=data["ledger"], provenance=provenance)


def _old_measurement(row: Mapping[str, Any]) -> Measurement:
    """A measurement of schema 1, in which other columns said what it is of."""
    known = {name: value for name, value in row.items() if name in Measurement._fields}
    ci95 = None if row["ci95"] is None else (float(row["ci95"][0]), float(row["ci95"][1]))
    return Measurement(**{**known, "ci95": ci95}, of={name: str(value) for name, value in row.items() if name not in known})


def _old_run_items(data: Mapping[str, Any]) -> Items:
    """Items of `run`: every column of numbers is a metric, and those of whole numbers say right (1) or wrong (0)."""
    rows, provenance = data["items"], data["provenance"]
    of = {"model": _name(provenance["model"]["name"]), "task": str(provenance.get("task", ""))}
    hidden = ("item", "row", "seed", "cluster", "gold", "predicted")
    names = [name for name in rows[0] if name not in hidden]
    shares = {name for name in names if any(isinstance(row[name], int) for row in rows)}
    metrics = tuple(
        ItemMetric(name, "1" if name in shares else "nats", name, higher_is_better=name in shares, share=name in shares)
        for name in names
    )
    records = []
    for row in rows:
        values = {name: float(row[name]) for name in names}
        if row.keys() - {*names, *hidden} or not all(0.0 <= values[name] <= 1.0 for name in shares):
            raise ValueError(f"the item {row['item']} has other values than the first")
        cluster = None if row.get("cluster") is None else str(row["cluster"])
        records.append(ItemRecord(_name(row["item"]), of, values, cluster, row.get("seed")))
    return Items(metrics, tuple(records))


def _old_documents(data: Mapping[str, Any]) -> Items:
    """Documents of `perplexity`; a name that comes back has " #2" after it, and so on."""
    metrics = (
        ItemMetric("bits_per_byte", "bits/byte", "nll_nats", "n_bytes", BITS),
        ItemMetric("bits_per_token", "bits/token", "nll_nats", "n_tokens", BITS),
    )
    rows, of = data["documents"], {"model": _name(data["provenance"]["model"]["name"])}
    names = number_names(_name(row["name"]) for row in rows)
    values = [{name: float(row[name]) for name in ("nll_nats", "n_bytes", "n_tokens")} for row in rows]
    return Items(metrics, tuple(ItemRecord(name, of, own) for name, own in zip(names, values, strict=True)))


def _old_files(data: Mapping[str, Any]) -> Items:
    """Files of `benchmark`, each under every compressor that was run."""
    metric = ItemMetric("bits_per_byte", "bits/byte", "archive_bytes", "n_bytes", 8.0)
    records = (
        ItemRecord(
            _name(row["corpus"]),
            {"compressor": _name(row["compressor"])},
            {name: float(row[name]) for name in ("archive_bytes", "n_bytes")},
            detail={"sha256": data["ledger"]["sha256"][row["corpus"]]},
        )
        for row in data["benchmark"]
        if not row["published"]
    )
    return Items((metric,), tuple(records))


def _old_likelihood(rows: Sequence[Mapping[str, Any]]) -> Report:
    """Records of `likelihood` of schema 1: a header, then log p of each datum under each bound."""
    header, metric = rows[0], ItemMetric("log_likelihood_nats", "nats/datum", "log_likelihood_nats", higher_is_better=True)
    data = f"{_name(header['ledger']['data'])}, {_name(header['ledger']['space'])}"
    records = []
    for row in rows[1:]:
        of = {**{key: _name(row[key]) for key in ("model", "bound", "side")}, "data": data}
        records.append(ItemRecord(str(int(row["datum"])), of, {"log_likelihood_nats": float(row["nats"])}))
    items = Items((metric,), tuple(records))
    return Report("likelihood", ledger=header["ledger"], provenance=header["provenance"], items=items)


OLD_ITEMS = {
    "run": ("items", _old_run_items),
    "perplexity": ("documents", _old_documents),
    "benchmark": ("benchmark", _old_files),
}
"""Of each kind of schema 1: the table that held its items, and what reads it."""


def number_names(names: Iterator[str]) -> list[str]:
    """The names, with " #2", " #3", ... after those that came before.

    >>> number_names(iter(["a", "b", "a"]))
    ['a', 'b', 'a #2']
    """
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return unique


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value
