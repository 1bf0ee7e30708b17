"""One number that leaves the program: its unit, interval and side."""

from typing import Literal, NamedTuple

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
