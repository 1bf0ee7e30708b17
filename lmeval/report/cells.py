"""Raw values -> what a person reads in a cell."""

from collections.abc import Sequence
from typing import Any

from lmeval.results.table import Column

LARGE = 1e9  # from here on numbers are written in scientific notation


def cell(value: Any, column: Column) -> str:
    """A value as text, in the column's style.

    >>> cell((0.25, 0.5), Column("ci95", "95% interval", digits=2)), cell(12345, Column("n", "items"))
    ('0.25 to 0.50', '12,345')
    >>> cell(0.125, Column("excess", "", digits=1, style="percent")), cell(0.5, Column("d", "", digits=2, style="signed"))
    ('12.5%', '+0.50')
    """
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " to ".join(cell(end, column) for end in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) or column.style == "words":
        return str(value)
    return _number(value, column)


def _number(value: float, column: Column) -> str:
    if column.style == "speed":
        return speed(value)
    if column.style == "percent":
        return f"{value:.{column.digits or 0}%}"
    if column.style == "signed":
        return f"{value:+,.{column.digits or 0}f}"
    if isinstance(value, int) or column.digits is None:
        return f"{value:,}"
    return number(value, column.digits)


def number(x: float, digits: int) -> str:
    """A number with `digits` decimals; in scientific notation from 1e9."""
    return f"{x:,.{digits}f}" if abs(x) < LARGE else f"{x:.{digits}e}"


def interval(ci95: Sequence[float] | None, digits: int) -> str:
    """A 95% interval, nothing where there is none."""
    return "" if ci95 is None else f"{number(ci95[0], digits)} to {number(ci95[1], digits)}"


def count(n: int, noun: str) -> str:
    """A count with its noun.

    >>> count(1, "token"), count(2000, "token")
    ('1 token', '2,000 tokens')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def speed(bytes_per_second: float | None) -> str:
    """Bytes per second for people."""
    if bytes_per_second is None:
        return ""
    return f"{bytes_per_second / 1e6:,.2f} MB/s" if bytes_per_second >= 1e5 else f"{bytes_per_second / 1e3:,.2f} kB/s"
