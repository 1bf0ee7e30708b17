import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmeval.compression.benchmark.scorers import BYTES, Scorer, as_scorer, form_of, ids_of, source_of, start
from lmeval.errors import InputError, ModelError

UNIFORM = np.full(256, 1 / 256)


def steps():
    while True:
        yield UNIFORM


class Pairs:
    """A scorer of tokens that is an object: bytes, and one token of two bytes."""

    vocabulary = (*BYTES, b"ab")

    def __init__(self, ids: Any = None) -> None:
        self.ids = ids

    def encode(self, data: bytes) -> Any:
        return list(data) if self.ids is None else self.ids

    def __call__(self, past: np.ndarray) -> np.ndarray:
        assert past.dtype == np.int64
        return np.full(257, 1 / 257)


def test_the_form_is_that_of_the_parameters_and_of_the_result():
    assert form_of(as_scorer(steps)) == "steps"
    assert form_of(as_scorer(lambda: steps())) == "steps"
    assert form_of(as_scorer(lambda past: UNIFORM)) == "next"
    assert form_of(as_scorer(lambda past, temperature=1.0: UNIFORM.tolist())) == "next"
    assert form_of(as_scorer(lambda text: np.tile(UNIFORM, (len(text), 1)))) == "whole"
    assert form_of(as_scorer(Pairs())) == "next"


def test_what_has_no_form_says_so():
    with pytest.raises(ModelError, match="takes 2 arguments"):
        form_of(as_scorer(lambda past, state: UNIFORM))
    with pytest.raises(ModelError, match="gives 0 dimensions on a text of one symbol"):
        form_of(as_scorer(lambda past: 0.5))
    with pytest.raises(ModelError, match="gives a str on a text of one symbol, which is no array of numbers"):
        form_of(as_scorer(lambda past: "even"))
    with pytest.raises(ModelError, match="raises ZeroDivisionError on a text of one symbol: division by zero"):
        form_of(as_scorer(lambda past: 1 / 0))
    with pytest.raises(ModelError, match="gives a list: a generator is needed"):
        start(as_scorer(list), "steps")


def test_every_form_reads_in_one_way():
    told: list[bytes] = []

    def following(past: bytes) -> np.ndarray:
        told.append(past)
        return UNIFORM

    def whole(text: bytes) -> np.ndarray:
        told.append(text)
        return np.tile(UNIFORM, (len(text), 1))

    for function, expected in ((following, [b"", b"a", b"ab"]), (whole, [b"\0", b"a\0", b"ab\0"])):
        form = form_of(as_scorer(function))
        told.clear()
        run = start(as_scorer(function), form)
        said = [next(run), run.send(97), run.send(98)]
        assert told == expected
        assert [distribution.shape for distribution in said] == [(256,)] * 3


def test_tokens_must_spell_the_text():
    assert ids_of(as_scorer(Pairs()), b"abc").tolist() == [97, 98, 99]
    assert ids_of(as_scorer(Pairs(np.array([256, 99], dtype=np.uint16))), b"abc").tolist() == [256, 99]
    for ids, message in (
        ([256], "into tokens of 2 bytes: the text has 3"),
        ([256, 98], "spell another one from byte 2 on"),
        ([256, 257], "no list of ids from 0 to 256"),
        ([-1, 99], "no list of ids"),
        ([97.0, 98.0, 99.0], "no list of ids"),
        ([[97, 98, 99]], "no list of ids"),
        ([], "no list of ids"),
    ):
        with pytest.raises(ModelError, match=message):
            ids_of(as_scorer(Pairs(ids)), b"abc")


def test_a_vocabulary_is_a_list_of_bytes_and_has_an_encoder():
    def function(past: np.ndarray) -> np.ndarray:
        return np.full(2, 0.5)

    function.vocabulary = [b"a", b"b"]  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(InputError, match="has a vocabulary, so it needs 'encode'"):
        as_scorer(function)
    function.encode = list  # pyright: ignore[reportFunctionMemberAccess]
    assert as_scorer(function).vocabulary == (b"a", b"b")
    for wrong in (["a", "b"], [b"a"], {b"a": 0, b"b": 1}, 7):
        function.vocabulary = wrong  # pyright: ignore[reportFunctionMemberAccess]
        with pytest.raises(InputError, match="must be a list with the bytes of each of two ids or more"):
            as_scorer(function)


def test_a_scorer_is_found_by_its_name_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "scorers_of_a_test", raising=False)
    (tmp_path / "scorers_of_a_test.py").write_text("def even(past):\n    return [1 / 256] * 256\nhalf = 0.5\n")
    (tmp_path / "broken_of_a_test.py").write_text("import nothing_of_that_name\n")
    (tmp_path / "wrong_of_a_test.py").write_text("def even(past:\n")
    scorer = as_scorer("scorers_of_a_test:even")
    assert scorer.name == "scorers_of_a_test:even" and scorer.vocabulary == BYTES
    assert source_of(scorer) == tmp_path / "scorers_of_a_test.py"
    for name, message in (
        ("scorers_of_a_test", "'scorers_of_a_test' is not of the form MODULE:FUNCTION"),
        ("scorers_of_a_test:", "not of the form"),
        ("scorers_of_a_test:evn", r"has no 'evn' \(did you mean 'even'\?\)"),
        ("scorers_of_a_test:half", "is no function, but of type float"),
        ("no_module_of_that_name:even", "no module no_module_of_that_name in this folder"),
        ("broken_of_a_test:even", "cannot be imported: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("wrong_of_a_test:even", "cannot be imported: SyntaxError"),
    ):
        with pytest.raises(InputError, match=message) as raised:
            as_scorer(name)
        assert "\n" not in str(raised.value)


def test_a_callable_is_named_after_itself():
    assert as_scorer(steps).name == f"{__name__}:steps"
    assert as_scorer(Pairs()).name == f"{__name__}:Pairs"
    scorer = Scorer("mine", steps)
    assert as_scorer(scorer) is scorer
