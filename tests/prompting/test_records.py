import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompted import CHOICES, TARGETS, chain, random_records, record, records_in, report_of, task_file

from lmeval.errors import InputError
from lmeval.prompting import records_of_items, run_task
from lmeval.prompting.records import RECORDS_ONLY, as_item, ids_sha256
from lmeval.results import ItemRecord, Report, as_json
from lmeval.results.records import read_records, records_of, write_records

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FLOATS, min_size=1, max_size=3), FLOATS, st.text(min_size=1))
@settings(max_examples=30)
def test_numbers_read_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, nats: list[float], free: float, text: str):
    text = text.encode(errors="replace").decode()
    made = record("i0", [-1.0, -2.0], texts=[text, "\u2028\r\n\x1c\x85"], free=[free, -0.0], neutral=[nats[:1] * 2])
    made = made._replace(choices=(made.choices[0]._replace(nats=tuple(nats)), made.choices[1]))
    path = tmp_path_factory.getbasetemp() / "bits.jsonl"
    report = report_of([record("i1", [-1.0])], "loglikelihood")
    assert report.items is not None
    item = as_item(made, {"task": "t"}, {"acc": 1.0})
    write_records(records_of(Report("run", items=report.items._replace(records=(item,)))), path)
    [read] = read_records(path)
    [again] = records_of_items(read.records)

    def bits(values: Any) -> list[bytes]:
        return [struct.pack("<d", x) for x in values]

    assert again == made
    assert bits(again.choices[0].nats) == bits(nats)
    assert bits([again.choices[0].unconditional_nats or 0.0]) == bits([free or 0.0])
    assert bits(again.neutral_nats[0]) == bits(made.neutral_nats[0])


def test_a_report_s_items_hold_its_records(tmp_path: Path):
    keys = CHOICES | {"task": "größe", "lmeval": {"neutral": [{"q": "N/A"}], "unconditional": "so", "cluster": "topic"}}
    for made in (keys, TARGETS):
        report = run_task(task_file(tmp_path, made), chain()[0])
        write_records(records_of(report), tmp_path / "r.jsonl")
        [read] = read_records(tmp_path / "r.jsonl")
        assert read.items == report.items._replace(records_only=()) if report.items else None
        assert records_of_items(read.records) == records_in(report)


def test_json_keeps_the_scores_and_records_the_rest():
    report = report_of(random_records(0, 3))
    [row, *_] = as_json(report)["items"]["rows"]
    assert row["detail"].keys() == {"row", "gold", "predicted"}
    assert report.items is not None
    assert set(RECORDS_ONLY) < report.items.records[0].detail.keys()


[CHOICE] = as_item(record("i0", [-1.0]), {}, {}).detail["choices"]


@pytest.mark.parametrize(
    "changes",
    [
        {"choices": []},
        {"gold": [9]},
        {"gold": None},
        {"choices": None},
        {"choices": [{"text": "a"}]},
        {"choices": [CHOICE | {"n_bytes": 0}]},
        {"choices": [CHOICE | {"n_characters": [1]}]},
        {"choices": [CHOICE | {"ids": []}]},
        {"choices": [CHOICE | {"nats": ["x"]}]},
        {"choices": [CHOICE | {"text": 5}]},
        {"choices": [CHOICE | {"unconditional_nats": ""}]},
        {"neutral_nats": [["x"]]},
        {"neutral_nats": [[-1.0]]},
        {"shots": None},
    ],
    ids=json.dumps,
)
def test_an_item_without_its_choices_cannot_be_scored_again(changes: dict[str, Any]):
    item = as_item(record("i0", [-1.0, -2.0]), {"task": "t"}, {"acc": 1.0})
    with pytest.raises(
        InputError, match=r"item i0 has no choices to score again: give the file that `lmeval run --records`"
    ):
        records_of_items([item._replace(detail={**item.detail, **changes})])
    assert records_of_items([item._replace(detail={**item.detail, "choices": [CHOICE]})])[0].choices[0].total_nats == -1.0
    with pytest.raises(InputError, match="item i0 has no choices"):
        records_of_items([item._replace(seed=None)])
    with pytest.raises(InputError, match="item i0 has no choices"):
        records_of_items([ItemRecord("i0", {}, {"acc": 1.0})])


def test_ids_are_hashed_as_numbers_whatever_their_type():
    ids = [1, 2, 257, 100_000]
    hashes = {ids_sha256(np.array(ids, dtype=kind)) for kind in ("<i8", ">i8", "int32", "uint32")}
    assert len(hashes) == 1
    assert ids_sha256(np.array(ids[::-1])) not in hashes
    assert ids_sha256(np.array(ids)[::-1][::-1]) in hashes


def test_the_sum_of_a_choice_is_that_of_its_tokens():
    [made] = random_records(0, 1)
    for choice in made.choices:
        assert choice.total_nats == pytest.approx(math.fsum(choice.nats), rel=1e-15)
