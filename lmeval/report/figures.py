"""Figures of reports, drawn without a screen and saved as PNG and SVG."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmeval.errors import OutputError
from lmeval.report.blocks import Block, Figure
from lmeval.results import atomic_binary_writer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

FORMATS = ("png", "svg")


def check_folder(folder: Path) -> None:
    """Raise OutputError at the start of a run where figures could not be written to `folder` at its end."""
    above = folder if folder.exists() else folder.parent
    if not above.is_dir():
        what = "it is no folder" if folder.exists() else f"there is no folder {above}; make it first"
        raise OutputError(f"cannot write figures to {folder}: {what}")
    if not os.access(above, os.W_OK):
        raise OutputError(f"cannot write figures to {folder}: folder {above} is not writable")


def save_figures(blocks: Iterable[Block], folder: Path) -> list[Path]:
    """Write every figure of a view as PNG and SVG.

    Args:
        blocks: The view; what is no figure is left out.
        folder: Where the files go; it is made if it is not there.

    Returns:
        The paths of the files, named after the figures.

    Raises:
        OutputError: The folder cannot be written to.
    """
    check_folder(folder)
    folder.mkdir(exist_ok=True)
    figures = [(block.name, block.draw()) for block in blocks if isinstance(block, Figure)]
    return [_save(drawing, folder / f"{name}.{kind}") for name, drawing in figures for kind in FORMATS]


def _save(drawing: "Drawing", path: Path) -> Path:
    import matplotlib as mpl

    stream = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "lmeval", "svg.fonttype": "none"}):  # equal results give equal files
        drawing.savefig(stream, format=path.suffix[1:], dpi=150, metadata=metadata)
    with atomic_binary_writer(path) as file:
        file.write(stream.getvalue())
    return path


def empty_figure(width: float, height: float) -> tuple["Drawing", "Axes"]:
    """A figure of a size in inches, with axes that have no box."""
    from matplotlib.figure import Figure  # slow to import, and only figures need it; a Figure alone needs no screen

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
