"""View of `lmeval run` and `lmeval rescore`: all scoring rules side by side, calibration, the spread over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmeval.report.blocks import GAP, Bar, Bars, Block, Note
from lmeval.report.cells import cell, count
from lmeval.report.measurements import measurement_table
from lmeval.results import Column, Report, Table
from lmeval.results.table import facts

ALONE = ("exact_match", "f1")  # metrics that a task file asks for, and that no table of rules has
SAMPLERS = {"default": "drawn for each item", "fixed": "the same for all items", "balanced": "balanced by label"}


def view(report: Report) -> list[Block]:
    """What was scored and at what cost, every rule's figures, calibration, and the spread over seeds."""
    head: list[Block] = [_head(report), GAP]
    if "rules" not in report.tables:
        return [*head, measurement_table(report.results, lower_words=True)]
    blocks = [*head, _rules(report.tables["rules"]), GAP]
    alone = [m for m in report.results if m.name in ALONE]
    if alone:
        blocks += [measurement_table(alone), GAP]
    bar = "bar: accuracy, mark: where it would end at that confidence"
    blocks += [Note(f"calibration of the rule sum ({bar})"), _reliability(report.tables["reliability"])]
    if "confusion" in report.tables:
        blocks += [GAP, Note("right and predicted answers, rule sum"), report.tables["confusion"]]
    if "shot_seeds" in report.tables:
        blocks += [GAP, Note("accuracy by the seed of the examples (spread: what their draw alone adds from seed to seed)")]
        blocks.append(_seeds(report.tables["shot_seeds"], report.ledger["seeds"]))
    return blocks


def _head(report: Report) -> Table:
    ledger, provenance = report.ledger, report.provenance
    inputs, model, cost, interval = provenance["inputs"], provenance["models"][0], ledger["cost"], ledger["interval"]
    version = f", version {inputs['task_version']}" if inputs["task_version"] else ""
    limited = ledger["n_items"] != ledger["n_rows"]
    of = f", from the first {ledger['n_items']:,} of {ledger['n_rows']:,} in the split" if limited else ""
    shared = "prefixes shared" if cost["path"] == "tree" else "no prefixes shared"
    spent = f"{cost['n_tokens']:,} tokens through the model ({shared}; each choice anew: {cost['n_tokens_plain']:,})"
    units = f"95%, from {interval['n_units']:,} {interval['method']}"
    return facts(
        ("task", f"{inputs['task']}{version}, {ledger['split']} split of {inputs['data']}"),
        ("items", f"{ledger['n_items_scored']:,} scored{of}{_left_out(ledger)}"),
        ("prompts", _prompts(ledger)),
        ("model", f"{model['name']}, {model['n_parameters']:,} parameters, {model['dtype']} on {provenance['device']}"),
        ("cost", f"{spent}, {provenance['seconds']:,.1f} s"),
        ("intervals", units if interval["n_units"] > 1 else "none: one item says nothing of spread"),
    )


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
        how = SAMPLERS.get(ledger["sampler"], "the first of the split")
        drawn = how if ledger["sampler"] == "first_n" else f"{how}, {seeds}"
        shots = f"{count(ledger['n_shots'], 'example')} from {ledger['shot_split'] or 'the task file'}, {drawn}"
    return f"{shots}; {tokens['mean']:,.0f} tokens on average, {tokens['longest']:,} at most"


def _rules(table: Table) -> Table:
    """Accuracy with its interval and the other measures' values; class-wise ones where a rule has them."""
    by_class = any(value is not None for value in table.column("macro_f1"))
    classes = ("balanced_acc", "macro_f1", "mcc") if by_class else ()
    return table.select("rule", "acc", "acc_ci95", *classes, "log_loss", "brier_score", "ece", "description")


def _reliability(table: Table) -> Bars:
    columns = {column.name: column for column in table.columns}
    shown = ("n", "confidence", "accuracy", "ci95")
    bars = tuple(
        Bar(
            (cell((row["first"], row["stop"]), columns["first"]), *(cell(row[name], columns[name]) for name in shown)),
            share=row["accuracy"],
            mark=row["confidence"],
        )
        for row in table
    )
    return Bars(("confidence", *(columns[name].title for name in shown)), bars)


def _seeds(table: Table, seeds: Sequence[int]) -> Table:
    """One column for each seed, then the errors."""
    columns = tuple(Column(f"seed {seed}", f"seed {seed}", digits=4) for seed in seeds)
    names = [column.name for column in columns]
    rows = tuple({**row, **dict(zip(names, row["acc_by_seed"], strict=True))} for row in table)
    errors = ("seed_sd", "item_stderr", "total_stderr")
    return Table((*table.columns, *columns), rows).select("rule", *names, *errors)
