"""View of `lmeval compare`: paired differences, with p-values adjusted over the rows."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmeval.report.blocks import GAP, Block, Note
from lmeval.report.cells import count
from lmeval.results import Report, Table
from lmeval.results.measurement import label
from lmeval.results.table import facts, words

SHOWN = (
    "metric",
    "n",
    "a",
    "b",
    "difference",
    "ci95",
    "right_in_a_only",
    "right_in_b_only",
    "correlation",
    "p_value",
    "p_holm",
    "minimum_detectable_effect",
    "verdict",
)
OPTIONAL = ("right_in_a_only", "right_in_b_only", "correlation", "minimum_detectable_effect")  # shown where one is filled


def view(report: Report) -> list[Block]:
    """What was compared, a row for each metric, and how to read them."""
    table = report.tables["differences"]
    keys = _telling_keys(table)
    rows = tuple({**row, **row["of"], **{key: _p(row[key]) for key in ("p_value", "p_holm")}} for row in table)
    filled = [name for name in SHOWN if name not in OPTIONAL or any(value is not None for value in table.column(name))]
    shown = [name for name in filled if name != "p_holm" or _is_adjusted(report)]
    columns = (*table.columns, *map(words, keys))
    drawn = Table(columns, rows).select(*keys, *shown)
    return [_head(report, table, keys), GAP, drawn, GAP, *map(Note, _notes(report, table, keys, shown))]


def _telling_keys(table: Table) -> list[str]:
    """The keys of what the rows are of that tell them apart, and the task."""
    keys = dict.fromkeys(key for of in table.column("of") for key in of)
    return [key for key in keys if key == "task" or len({of[key] for of in table.column("of") if key in of}) > 1]


def _head(report: Report, table: Table, keys: Sequence[str]) -> Table:
    """The two results, what each is of, and what both are of."""
    everywhere = [of.items() for of in table.column("of")]
    both = {key: value for key, value in table[0]["of"].items() if all((key, value) in of for of in everywhere)}
    both = {key: value for key, value in both.items() if key not in keys}
    sides = []
    for name, file in (("of_a", report.ledger["a"]), ("of_b", report.ledger["b"])):
        sides.append("  ".join([file, *dict.fromkeys(label(of) for of in table.column(name) if of)]))
    return facts(("A", sides[0]), ("B", sides[1]), ("both", label(both)))


def _notes(report: Report, table: Table, keys: Sequence[str], shown: Sequence[str]) -> list[str]:
    notes = [f"95% interval: of {', '.join(dict.fromkeys(table.column('method')))}"]
    if "minimum_detectable_effect" in shown:
        notes.append("detectable: the smallest true difference that would be found 80 times in 100 (at 5%)")
    if _is_adjusted(report):
        notes.append(f"p (Holm): adjusted for {report.ledger['holm_over']} comparisons")
    notes += dict.fromkeys(f"{row['metric']}: lower is better" for row in table if not row["higher_is_better"])
    notes += dict.fromkeys(
        f"{_name(row, keys)}: {count(row['n_only_a'], 'item')} only in A, {row['n_only_b']:,} only in B, left out"
        for row in table
        if row["n_only_a"] or row["n_only_b"]
    )
    notes += [
        f"different in A and B, by SHA-256: {name}; items are paired by their names"
        for name in report.ledger["different_inputs"]
    ]
    notes += [f"only in {name.upper()}, left out: {of}" for name, left in report.ledger["left_out"].items() for of in left]
    return notes


def _is_adjusted(report: Report) -> bool:
    """Whether there are several tests, so that an adjusted p-value is another than the test's own."""
    return report.ledger["holm_over"] > 1


def _name(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(row["of"][key] for key in keys if key in row["of"]) or row["metric"]


def _p(p: float | None) -> str | None:
    return None if p is None else f"{p:.3g}"
