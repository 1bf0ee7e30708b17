import io

import pytest
from rich.console import Console

from lmeval.report.terminal import draw
from lmeval.report.views import view
from lmeval.results import Report
from lmeval.results.table import Column, Table, count, words

SIZES = ("archive", "gzip -9", "xz -9e")


def report(decoded: bool = True, name: str = "some text") -> Report:
    texts = (
        words("text"),
        count("n_bytes", "bytes"),
        Column("score", "score", digits=3),
        Column("score_ci95", "95% interval", digits=3),
        Column("decoded", "decoded", style="words"),
        *(Column(size, size, digits=3) for size in SIZES),
    )
    row = {"text": name, "n_bytes": 12_345, "score": 2.5, "score_ci95": (2.25, 2.75), "decoded": decoded}
    row |= dict(zip(SIZES, (1.25, 3.0, 3.5), strict=True))
    task = Table((words("task"), Column("acc", "accuracy", digits=3)), ({"task": "sentiment", "acc": 0.5},), "prompted task")
    return Report("demo", tables={"texts": Table(texts, (row,), "bits per byte"), "task": task})


def text_of(shown: Report, **options: bool) -> str:
    out = io.StringIO()
    Console(file=out, width=200, highlight=False, **options).print(draw(view(shown)))
    return out.getvalue()


def test_a_text_is_a_line_with_its_score_and_sizes():
    shown = text_of(report()).splitlines()
    (line,) = (line for line in shown if line.startswith("some text"))
    assert line.split() == [*["some", "text", "12,345", "2.500", "2.250", "to", "2.750", "equal", "1.250", "3.000", "3.500"]]
    assert any(line.startswith("sentiment") and "0.500" in line for line in shown)


def test_an_archive_that_decodes_to_something_else_is_not_overlooked():
    assert "DIFFERENT" in text_of(report(decoded=False))


@pytest.mark.parametrize("name", ["[bold]text[/bold]", "a [/] b"])
def test_names_are_shown_as_they_are(name: str):
    assert name in text_of(report(name=name))


def test_the_smallest_file_is_bold():
    shown = text_of(report(), force_terminal=True)
    assert "\x1b[1m1.250\x1b[0m" in shown
    assert "\x1b[1m2.500" not in shown and "\x1b[1m3" not in shown
