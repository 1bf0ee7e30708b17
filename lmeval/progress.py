"""Progress in whole bytes, where work is counted in something else."""

from collections.abc import Callable


def paced(report: Callable[[int], None] | None, rate: float) -> Callable[[int], None]:
    """Passes on `rate` times the numbers that it is called with, as whole numbers that add up.

    >>> seen = []
    >>> count = paced(seen.append, 0.5)
    >>> for _ in range(4):
    ...     count(3)
    >>> seen
    [1, 2, 1, 2]
    """
    owed = 0.0

    def on_progress(n: int) -> None:
        nonlocal owed
        owed += n * rate
        if report:
            report(int(owed))
        owed -= int(owed)

    return on_progress
