"""Tables of prompted tasks: all scoring rules side by side, calibration, and the comparison of two runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from lmeval.report.tables import count, measurement_table, plain_table
from lmeval.results import Report

BAR = 20  # characters of a full bar
LOSSES = ("log_loss", "target_nll_nats")


def task_tables(report: Report) -> RenderableType:
    """One task: what was scored and at what cost, every rule's figures, calibration, and the spread over seeds."""
    parts: list[RenderableType] = [_head(report), ""]
    if "rules" not in report.tables:
        bounds = [m if m.side != "lower" else m._replace(name=f"{m.name}, at least") for m in report.results]
        return Group(*parts, measurement_table(bounds))
    parts += [_rules(report.tables["rules"].rows), ""]
    extra = [m for m in report.results if m.name in ("exact_match", "f1")]
    if extra:
        parts += [measurement_table(extra), ""]
    bar = "bar: accuracy, mark: where it would end at that confidence"
    parts += [f"calibration of the rule sum ({bar})", _reliability(report.tables["reliability"].rows)]
    if "confusion" in report.tables:
        parts += ["", "right and predicted answers, rule sum", _confusion(report.tables["confusion"].rows)]
    if "shot_seeds" in report.tables:
        parts += ["", "accuracy by the seed of the examples (spread: what their draw alone adds from seed to seed)"]
        parts.append(_seeds(report.tables["shot_seeds"].rows, report.ledger["seeds"]))
    return Group(*parts)


def _head(report: Report) -> Table:
    ledger, provenance = report.ledger, report.provenance
    model = provenance["model"]
    table = plain_table("", "")
    version = f", version {provenance['task_version']}" if provenance["task_version"] else ""
    table.add_row("task", escape(f"{provenance['task']}{version}, {ledger['split']} split of {provenance['data']}"))
    limited = ledger["n_items"] != ledger["n_rows"]
    of = f", from the first {ledger['n_items']:,} of {ledger['n_rows']:,} in the split" if limited else ""
    table.add_row("items", f"{ledger['n_items_scored']:,} scored{of}{_left_out(ledger)}")
    table.add_row("prompts", escape(_prompts(ledger)))
    name = f"{model['name']}, {model['n_parameters']:,} parameters, {model['dtype']} on {provenance['device']}"
    table.add_row("model", escape(name))
    cost = ledger["cost"]
    shared = "prefixes shared" if cost["path"] == "tree" else "no prefixes shared"
    spent = f"{cost['n_tokens']:,} tokens through the model ({shared}; each choice anew: {cost['n_tokens_plain']:,})"
    table.add_row("cost", f"{spent}, {provenance['seconds']:,.1f} s")
    interval = ledger["interval"]
    units = f"95%, from {interval['n_units']:,} {escape(interval['method'])}"
    table.add_row("intervals", units if interval["n_units"] > 1 else "none: one item says nothing of spread")
    return table


def _left_out(ledger: Mapping[str, Any]) -> str:
    parts = []
    if ledger["n_items_too_long"]:
        first = ledger["too_long"][0]
        parts.append(
            f"{ledger['n_items_too_long']:,} LEFT OUT, longer than the context (first: row {first['row']}, "
            f"{first['n_tokens']:,} tokens)"
        )
    if ledger["n_items_boundary_moved"]:
        parts.append(f"{ledger['n_items_boundary_moved']:,} with a token across context and choice")
    if ledger.get("n_ties"):
        parts.append(f"{count(ledger['n_ties'], 'tie')}, decided by the order of the choices")
    return "".join(f"; {part}" for part in parts)


def _prompts(ledger: Mapping[str, Any]) -> str:
    tokens = ledger["prompt_tokens"]
    shots = "no examples"
    if ledger["n_shots"]:
        first, last = ledger["seeds"][0], ledger["seeds"][-1]
        seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
        sampler = {"default": "drawn for each item", "fixed": "the same for all items", "balanced": "balanced by label"}
        how = sampler.get(ledger["sampler"], "the first of the split")
        drawn = how if ledger["sampler"] == "first_n" else f"{how}, {seeds}"
        shots = f"{count(ledger['n_shots'], 'example')} from {ledger['shot_split'] or 'the task file'}, {drawn}"
    return f"{shots}; {tokens['mean']:,.0f} tokens on average, {tokens['longest']:,} at most"


def _rules(rows: Sequence[Mapping[str, Any]]) -> Table:
    by_class = any(row["macro_f1"] is not None for row in rows)
    classes = (("balanced_acc", "balanced"), ("macro_f1", "macro F1"), ("mcc", "MCC")) if by_class else ()
    columns = (*classes, ("log_loss", "log loss"), ("brier_score", "Brier"), ("ece", "ECE"))
    table = plain_table("rule", "accuracy", "95% interval", *(title for _, title in columns), "score")
    table.columns[-1].justify = "left"
    for row in rows:
        cells = ["" if row[name] is None else f"{row[name]:.4f}" for name, _ in columns]
        table.add_row(row["rule"], f"{row['acc']:.4f}", _span(row["acc_ci95"]), *cells, escape(row["description"]))
    return table


def _span(ci95: Sequence[float] | None, digits: int = 4) -> str:
    return "" if ci95 is None else f"{ci95[0]:.{digits}f} to {ci95[1]:.{digits}f}"


def _reliability(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("confidence", "answers", "mean", "accuracy", "95% interval", "")
    table.columns[-1].justify = "left"
    for row in rows:
        cells = [f"{row['n']:,}", f"{row['confidence']:.3f}", f"{row['accuracy']:.3f}", _span(row["ci95"], 3)]
        table.add_row(f"{row['first']:.2f} to {row['stop']:.2f}", *cells, _bar(row["accuracy"], row["confidence"]))
    return table


def _bar(accuracy: float, confidence: float) -> str:
    """Accuracy as a bar, with a mark where a calibrated model's would end."""
    filled, mark = round(BAR * accuracy), min(BAR - 1, round(BAR * confidence))
    cells = ["█" if i < filled else "·" for i in range(BAR)]
    cells[mark] = "┃" if mark >= filled else "╋"
    return "".join(cells)


def _confusion(rows: Sequence[Mapping[str, Any]]) -> Table:
    names = [key for key in rows[0] if key != "gold"]
    table = plain_table("right", *(escape(name) for name in names))
    for row in rows:
        table.add_row(escape(row["gold"]), *(f"{row[name]:,}" for name in names))
    return table


def _seeds(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Table:
    titles = ("spread", "error from items", "from items and seeds")
    table = plain_table("rule", *(f"seed {seed}" for seed in seeds), *titles)
    for row in rows:
        errors = ["" if row[key] is None else f"{row[key]:.4f}" for key in ("seed_sd", "item_stderr", "total_stderr")]
        table.add_row(row["rule"], *(f"{x:.4f}" for x in row["acc_by_seed"]), *errors)
    return table


def compare_table(rows: Sequence[Mapping[str, Any]], name_a: str, name_b: str) -> RenderableType:
    """Two runs on the same items: paired differences, with p-values adjusted over the rows."""
    binary = any(row["right_in_a_only"] is not None for row in rows)
    only = ("only A right", "only B right") if binary else ()
    numbers = ("items", "A", "B", "A - B", "95% interval", *only, "p", "p (Holm)", "detectable")
    table = plain_table("task", "measure", *numbers)
    table.columns[1].justify = "left"
    for row in rows:
        counts = ["" if row[key] is None else f"{row[key]:,}" for key in ("right_in_a_only", "right_in_b_only")]
        p = ["" if row[key] is None else f"{row[key]:.3g}" for key in ("p_value", "p_holm")]
        detectable = row["minimum_detectable_effect"]
        table.add_row(
            escape(row["task"]),
            escape(row["metric"]),
            f"{row['n']:,}",
            f"{row['a']:.4f}",
            f"{row['b']:.4f}",
            f"{row['difference']:+.4f}",
            _span(row["ci95"]),
            *(counts if binary else ()),
            *p,
            "" if detectable is None else f"{detectable:.4f}",
        )
    notes = ["detectable: the smallest true difference that would be found 80 times in 100 (at 5%)"]
    if len(rows) > 1:
        notes.append(f"p (Holm): adjusted for {len(rows)} comparisons")
    notes += dict.fromkeys(f"{row['metric']}: lower is better" for row in rows if row["metric"] in LOSSES)
    notes += dict.fromkeys(
        f"{row['task']}: {count(row['n_only_a'], 'item')} only in A, {row['n_only_b']:,} only in B, left out"
        for row in rows
        if row["n_only_a"] or row["n_only_b"]
    )
    return Group(f"A  {escape(name_a)}", f"B  {escape(name_b)}", "", table, "", *(escape(note) for note in notes))
