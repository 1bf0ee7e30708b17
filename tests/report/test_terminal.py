import pytest

from lmeval.report.blocks import GAP, Bar, Bars, Figure, Note
from lmeval.report.terminal import print_blocks
from lmeval.results.table import Column, Table, facts, words


def printed(capsys: pytest.CaptureFixture[str], *blocks: object) -> list[str]:
    print_blocks(blocks)  # pyright: ignore[reportArgumentType]
    return capsys.readouterr().out.splitlines()


def test_words_stand_to_the_left_and_numbers_to_the_right(capsys: pytest.CaptureFixture[str]):
    table = Table(
        (words("name"), Column("n", "items"), Column("x", "value", digits=2)),
        ({"name": "a", "n": 5, "x": 0.5}, {"name": "longer", "n": 12345, "x": None}),
        notes=("how to read it",),
    )
    assert printed(capsys, table) == [
        "name     items  value",
        "a            5   0.50",
        "longer  12,345",
        "",
        "how to read it",
    ]


def test_a_table_without_titles_has_no_header(capsys: pytest.CaptureFixture[str]):
    assert printed(capsys, facts(("model", "m"), ("text", "t"))) == ["model  m", "text   t"]


def test_text_that_looks_like_markup_is_text(capsys: pytest.CaptureFixture[str]):
    marked = "[red]not red[/red] [/]"
    lines = printed(capsys, Table((words("x", "[b]"),), ({"x": marked},), title="[i]t"), Note(marked), GAP)
    assert lines[:4] == ["[i]t", "[b]", marked, marked]


@pytest.mark.parametrize("width", [20, 80])
def test_nothing_is_cropped_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
):
    monkeypatch.setenv("COLUMNS", str(width))
    text = "x" * 200
    assert printed(capsys, Table((words("x"), Column("n", "n")), ({"x": text, "n": 123456},)))[1] == f"{text}  123,456"


def test_bars_are_filled_to_their_share_and_marked(capsys: pytest.CaptureFixture[str]):
    lines = printed(capsys, Bars(("confidence", "n"), (Bar(("0 to 1", "7"), 0.5, 0.75), Bar(("1", "70"), 1.0, 0.0))))
    assert lines[1].endswith("██████████·····┃····")
    assert lines[2].endswith("╋███████████████████")


def test_a_terminal_leaves_figures_out(capsys: pytest.CaptureFixture[str]):
    def fail():
        raise AssertionError("drawn")

    assert printed(capsys, Note("before"), Figure("f", "caption", fail), Note("after")) == ["before", "after"]
