"""What a view is made of: tables, notes, bars and figures, as data. Drawing them is another room."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lmeval.results.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing


class Note(NamedTuple):
    """A paragraph of plain text; an empty one is a gap."""

    text: str = ""


class Bar(NamedTuple):
    """One bar: the cells before it, the share of the whole that it fills, and the share where a mark stands on it."""

    cells: tuple[str, ...]
    share: float
    mark: float | None = None


class Bars(NamedTuple):
    """Bars under each other, beside the cells that say what they are; `titles` name the cells."""

    titles: tuple[str, ...]
    bars: tuple[Bar, ...]


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure, drawn when someone looks: `draw()` makes it with matplotlib. `name` is that of its file, `caption` says how
    to read it. A terminal leaves it out."""

    name: str
    caption: str
    draw: "Callable[[], Drawing]"


Block = Table | Note | Bars | Figure
GAP = Note()
