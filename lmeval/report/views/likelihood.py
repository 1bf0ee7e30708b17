"""View of `lmeval likelihood`: bounds with their sides, sandwiches on simulated data, paired differences; notes, figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmeval.report.blocks import GAP, Block, Note
from lmeval.report.views.likelihood_figures import figures
from lmeval.results import Report
from lmeval.results.table import Column, Table, facts, words

Row = Mapping[str, Any]
PAIR = words("pair", "difference")


def view(report: Report) -> list[Block]:
    """What was scored; all bounds, sandwiches and differences, each with notes that say how to read it; and the figures."""
    bounds, sandwiches, differences = (report.tables[name] for name in ("bounds", "sandwiches", "differences"))
    blocks = [_head(report), GAP, _bounds(bounds), GAP, *map(Note, _notes(bounds.rows))]
    if sandwiches.rows:
        blocks += [GAP, Note("on data simulated from each model itself"), _sandwiches(sandwiches), GAP]
        blocks += map(Note, SANDWICH_NOTES)
    if differences.rows:
        n, reference = differences[0]["n"], differences[0]["reference"]
        blocks += [GAP, Note(f"log p less that of {reference}, paired over {n:,} data, nats a datum")]
        blocks += [_differences(differences), GAP, *map(Note, _difference_notes(differences.rows))]
    return [*blocks, *figures(report)]


def _head(report: Report) -> Table:
    ledger, provenance = report.ledger, report.provenance
    of = "" if ledger["n"] == ledger["n_in_set"] else f"the first {ledger['n']:,} of "
    shape = " x ".join(map(str, ledger["shape"]))
    processes = f", {provenance['n_processes']} processes" if provenance["n_processes"] > 1 else ""
    return facts(
        ("spec", provenance["inputs"]["spec"]["name"]),
        ("data", f"{ledger['data']}: {of}{ledger['n_in_set']:,} images of {shape}, {ledger['space']}"),
        ("run", f"{provenance['device']}{processes}, seed {ledger['seed']}, {provenance['seconds']:,.1f} s"),
    )


def _bounds(table: Table) -> Table:
    return table.select(
        *("model", "kind", "bound", "side", "n", "nats", "nats_ci95", "bits_per_dim", "bits_per_dim_ci95"),
        *("certificate_nats", "median_ess", "share_pareto_k_high", "n_evaluations", "seconds", "flag"),
    )


def _sandwiches(table: Table) -> Table:
    return table.select(
        *("model", "bound", "n", "lower_nats", "upper_nats", "gap_nats", "gap_stderr", "gap_ci95"),
        *("n_evaluations", "seconds"),
    )


def _differences(table: Table) -> Table:
    columns: tuple[Column, ...] = (PAIR, *table.select("words", "value", "stderr", "ci95", "verdict").columns)
    return Table(columns, tuple({**row, PAIR.name: _pair(row)} for row in table))


def _pair(row: Row) -> str:
    model, reference = _of(row, "bound", "model_side"), _of(row, "reference_bound", "reference_side")
    return f"{row['model']} ({model}) - {row['reference']} ({reference})"


def _of(row: Row, bound: str, side: str) -> str:
    return row[side] if row[side] == "exact" else f"{row[bound]}, {row[side]}"


def _notes(rows: Sequence[Row]) -> list[str]:
    sides, bounds = {row["side"] for row in rows}, {row["bound"] for row in rows}
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
    if "dequantised" in bounds:
        notes.append("dequantised: a flow is a density of real numbers; of levels it gives a lower bound, not log p")
    return notes + [_kde_note(row) for row in rows if row["bound"] == "KDE"]


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
