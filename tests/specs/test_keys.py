from typing import Any

import pytest

from lmeval.specs.keys import (
    TEXT,
    WRITTEN,
    Key,
    choice,
    is_number,
    is_whole,
    listed,
    mapping,
    mappings,
    matching,
    needed,
    real,
    refused,
    whole,
)


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [
        (TEXT, ["a", " a "], ["", " \n", 1, True, ["a"]]),
        (WRITTEN, ["", "a"], [1, True, ["a"], {}]),
        (whole(1), [1, 10**30], [0, -1, 1.0, True, "1"]),
        (whole(2, 4), [2, 4], [1, 5]),
        (real(0), [0.1, 1, 1e300], [0, -0.1, float("inf"), float("nan"), True, "0.1"]),
        (real(0, 0.5), [0.1, 0.499], [0, 0.5, 1]),
        (choice(["a", "b"]), ["a", "b"], ["c", "", 1, ["a"], {}]),
        (matching("[a-z]+", "a word"), ["abc"], ["", "Abc", "abc\n", 1]),
        (listed(whole(1), "whole numbers"), [[1], [1, 2, 3]], [[], [0], [1, "a"], [True], 1, {1: 1}]),
        (listed(whole(1), "two whole numbers", 2, 2), [[1, 2]], [[1], [1, 2, 3]]),
        (mapping({}), [{}, {"a": 1}], [[], "a"]),
        (mappings({}), [[{}], [1]], [[], {}]),
    ],
)
def test_what_fits_a_key(key: Key, good: list[Any], bad: list[Any]):
    assert [value for value in good if not key.fits(value)] == []
    assert [value for value in bad if key.fits(value)] == []


def test_a_description_tells_the_limits():
    assert whole(1).description == "a whole number of at least 1"
    assert whole(2, 4).description == "a whole number from 2 to 4"
    assert real(0).description == "a number above 0"
    assert real(0, 0.5).description == "a number between 0 and 0.5"
    assert choice(["a", "b", "c"]).description == "one of a, b, c"
    assert choice(["a", "b"]).description == "a or b"


def test_a_remedy_is_told_where_there_is_one():
    assert choice(["prior", "pilot"]).remedy("prio") == " (did you mean 'prior'?)"
    assert [choice(["prior"]).remedy(value) for value in ("xyz", 3, ["prio"])] == ["", "", ""]
    assert TEXT.remedy(3) == ": put it in quotes"
    assert [TEXT.remedy(value) for value in (["a"], {}, "", len)] == [""] * 4
    assert "such as 1.0e-3" in real(0).remedy("1e-3")
    assert [real(0).remedy(value) for value in ("many", -1, "1-e")] == ["", "", ""]


def test_a_key_is_changed_by_a_copy():
    assert needed(TEXT).needed and not TEXT.needed
    assert refused("because").refused == "because"


def test_truth_is_no_number():
    assert not is_whole(True) and not is_number(False) and is_whole(0) and is_number(0.5)
