"""Files of schema 1, as lmeval wrote them before results and records of all capabilities had one form."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from lmeval.prompting import Record
from lmeval.results import Report

VERSIONED = {"task_version": "1.0", "task_sha256": "0" * 64, "data": "made.jsonl", "data_sha256": "1" * 64}


def old_provenance(task: str, model: str = "maker") -> dict[str, Any]:
    described = {"name": model, "n_parameters": 1, "dtype": "float32"}
    about = {"task": task, **VERSIONED, "date": "2026-11-28T12:57:11+00:00", "model": described}
    return about | {"device": "cpu", "n_processes": 1, "n_threads": 2, "settings": {"seed": 0}, "seconds": 1.0}


def old_records(
    records: Sequence[Record], ledger: Mapping[str, Any], task: str = "made", output_type: str = "multiple_choice"
) -> list[str]:
    """Lines of `run --records`."""
    lines = [json.dumps({**r._asdict(), "choices": [c._asdict() for c in r.choices]}) for r in records]
    about = {"kind": "lmeval.records", "schema": 1, "task": task, "output_type": output_type, "metrics": ["acc"]}
    about |= {"ledger": dict(ledger), "provenance": old_provenance(task), "n_records": len(lines)}
    digest = hashlib.sha256("\n".join([json.dumps(about), *lines]).encode()).hexdigest()
    return [json.dumps({**about, "sha256": digest}), *lines]


def old_results(report: Report, task: str = "made") -> dict[str, Any]:
    """What `run --json` wrote of such a report."""
    assert report.items is not None
    rows = [
        {
            "item": item.item,
            "row": item.detail["row"],
            "seed": item.seed,
            "cluster": item.cluster,
            **{name: item.detail[name] for name in ("gold", "predicted") if name in item.detail},
            **{name: int(v) if name.startswith("acc") else v for name, v in item.values.items()},
        }
        for item in report.items.records
    ]
    results = [{key: value for key, value in m._asdict().items() if key != "of"} for m in report.results]
    data = {"schema": 1, "results": results, "ledger": dict(report.ledger), "provenance": old_provenance(task)}
    data |= {name: [dict(row) for row in table] for name, table in report.tables.items()}
    return json.loads(json.dumps({**data, "items": rows}))


def old_together(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What `run --json` wrote of several tasks."""
    results = [{"task": name, **row} for name, part in parts.items() for row in part["results"]]
    return {"schema": 1, "results": results, "ledger": {}, "provenance": {"versions": {}}, "tasks": dict(parts)}
