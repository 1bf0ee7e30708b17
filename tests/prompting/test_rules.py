import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompted import CHOICES, LABELS, ROWS, TARGETS, chain, random_records, record, records_in, task_file

from lmeval.errors import TaskFileError
from lmeval.prompting import Record, RunSettings, run_task
from lmeval.prompting.rules import RULES, Rule, rule_scores, same_choices
from lmeval.results import as_json, find
from lmeval.results.compare import compare_reports
from lmeval.results.report import from_json

NEUTRAL = ["N/A", "", "[MASK]"]


def log_p(logs: np.ndarray, context: str, continuation: str) -> float:
    """log p of the bytes of a continuation by the chain; white space at the context's end changes nothing of it, and a
    context without text is the BOS."""
    ids = list((context + continuation).encode())
    start = len(context.rstrip().encode())
    previous = [256, *ids][start : len(ids)] if start == 0 else ids[start - 1 : -1]
    return math.fsum(logs[a, b] for a, b in zip(previous, ids[start:], strict=True))


def softmax(scores: Sequence[float]) -> list[float]:
    total = math.fsum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def by_hand(logs: np.ndarray, row: dict[str, Any], choices: list[str]) -> dict[str, list[float]]:
    """Every rule's scores of a row, but those that need all rows."""
    sums = [log_p(logs, row["q"], choice) for choice in choices]
    empty = [softmax([log_p(logs, q, choice) for choice in choices]) for q in NEUTRAL]
    moved = len(row["q"]) - len(row["q"].rstrip())  # white space at the context's end belongs to the choice
    mean = [math.fsum(q[c] for q in empty) / len(empty) for c in range(len(choices))]
    return {
        "sum": sums,
        "per_character": [s / len(choice) for s, choice in zip(sums, choices, strict=True)],
        "per_byte": [s / len(choice.encode()) for s, choice in zip(sums, choices, strict=True)],
        "per_token": [s / (moved + len(choice.encode())) for s, choice in zip(sums, choices, strict=True)],
        "pmi": [s - log_p(logs, "?", choice) for s, choice in zip(sums, choices, strict=True)],
        "contextual": [math.log(q / m) for q, m in zip(softmax(sums), mean, strict=True)],
    }


@pytest.mark.parametrize("keys", [CHOICES, LABELS], ids=["own choices", "labels"])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_rule_is_its_formula_on_an_exact_model(tmp_path: Path, keys: dict[str, Any], seed: int):
    model, logs = chain(seed)
    path = task_file(tmp_path, keys, lmeval={"neutral": [{"q": q} for q in NEUTRAL], "unconditional": "?"})
    run = run_task(path, model)
    labels = keys is LABELS
    expected = [by_hand(logs, row, list(keys["doc_to_choice"]) if labels else row["options"]) for row in ROWS]
    if labels:
        shares = [softmax(row["sum"]) for row in expected]
        mean = [math.fsum(q[c] for q in shares) / len(shares) for c in range(3)]
        for row, q in zip(expected, shares, strict=True):
            row["batch"] = [math.log(a / b) for a, b in zip(q, mean, strict=True)]
    found = rule_scores(records_in(run))
    assert list(found) == [*RULES][: 7 if labels else 6]
    for name, scores in found.items():
        for i, row in enumerate(scores):
            assert row.tolist() == pytest.approx(expected[i][name], rel=1e-9, abs=1e-12), (name, i)
        right = [int(np.argmax(expected[i][name])) == row["label"] for i, row in enumerate(ROWS)]
        assert run[RULES[name].metric] == pytest.approx(sum(right) / len(ROWS))


def test_tasks_that_do_not_name_what_a_rule_needs_do_without_it(tmp_path: Path):
    plain = run_task(task_file(tmp_path, CHOICES), chain()[0])
    assert list(rule_scores(records_in(plain))) == ["sum", "per_character", "per_byte", "per_token"]
    asked = run_task(task_file(tmp_path, CHOICES), chain()[0], RunSettings(unconditional=True))
    assert list(rule_scores(records_in(asked)))[-1] == "pmi"
    refused = task_file(tmp_path, CHOICES, lmeval={"unconditional": "?"})
    assert "acc_mutual_info" not in [m.name for m in run_task(refused, chain()[0], RunSettings(unconditional=False)).results]


def test_choices_without_a_question_stand_behind_the_bos(tmp_path: Path):
    model, logs = chain()
    run = run_task(task_file(tmp_path, CHOICES, metric_list=["acc", "acc_mutual_info"]), model)
    for row, made in zip(ROWS, records_in(run), strict=True):
        free = [choice.unconditional_nats for choice in made.choices]
        assert free == pytest.approx([log_p(logs, "", choice) for choice in row["options"]], rel=1e-12)


def test_choices_inside_the_context_are_scored_by_what_follows(tmp_path: Path):
    model, logs = chain()
    rows = [{"options": ["The cat", "The größe"], "end": "  sat.", "label": 1}]
    path = task_file(tmp_path, CHOICES, rows, doc_to_text="label", doc_to_target="end", metric_list=["acc_mutual_info"])
    [made] = records_in(run_task(path, model))
    sums = [log_p(logs, option, "  sat.") for option in rows[0]["options"]]
    assert [choice.total_nats for choice in made.choices] == pytest.approx(sums, rel=1e-12)
    found = rule_scores([made])
    assert "pmi" not in found  # the same continuation for all
    assert found["per_character"][0].tolist() == pytest.approx([sums[0] / 7, sums[1] / 9], rel=1e-12)
    assert found["per_byte"][0].tolist() == pytest.approx([sums[0] / 7, sums[1] / 11], rel=1e-12)
    assert made.gold == (1,)


def test_a_target_alone_has_the_chain_s_probability(tmp_path: Path):
    model, logs = chain()
    run = run_task(task_file(tmp_path, TARGETS), model)
    nats = [log_p(logs, row["q"], row["options"][row["label"]]) for row in ROWS]
    assert [made.choices[0].total_nats for made in records_in(run)] == pytest.approx(nats, rel=1e-12)
    assert run["perplexity"] == pytest.approx(math.exp(-sum(nats) / len(nats)), rel=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 4))
def test_calibrated_scores_are_shares_over_their_mean(seed: int, n: int, n_choices: int):
    records = random_records(seed, n, n_choices)
    found = rule_scores(records)
    ratios = np.exp(np.stack(found["batch"]))
    assert ratios.mean(axis=0) == pytest.approx(np.ones(n_choices), rel=1e-9)  # over items every label is as likely
    shifted = [made._replace(choices=tuple(c._replace(nats=(*c.nats, -3.0)) for c in made.choices)) for made in records]
    for name in ("contextual", "batch"):  # what all choices of an item have in common changes nothing
        for a, b in zip(found[name], rule_scores(shifted)[name], strict=True):
            assert a == pytest.approx(b, abs=1e-9)


def test_neutral_inputs_that_the_model_treats_alike_calibrate_nothing():
    records = [made._replace(neutral_nats=((-4.0, -4.0, -4.0),) * 2) for made in random_records(0, 8)]
    found = rule_scores(records)
    for sums, contextual in zip(found["sum"], found["contextual"], strict=True):
        assert contextual - contextual[0] == pytest.approx(sums - sums[0])


def test_scores_of_unlikely_texts_stay_finite():
    records = [
        record("i0", [-8000.0, -9000.0], free=[-9000.0, -8000.0], neutral=[[-9000.0, -8000.0]]),
        record("i1", [-5000.0, -1.0], free=[-1.0, -5000.0], neutral=[[-1.0, -5000.0]]),
    ]
    for scores in rule_scores(records).values():
        assert np.isfinite(np.stack(scores)).all()


def test_labels_are_the_same_choices_in_the_same_order():
    a, b = record("i0", [-1.0, -2.0], texts=["a", "b"]), record("i1", [-1.0, -2.0], texts=["b", "a"])
    assert same_choices([a, a]) and not same_choices([a, b])
    assert not same_choices([record("i0", [-1.0])])  # nothing to choose from
    assert "batch" not in rule_scores([a, b])


def test_a_rule_is_one_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def shortest(records: Sequence[Record]) -> list[np.ndarray]:
        return [-np.array([float(choice.n_characters) for choice in record.choices]) for record in records]

    path = task_file(tmp_path, CHOICES, metric_list=["correct_if_shortest"])
    with pytest.raises(TaskFileError, match="unknown metric 'correct_if_shortest'"):
        run_task(path, chain()[0])
    monkeypatch.setitem(RULES, "shortest", Rule("correct_if_shortest", "the fewest characters", shortest))
    report = run_task(path, chain()[0])
    expected = np.mean([np.argmin([len(option) for option in row["options"]]) == row["label"] for row in ROWS])
    assert find(report, "correct_if_shortest", rule="shortest").value == pytest.approx(expected)
    assert report.tables["rules"].column("rule")[-1] == "shortest"
    compared = compare_reports(report, report, ["correct_if_shortest"])
    assert compared["correct_if_shortest_difference"] == 0.0 and compared.tables["differences"][0]["test"] == "mcnemar"
    data = as_json(report)
    assert from_json(data).items is not None
    data["items"]["rows"][0]["values"]["correct_if_shortest"] = 7.0
    with pytest.raises(ValueError, match=r"correct_if_shortest is 7.0, which is no share"):
        from_json(data)
