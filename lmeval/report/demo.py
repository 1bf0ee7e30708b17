"""Tables of the demo: texts scored and compressed, and a task."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import RenderableType
from rich.markup import escape

from lmeval.report.tables import interval, plain_table
from lmeval.results import Report, find

if TYPE_CHECKING:
    from lmeval.compression import CompressedSize


class DemoRow(NamedTuple):
    """One text: its name, the model's score, the archive's size and whether it decoded to the same bytes, and the sizes
    that general-purpose compressors make of it."""

    name: str
    report: Report
    archive_bytes: int
    decoded: bool
    sizes: "Sequence[CompressedSize]"

    @property
    def archive_bits_per_byte(self) -> float:
        """Bits of the archive for each byte of text."""
        return 8 * self.archive_bytes / self.report.ledger["n_bytes_scored"]


def demo_table(rows: Sequence[DemoRow]) -> RenderableType:
    """Bits per byte: the model's score with its 95% interval, the archive that it and online models make (which may be
    smaller than the score says), general-purpose compressors; the smallest file in bold."""
    model = rows[0].report.provenance["model"]["name"]
    columns = [size.name for size in rows[0].sizes]
    windows = rows[0].report.ledger["windows"]
    how = f"{model}, context {windows['context']:,}, stride {windows['stride']:,}"
    title = f"bits per byte (score: {how}; archive: model and online models)"
    table = plain_table("text", "bytes", "score", "95% interval", "archive", "decoded", *columns, title=title)
    for row in rows:
        score = find(row.report, "bits_per_byte")
        values = [row.archive_bits_per_byte, *(size.bits_per_byte for size in row.sizes)]
        cells = [f"[bold]{value:.3f}[/bold]" if value == min(values) else f"{value:.3f}" for value in values]
        decoded = "equal" if row.decoded else "DIFFERENT"
        n_bytes = f"{row.report.ledger['n_bytes_scored']:,}"
        table.add_row(escape(row.name), n_bytes, f"{score.value:.3f}", interval(score, 3), cells[0], decoded, *cells[1:])
    return table


def demo_task_table(report: Report) -> RenderableType:
    """Accuracy of a task with its interval, in a line."""
    acc, loss = find(report, "acc"), find(report, "log_loss")
    title = f"prompted task ({acc.of['model']}, no examples in the prompt)"
    table = plain_table("task", "items", "accuracy", "95% interval", "log loss", "95% interval", title=title)
    shown = (f"{acc.value:.3f}", interval(acc, 3), f"{loss.value:.3f}", interval(loss, 3))
    table.add_row(escape(acc.of["task"]), f"{report.ledger['n_items_scored']:,}", *shown)
    return table
