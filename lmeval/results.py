"""What a run reports: measurements with unit and interval, the ledger of what was scored, provenance; and their JSON.

The JSON is versioned: {"schema": 1, "results": [Measurement...], "ledger": {...}, "provenance": {...}}.
"""

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, NamedTuple

from lmeval.errors import NonFiniteScore, OutputError

SCHEMA = 1
Side = Literal["exact", "lower", "upper", "estimate"]


class Measurement(NamedTuple):
    """One number that leaves the program.

    `side` says what the value is for the quantity it is named after: exact, a lower or upper bound, or an estimate.
    `stderr` and `ci95` (95% interval) are in `unit`, and None where nothing can be said; `n` counts the independent units
    (documents or pieces of text) behind them.
    """

    name: str
    value: float
    unit: str
    side: Side
    stderr: float | None
    ci95: tuple[float, float] | None
    n: int
    higher_is_better: bool


@dataclass(frozen=True)
class Report:
    """All that a run says: the measurements, and JSON-ready mappings. `tables` holds further named lists of rows."""

    results: tuple[Measurement, ...]
    ledger: Mapping[str, Any]
    provenance: Mapping[str, Any]
    tables: Mapping[str, Sequence[Mapping[str, Any]]]

    def __getitem__(self, name: str) -> float:
        """Value of the measurement called `name`."""
        return find(self, name).value


def find(report: Report, name: str) -> Measurement:
    """The measurement called `name`; KeyError names those that the report has."""
    for measurement in report.results:
        if measurement.name == name:
            return measurement
    raise KeyError(f"{name} is not among {', '.join(m.name for m in report.results)}")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the interpreter and of every library whose arithmetic or parsing a number depends on."""
    names = ("lmeval", "torch", "transformers", "tokenizers", "accelerate", "datasets")
    names += ("numpy", "scipy", "scikit-learn", "zuko")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def now() -> str:
    """The present moment in UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def text_sha256(text: str) -> str:
    """SHA-256 of a text as UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def files_sha256(paths: Sequence[str]) -> str:
    """SHA-256 of the bytes of files one after the other, in hex."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON-ready data. Raises NonFiniteScore rather than write a number that JSON cannot hold."""
    for m in report.results:
        if not all(math.isfinite(x) for x in (m.value, m.stderr or 0.0, *(m.ci95 or ()))):
            raise NonFiniteScore(
                f"{m.name} is {m.value}, interval {m.ci95}: a result must be finite; look at the documents one by one"
            )
    return {
        "schema": SCHEMA,
        "results": [m._asdict() for m in report.results],
        "ledger": dict(report.ledger),
        "provenance": dict(report.provenance),
        **{name: list(rows) for name, rows in report.tables.items()},
    }


def several_as_json(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Reports of several tasks as one: all results with their task, and each report whole under "tasks"."""
    tasks = {name: as_json(report) for name, report in reports.items()}
    return {
        "schema": SCHEMA,
        "results": [{"task": name, **result} for name, task in tasks.items() for result in task["results"]],
        "ledger": {"n_tasks": len(tasks)},
        "provenance": {"date": now(), "versions": versions()},
        "tasks": tasks,
    }


def write_json(report: Report, path: Path) -> None:
    """Write the report's JSON whole or not at all."""
    write_text(json.dumps(as_json(report), indent=2, allow_nan=False) + "\n", path)


def check_writable(path: Path) -> None:
    """Raise OutputError at the start of a long run rather than at its end, where a result could not be written."""
    folder = path.parent
    if path.exists() and not path.is_file():  # a folder, a device, a pipe: renaming a file over it would destroy it
        raise OutputError(f"cannot write {path}: it is not an ordinary file; name a new file")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: folder {folder} is not writable")


def write_text(text: str, path: Path) -> None:
    """Write a file whole or not at all."""
    with atomic_writer(path) as stream:
        stream.write(text)


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """A text stream that becomes the file `path` when the block ends well (temporary name, fsync, rename), else nothing."""
    with atomic_binary_writer(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8")
        yield text
        text.detach()  # flushes, and leaves the stream open


@contextlib.contextmanager
def atomic_binary_writer(path: Path) -> Iterator[BinaryIO]:
    """The same for bytes."""
    check_writable(path)
    path = path.resolve()  # a link stays a link
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".lmeval.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes it private
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
