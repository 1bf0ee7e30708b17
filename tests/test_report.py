import dataclasses
import io
import re

import pytest
from prompted import LABELS, chain, task_file
from rich.console import Console, RenderableType
from samples import PROSE, random_text, tiny_llama

from lmeval import report
from lmeval.compression import CompressedSize
from lmeval.perplexity import PerplexitySettings, perplexity
from lmeval.prompting import RunSettings, run_task
from lmeval.report.tables import plain_table
from lmeval.results import Report, find


def text_of(table: RenderableType, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(table)
    return out.getvalue()


def with_ledger(found: Report, **changes: object) -> Report:
    return dataclasses.replace(found, ledger={**found.ledger, **changes})


LOSSY = {
    "exact": False,
    "n_documents_not_exact": 2,
    "first_document_not_exact": "a.txt",
    "withheld": ["per byte", "per character", "per word"],
}


@pytest.fixture(scope="module")
def found() -> Report:
    return perplexity(tiny_llama(), [random_text(1500), "", PROSE], PerplexitySettings(stride=32))


def test_every_measurement_is_shown_with_its_interval(found: Report):
    shown = text_of(report.perplexity_tables(found))
    for measurement in found.results:
        assert measurement.name in shown
    bits = find(found, "bits_per_byte")
    assert bits.ci95 is not None
    assert f"{bits.value:.4f}" in shown
    assert f"{bits.ci95[0]:.4f} to {bits.ci95[1]:.4f}" in shown


def test_what_was_scored_is_said(found: Report):
    shown = text_of(report.perplexity_tables(found))
    n_bytes = 1500 + len(PROSE.encode())
    assert f"3 documents, {n_bytes:,} bytes, {n_bytes:,} tokens in {found.ledger['windows']['n']:,} windows" in shown
    assert "1 empty document" in shown
    assert "context 64, stride 32, BOS at every window" in shown
    assert "block bootstrap" in shown
    assert "tiny-llama" in shown


def test_positions_are_shown_up_to_the_context(found: Report):
    lines = text_of(report.perplexity_tables(found)).splitlines()
    assert any(line.startswith("0 ") for line in lines)
    assert any(line.startswith("32 to 63") for line in lines)


def test_nothing_is_withheld_where_the_text_comes_back(found: Report):
    assert report.withheld_notice(found) is None


def test_what_is_withheld_is_said_and_not_shown(found: Report):
    lossy = with_ledger(found, round_trip=LOSSY)
    notice = report.withheld_notice(lossy)
    assert notice is not None
    assert "2 documents (first: a.txt)" in notice
    assert "bits/byte" not in text_of(report.perplexity_tables(lossy))


@pytest.mark.parametrize("name", ["notes [draft].txt", "text[ab]*.txt", "[/b].txt", "[red]x"])
def test_names_are_shown_as_they_are(found: Report, name: str):
    corpus = {**found.provenance["corpus"], "sources": [name]}
    named = dataclasses.replace(found, provenance={**found.provenance, "corpus": corpus})
    assert name in text_of(report.perplexity_tables(named))
    assert name in text_of(report.demo_table([report.DemoRow(name, found, 5, True, [CompressedSize("gzip -9", 10, 5)])]))


def test_the_demo_sets_the_model_beside_compressors(found: Report):
    sizes = [CompressedSize("gzip -9", 1000, 400), CompressedSize("xz -9e", 1000, 350)]
    shown = text_of(report.demo_table([report.DemoRow("some text", found, 300, True, sizes)]))
    for cell in ("some text", "tiny-llama", "gzip -9", "3.200", "2.800", f"{find(found, 'bits_per_byte').value:.3f}"):
        assert cell in shown


def test_reports_need_no_model():
    import ast
    import inspect

    modules = {node.module for node in ast.walk(ast.parse(inspect.getsource(report))) if isinstance(node, ast.ImportFrom)}
    assert not any(module and ("models" in module or "torch" in module or "scoring" in module) for module in modules)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Report:
    keys = LABELS | {"lmeval": {"neutral": [{"q": "N/A"}], "unconditional": "so"}, "metric_list": ["acc", "exact_match"]}
    path = task_file(tmp_path_factory.mktemp("task"), keys, fewshot_split="test", num_fewshot=1)
    return run_task(path, chain()[0], RunSettings(shot_seeds=2)).report


def test_every_figure_of_every_rule_is_shown(scored: Report):
    lines = text_of(report.task_tables(scored)).splitlines()
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
    assert "LEFT OUT" not in text_of(report.task_tables(scored))
    long = [{"item": "x", "row": 17, "seed": 0, "n_tokens": 2345}]
    changes = {
        "n_items_too_long": 3,
        "too_long": long,
        "n_items_boundary_moved": 2,
        "n_ties": 4,
        "n_items": 7,
        "n_rows": 9000,
    }
    shown = text_of(report.task_tables(with_ledger(scored, **changes)))
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
    assert words in text_of(report.task_tables(with_ledger(scored, sampler=sampler)))
    assert "no examples;" in text_of(report.task_tables(with_ledger(scored, n_shots=0)))


def test_a_bound_is_not_shown_as_the_value(scored: Report):
    bound = find(scored, "acc")._replace(name="perplexity", value=1e304, side="lower", stderr=None, ci95=None)
    bare = dataclasses.replace(scored, results=(bound,), tables={"items": []})
    assert "perplexity, at least  1.0000e+304" in text_of(report.task_tables(bare))


def test_numbers_are_set_to_the_right():
    table = plain_table("name", "number", "unit")
    for cells in (("a", "1", "x"), ("longer", "1,000.5", "longer")):
        table.add_row(*cells)
    lines = [line.rstrip() for line in text_of(table).splitlines()]
    assert lines == ["name     number    unit", "a             1       x", "longer  1,000.5  longer"]


COMPARED = {"task": "t", "metric": "acc", "n": 1200, "a": 0.5, "b": 0.25, "difference": 0.25, "ci95": (0.1, 0.4)} | {
    "n_only_a": 0,
    "n_only_b": 3,
    "right_in_a_only": 9,
    "right_in_b_only": 1,
    "p_value": 0.0215,
    "p_holm": 0.043,
    "minimum_detectable_effect": None,
}


def test_a_comparison_shows_what_was_found():
    shown = text_of(report.compare_table([COMPARED], "a.json", "b.json"))
    [row] = [line for line in shown.splitlines() if line.startswith("t ")]
    assert re.split("  +", row.strip())[1:] == [
        "acc", "1,200", "0.5000", "0.2500", "+0.2500", "0.1000 to 0.4000", "9", "1", "0.0215", "0.043"
    ]  # fmt: skip
    assert "t: 0 items only in A, 3 only in B, left out" in shown
    assert "adjusted for" not in shown and "lower is better" not in shown
    unlike = COMPARED | {"metric": "log_loss", "right_in_a_only": None, "right_in_b_only": None}
    shown = text_of(report.compare_table([unlike, unlike | {"task": "u"}], "a", "b"))
    assert "only A right" not in shown
    assert shown.count("log_loss: lower is better") == 1 and "adjusted for 2 comparisons" in shown


@pytest.mark.parametrize("name", ["[draft]", "[/b]", "[red]x"])
def test_names_of_tasks_are_shown_as_they_are(scored: Report, name: str):
    named = dataclasses.replace(scored, provenance={**scored.provenance, "task": name, "data": name})
    assert f"{name}, version 1.0, test split of {name}" in text_of(report.task_tables(named))
    shown = text_of(report.compare_table([COMPARED | {"task": name, "metric": name}], name, "b"))
    assert shown.count(name) == 4
