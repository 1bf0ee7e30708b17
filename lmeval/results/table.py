"""Tables as data: columns that say what they hold, and rows that hold raw values. Drawing is `report`'s."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

Align = Literal["left", "right"]
Style = Literal["number", "signed", "percent", "speed", "words"]


class Column(NamedTuple):
    """What a column holds and how a person reads it.

    `name` is its key in every row, `title` its heading, `unit` the unit of its numbers. `digits` are the decimals of its
    floating-point numbers; None shows them as Python writes them. `style` says how numbers are written: plainly, with their
    sign, a share as a percentage, bytes per second as kB/s or MB/s; "words" leaves everything as it is.
    """

    name: str
    title: str
    unit: str = ""
    digits: int | None = None
    align: Align = "right"
    style: Style = "number"


@dataclass(frozen=True)
class Table:
    """Rows of raw values under typed columns.

    A cell is text, a number, a truth value, None (nothing to say), or a pair of numbers (an interval). Cells of columns that
    no view shows may hold any JSON-ready data. `notes` are sentences that stand under the table.
    """

    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Any], ...]
    title: str = ""
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        """The rows in their order."""
        return iter(self.rows)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.rows)

    def __getitem__(self, i: int) -> Mapping[str, Any]:
        """Row i."""
        return self.rows[i]

    def select(self, *names: str) -> "Table":
        """The table with these columns alone, in this order. Raises KeyError for a column that it has not."""
        by_name = {column.name: column for column in self.columns}
        return replace(self, columns=tuple(by_name[name] for name in names))

    def column(self, name: str) -> list[Any]:
        """The cells of one column, in the order of the rows; None where a row has none."""
        return [row.get(name) for row in self.rows]


def words(name: str, title: str | None = None) -> Column:
    """A column of text, to the left."""
    return Column(name, name if title is None else title, align="left", style="words")


def count(name: str, title: str | None = None, unit: str = "") -> Column:
    """A column of whole numbers."""
    return Column(name, name if title is None else title, unit)


def facts(*pairs: tuple[str, str]) -> Table:
    """A table of two columns without headings: what is told, and what it is. Pairs with an empty value are left out.

    >>> facts(("model", "bundled"), ("left out", "")).rows
    ({'label': 'model', 'value': 'bundled'},)
    """
    rows = tuple({"label": label, "value": value} for label, value in pairs if value)
    return Table((words("label", ""), words("value", "")), rows)


def as_json(table: Table) -> dict[str, Any]:
    """The table as JSON-ready data: every column's description, and every row with all that it holds.

    Args:
        table: The table; its cells are taken as they are.

    Returns:
        A dictionary with the keys "title", "columns", "rows" and "notes", which `from_json` reads back. Rows keep the cells
        that no column shows.
    """
    columns = [column._asdict() for column in table.columns]
    return {"title": table.title, "columns": columns, "rows": [dict(row) for row in table.rows], "notes": list(table.notes)}


def from_json(data: Mapping[str, Any]) -> Table:
    """The table that `as_json` wrote."""
    columns = tuple(Column(**column) for column in data["columns"])
    return Table(columns, tuple(data["rows"]), data["title"], tuple(data["notes"]))


def from_rows(columns: Sequence[Column], rows: Sequence[NamedTuple]) -> Table:
    """A table of named tuples, a row each. Fields without a column are kept in the rows, for readers of the data."""
    return Table(tuple(columns), tuple(row._asdict() for row in rows))
