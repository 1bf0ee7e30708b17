"""Parts that all tables share: columns, numbers, intervals."""

from collections.abc import Sequence

from rich.table import Table

from lmeval.results import Measurement


def plain_table(*columns: str, title: str | None = None) -> Table:
    """A table without lines, its first column to the left and numbers to the right; no header where no column has a name."""
    table = Table(
        title=title, title_justify="left", box=None, show_header=any(columns), pad_edge=False, padding=(0, 2, 0, 0)
    )
    for i, column in enumerate(columns):
        left = i == 0 or not any(columns)
        # With overflow="ignore" rich justifies nothing; `cli.shared.print_table` sees to it that nothing is cropped.
        table.add_column(column, justify="left" if left else "right", no_wrap=True, overflow="crop")
    return table


def interval(m: Measurement, digits: int) -> str:
    """A 95% interval, nothing where there is none."""
    return "" if m.ci95 is None else f"{number(m.ci95[0], digits)} to {number(m.ci95[1], digits)}"


def number(x: float, digits: int) -> str:
    """A number with so many digits behind the point, or in scientific notation where it is huge."""
    return f"{x:,.{digits}f}" if abs(x) < 1e9 else f"{x:.{digits}e}"


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


def measurement_table(measurements: Sequence[Measurement]) -> Table:
    """Every measurement with interval and standard error."""
    table = plain_table("metric", "value", "95% interval", "standard error")
    for m in measurements:
        digits = 1 if m.name == "nll_nats" else 4
        error = "" if m.stderr is None else number(m.stderr, digits)
        table.add_row(m.name, number(m.value, digits), interval(m, digits), error)
    return table
