"""Progress on a terminal: one bar a stage, on standard error; nothing where that is no terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from lmeval.progress import SILENT, Progress


class _Amount(ProgressColumn):
    """How much is done of how much: bytes as people write them, anything else counted; then how fast bytes go by."""

    def render(self, task: Task) -> Text:
        done, total = int(task.completed), task.total
        if task.fields["unit"] != "bytes":
            return Text(f"{done:,}" if total is None else f"{done:,}/{int(total):,} {task.fields['unit']}")
        of = "" if total is None else f"/{decimal(int(total))}"
        return Text(decimal(done) + of + (f" {decimal(int(task.speed))}/s" if task.speed else ""))


class _Drawn:
    """Draws every stage as a bar of its own, which stays where it was while another stage goes on."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._stages: dict[str, TaskID] = {}
        self._present: TaskID | None = None

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Show the stage's bar, a new one where there is none; a finished one begins anew."""
        if name not in self._stages:
            self._stages[name] = self._bars.add_task(name, total=total, unit=unit, note="")
        self._present = self._stages[name]

    def advance(self, n: int, note: str = "") -> None:
        """Let the present stage's bar grow."""
        if self._present is not None:
            self._bars.advance(self._present, n)
            if note:
                self._bars.update(self._present, note=note)


@contextmanager
def drawn_progress(*, show: bool = True) -> Iterator[Progress]:
    """A progress that draws bars while the block runs, and takes them away at its end."""
    console = Console(stderr=True)
    if not (show and console.is_terminal):
        yield SILENT
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Amount(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield _Drawn(bars)
