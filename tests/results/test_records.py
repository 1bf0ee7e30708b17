import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from items import ACC, LOSS, RATE, item, report_with

from lmeval.errors import InputError, InputNotFound, LmevalError
from lmeval.results import Items, Report, together
from lmeval.results.records import (
    RecordHeader,
    RecordSet,
    is_records,
    read_records,
    record_writer,
    records_of,
    write_records,
)

VALUES = {"acc": [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0], "log_loss": [0.1 + 0.2, 5e-324, 2.0, 1e308, 0.5, 0.25, 3.0]}
SETS = [
    RecordSet(
        RecordHeader("run", {"model": "m"}, (ACC, LOSS), False, {"n": 7}, {"größe": "\u2028"}),
        tuple(
            record._replace(cluster="c", seed=i, detail={"text": "\u2028\r\n\x85"})
            for i, record in enumerate((report_with(VALUES, [ACC, LOSS]).items or Items((), ())).records)
        ),
    ),
    RecordSet(RecordHeader("perplexity", {}, (RATE,), ordered=True), (item("d", {"nll_nats": 2.0, "n_bytes": 3.0}),)),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_records(SETS, tmp_path / "r.jsonl")
    return tmp_path / "r.jsonl"


def test_records_read_back_as_they_were(path: Path):
    assert read_records(path) == SETS
    lines = path.read_text().splitlines()
    assert len(lines) == 2 + 7 + 1 and all(line.isascii() for line in lines)
    header = json.loads(lines[0])
    assert (header["kind"], header["schema"], header["report"], header["n_records"]) == ("lmeval.records", 2, "run", 7)


def test_what_was_read_can_be_written_again(path: Path, tmp_path: Path):
    write_records(read_records(path), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_stream_of_records_is_what_a_list_of_them_is(path: Path, tmp_path: Path):
    write_records(SETS[:1], tmp_path / "list")
    with record_writer(tmp_path / "stream") as writer:
        for record in SETS[0].records:
            writer.add(record)
        writer.end(SETS[0].header)
    assert (tmp_path / "stream").read_bytes() == (tmp_path / "list").read_bytes()


def test_a_stream_that_fails_leaves_the_file_as_it_was(path: Path):
    before = path.read_bytes()
    with pytest.raises(RuntimeError), record_writer(path) as writer:
        writer.add(SETS[0].records[0])
        raise RuntimeError
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_every_part_of_a_report_that_has_items_is_a_set():
    parts = (report_with(VALUES, [ACC, LOSS]), Report("demo"), report_with({"acc": [1.0]}, of={"task": "u"}))
    sets = records_of(together("run", parts, {}))
    assert [made.items for made in sets] == [parts[0].items, parts[2].items]
    assert [(made.header.report, made.header.of) for made in sets] == [("run", {"task": "t"}), ("run", {"task": "u"})]


def test_records_are_told_from_other_files(path: Path, tmp_path: Path):
    assert is_records(path)
    for name, text in (("results", '{"kind": "run"}'), ("empty", "")):
        (tmp_path / name).write_text(text)
        assert not is_records(tmp_path / name)
    assert not is_records(tmp_path / "absent") and not is_records(tmp_path)


@given(st.integers(0, 10**9), st.integers(0, 255), st.sampled_from(["set", "insert", "delete", "cut", "swap"]))
def test_a_changed_file_is_refused_or_reads_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, kind: str
):
    whole = tmp_path_factory.getbasetemp() / "whole.jsonl"
    if not whole.exists():
        write_records(SETS, whole)
    data = bytearray(whole.read_bytes())
    at = place % len(data)
    if kind == "set":
        data[at] = byte
    elif kind == "insert":
        data.insert(at, byte)
    elif kind == "delete":
        del data[at]
    elif kind == "cut":
        del data[at:]
    else:
        lines = data.split(b"\n")
        lines[at % 10], lines[byte % 10] = lines[byte % 10], lines[at % 10]
        data = bytearray(b"\n".join(lines))
    changed = whole.with_name("changed.jsonl")
    changed.write_bytes(data)
    try:
        read = read_records(changed)
    except LmevalError as error:
        assert "changed.jsonl" in str(error) and "\n" not in str(error)
    else:
        assert read in (SETS, SETS[:1])  # cut between the sets


def edited(lines: list[str], number: int, change: Callable[[dict[str, Any]], object]) -> list[str]:
    row = json.loads(lines[number])
    change(row)
    return [*lines[:number], json.dumps(row), *lines[number + 1 :]]


EDITS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "empty": (lambda lines: [], "it is empty"),
    "no header": (lambda lines: lines[1:], "line 1 is no record"),
    "header alone": (lambda lines: lines[:1], "line 1: this header should stand over 7 records and has 0: the file was cut"),
    "a record less": (lambda lines: lines[:3] + lines[4:], "over 7 records and has 6"),
    "a record twice": (lambda lines: lines[:4] + lines[3:], "over 7 records and has 8"),
    "cut": (lambda lines: [*lines[:5], lines[5][:40]], "line 6 is no record"),
    "another order": (
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        "line 1: the records under this header were",
    ),
    "another number": (lambda lines: edited(lines, 2, lambda row: row["values"].update(acc=1.0)), "SHA-256 differs"),
    "another task": (lambda lines: edited(lines, 0, lambda row: row["of"].update(model="n")), "SHA-256 differs"),
    "no checksum": (lambda lines: edited(lines, 0, lambda row: row.pop("sha256")), "SHA-256 differs"),
    "a later schema": (
        lambda lines: edited(lines, 0, lambda row: row.update(schema=3)),
        "line 1: records of schema 3; this reads 2",
    ),
    "NaN in the header": (lambda lines: [lines[0].replace("7", "NaN", 1), *lines[1:]], "r.jsonl: line 1"),
    "JSON of another kind": (lambda lines: ["[1, 2]"], "line 1 is no record"),
    "a number": (lambda lines: [lines[0], "5"], "line 2 is no record"),
    "nested": (lambda lines: [lines[0], "[" * 100_000], "line 2 is no record"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_what_is_wrong_with_a_file_is_said(path: Path, kind: str):
    change, message = EDITS[kind]
    path.write_text("\n".join(change(path.read_text().splitlines()[:8])))
    with pytest.raises(InputError) as caught:
        read_records(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def signed(*rows: Mapping[str, Any]) -> list[str]:
    """Lines whose header has the checksum of whatever they hold."""
    import hashlib

    about, lines = {"n_records": len(rows) - 1, **rows[0]}, [json.dumps(row) for row in rows[1:]]
    of_lines = hashlib.sha256("".join("\n" + line for line in lines).encode()).digest()
    digest = hashlib.sha256(json.dumps(about).encode() + b"\n" + of_lines).hexdigest()
    return [json.dumps({**about, "sha256": digest}), *lines]


HEADER = {"kind": "lmeval.records", "schema": 2, "report": "run", "of": {}, "metrics": [ACC._asdict()], "ordered": False} | {
    "ledger": {},
    "provenance": {},
}
ROW = {"item": "a", "of": {}, "values": {"acc": 1.0}}
OTHERS: dict[str, tuple[list[str], str]] = {
    "no metric": (signed({**HEADER, "metrics": [{"name": "acc"}]}, ROW), "line 1 is no header of records"),
    "no ledger": (signed({k: v for k, v in HEADER.items() if k != "ledger"}, ROW), "line 1 is no header of records"),
    "an accuracy of 7": (signed(HEADER, ROW, {**ROW, "values": {"acc": 7}}), "line 3 is no record"),
    "a value that is text": (signed(HEADER, {**ROW, "values": {"acc": "x"}}), "line 2 is no record"),
    "no values": (signed(HEADER, {"item": "a", "of": {}}), "line 2 is no record"),
    "a key too many": (signed(HEADER, {**ROW, "more": 1}), "line 2 is no record"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_records_of_other_make_are_refused_by_line(tmp_path: Path, kind: str):
    lines, message = OTHERS[kind]
    (tmp_path / "good").write_text("\n".join(signed(HEADER, ROW)))
    assert [record.values for record in read_records(tmp_path / "good")[0].records] == [{"acc": 1.0}]
    (tmp_path / "r.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError, match=message):
        read_records(tmp_path / "r.jsonl")


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(InputNotFound, match=r"cannot read records .*absent: No such file"):
        read_records(tmp_path / "absent")
    with pytest.raises(InputNotFound, match="Is a directory"):
        read_records(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_records(tmp_path / "bytes")


def test_line_ends_of_other_systems_do_not_matter(path: Path, tmp_path: Path):
    (tmp_path / "dos").write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_records(tmp_path / "dos") == SETS


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
def test_a_number_that_json_lacks_is_never_written(tmp_path: Path, bad: float):
    with pytest.raises(ValueError, match="JSON"):
        write_records([SETS[0]._replace(records=(*SETS[0].records, item("bad", {"acc": bad})))], tmp_path / "r.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        write_records([SETS[0]._replace(header=SETS[0].header._replace(ledger={"bad": bad}))], tmp_path / "r.jsonl")
    assert list(tmp_path.iterdir()) == []
