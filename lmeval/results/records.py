"""Records: what was measured of each item, one JSON object a line, in one checksummed format for every capability.

A file holds one or several sets. A set is a header line and the lines of its items. The header says which report the items
are from, how they make up its metrics, and the SHA-256 of itself (without that key) and of the lines under it, so that a
file that was cut or changed is refused:

    {"kind": "lmeval.records", "schema": 2, "report": "run", "of": {...}, "metrics": [...], "n_records": 2, "sha256": ...}
    {"item": "3f2a...", "of": {...}, "values": {"acc": 1.0}, "detail": {...}}
    {"item": "90c1...", "of": {...}, "values": {"acc": 0.0}, "detail": {...}}
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from lmeval.errors import InputError, InputNotFound
from lmeval.results.files import atomic_writer
from lmeval.results.items import (
    DAMAGED,
    ItemMetric,
    ItemRecord,
    Items,
    mapping_from_json,
    metric_from_json,
    record_as_json,
    record_from_json,
)
from lmeval.results.measurement import NOTHING
from lmeval.results.report import Report, leaves

KIND = "lmeval.records"
SCHEMA = 2


class RecordHeader(NamedTuple):
    """What describes the items of a set: the kind of report they are from, what all of them are of, the metrics that they
    make up, and the ledger and provenance of the run."""

    report: str
    of: Mapping[str, str]
    metrics: tuple[ItemMetric, ...]
    ordered: bool = False
    ledger: Mapping[str, Any] = NOTHING
    provenance: Mapping[str, Any] = NOTHING


class RecordSet(NamedTuple):
    """The items of one run and what describes them."""

    header: RecordHeader
    records: tuple[ItemRecord, ...]

    @property
    def items(self) -> Items:
        """The items with their metrics, as a report holds them."""
        return Items(self.header.metrics, self.records, self.header.ordered)


OldReader = Callable[[Mapping[str, Any], list[dict[str, Any]]], RecordSet]
"""Turns a header and the rows of a set of schema 1 into a set of today."""


def records_of(report: Report) -> list[RecordSet]:
    """The sets of a report: one for each of its parts that has items."""
    sets = []
    for part in leaves(report):
        if part.items is not None:
            of = _of_all(part.items.records)
            header = RecordHeader(part.kind, of, part.items.metrics, part.items.ordered, part.ledger, part.provenance)
            sets.append(RecordSet(header, part.items.records))
    return sets


def _of_all(records: Sequence[ItemRecord]) -> dict[str, str]:
    """What every record is of."""
    first = records[0].of if records else NOTHING
    return {key: value for key, value in first.items() if all(record.of.get(key) == value for record in records)}


def write_records(sets: Iterable[RecordSet], path: Path) -> None:
    """Write sets of records, one under the other, whole or not at all."""
    with atomic_writer(path) as stream:
        for header, records in sets:
            with _set_writer(stream) as writer:
                for record in records:
                    writer.add(record)
                writer.end(header)


class RecordWriter:
    """Takes the items of a set one by one, in constant memory, and then its header."""

    def __init__(self, stream: IO[str], spool: IO[str]) -> None:
        self._stream = stream
        self._spool = spool
        self._digest = hashlib.sha256()
        self._n = 0

    def add(self, record: ItemRecord) -> None:
        """Write one item."""
        line = json.dumps(record_as_json(record), allow_nan=False)
        self._digest.update(b"\n" + line.encode())
        self._spool.write(line + "\n")
        self._n += 1

    def end(self, header: RecordHeader) -> None:
        """Write the header, and the items under it. Call once."""
        about = _header_as_json(header, self._n)
        digest = hashlib.sha256(json.dumps(about).encode() + b"\n" + self._digest.digest()).hexdigest()
        self._stream.write(json.dumps({**about, "sha256": digest}, allow_nan=False) + "\n")
        self._spool.seek(0)
        shutil.copyfileobj(self._spool, self._stream)


@contextmanager
def record_writer(path: Path) -> Iterator[RecordWriter]:
    """A writer of one set, which becomes the file `path` when the block ends well."""
    with atomic_writer(path) as stream, _set_writer(stream) as writer:
        yield writer


@contextmanager
def _set_writer(stream: IO[str]) -> Iterator[RecordWriter]:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        yield RecordWriter(stream, spool)


def read_records(path: Path, old: OldReader | None = None) -> list[RecordSet]:
    """Read what `write_records` and `record_writer` wrote.

    Args:
        path: The file.
        old: Reads sets of schema 1, whose rows were a capability's own; without it they are refused.

    Raises:
        InputNotFound: There is no such file, or it cannot be read.
        InputError: It names file and line: no records, of another schema, cut, or changed.
    """
    sets: list[_Lines] = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line)
            if row.get("kind") == KIND:
                sets.append(_Lines(number, row, [], []))
            else:
                sets[-1].lines.append(line)
                sets[-1].rows.append(row)
        except DAMAGED as error:
            raise InputError(f"{path}: line {number} is no record that lmeval wrote with --records") from error
    if not sets:
        raise InputError(f"{path} holds no records: it is empty")
    return [_record_set(one, path, old) for one in sets]


class _Lines(NamedTuple):
    """A set as it stands in a file: the number of its header's line, its header, the lines under it and what they hold."""

    first: int
    about: dict[str, Any]
    lines: list[str]
    rows: list[dict[str, Any]]


def is_records(path: Path) -> bool:
    """Whether a file begins as records do."""
    try:
        with path.open("rb") as stream:
            return KIND.encode() in stream.readline(1 << 16)
    except OSError:
        return False


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputNotFound(f"cannot read records {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds no records: it is not UTF-8 text") from error
    return text.removesuffix("\n").split("\n") if text else []


def _record_set(one: _Lines, path: Path, old: OldReader | None) -> RecordSet:
    first, about = one.first, one.about
    schema = about.get("schema")
    if schema not in ((1, SCHEMA) if old else (SCHEMA,)):
        raise InputError(f"{path}: line {first}: records of schema {schema}; this reads {SCHEMA}")
    _check_whole(one, path)
    if schema == 1 and old:
        try:
            return old(about, one.rows)
        except DAMAGED as error:
            raise InputError(f"{path}: line {first}: the records under this header are not complete") from error
    header = _header(about, path, first)
    records = []
    for number, row in enumerate(one.rows, start=first + 1):
        try:
            records.append(record_from_json(row, header.metrics))
        except DAMAGED as error:
            raise InputError(f"{path}: line {number} is no record that lmeval wrote with --records") from error
    return RecordSet(header, tuple(records))


def _header(about: dict[str, Any], path: Path, first: int) -> RecordHeader:
    try:
        return RecordHeader(
            report=str(about["report"]),
            of=mapping_from_json(about["of"]),
            metrics=tuple(map(metric_from_json, about["metrics"])),
            ordered=bool(about["ordered"]),
            ledger=mapping_from_json(about["ledger"]),
            provenance=mapping_from_json(about["provenance"]),
        )
    except DAMAGED as error:
        raise InputError(f"{path}: line {first} is no header of records") from error


def _check_whole(one: _Lines, path: Path) -> None:
    """Raise InputError where the lines under a header are not those that it was written for."""
    first, about, lines, _ = one
    n_records, digest = about.get("n_records"), about.get("sha256")
    if n_records != len(lines) or not lines:
        raise InputError(
            f"{path}: line {first}: this header should stand over {n_records} records and has {len(lines)}: the file was cut"
        )
    bare = {name: value for name, value in about.items() if name != "sha256"}
    if about.get("schema") == 1:
        expected = hashlib.sha256("\n".join([json.dumps(bare), *lines]).encode()).hexdigest()
    else:
        of_lines = hashlib.sha256("".join("\n" + line for line in lines).encode()).digest()
        expected = hashlib.sha256(json.dumps(bare).encode() + b"\n" + of_lines).hexdigest()
    if digest != expected:
        raise InputError(
            f"{path}: line {first}: the records under this header were changed since they were written: "
            "their SHA-256 differs"
        )


def _header_as_json(header: RecordHeader, n_records: int) -> dict[str, Any]:
    return {
        "kind": KIND,
        "schema": SCHEMA,
        "report": header.report,
        "of": dict(header.of),
        "metrics": [metric._asdict() for metric in header.metrics],
        "ordered": header.ordered,
        "ledger": dict(header.ledger),
        "provenance": dict(header.provenance),
        "n_records": n_records,
    }
