import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompted import CHOICES, TARGETS, chain, random_records, record, record_set, task_file

from lmeval.errors import InputError, InputNotFound, LmevalError
from lmeval.prompting import RecordSet, read_records, run_task, summarise, write_records
from lmeval.prompting.records import ids_sha256
from lmeval.results import as_json

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RecordSet]]:
    """Records of two tasks in one file."""
    folder = tmp_path_factory.mktemp("records")
    model, _ = chain()
    keys = CHOICES | {"task": "größe", "lmeval": {"neutral": [{"q": "N/A"}], "unconditional": "so", "cluster": "topic"}}
    sets = [run_task(task_file(folder, made), model).records for made in (keys, TARGETS)]
    write_records(sets, folder / "r.jsonl")
    return folder / "r.jsonl", sets


def test_records_read_back_as_they_were(written: tuple[Path, list[RecordSet]]):
    path, sets = written
    found = read_records(path)
    assert [dict(one.header) for one in found] == [json.loads(json.dumps(one.header)) for one in sets]
    assert [one.records for one in found] == [one.records for one in sets]
    assert [one.header["task"] for one in found] == ["größe", "targets"]
    lines = path.read_text().splitlines()
    assert all(line.isascii() for line in lines)
    first = json.loads(lines[0])
    assert (first["kind"], first["schema"], first["n_records"]) == ("lmeval.records", 1, 7)
    assert len(lines) == 2 + sum(len(one.records) for one in sets)


def test_what_was_read_can_be_written_again(written: tuple[Path, list[RecordSet]], tmp_path: Path):
    path, _ = written
    write_records(read_records(path), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@given(st.lists(FLOATS, min_size=1, max_size=3), FLOATS, st.text(min_size=1))
@settings(max_examples=30)
def test_numbers_read_back_to_the_bit(tmp_path_factory: pytest.TempPathFactory, nats: list[float], free: float, text: str):
    text = text.encode(errors="replace").decode()
    made = record("i0", [-1.0, -2.0], texts=[text, "\u2028\r\n\x1c\x85"], free=[free, -0.0], neutral=[nats[:1] * 2])
    made = made._replace(choices=(made.choices[0]._replace(nats=tuple(nats)), made.choices[1]))
    path = tmp_path_factory.getbasetemp() / "bits.jsonl"
    write_records([record_set([made])], path)
    [found] = read_records(path)

    def bits(values: Any) -> list[bytes]:
        return [struct.pack("<d", x) for x in values]

    assert found.records == (made,)
    assert bits(found.records[0].choices[0].nats) == bits(nats)
    assert bits([found.records[0].choices[0].unconditional_nats or 0.0]) == bits([free or 0.0])
    assert bits(found.records[0].neutral_nats[0]) == bits(made.neutral_nats[0])


def test_the_report_of_read_records_is_that_of_the_run(written: tuple[Path, list[RecordSet]]):
    path, sets = written
    for found, original in zip(read_records(path), sets, strict=True):
        assert json.dumps(as_json(summarise(found))) == json.dumps(as_json(summarise(original)))


@given(st.integers(0, 10**9), st.integers(0, 255), st.sampled_from(["set", "insert", "delete", "cut", "swap"]))
def test_a_changed_file_is_refused_or_reads_as_it_was(
    written: tuple[Path, list[RecordSet]], tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, kind: str
):
    path, sets = written
    data = bytearray(path.read_bytes())
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
        lines[at % 15], lines[byte % 15] = lines[byte % 15], lines[at % 15]
        data = bytearray(b"\n".join(lines))
    changed = tmp_path_factory.getbasetemp() / "changed.jsonl"
    changed.write_bytes(data)
    try:
        found = read_records(changed)
    except LmevalError as error:
        assert "changed.jsonl" in str(error) and "\n" not in str(error)
    else:
        assert [one.records for one in found] in ([one.records for one in sets], [sets[0].records])  # cut between tasks


def edited(lines: list[str], number: int, change: Callable[[dict[str, Any]], object]) -> list[str]:
    row = json.loads(lines[number])
    change(row)
    return [*lines[:number], json.dumps(row), *lines[number + 1 :]]


EDITS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "empty": (lambda lines: [], "it is empty"),
    "no header": (lambda lines: lines[1:], "line 1 is no record"),
    "header alone": (lambda lines: lines[:1], "should have 7 records and has 0: the file was cut"),
    "a record less": (lambda lines: lines[:3] + lines[4:], "should have 7 records and has 6"),
    "a record twice": (lambda lines: lines[:4] + lines[3:], "should have 7 records and has 8"),
    "cut": (lambda lines: [*lines[:5], lines[5][:40]], "line 6 is no record"),
    "another order": (lambda lines: [lines[0], lines[2], lines[1], *lines[3:]], "were changed since they were written"),
    "another number": (
        lambda lines: edited(lines, 2, lambda row: row["choices"][0]["nats"].__setitem__(0, -1.0)),
        "were changed since they were written",
    ),
    "another answer": (
        lambda lines: edited(lines, 2, lambda row: row.update(gold=[(row["gold"][0] + 1) % 3])),
        "were changed",
    ),
    "no such answer": (lambda lines: edited(lines, 2, lambda row: row["gold"].__setitem__(0, 9)), "line 3 is no record"),
    "no choices": (lambda lines: edited(lines, 2, lambda row: row["choices"].clear()), "line 3 is no record"),
    "a key too many": (lambda lines: edited(lines, 2, lambda row: row.update(more=1)), "line 3 is no record"),
    "a key less": (lambda lines: edited(lines, 2, lambda row: row.pop("shots")), "line 3 is no record"),
    "another task": (lambda lines: edited(lines, 0, lambda row: row.update(task="other")), "were changed"),
    "no checksum": (lambda lines: edited(lines, 0, lambda row: row.pop("sha256")), "were changed"),
    "another schema": (
        lambda lines: edited(lines, 0, lambda row: row.update(schema=2)),
        "records of schema 2; this reads 1",
    ),
    "NaN in the header": (lambda lines: [lines[0].replace("0.", "NaN, 0.", 1), *lines[1:]], "r.jsonl"),
    "twice": (lambda lines: lines * 2, "holds records of task größe twice"),
    "JSON of another kind": (lambda lines: ["[1, 2]"], "line 1 is no record"),
    "a number": (lambda lines: [lines[0], "5"], "line 2 is no record"),
    "nested": (lambda lines: [lines[0], "[" * 100_000], "line 2 is no record"),
}


@pytest.mark.parametrize("kind", EDITS)
def test_what_is_wrong_with_a_file_is_said(written: tuple[Path, list[RecordSet]], tmp_path: Path, kind: str):
    change, message = EDITS[kind]
    lines = written[0].read_text().splitlines()[:8]
    (tmp_path / "r.jsonl").write_text("\n".join(change(lines)))
    with pytest.raises(InputError) as caught:
        read_records(tmp_path / "r.jsonl")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    with pytest.raises(InputNotFound, match=r"cannot read records .*absent: No such file"):
        read_records(tmp_path / "absent")
    with pytest.raises(InputNotFound, match="Is a directory"):
        read_records(tmp_path)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_records(tmp_path / "bytes")


def test_line_ends_of_other_systems_do_not_matter(written: tuple[Path, list[RecordSet]], tmp_path: Path):
    (tmp_path / "dos").write_bytes(written[0].read_bytes().replace(b"\n", b"\r\n"))
    assert [one.records for one in read_records(tmp_path / "dos")] == [one.records for one in written[1]]


def test_a_number_that_json_lacks_is_never_written(tmp_path: Path):
    for bad in (math.nan, -math.inf):
        with pytest.raises(ValueError, match="JSON"):
            write_records([record_set([*random_records(0, 2), record("i9", [bad, -1.0])])], tmp_path / "r.jsonl")
    assert list(tmp_path.iterdir()) == []


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
