"""Rows have ids that depend on their content alone, and data that cannot be read is an error of ours."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmeval.data.documents import DataSource
from lmeval.data.rows import ID_DIGITS, content_hash, load_rows, with_ids
from lmeval.errors import EmptyInput, InputNotFound, TaskFileError

FIELDS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates() | st.binary(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
        max_leaves=4,
    ),
    max_size=4,
)


@given(row=FIELDS, data=st.data())
def test_an_id_does_not_depend_on_the_order_of_the_fields(row: dict[str, Any], data: st.DataObject):
    names = data.draw(st.permutations(sorted(row)))
    assert content_hash({name: row[name] for name in names}) == content_hash(row)
    assert re.fullmatch(rf"[0-9a-f]{{{ID_DIGITS}}}", content_hash(row))


@given(values=st.lists(st.integers(0, 4), max_size=12), data=st.data())
def test_ids_are_unique_and_follow_their_content(values: list[int], data: st.DataObject):
    rows = with_ids([{"a": value} for value in values])
    assert [row.number for row in rows] == list(range(len(values)))
    assert len({row.id for row in rows}) == len(rows)
    assert [row.content for row in rows] == [content_hash({"a": value}) for value in values]
    for row in rows:
        copies = [other.id for other in rows if other.fields == row.fields]
        assert copies == [row.content, *(f"{row.content}#{k}" for k in range(2, len(copies) + 1))]
    other = with_ids([{"a": value} for value in data.draw(st.permutations(values))])
    assert sorted(row.id for row in other) == sorted(row.id for row in rows)


def test_ids_are_those_of_other_days_and_machines():
    rows = with_ids([{"q": "Schön?", "label": 1}, {"label": 1, "q": "Schön?"}, {}])
    assert [row.id for row in rows] == ["aba10b883449b964", "aba10b883449b964#2", "44136fa355b3678a"]


def write(folder: Path, rows: list[Any], name: str = "rows.jsonl") -> DataSource:
    (folder / name).write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return DataSource("json", None, "train", (str(folder / name),))


ROWS = [{"q": "a", "part": "x", "n": 1}, {"q": "b", "part": "y", "n": 2}, {"q": "c", "part": "x", "n": None}]


def test_all_rows_are_read_in_order(tmp_path: Path):
    assert [row.fields for row in load_rows(write(tmp_path, ROWS))] == ROWS


def test_rows_are_kept_by_their_fields(tmp_path: Path):
    source = write(tmp_path, ROWS)
    assert [row.fields["q"] for row in load_rows(source, keep={"part": "x"})] == ["a", "c"]
    assert [row.fields["q"] for row in load_rows(source, keep={"part": "x", "n": 1})] == ["a"]
    assert [row.number for row in load_rows(source, keep={"part": "x"})] == [0, 1]
    with pytest.raises(InputNotFound, match=r"rows\.jsonl has no column 'split' to choose rows by: it has q, part, n"):
        load_rows(source, keep={"split": "x"})
    with pytest.raises(EmptyInput, match=r"none of its 3 rows has \{'part': 'z'\}"):
        load_rows(source, keep={"part": "z"})
    ragged = load_rows(source, lambda rows: [{"part": "x"}, {"q": "no part"}], keep={"part": "x"})
    assert len(ragged) == 1


def test_data_that_cannot_be_read_is_named_in_one_line(tmp_path: Path):
    sources = [
        write(tmp_path, ["{broken"], "broken.jsonl"),
        DataSource("json", None, "train", (str(tmp_path / "missing.jsonl"),)),
        DataSource(str(tmp_path / "no" / "such" / "folder"), None, "train"),
    ]
    for source in sources:
        with pytest.raises(InputNotFound) as caught:
            load_rows(source)
        assert str(source) in str(caught.value)
        assert str(caught.value).splitlines() == [str(caught.value)]


def test_no_rows_are_nothing_to_score(tmp_path: Path):
    with pytest.raises(EmptyInput, match=r"nothing to score in .*rows\.jsonl: it has no rows"):
        load_rows(write(tmp_path, ROWS), lambda rows: [])


def test_what_the_task_makes_of_the_data_are_the_rows(tmp_path: Path):
    source = write(tmp_path, ROWS)
    found = load_rows(source, lambda rows: rows.map(lambda row: {"q": row["q"] * 2}).filter(lambda row: row["n"] == 2))
    assert [row.fields["q"] for row in found] == ["bb"]


def test_an_error_of_ours_in_the_tasks_own_function_stays_as_it_is(tmp_path: Path):
    def fails(rows: Any) -> Any:
        raise TaskFileError("t.yaml: line 3: process_docs")

    with pytest.raises(TaskFileError, match="line 3"):
        load_rows(write(tmp_path, ROWS), fails)
