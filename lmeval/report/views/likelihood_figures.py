"""Figures of `lmeval likelihood`: bits a dimension with their sides, bounds against their cost, effective sample sizes."""

from typing import TYPE_CHECKING

import numpy as np

from lmeval.report.blocks import Figure
from lmeval.report.figures import empty_figure
from lmeval.results import Report
from lmeval.results.measurement import flipped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from matplotlib.figure import Figure as Drawing

# Of bits a dimension, whose sides are those of log p turned round: the arrow points to where the truth lies.
MARKERS = {
    "exact": ("o", "exact"),
    "upper": ("<", "upper bound: the truth lies below"),
    "lower": (">", "lower bound: the truth lies above"),
    "estimate": ("x", "estimate of no side"),
}


def figures(report: Report) -> list[Figure]:
    """The figures that the report has data for."""
    drawn = [
        Figure(
            "bits_per_dim",
            "Bits a dimension of every model and bound, with 95% intervals; arrows point to where the truth lies.",
            lambda: draw_bits_per_dim(report),
        )
    ]
    if _bounds_of_models(report):
        caption = "How far each bound lies below its model's best one, against what it cost."
        drawn.append(Figure("bounds", caption, lambda: draw_bounds(report)))
    if _effective_sizes(report):
        caption = "Over how many data the weights of a bound had how large an effective sample size."
        drawn.append(Figure("ess", caption, lambda: draw_effective_sizes(report)))
    return drawn


def draw_bits_per_dim(report: Report) -> "Drawing":
    """Every number with its 95% interval, and its side as the marker."""
    rows = report.tables["bounds"].rows
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure, axes = empty_figure(7.5, 1.6 + 0.34 * len(rows))
    told: set[str] = set()
    for place, row in enumerate(rows):
        marker, words = MARKERS[flipped(row["side"])]
        value, ci95 = row["bits_per_dim"], row["bits_per_dim_ci95"]
        spread = None if ci95 is None else [[value - ci95[0]], [ci95[1] - value]]
        axes.errorbar(value, place, xerr=spread, fmt=marker, color=f"C{models.index(row['model']) % 10}", capsize=3)
        if words not in told:
            told.add(words)
            axes.plot([], [], marker, color="0.3", label=words)
    axes.set_yticks(range(len(rows)), [_plain(f"{row['model']}  {row['bound']}") for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("bits a dimension, with 95% intervals (less is better)")
    axes.set_title(_plain(report.ledger["data"]), loc="left", fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return figure


def draw_bounds(report: Report) -> "Drawing":
    """Bounds against their cost, of models that have at least two."""
    from matplotlib.ticker import NullFormatter

    figure, axes = empty_figure(6.5, 4.0)
    for model, rows in _bounds_of_models(report).items():
        best = max(row["nats"] for row in rows)
        costs, below = [row["n_evaluations"] for row in rows], [best - row["nats"] for row in rows]
        axes.plot(costs, below, "o:", label=_plain(model))
        for i, (row, cost, gap) in enumerate(zip(rows, costs, below, strict=True)):
            above = 5 + 11 * (i % 2)  # neighbours' names at two heights
            axes.annotate(_plain(row["bound"]), (cost, gap), textcoords="offset points", xytext=(4, above), fontsize="small")
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("evaluations of the decoder for each datum")
    axes.set_ylabel("nats below the model's best bound")
    axes.margins(x=0.25, y=0.12)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def draw_effective_sizes(report: Report) -> "Drawing":
    """How many data have how large an effective sample size."""
    sizes = _effective_sizes(report)
    figure, axes = empty_figure(6.5, 4.0)
    top = max(2.0, *(max(values) for values in sizes.values()))
    edges = np.geomspace(1.0, top * 1.001, 25).tolist()
    for (model, bound), values in sizes.items():
        axes.hist(np.maximum(values, 1.0), edges, histtype="step", label=_plain(f"{model}  {bound}"))
    axes.set_xscale("log")
    axes.set_xlabel("effective sample size of a datum's weights")
    axes.set_ylabel("data")
    axes.legend(frameon=False, fontsize="small")
    return figure


def _bounds_of_models(report: Report) -> "dict[str, list[Mapping[str, Any]]]":
    """Rows of lower bounds by their cost, of models that have at least two."""
    by_model: dict[str, list[Mapping[str, Any]]] = {}
    for row in report.tables["bounds"]:
        if row["side"] == "lower" and row["n_evaluations"]:
            by_model.setdefault(row["model"], []).append(row)
    several = {model: rows for model, rows in by_model.items() if len(rows) > 1}
    return {model: sorted(rows, key=lambda row: row["n_evaluations"]) for model, rows in several.items()}


def _effective_sizes(report: Report) -> dict[tuple[str, str], list[float]]:
    """Effective sample sizes of the data, by model and bound, of those that have weights."""
    sizes: dict[tuple[str, str], list[float]] = {}
    for record in report.items.records if report.items else ():
        if record.values.get("ess", 0.0) > 0:
            sizes.setdefault((record.of["model"], record.of["bound"]), []).append(record.values["ess"])
    return sizes


def _plain(text: str) -> str:
    r"""Text as it is: between two dollar signs matplotlib sees mathematics.

    >>> _plain("a $5 model")
    'a \\$5 model'
    """
    return text.replace("$", r"\$")
