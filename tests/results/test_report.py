import dataclasses
import json
import math
from pathlib import Path

import pytest

from lmeval.errors import NonFiniteScore
from lmeval.results import (
    Measurement,
    Report,
    as_json,
    find,
    several_as_json,
    versions,
    write_json,
)


def measurement(value: float = 1.5, name: str = "bits_per_byte") -> Measurement:
    return Measurement(name, value, "bits/byte", "exact", 0.1, (1.3, 1.7), 3, False)


def report(*measurements: Measurement) -> Report:
    return Report(measurements, {"n_documents": 1}, {"seed": 0}, {"documents": [{"name": "a"}]})


def test_json_has_the_keys_that_are_promised(tmp_path: Path):
    write_json(report(measurement()), tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found == {
        "schema": 1,
        "results": [
            {
                "name": "bits_per_byte",
                "value": 1.5,
                "unit": "bits/byte",
                "side": "exact",
                "stderr": 0.1,
                "ci95": [1.3, 1.7],
                "n": 3,
                "higher_is_better": False,
            }
        ],
        "ledger": {"n_documents": 1},
        "provenance": {"seed": 0},
        "documents": [{"name": "a"}],
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_result_that_is_not_finite_is_never_written(tmp_path: Path, value: float):
    with pytest.raises(NonFiniteScore, match="bits_per_byte"):
        write_json(report(measurement(value)), tmp_path / "out.json")
    with pytest.raises(ValueError, match="JSON"):
        write_json(dataclasses.replace(report(), ledger={"bad": value}), tmp_path / "out.json")
    assert list(tmp_path.iterdir()) == []


def test_json_reads_back_the_very_number(tmp_path: Path):
    value = 0.1 + 0.2 + 1e-15
    write_json(report(measurement(value)), tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())["results"][0]["value"] == value


def test_measurements_are_found_by_name():
    found = report(measurement(), measurement(2.5, "word_perplexity"))
    assert found["word_perplexity"] == 2.5
    assert find(found, "bits_per_byte").ci95 == (1.3, 1.7)
    with pytest.raises(KeyError, match="acc is not among bits_per_byte, word_perplexity"):
        find(found, "acc")


def test_as_json_is_json():
    assert json.loads(json.dumps(as_json(report(measurement())), allow_nan=False))["schema"] == 1


def test_several_reports_are_one_file_that_names_the_task_of_each_result():
    reports = {"one": report(measurement()), "two": report(measurement(2.5), measurement(3.5, "acc"))}
    found = json.loads(json.dumps(several_as_json(reports), allow_nan=False))
    assert list(found) == ["schema", "results", "ledger", "provenance", "tasks"]
    assert [(row["task"], row["name"], row["value"]) for row in found["results"]] == [
        ("one", "bits_per_byte", 1.5),
        ("two", "bits_per_byte", 2.5),
        ("two", "acc", 3.5),
    ]
    assert found["tasks"] == {name: json.loads(json.dumps(as_json(part))) for name, part in reports.items()}
    assert found["ledger"] == {"n_tasks": 2}
    assert found["provenance"]["versions"] == versions()
    with pytest.raises(NonFiniteScore, match="acc is inf"):
        several_as_json({"one": report(), "two": report(measurement(math.inf, "acc"))})
