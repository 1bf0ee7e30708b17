import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from items import ACC, LOSS, RATE, item

from lmeval.results.items import (
    ItemRecord,
    Items,
    as_json,
    from_json,
    groups,
    has_metric,
    metric_from_json,
    record_as_json,
    record_from_json,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
RECORDS = st.builds(
    ItemRecord,
    item=TEXT,
    of=st.dictionaries(TEXT, TEXT, max_size=3),
    values=st.dictionaries(TEXT, FLOATS, max_size=3),
    cluster=st.none() | TEXT,
    seed=st.none() | st.integers(0, 10**6),
    detail=st.dictionaries(TEXT, st.lists(FLOATS, max_size=2) | TEXT | st.none(), max_size=3),
)


@given(st.lists(RECORDS, max_size=4), st.booleans())
def test_items_read_back_as_they_were(records: list[ItemRecord], ordered: bool):
    items = Items((RATE, LOSS), tuple(records), ordered)
    assert from_json(json.loads(json.dumps(as_json(items), allow_nan=False))) == items


def test_json_leaves_out_what_only_records_keep():
    made = item("a", {"acc": 1.0})._replace(detail={"gold": [0], "choices": [1, 2, 3]})
    [row] = as_json(Items((ACC,), (made,), records_only=("choices",)))["rows"]
    assert row == {"item": "a", "of": {"task": "t"}, "values": {"acc": 1.0}, "detail": {"gold": [0]}}
    assert record_as_json(made)["detail"] == made.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"item": 5},
        {"item": None},
        {"of": None},
        {"of": ["task"]},
        {"values": None},
        {"values": {"acc": "high"}},
        {"values": {"acc": None}},
        {"values": {"acc": [1.0]}},
        {"values": {"acc": 7}},
        {"values": {"acc": -0.01}},
        {"values": {"acc": math.nan}},
        {"cluster": ["a"]},
        {"cluster": 5},
        {"seed": "one"},
        {"seed": 0.5},
        {"detail": [1]},
        {"more": 1},
    ],
    ids=str,
)
def test_what_is_no_item_is_refused(changes: dict[str, Any]):
    row = record_as_json(item("a", {"acc": 1.0}))
    assert record_from_json(row, (ACC,)) == item("a", {"acc": 1.0})
    with pytest.raises((ValueError, TypeError, AttributeError)):
        record_from_json({**row, **changes}, (ACC,))


def test_the_range_of_a_share_is_checked_whatever_its_name():
    correct = ACC._replace(name="correct", numerator="right")
    record_from_json(record_as_json(item("a", {"right": 0.5, "log_loss": 7.0})), (correct, LOSS))
    with pytest.raises(ValueError, match=r"correct is 7.0, which is no share"):
        record_from_json(record_as_json(item("a", {"right": 7.0})), (correct,))


@pytest.mark.parametrize(
    "changes",
    [{"name": 5}, {"unit": None}, {"denominator": None}, {"scale": "1"}, {"side": 1}, {"share": 1}, {"more": 1}],
    ids=str,
)
def test_what_is_no_metric_is_refused(changes: dict[str, Any]):
    assert metric_from_json(RATE._asdict()) == RATE
    with pytest.raises((ValueError, TypeError)):
        metric_from_json({**RATE._asdict(), **changes})


def test_records_are_grouped_by_what_they_are_of():
    of = [{"model": "a", "task": "t"}, {"task": "t", "model": "a"}, {"model": "b"}]
    records = [item(str(i), {}, of=one) for i, one in enumerate(of)]
    assert groups(records) == {(("model", "a"), ("task", "t")): records[:2], (("model", "b"),): records[2:]}


def test_a_metric_needs_all_of_its_values_in_every_item():
    whole, half = item("a", {"nll_nats": 1.0, "n_bytes": 2.0}), item("b", {"nll_nats": 1.0})
    assert has_metric(RATE, [whole]) and not has_metric(RATE, [whole, half])
    assert not has_metric(ACC, [whole])
    assert not has_metric(RATE, [item("empty", {"nll_nats": 0.0, "n_bytes": 0.0})])  # nothing to divide by
