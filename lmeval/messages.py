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
    close = difflib.get_close_matches(name, listed, n=1)
    return f" (did you mean '{close[0]}'?)" if close else f": known are {', '.join(listed) or 'none'}"
