"""The table that every capability shares: its measurements."""

from collections.abc import Sequence

from lmeval.report.cells import interval, number
from lmeval.results.measurement import Measurement
from lmeval.results.table import Column, Table, words

COLUMNS = (
    words("metric"),
    Column("value", "value", style="words"),
    Column("ci95", "95% interval", style="words"),
    Column("stderr", "standard error", style="words"),
)


def measurement_table(measurements: Sequence[Measurement], *, lower_words: bool = False) -> Table:
    """Every measurement with interval and standard error; `lower_words` says of bounds that they are "at least" or
    "at most"."""
    rows = []
    for m in measurements:
        digits = 1 if m.name == "nll_nats" else 4
        error = "" if m.stderr is None else number(m.stderr, digits)
        words_of_side = {"lower": ", at least", "upper": ", at most"} if lower_words else {}
        name = m.name + words_of_side.get(m.side, "")
        rows.append({"metric": name, "value": number(m.value, digits), "ci95": interval(m.ci95, digits), "stderr": error})
    return Table(COLUMNS, tuple(rows))
