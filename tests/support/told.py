"""A listener to progress that remembers what it was told."""


class Told:
    """`stages` are the stages in the order in which they were begun or resumed; `counts` the numbers told of each."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None, str]] = []
        self.counts: dict[str, list[int]] = {}
        self.present = ""

    def stage(self, name: str, total: int | None, unit: str) -> None:
        self.stages.append((name, total, unit))
        self.present = name

    def advance(self, n: int, note: str = "") -> None:
        self.counts.setdefault(self.present, []).append(n)

    @property
    def numbers(self) -> list[int]:
        """All counts, of whatever stage."""
        return [n for counts in self.counts.values() for n in counts]
