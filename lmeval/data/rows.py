"""Rows of a task's data, each with an id that depends on its content alone."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from lmeval.data.documents import DataSource, open_dataset
from lmeval.errors import EmptyInput, InputError, InputNotFound, first_line
from lmeval.messages import names

ID_DIGITS = 16


class Row(NamedTuple):
    """One row: `id` is a hash of its fields, so that it does not depend on where the row stands; the k-th row of equal
    content (k > 1) has "#k" after it. `number` is its place in the split, from 0, for people."""

    id: str
    number: int
    fields: Mapping[str, Any]

    @property
    def content(self) -> str:
        """The hash of its fields alone: equal for rows of equal content."""
        return self.id[:ID_DIGITS]


def load_rows(
    source: DataSource, process: Callable[[Any], Any] | None = None, keep: Mapping[str, Any] | None = None
) -> list[Row]:
    """The rows of a split.

    Args:
        source: The data set and its split.
        process: Makes other rows of them (a task's process_docs).
        keep: Values that fields must have; rows that differ are left out.

    Returns:
        The rows with their ids, in the split's order.

    Raises:
        InputNotFound: The data cannot be read, or lack a column of `keep`.
        EmptyInput: No row is left.
    """
    try:
        data: Iterable[Any] = open_dataset(source, streaming=process is None)
        rows = [dict(row) for row in (process(data) if process else data)]
    except InputError:
        raise
    except Exception as error:  # the library or a broken file
        raise InputNotFound(f"cannot read data set {source}: {first_line(error)}") from error
    for field in keep or {}:
        if rows and field not in rows[0]:
            raise InputNotFound(f"{source} has no column '{field}' to choose rows by: it has {names(rows[0])}")
    kept = [row for row in rows if all(row.get(name) == wanted for name, wanted in (keep or {}).items())]
    if not kept:
        why = f"none of its {len(rows)} rows has {dict(keep)}" if keep and rows else "it has no rows"
        raise EmptyInput(f"nothing to score in {source}: {why}")
    return with_ids(kept)


def with_ids(rows: Iterable[Mapping[str, Any]]) -> list[Row]:
    """The rows with their ids.

    >>> [row.id == other.id for row, other in zip(with_ids([{"a": 1}, {"a": 2}]), with_ids([{"a": 1}, {"a": 3}]))]
    [True, False]
    """
    seen: dict[str, int] = {}
    numbered = []
    for number, fields in enumerate(rows):
        digest = content_hash(fields)
        seen[digest] = seen.get(digest, 0) + 1
        numbered.append(Row(digest if seen[digest] == 1 else f"{digest}#{seen[digest]}", number, fields))
    return numbered


def content_hash(fields: Mapping[str, Any]) -> str:
    """The first hex digits of the SHA-256 of a row as JSON with sorted keys."""
    text = json.dumps(fields, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]
