import json

import pytest

from lmeval.results.table import Column, Table, as_json, facts, from_json, words

TABLE = Table(
    (words("model"), Column("nats", "log p", "nats", digits=3), Column("ci95", "95% interval", digits=3)),
    ({"model": "a", "nats": -1.5, "ci95": [-2.0, -1.0], "details": {"seed": 0}}, {"model": "b", "nats": None, "ci95": None}),
    notes=("a note",),
)


def test_a_selection_shows_columns_in_their_order_and_keeps_every_value():
    selected = TABLE.select("nats", "model")
    assert [column.name for column in selected.columns] == ["nats", "model"]
    assert selected.rows == TABLE.rows
    assert selected.notes == TABLE.notes
    with pytest.raises(KeyError, match="details"):
        TABLE.select("details")


def test_rows_are_read_as_a_sequence():
    assert [row["model"] for row in TABLE] == ["a", "b"]
    assert (len(TABLE), TABLE[1]["model"]) == (2, "b")
    assert TABLE.column("details") == [{"seed": 0}, None]


def test_json_holds_every_value_and_reads_back():
    data = json.loads(json.dumps(as_json(TABLE)))
    assert data["rows"][0]["details"] == {"seed": 0}
    assert as_json(from_json(data)) == data


def test_facts_without_a_value_are_left_out():
    table = facts(("model", "bundled"), ("left out", ""))
    assert [tuple(row.values()) for row in table] == [("model", "bundled")]
    assert not any(column.title for column in table.columns)
