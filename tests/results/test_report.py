import dataclasses
import json
import math
from pathlib import Path

import pytest

from lmeval.errors import NonFiniteScore
from lmeval.results import (
    Column,
    ItemMetric,
    ItemRecord,
    Items,
    Measurement,
    Report,
    Table,
    as_json,
    find,
    together,
    write_json,
)
from lmeval.results.report import from_json, leaves, with_of

TABLE = Table((Column("name", "document", align="left", style="words"),), ({"name": "a"},), "documents", ("a note",))
ITEMS = Items((ItemMetric("acc", "1", "right"),), (ItemRecord("q1", {"task": "t"}, {"right": 1.0}, seed=0),))


def measurement(value: float = 1.5, name: str = "bits_per_byte", **of: str) -> Measurement:
    return Measurement(name, value, "bits/byte", "exact", 0.1, (1.3, 1.7), 3, False, of)


def report(*measurements: Measurement) -> Report:
    return Report("perplexity", measurements, {"documents": TABLE}, {"n_documents": 1}, {"seed": 0}, ITEMS)


def test_json_has_the_keys_that_are_promised(tmp_path: Path):
    write_json(report(measurement(model="m")), tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == {
        "schema": 2,
        "kind": "perplexity",
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
                "of": {"model": "m"},
            }
        ],
        "ledger": {"n_documents": 1},
        "provenance": {"seed": 0},
        "tables": {
            "documents": {
                "title": "documents",
                "columns": [
                    {"name": "name", "title": "document", "unit": "", "digits": None, "align": "left", "style": "words"}
                ],
                "rows": [{"name": "a"}],
                "notes": ["a note"],
            }
        },
        "items": {
            "ordered": False,
            "metrics": [ITEMS.metrics[0]._asdict()],
            "rows": [{"item": "q1", "of": {"task": "t"}, "values": {"right": 1.0}, "seed": 0}],
        },
    }


def test_json_reads_back_the_very_report():
    value = 0.1 + 0.2 + 1e-15
    parts = (report(measurement(value, task="t")), Report("run", (measurement(2.0, "acc", task="u"),)))
    whole = together("run", parts, {"date": "today"})
    assert from_json(json.loads(json.dumps(as_json(whole)))) == whole


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_result_that_is_not_finite_is_never_written(tmp_path: Path, value: float):
    with pytest.raises(NonFiniteScore, match="bits_per_byte"):
        write_json(report(measurement(value)), tmp_path / "out.json")
    with pytest.raises(NonFiniteScore, match="a number of this perplexity report is NaN or infinite, which JSON") as caught:
        write_json(dataclasses.replace(report(), ledger={"bad": value}), tmp_path / "out.json")
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_measurements_are_found_by_name_and_by_what_they_are_of():
    several = report(measurement(rule="sum"), measurement(2.5, "acc", rule="sum"), measurement(3.5, "acc", rule="token"))
    assert several["acc"] == 2.5
    assert find(several, "acc", rule="token").value == 3.5
    assert find(several, "bits_per_byte").ci95 == (1.3, 1.7)
    with pytest.raises(KeyError, match="nll is not among bits_per_byte, acc"):
        find(several, "nll")
    with pytest.raises(KeyError, match="acc"):
        find(several, "acc", rule="mean")


def test_one_report_alone_stays_itself_and_several_keep_everything():
    one, two = report(measurement(task="a")), report(measurement(2.5, task="b"))
    assert together("run", (one,), {}) is one
    both = together("run", (one, two), {})
    assert [m.value for m in both.results] == [1.5, 2.5]
    assert leaves(together("run", (both, one), {})) == (one, two, one)


def test_what_a_report_is_of_is_added_to_what_its_measurements_are_of():
    named = with_of(report(measurement(rule="sum"), measurement(task="own")), task="copa")
    assert [dict(m.of) for m in named.results] == [{"task": "copa", "rule": "sum"}, {"task": "own"}]


def test_what_a_report_is_of_is_added_to_its_items():
    named = with_of(dataclasses.replace(report(measurement()), items=ITEMS), model="m", task="other")
    assert named.items is not None
    assert [dict(item.of) for item in named.items.records] == [{"model": "m", "task": "t"}]
    assert named.items.metrics == ITEMS.metrics
