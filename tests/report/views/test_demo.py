import pytest

from lmeval.report.views.demo import step_line, text_title

STEP = {"text": "t", "what": "archive", "bits_per_byte": 1.25, "ci95": None, "n_bytes": None, "equal": None, "seconds": None}


def line(**changes: object) -> str:
    return step_line({**STEP, "note": "", **changes})


def test_a_line_holds_what_there_is_to_say():
    assert line().split() == ["archive", "1.250", "bits/byte"]
    assert "(95%: 1.000 to 1.500)" in line(ci95=(1.0, 1.5))
    assert "12,345 bytes" in line(n_bytes=12_345) and "in 2.0 s" in line(seconds=2.0)
    assert line(bits_per_byte=None, note="the file is empty").split() == ["archive", "the", "file", "is", "empty"]


@pytest.mark.parametrize(("equal", "words"), [(True, "to the same bytes"), (False, "to OTHER bytes")])
def test_an_archive_that_decodes_to_something_else_is_not_overlooked(equal: bool, words: str):
    assert words in line(equal=equal)


def test_a_title_says_how_much_of_a_text_is_tried():
    assert text_title("a.txt", 10, 10, "m") == "a.txt, all its 10 bytes (model: m)"
    assert text_title("a.txt", 10, 2000, "m") == "a.txt, the first 10 of its 2,000 bytes (model: m)"
