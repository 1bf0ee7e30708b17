"""Records: everything that scoring an item found out, one JSON object a line, from which all scores can be computed again.

The first line describes the run (task, model, settings) and holds the SHA-256 of itself and of the lines behind it; each
other line is one item under one seed of few-shot examples. A file that was cut or changed since is refused.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmeval.errors import InputError, InputNotFound
from lmeval.results import atomic_writer

KIND = "lmeval.records"
SCHEMA = 1


class ScoredChoice(NamedTuple):
    """One continuation. `nats` holds log p of each of its tokens `ids`, given the context and those before; `n_bytes` and
    `n_characters` are those of the choice's own text, without the delimiter; `greedy` says that each of its tokens was the
    model's first choice; `unconditional_nats` is its log p behind the task's empty or domain context, if asked for."""

    text: str
    ids: tuple[int, ...]
    nats: tuple[float, ...]
    n_bytes: int
    n_characters: int
    greedy: bool
    unconditional_nats: float | None

    @property
    def total_nats(self) -> float:
        """log p(continuation | context), summed in float64."""
        return float(np.sum(np.array(self.nats, dtype=np.float64)))


class Record(NamedTuple):
    """One item under one seed.

    `item` is the row's id, `number` its place in the split, from 0, `gold` the indices of the right choices, `shots` the ids
    of the few-shot rows in their order, `cluster` the item's cluster or None. `context_sha256` hashes the context's token
    ids (int64, little-endian; of the first choice), `n_context_tokens` counts them. `n_moved` is not 0 where a token spans
    the boundary between context and continuation (see `encoding`). `neutral_nats` [inputs][choices] holds log p of the
    choices behind each content-free input, empty where the task names none.
    """

    item: str
    number: int
    seed: int
    gold: tuple[int, ...]
    shots: tuple[str, ...]
    cluster: str | None
    context_sha256: str
    n_context_tokens: int
    n_moved: int
    choices: tuple[ScoredChoice, ...]
    neutral_nats: tuple[tuple[float, ...], ...]


class RecordSet(NamedTuple):
    """The records of one task and what describes their run, JSON-ready: task, output_type, metrics, model, settings."""

    header: Mapping[str, Any]
    records: tuple[Record, ...]


def ids_sha256(ids: np.ndarray) -> str:
    """SHA-256 of token ids as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i8").tobytes()).hexdigest()


def write_records(sets: Iterable[RecordSet], path: Path) -> None:
    """Write records whole or not at all. Several tasks follow each other, each behind its own header."""
    with atomic_writer(path) as stream:
        for header, records in sets:
            lines = [_line(record) for record in records]
            about = {"kind": KIND, "schema": SCHEMA, **header, "n_records": len(lines)}
            for line in (_dumped({**about, "sha256": _digest(about, lines)}), *lines):
                stream.write(line + "\n")


def read_records(path: Path) -> list[RecordSet]:
    """Read what `write_records` wrote. Raises InputNotFound, and InputError that names file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputNotFound(f"cannot read records {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} holds no records: it is not UTF-8 text") from error
    sets: list[tuple[dict[str, Any], list[str], list[Record]]] = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        try:
            row = json.loads(line)
            if row.get("kind") == KIND:
                if row.get("schema") != SCHEMA:
                    raise InputError(f"{path}: line {number}: records of schema {row.get('schema')}; this reads {SCHEMA}")
                sets.append((row, [], []))
            else:
                sets[-1][1].append(line)
                sets[-1][2].append(_record(row))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is no record of `lmeval run --records`") from error
    if not sets:
        raise InputError(f"{path} holds no records: it is empty")
    found = [RecordSet(_checked(header, lines, path), tuple(records)) for header, lines, records in sets]
    names = [records.header.get("task") for records in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{path} holds records of task {name} twice: keep different runs in different files")
    return found


def _checked(about: dict[str, Any], lines: list[str], path: Path) -> dict[str, Any]:
    """The header as it was given to `write_records`. Raises InputError where the lines behind it are others."""
    task, n_records, digest = about.get("task"), about.get("n_records"), about.pop("sha256", None)
    if n_records != len(lines) or not lines:
        raise InputError(f"{path}: task {task} should have {n_records} records and has {len(lines)}: the file was cut")
    if digest != _digest(about, lines):
        raise InputError(f"{path}: the records of task {task} were changed since they were written: their SHA-256 differs")
    return {name: value for name, value in about.items() if name not in ("kind", "schema", "n_records")}


def _digest(about: Mapping[str, Any], lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join([json.dumps(about), *lines]).encode()).hexdigest()


def _dumped(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False)


def _line(record: Record) -> str:
    return _dumped({**record._asdict(), "choices": [choice._asdict() for choice in record.choices]})


def _record(row: dict[str, Any]) -> Record:
    choices = tuple(
        ScoredChoice(**{**choice, "ids": tuple(choice["ids"]), "nats": tuple(map(float, choice["nats"]))})
        for choice in row["choices"]
    )
    if not choices or not all(0 <= g < len(choices) for g in row["gold"]) or not all(choice.nats for choice in choices):
        raise ValueError
    neutral = tuple(tuple(map(float, nats)) for nats in row["neutral_nats"])
    parts = {"gold": tuple(row["gold"]), "shots": tuple(row["shots"]), "choices": choices, "neutral_nats": neutral}
    return Record(**{**row, **parts})
