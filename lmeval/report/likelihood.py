"""Tables of `lmeval likelihood`: bounds with their sides, sandwiches on simulated data, paired differences; with notes."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from lmeval.report.tables import number, plain_table
from lmeval.results import Report

Row = Mapping[str, Any]


def likelihood_tables(report: Report) -> RenderableType:
    """One comparison: what was scored, all bounds, sandwiches, differences; notes under each say how to read it."""
    bounds, sandwiches, differences = (report.tables[name].rows for name in ("bounds", "sandwiches", "differences"))
    parts: list[RenderableType] = [_head(report), "", _bounds(bounds), "", *_notes(bounds)]
    if sandwiches:
        parts += ["", "on data simulated from each model itself", _sandwiches(sandwiches), "", *SANDWICH_NOTES]
    if differences:
        n, reference = differences[0]["n"], escape(differences[0]["reference"])
        parts += ["", f"log p less that of {reference}, paired over {n:,} data, nats a datum", _differences(differences), ""]
        parts += _difference_notes(differences)
    return Group(*parts)


def _head(report: Report) -> Table:
    ledger, provenance = report.ledger, report.provenance
    table = plain_table("", "")
    table.add_row("spec", escape(provenance["spec"]))
    of = "" if ledger["n"] == ledger["n_in_set"] else f"the first {ledger['n']:,} of "
    shape = " x ".join(map(str, ledger["shape"]))
    table.add_row("data", escape(f"{ledger['data']}: {of}{ledger['n_in_set']:,} images of {shape}, {ledger['space']}"))
    processes = f", {provenance['n_processes']} processes" if provenance["n_processes"] > 1 else ""
    table.add_row("run", f"{provenance['device']}{processes}, seed {ledger['seed']}, {provenance['seconds']:,.1f} s")
    return table


def _left(table: Table, *columns: int) -> Table:
    for i in columns:
        table.columns[i].justify = "left"
    return table


def _bounds(rows: Sequence[Row]) -> Table:
    names = ("log p, nats", "95% interval", "bits/dim", "95% interval", "certificate", "ESS", "k > 0.7", "evaluations", "s")
    table = _left(plain_table("model", "kind", "bound", "side", "n", *names, ""), 1, 2, 3, 14)
    for row in rows:
        table.add_row(
            escape(row["model"]),
            row["kind"],
            escape(row["bound"]),
            row["side"],
            f"{row['n']:,}",
            number(row["nats"], 3),
            _span(row["nats_ci95"], 3),
            number(row["bits_per_dim"], 4),
            _span(row["bits_per_dim_ci95"], 4),
            _given(row["certificate_nats"], lambda x: number(x, 3)),
            _given(row["median_ess"], lambda x: f"{x:,.1f}"),
            _given(row["share_pareto_k_high"], lambda x: f"{x:.0%}"),
            _given(row["n_evaluations"], lambda x: f"{x:,.0f}"),
            f"{row['seconds']:,.1f}",
            row["flag"] or "",
        )
    return table


def _sandwiches(rows: Sequence[Row]) -> Table:
    table = plain_table("model", "bound", "n", "lower", "upper", "gap", "s.e.", "95% interval", "evaluations", "s")
    for row in rows:
        table.add_row(
            escape(row["model"]),
            escape(row["bound"]),
            f"{row['n']:,}",
            number(row["lower_nats"], 3),
            number(row["upper_nats"], 3),
            number(row["gap_nats"], 3),
            _given(row["gap_stderr"], lambda x: number(x, 3)),
            _span(row["gap_ci95"], 3),
            f"{row['n_evaluations']:,.0f}",
            f"{row['seconds']:,.1f}",
        )
    return _left(table, 1)


def _differences(rows: Sequence[Row]) -> Table:
    table = _left(plain_table("difference", "", "nats", "s.e.", "95% interval", "so"), 1, 5)
    for row in rows:
        pair = f"{row['model']} ({_of(row, 'bound', 'model_side')}) - {row['reference']} "
        table.add_row(
            escape(f"{pair}({_of(row, 'reference_bound', 'reference_side')})"),
            row["words"],
            f"{row['value']:+,.3f}",
            _given(row["stderr"], lambda x: number(x, 3)),
            _span(row["ci95"], 3),
            escape(row["verdict"]),
        )
    return table


def _of(row: Row, bound: str, side: str) -> str:
    return row[side] if row[side] == "exact" else f"{row[bound]}, {row[side]}"


def _span(ci95: Sequence[float] | None, digits: int) -> str:
    return "" if ci95 is None else f"{number(ci95[0], digits)} to {number(ci95[1], digits)}"


def _given(value: Any, shown: Any) -> str:
    return "" if value is None else shown(value)


def _notes(rows: Sequence[Row]) -> list[str]:
    sides, kinds = {row["side"] for row in rows}, {row["kind"] for row in rows}
    notes = ["intervals: 95%, over data (another draw of images from the same source)"]
    if "lower" in sides:
        notes.append(
            "lower: the true log p is at least this, but for the noise of the draws; in bits/dim it is at most this"
        )
    if any(row["certificate_nats"] is not None for row in rows):
        notes.append(
            "certificate: their mean log p is at least this in 99 runs of 100, whatever the model (mean - log(100) / n)"
        )
    if any(row["median_ess"] is not None or row["share_pareto_k_high"] is not None for row in rows):
        notes.append(
            "ESS: effective sample size of the particles, median over data; k > 0.7: share of data whose weights have so "
            "heavy a tail that more particles would still raise the bound"
        )
    if any(row["flag"] for row in rows):
        notes.append(
            "bound, not converged: more draws would raise it; of importance weights by k, of annealed particles where the "
            "path's length lets a gap of more than 0.1 nats be expected"
        )
    if any(row["n_evaluations"] is not None for row in rows):
        notes.append("evaluations: of the model for each datum, every particle counted, and the pilot's")
    if "flow" in kinds:
        notes.append("dequantised: a flow is a density of real numbers; of levels it gives a lower bound, not log p")
    for row in rows:
        if row["bound"] == "KDE":
            notes.append(escape(_kde_note(row)))
    return notes


def _kde_note(row: Row) -> str:
    details = row["details"]
    of = f"{details['n_held_out']:,} held-out images"
    by = of if details["held_out"] == "held-out data" else "cross-validation over the samples"
    edge = ", at the edge of those tried" if details["at_edge"] else ""
    return (
        f"KDE of {row['model']}: Gaussian kernels on {details['n_samples']:,} samples, bandwidth {details['bandwidth']:.3g} "
        f"levels, by {by}{edge}; it is not the model's likelihood, may be far from it, and can order models wrongly "
        "(Wu et al. 2017)"
    )


SANDWICH_NOTES = (
    "on average log p of simulated data lies between the two, so the gap is the most that the lower one can lack there",
    "simulated data are another population than the data above: for those the gap is a proxy, not a bound",
)


def _difference_notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    if any(row["side"] in ("lower", "upper") for row in rows):
        notes.append("at least, at most: one of the two is a bound, so only this direction can be concluded")
    if any(row["side"] == "estimate" for row in rows):
        notes.append("about: the difference of two bounds, or with an estimate, may lie on either side of the true one")
    return notes
