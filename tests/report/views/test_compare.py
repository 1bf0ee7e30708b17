import re
from dataclasses import replace

import pytest
from commands import text_of
from items import ACC, LOSS, RATE, report_with

from lmeval.report.views import view
from lmeval.results import Report, together
from lmeval.results.compare import compare_reports

RIGHT = [1, 1, 1, 1, 1, 0, 1, 0]


def made(*values: float, model: str = "m", task: str = "t") -> Report:
    return report_with(
        {"acc": values, "log_loss": [2.0 * v for v in values]}, [ACC, LOSS], of={"model": model, "task": task}
    )


def shown(a: Report, b: Report, *metrics: str, names: tuple[str, str] = ("a.json", "b.json")) -> str:
    return text_of(view(compare_reports(a, b, metrics, names)))


def test_a_comparison_shows_what_differs():
    text = shown(made(*RIGHT, 1), made(0, 0, 0, 0, 0, 1, 1, 0))
    [row] = [line for line in text.splitlines() if line.startswith("t ")]
    cells = re.split("  +", row.strip())
    assert cells[:6] == ["t", "acc", "8", "0.7500", "0.2500", "+0.5000"]
    assert cells[7:9] == ["5", "1"] and cells[-1] == "no difference seen"
    assert "A     a.json" in text and "B     b.json" in text and "both  model m" in text
    assert "t: 1 item only in A, 0 only in B, left out" in text
    assert "adjusted for" not in text and "Holm" not in text and "lower is better" not in text
    losses = shown(made(*RIGHT), made(*RIGHT[::-1]), "log_loss")
    assert "only A right" not in losses and losses.count("log_loss: lower is better") == 1


def test_tasks_have_rows_of_their_own():
    both = together("run", (made(1, 0, 1), made(0, 0, 1, task="u")), {})
    text = shown(both, both)
    assert re.search(r"^task +measure +items .* p +p \(Holm\)", text, re.M) and "adjusted for 2 comparisons" in text
    assert re.search(r"^t +acc +3 ", text, re.M) and re.search(r"^u +acc +3 ", text, re.M)


def test_what_is_not_compared_is_said():
    parts = [replace(made(1, 0, 1, task=task), provenance={"inputs": {"task_sha256": task}}) for task in ("t", "u", "[v]")]
    parts.append(replace(parts[1], provenance={"inputs": {"task_sha256": "changed"}}))
    text = shown(together("run", tuple(parts[:2]), {}), together("run", tuple(parts[2:]), {}))
    assert "only in A, left out: model m, task t\n" in text
    assert "only in B, left out: model m, task [v]" in text
    assert "different in A and B, by SHA-256: task; items are paired by their names" in text
    alike = shown(parts[0], parts[0])
    assert "left out" not in alike and "SHA-256" not in alike


def test_what_each_result_is_of_stands_beside_its_file():
    text = shown(made(1, 0, 1, model="small"), made(1, 1, 1, model="large"))
    assert "A  a.json  model small" in text and "B  b.json  model large" in text


def test_what_has_no_task_is_told_by_its_metric():
    rates = report_with({"nll_nats": [1.0, 2.0, 4.0], "n_bytes": [3.0, 3.0, 3.0]}, [RATE], kind="perplexity", of={})
    text = shown(rates, rates)
    assert re.search(r"^bits_per_byte +3 ", text, re.M) and "bits_per_byte: lower is better" in text


@pytest.mark.parametrize("name", ["[draft]", "[/b]", "[red]x"])
def test_names_are_shown_as_they_are(name: str):
    text = shown(made(1, 0, 1, task=name), made(1, 1, 1, task=name), names=(name, name))
    assert text.count(name) == 3
