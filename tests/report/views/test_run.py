import dataclasses
from typing import Any

import pytest
from commands import text_of
from prompted import LABELS, chain, task_file

from lmeval.prompting import RunSettings, run_task
from lmeval.report.views import view
from lmeval.results import Report, find


def with_ledger(found: Report, **changes: Any) -> Report:
    return dataclasses.replace(found, ledger={**found.ledger, **changes})


def with_inputs(found: Report, **changes: Any) -> Report:
    inputs = {**found.provenance["inputs"], **changes}
    return dataclasses.replace(found, provenance={**found.provenance, "inputs": inputs})


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Report:
    keys = LABELS | {"lmeval": {"neutral": [{"q": "N/A"}], "unconditional": "so"}, "metric_list": ["acc", "exact_match"]}
    path = task_file(tmp_path_factory.mktemp("task"), keys, fewshot_split="test", num_fewshot=1)
    return run_task(path, chain()[0], RunSettings(shot_seeds=2))


def test_every_figure_of_every_rule_is_shown(scored: Report):
    lines = text_of(view(scored)).splitlines()
    for row in scored.tables["rules"]:
        [shown] = [line for line in lines if line.startswith(f"{row['rule']} ") and str(row["description"]) in line]
        numbers = [row[name] for name in ("acc", "balanced_acc", "macro_f1", "mcc", "log_loss", "brier_score", "ece")]
        assert [f"{x:.4f}" in shown for x in (*numbers, *row["acc_ci95"])] == [True] * 9
    for row in scored.tables["reliability"]:
        [shown] = [line for line in lines if line.startswith(f"{row['first']:.2f} to {row['stop']:.2f} ")]
        assert f"{row['confidence']:.3f}" in shown and f"{row['accuracy']:.3f}" in shown
        assert shown.count("█") + shown.count("╋") in (round(20 * row["accuracy"]), round(20 * row["accuracy"]) + 1)
    for row in scored.tables["confusion"]:
        counts = [row[f"predicted {name}"] for name in ("no", "yes", "maybe")]
        assert any(line.split() == [row["gold"], *map(str, counts)] for line in lines)
    for row in scored.tables["shot_seeds"]:
        values = (*row["acc_by_seed"], row["seed_sd"], row["item_stderr"], row["total_stderr"])
        assert any(line.split() == [row["rule"], *(f"{x:.4f}" for x in values)] for line in lines)
    assert any(line.startswith("exact_match ") for line in lines)


def test_what_a_task_left_out_is_said(scored: Report):
    assert "LEFT OUT" not in text_of(view(scored))
    long = [{"item": "x", "row": 17, "seed": 0, "n_tokens": 2345}]
    changes = {
        "n_items_too_long": 3,
        "too_long": long,
        "n_items_boundary_moved": 2,
        "n_ties": 4,
        "n_items": 7,
        "n_rows": 9000,
    }
    shown = text_of(view(with_ledger(scored, **changes)))
    assert "7 scored, from the first 7 of 9,000 in the split; 3 LEFT OUT" in shown
    assert "longer than the context (first: row 17, 2,345 tokens); 2 with a token across context and choice; 4 ties" in shown


@pytest.mark.parametrize(
    ("sampler", "words"),
    [
        ("default", "1 example from test, drawn for each item, seeds 0 to 1;"),
        ("fixed", "the same for all items, seeds 0 to 1;"),
        ("balanced", "balanced by label, seeds 0 to 1;"),
        ("first_n", "1 example from test, the first of the split;"),
    ],
)
def test_where_examples_come_from_is_said(scored: Report, sampler: str, words: str):
    assert words in text_of(view(with_ledger(scored, sampler=sampler)))
    assert "no examples;" in text_of(view(with_ledger(scored, n_shots=0)))


def test_a_bound_is_not_shown_as_the_value(scored: Report):
    bound = find(scored, "acc")._replace(name="perplexity", value=1e304, side="lower", stderr=None, ci95=None)
    bare = dataclasses.replace(scored, results=(bound,), tables={})
    assert "perplexity, at least  1.0000e+304" in text_of(view(bare))


@pytest.mark.parametrize("name", ["[draft]", "[/b]", "[red]x"])
def test_names_of_tasks_are_shown_as_they_are(scored: Report, name: str):
    named = with_inputs(scored, task=name, data=name)
    assert f"{name}, version 1.0, test split of {name}" in text_of(view(named))
