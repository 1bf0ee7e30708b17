"""Figures of `lmeval likelihood`, drawn without a screen and saved as PNG and SVG. Reads what was found, never a model."""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lmeval.errors import OutputError
from lmeval.likelihood.summary import BoundResult, Comparison, flipped
from lmeval.results import atomic_binary_writer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
# Of bits a dimension, whose sides are those of log p turned round: the arrow points to where the truth lies.
MARKERS = {
    "exact": ("o", "exact"),
    "upper": ("<", "upper bound: the truth lies below"),
    "lower": (">", "lower bound: the truth lies above"),
    "estimate": ("x", "estimate of no side"),
}


def check_folder(folder: Path) -> None:
    """Raise OutputError at the start of a run where figures could not be written to `folder` at its end."""
    above = folder if folder.exists() else folder.parent
    if not above.is_dir():
        what = "it is no folder" if folder.exists() else f"there is no folder {above}; make it first"
        raise OutputError(f"cannot write figures to {folder}: {what}")
    if not os.access(above, os.W_OK):
        raise OutputError(f"cannot write figures to {folder}: folder {above} is not writable")


def save_figures(compared: Comparison, folder: Path) -> list[Path]:
    """Write the figures that the comparison has data for, each as PNG and SVG; their paths.

    `bits_per_dim`: every number with its 95% interval, its side as the marker. `bounds`: how far each bound of a model lies
    below its best one, against evaluations. `ess`: effective sample sizes over data.
    """
    check_folder(folder)
    drawn = {"bits_per_dim": _bits_per_dim(compared), "bounds": _bounds(compared.found), "ess": _ess(compared.found)}
    folder.mkdir(exist_ok=True)
    return [_saved(figure, folder / f"{name}.{kind}") for name, figure in drawn.items() if figure for kind in FORMATS]


def _saved(figure: "Figure", path: Path) -> Path:
    import matplotlib as mpl

    stream = io.BytesIO()
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with mpl.rc_context({"svg.hashsalt": "lmeval", "svg.fonttype": "none"}):  # equal results give equal files
        figure.savefig(stream, format=path.suffix[1:], dpi=150, metadata=metadata)
    with atomic_binary_writer(path) as file:
        file.write(stream.getvalue())
    return path


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    from matplotlib.figure import Figure  # slow to import, and only figures need it; a Figure alone needs no screen

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _bits_per_dim(compared: Comparison) -> "Figure":
    rows = compared.report.tables["bounds"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = _figure(7.5, 1.6 + 0.34 * len(rows))
    told: set[str] = set()
    for place, row in enumerate(rows):
        side = flipped(row["side"])
        marker, words = MARKERS[side]
        value, ci95 = row["bits_per_dim"], row["bits_per_dim_ci95"]
        spread = None if ci95 is None else [[value - ci95[0]], [ci95[1] - value]]
        axes.errorbar(value, place, xerr=spread, fmt=marker, color=f"C{models.index(row['model']) % 10}", capsize=3)
        if words not in told:
            told.add(words)
            axes.plot([], [], marker, color="0.3", label=words)
    axes.set_yticks(range(len(rows)), [_plain(f"{row['model']}  {row['bound']}") for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("bits a dimension, with 95% intervals (less is better)")
    axes.set_title(_plain(compared.report.ledger["data"]), loc="left", fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def _bounds(found: tuple[BoundResult, ...]) -> "Figure | None":
    """Bounds against their cost, of models that have at least two."""
    by_model: dict[str, list[BoundResult]] = {}
    for one in found:
        if one.side == "lower" and one.n_evaluations:
            by_model.setdefault(one.model, []).append(one)
    several = {model: sorted(bounds, key=_cost) for model, bounds in by_model.items() if len(bounds) > 1}
    if not several:
        return None
    from matplotlib.ticker import NullFormatter

    figure, axes = _figure(6.5, 4.0)
    for model, bounds in several.items():
        best = max(float(one.nats.mean()) for one in bounds)
        below = [best - float(one.nats.mean()) for one in bounds]
        axes.plot([_cost(one) for one in bounds], below, "o:", label=_plain(model))
        for i, (one, gap) in enumerate(zip(bounds, below, strict=True)):
            above = 5 + 11 * (i % 2)  # neighbours' names at two heights
            axes.annotate(
                _plain(one.bound), (_cost(one), gap), textcoords="offset points", xytext=(4, above), fontsize="small"
            )
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("evaluations of the decoder for each datum")
    axes.set_ylabel("nats below the model's best bound")
    axes.margins(x=0.25, y=0.12)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def _ess(found: tuple[BoundResult, ...]) -> "Figure | None":
    """How many data have how large an effective sample size."""
    weighted = [(one, one.ess[np.isfinite(one.ess) & (one.ess > 0)]) for one in found if one.ess is not None]
    weighted = [(one, ess) for one, ess in weighted if len(ess)]
    if not weighted:
        return None
    figure, axes = _figure(6.5, 4.0)
    top = max(2.0, *(float(ess.max()) for _, ess in weighted))
    edges = np.geomspace(1.0, top * 1.001, 25).tolist()
    for one, ess in weighted:
        axes.hist(np.maximum(ess, 1.0), edges, histtype="step", label=_plain(f"{one.model}  {one.bound}"))
    axes.set_xscale("log")
    axes.set_xlabel("effective sample size of a datum's weights")
    axes.set_ylabel("data")
    axes.legend(frameon=False, fontsize="small")
    return figure


def _cost(one: BoundResult) -> float:
    return float(one.n_evaluations or 0)


def _plain(text: str) -> str:
    r"""Text as it is: between two dollar signs matplotlib sees mathematics.

    >>> _plain("a $5 model")
    'a \\$5 model'
    """
    return text.replace("$", r"\$")
