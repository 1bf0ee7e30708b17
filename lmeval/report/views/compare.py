"""View of `lmeval compare`: paired differences, with p-values adjusted over the rows."""

from lmeval.report.blocks import GAP, Block, Note
from lmeval.report.cells import count
from lmeval.results import Report
from lmeval.results.measurement import label
from lmeval.results.table import facts


def view(report: Report) -> list[Block]:
    """What was compared, a row for each metric, and how to read them."""
    table = report.tables["differences"]
    shown = [column.name for column in table.columns]
    for name in ("right_in_a_only", "right_in_b_only", "correlation", "minimum_detectable_effect", "of"):
        if not any(value not in (None, "") for value in table.column(name)):
            shown.remove(name)
    rows = tuple({**row, **{key: _p(row[key]) for key in ("p_value", "p_holm")}} for row in table.rows)
    ledger = report.ledger
    notes = [f"intervals: 95%, of {', '.join(dict.fromkeys(table.column('method')))}"]
    if "minimum_detectable_effect" in shown:
        notes.append("detectable: the smallest true difference that would be found 80 times in 100 (at 5%)")
    if ledger["holm_over"] > 1:
        notes.append(f"p (Holm): adjusted for {ledger['holm_over']} comparisons")
    notes += dict.fromkeys(f"{row['metric']}: lower is better" for row in table.rows if not row["higher_is_better"])
    notes += dict.fromkeys(
        f"{row['of'] or row['metric']}: {count(row['n_only_a'], 'item')} only in A, {row['n_only_b']:,} only in B, left out"
        for row in table.rows
        if row["n_only_a"] or row["n_only_b"]
    )
    apart = dict.fromkeys((label(row["of_a"]), label(row["of_b"])) for row in table.rows)
    heads = [(f"{ledger['a']}", f"{ledger['b']}"), *(pair for pair in apart if any(pair))]
    named = facts(("A", "  ".join(a for a, _ in heads)), ("B", "  ".join(b for _, b in heads)))
    shown_table = type(table)(table.columns, rows).select(*shown)
    return [named, GAP, shown_table, GAP, *map(Note, notes)]


def _p(p: float | None) -> str | None:
    return None if p is None else f"{p:.3g}"
