"""One number that leaves the program, with everything that must be known to read it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

Side = Literal["exact", "lower", "upper", "estimate"]
NOTHING: Mapping[str, str] = MappingProxyType({})


class Measurement(NamedTuple):
    """One number that leaves the program.

    `side` says what the value is for the quantity it is named after: exact, a lower or upper bound, or an estimate.
    `stderr` and `ci95` (95% interval) are in `unit`, and None where nothing can be said; `n` counts the independent units
    (documents, pieces of text, items) they rest on. `of` says what was measured, by keys such as model, corpus, task, rule,
    bound and compressor, so that names stay those of the quantity alone.
    """

    name: str
    value: float
    unit: str
    side: Side
    stderr: float | None = None
    ci95: tuple[float, float] | None = None
    n: int = 1
    higher_is_better: bool = False
    of: Mapping[str, str] = NOTHING


def is_of(measurement: Measurement, of: Mapping[str, str]) -> bool:
    """Whether everything that `of` says holds of the measurement.

    >>> is_of(Measurement("acc", 0.5, "1", "exact", of={"task": "copa", "rule": "sum"}), {"task": "copa"})
    True
    """
    return all(measurement.of.get(key) == value for key, value in of.items())


def label(of: Mapping[str, str]) -> str:
    """What a number is of, in a line.

    >>> label({"corpus": "enwik8", "compressor": "xz"})
    'corpus enwik8, compressor xz'
    """
    return ", ".join(f"{key} {value}" for key, value in of.items())


def difference_side(a: str, b: str) -> Side:
    """The side of a difference a - b, from those of the two numbers; two bounds of one kind leave it open.

    >>> difference_side("lower", "exact"), difference_side("exact", "lower"), difference_side("lower", "lower")
    ('lower', 'upper', 'estimate')
    """
    if a == b == "exact":
        return "exact"
    if (a, b) in (("lower", "exact"), ("exact", "upper"), ("lower", "upper")):
        return "lower"
    if (a, b) in (("exact", "lower"), ("upper", "exact"), ("upper", "lower")):
        return "upper"
    return "estimate"


def flipped(side: Side) -> Side:
    """The side of the negative of a number.

    >>> flipped("lower")
    'upper'
    """
    return {"lower": "upper", "upper": "lower"}.get(side, side)  # pyright: ignore[reportReturnType]
