import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prompted import CHOICES, LEDGER, TARGETS, chain, random_records, record, report_of, task_file
from schema1 import VERSIONED, old_records

from lmeval.errors import InputError
from lmeval.prompting import read_old_records, rescore, run_task
from lmeval.results import as_json
from lmeval.results.records import read_records, records_of, write_records


@pytest.mark.parametrize("keys", [CHOICES | {"lmeval": {"unconditional": "so", "cluster": "topic"}}, TARGETS])
def test_the_report_of_records_is_that_of_the_run(tmp_path: Path, keys: dict[str, Any]):
    report = run_task(task_file(tmp_path, keys), chain()[0])
    write_records(records_of(report), tmp_path / "r.jsonl")
    [records] = read_records(tmp_path / "r.jsonl")
    assert json.dumps(as_json(rescore(records))) == json.dumps(as_json(report))


@pytest.mark.parametrize("kind", ["multiple_choice", "loglikelihood"])
def test_records_of_schema_1_give_the_same_report(tmp_path: Path, kind: str):
    made = random_records(0, 9, n_choices=3 if kind == "multiple_choice" else 1, seeds=2, clusters=3)
    (tmp_path / "old.jsonl").write_text("\n".join(old_records(made, LEDGER, output_type=kind)))
    [records] = read_records(tmp_path / "old.jsonl", read_old_records)
    again, expected = rescore(records), report_of(made, kind)
    assert again.results == expected.results and again.items == expected.items
    assert again.tables == expected.tables and again.ledger == expected.ledger
    assert (again.provenance["kind"], again.provenance["inputs"]) == ("run", {"task": "made", **VERSIONED})
    assert again.provenance["models"][0]["name"] == "maker" and again.provenance["device"] == "cpu"


def changed(number: int, **changes: Any) -> Callable[[list[str]], list[str]]:
    def change(lines: list[str]) -> list[str]:
        return [json.dumps({**json.loads(line), **changes}) if i == number else line for i, line in enumerate(lines)]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "line 1: this header should stand over 3 records and has 2: the file was cut"),
        (changed(1, gold=[1]), "line 1: the records under this header were changed"),
        (changed(0, task="other"), "line 1: the records under this header were changed"),
        (lambda lines: [*lines[:2], lines[2][:50], lines[3]], "line 3 is no record"),
    ],
)
def test_old_records_that_were_cut_or_changed_are_refused(tmp_path: Path, change: Callable[..., list[str]], message: str):
    lines = old_records([record(f"i{i}", [-1.0, -2.0]) for i in range(3)], LEDGER)
    (tmp_path / "old.jsonl").write_text("\n".join(change(lines)))
    with pytest.raises(InputError) as caught:
        read_records(tmp_path / "old.jsonl", read_old_records)
    assert message in str(caught.value) and "old.jsonl" in str(caught.value)


def test_old_records_that_lack_something_are_refused(tmp_path: Path):
    for bad in (record("i1", [-1.0])._replace(gold=(4,)), record("i1", [])):
        (tmp_path / "old.jsonl").write_text("\n".join(old_records([record("i0", [-1.0, -2.0]), bad], LEDGER)))
        with pytest.raises(InputError, match="line 1: the records under this header are not complete"):
            read_records(tmp_path / "old.jsonl", read_old_records)
    (tmp_path / "old.jsonl").write_text("\n".join(old_records([record("i0", [-1.0, -2.0])], LEDGER)))
    with pytest.raises(InputError, match="records of schema 1; this reads 2"):
        read_records(tmp_path / "old.jsonl")
