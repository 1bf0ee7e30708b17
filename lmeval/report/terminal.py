"""Blocks on a terminal: aligned text, never cropped."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table as RichTable

from lmeval.report.blocks import Bar, Bars, Block, Figure, Note
from lmeval.report.cells import cell
from lmeval.results.table import Table

BAR = 20  # characters of a full bar


def print_blocks(blocks: Iterable[Block], *, to_stderr: bool = False) -> None:
    """Write blocks to standard output or standard error, as wide as they are: a terminal wraps a long line, and a wrapped
    line is readable, but a cropped number reads as another number."""
    print_rich(draw(blocks), to_stderr=to_stderr)


def print_rich(renderable: RenderableType, *, to_stderr: bool = False) -> None:
    """Write what rich renders at its natural width."""
    console = Console(highlight=False, stderr=to_stderr)
    natural = console.measure(renderable, options=console.options.update(max_width=10_000)).maximum
    console = Console(highlight=False, stderr=to_stderr, width=max(natural, 20))
    with console.capture() as captured:
        console.print(renderable)
    text = "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))
    click.echo(text, err=to_stderr)


def draw(blocks: Iterable[Block]) -> RenderableType:
    """All blocks under each other, figures left out."""
    return Group(*(drawn for block in blocks for drawn in _draw(block)))


def _draw(block: Block) -> list[RenderableType]:
    if isinstance(block, Note):
        return [escape(block.text)]
    if isinstance(block, Bars):
        return [_bars(block)]
    if isinstance(block, Figure):
        return []
    notes = ["", *map(escape, block.notes)] if block.notes else []
    return [_table(block), *notes]


def _table(table: Table) -> RichTable:
    drawn = _plain_table(
        [(escape(column.title), column.align) for column in table.columns], escape(table.title) if table.title else None
    )
    for row in table.rows:
        drawn.add_row(*(_marked(row, column.name, cell(row.get(column.name), column)) for column in table.columns))
    return drawn


def _marked(row: Mapping[str, Any], name: str, text: str) -> str:
    """Bold where the row's "bold" names the column."""
    text = escape(text)
    return f"[bold]{text}[/bold]" if name in row.get("bold", ()) else text


def _bars(bars: Bars) -> RichTable:
    columns = [(escape(title), "left" if i == 0 else "right") for i, title in enumerate(bars.titles)]
    drawn = _plain_table([*columns, ("", "left")], None)
    for bar in bars.bars:
        drawn.add_row(*map(escape, bar.cells), _bar(bar))
    return drawn


def _bar(bar: Bar) -> str:
    filled = round(BAR * bar.share)
    cells = ["█" if i < filled else "·" for i in range(BAR)]
    if bar.mark is not None:
        mark = min(BAR - 1, round(BAR * bar.mark))
        cells[mark] = "┃" if mark >= filled else "╋"
    return "".join(cells)


def _plain_table(columns: Sequence[tuple[str, Any]], title: str | None) -> RichTable:
    """A table without lines; no header where no column has a title."""
    table = RichTable(
        title=title,
        title_justify="left",
        box=None,
        show_header=any(name for name, _ in columns),
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for name, align in columns:
        # With overflow="ignore" rich justifies nothing; `print_rich` sees to it that nothing is cropped.
        table.add_column(name, justify=align, no_wrap=True, overflow="crop")
    return table
