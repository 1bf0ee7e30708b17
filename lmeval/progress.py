"""What long work tells whoever waits for it: stages, each with a total in a unit, and how far it is."""

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """A listener to long work. Calls may come from several threads."""

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Begin the stage `name`, or resume it where it was left.

        Args:
            name: What is being done, such as "encoding".
            total: How many units there are, in all processes; None where nobody knows.
            unit: What is counted: "bytes", "requests", "images" ...
        """

    def advance(self, n: int, note: str = "") -> None:
        """Count `n` more units of the present stage; `note` is a short text beside them, such as the rate so far."""


class _Silent:
    """Listens to nothing."""

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Do nothing."""

    def advance(self, n: int, note: str = "") -> None:
        """Do nothing."""


SILENT: Progress = _Silent()


def counting(progress: Progress, rate: float) -> Callable[[int], None]:
    """A function that advances `progress` by `rate` times the numbers it is called with, in whole units that add up.

    For work that is counted in one unit and shown in another, such as tokens and bytes.

    >>> class Printed(_Silent):
    ...     def advance(self, n: int, note: str = "") -> None:
    ...         print(n)
    >>> advance = counting(Printed(), 0.5)
    >>> advance(3), advance(3)
    1
    2
    (None, None)
    """
    owed = 0.0

    def advance(n: int) -> None:
        nonlocal owed
        owed += n * rate
        progress.advance(int(owed))
        owed -= int(owed)

    return advance
