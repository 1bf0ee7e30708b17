"""How messages to the user write names: those that are known, those that are near, and any name on one line."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def names(row: Mapping[str, Any]) -> str:
    """The row's fields, for messages."""
    return ", ".join(map(shown, row)) or "no fields"


def shown(name: object) -> str:
    """A name in a message of one line."""
    text = str(name)
    return text if text.isprintable() else repr(text)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    listed = sorted(map(shown, known))
    close = near(name, listed)
    return f" (did you mean '{close}'?)" if close else f": known are {', '.join(listed) or 'none'}"


def near(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to a misspelt one; None where none is near.

    >>> near("bundeld", ["bundled", "other"])
    'bundled'
    """
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)
