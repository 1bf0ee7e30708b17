"""What may stand under the keys of a spec file: a table for each kind of file, from a key's name to its `Key`.

    KEYS = {"images": needed(TEXT), "limit": whole(1), "kde": mapping({"samples": whole(2)})}

A value of null counts as not given.
"""

import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from lmeval.messages import nearest


class Key(NamedTuple):
    """What the value of one key must be.

    Attributes:
        fits: Whether a value is allowed. It is never asked about null.
        description: What the value must be, for messages: "a whole number of at least 1".
        remedy: The end of a message about a value that is not allowed, made of that value; often empty.
        needed: Whether the key must be given.
        as_written: Whether scalars in the value stay the text that the file shows: `1` is "1", and `true` is "true".
        keys: The table of the mapping that the value is; None where that mapping is free, or the value is none.
        others: Whether that mapping may hold other keys than those of its table.
        each: What each entry of the list must be that the value is; None where anything may be.
        refused: Why a key that is known elsewhere is not read here; empty where it is read.
    """

    fits: Callable[[Any], bool]
    description: str
    remedy: Callable[[Any], str] = lambda value: ""
    needed: bool = False
    as_written: bool = False
    keys: "Mapping[str, Key] | None" = None
    others: bool = False
    each: "Key | None" = None
    refused: str = ""


Keys = Mapping[str, Key]


def _advice_for_text(value: Any) -> str:
    """A number or a date where text is meant lacks its quotes."""
    return ": put it in quotes" if isinstance(value, int | float | datetime.date) else ""


def _advice_for_number(value: Any) -> str:
    """YAML 1.1 reads 1e-3 as a word."""
    exponent = isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+[eE][-+]?\d+", value)
    return ": an exponent needs a point before it and a sign, such as 1.0e-3" if exponent else ""


def is_whole(value: Any) -> bool:
    """Whether the value is a whole number, and not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether the value is a finite number, and not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


ANYTHING = Key(lambda value: True, "anything")
TEXT = Key(lambda value: isinstance(value, str) and bool(value.strip()), "text", _advice_for_text)
"""Text that is not blank."""
ANY_TEXT = Key(lambda value: isinstance(value, str), "text", _advice_for_text)
"""Text that may be empty."""
WRITTEN = ANY_TEXT._replace(as_written=True)
"""Text as the file shows it: `1` and `true` are words."""
LIST = Key(lambda value: isinstance(value, list), "a list")
MAPPING = Key(lambda value: isinstance(value, dict), "a mapping")


def needed(key: Key) -> Key:
    """A key that must be given."""
    return key._replace(needed=True)


def refused(why: str) -> Key:
    """A key that is known elsewhere and cannot be read here."""
    return ANYTHING._replace(refused=why)


def whole(least: int, most: int | None = None) -> Key:
    """A whole number of at least `least`, and of at most `most`."""
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    return Key(
        lambda value: is_whole(value) and least <= value and (most is None or value <= most), f"a whole number {limits}"
    )


def real(above: float, below: float | None = None) -> Key:
    """A finite number above `above`, and below `below`."""
    limits = f"above {above:g}" if below is None else f"between {above:g} and {below:g}"
    return Key(
        lambda value: is_number(value) and above < value and (below is None or value < below),
        f"a number {limits}",
        _advice_for_number,
    )


def choice(words: Iterable[str]) -> Key:
    """One of several words."""
    known = tuple(words)

    def nearest_word(value: Any) -> str:
        advice = nearest(value, known) if isinstance(value, str) else ""
        return "" if advice.startswith(":") else advice  # all words are told already

    description = " or ".join(known) if len(known) == 2 else f"one of {', '.join(known)}"
    return Key(lambda value: isinstance(value, str) and value in known, description, nearest_word)


def matching(pattern: str, description: str) -> Key:
    """Text that matches a regular expression from its beginning to its end."""
    return Key(lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None, description)


def listed(entry: Key, description: str, least: int = 1, most: int | None = None) -> Key:
    """A list of `least` entries or more, and of at most `most`, each of which fits `entry`."""
    return Key(
        lambda value: (
            isinstance(value, list)
            and least <= len(value)
            and (most is None or len(value) <= most)
            and all(map(entry.fits, value))
        ),
        description,
    )


def mapping(keys: Keys, *, others: bool = False) -> Key:
    """A mapping with a table of its own; with `others` it may hold other keys, too."""
    return MAPPING._replace(keys=keys, others=others)


def mappings(keys: Keys) -> Key:
    """A list of at least one mapping."""
    return Key(lambda value: isinstance(value, list) and value != [], "a list with at least one entry", each=mapping(keys))
