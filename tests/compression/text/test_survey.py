import importlib

import numpy as np
import pytest
from samples import PROSE, babble, talker, unigram_tokenizer, with_tokenizer

from lmeval.compression.text.survey import survey
from lmeval.compression.text.text_model import of_library
from lmeval.errors import NumericalDrift

SURVEY = importlib.import_module("lmeval.compression.text.survey")
NOISE = np.random.default_rng(5).bytes(3000)


@pytest.mark.parametrize("adapt", ["none", "light", "full"])
def test_what_no_token_spells_cannot_be_coded(adapt: str):
    model = with_tokenizer(unigram_tokenizer())
    assert survey(of_library(model), memoryview(PROSE.upper().encode() * 5), adapt=adapt) is None


def test_a_poor_model_is_no_use_by_itself():
    assert survey(of_library(talker()), memoryview(NOISE)) is None
    found = survey(of_library(talker()), memoryview(NOISE), adapt="full")
    assert found is not None
    assert found.settings.adapt == "full" and found.bits_per_token > 8


def test_a_poor_model_whose_passes_differ_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SURVEY, "stepwise_log_odds", lambda m, s, ids, n: np.full((len(ids), s.depth), 9.0))
    assert survey(of_library(talker()), memoryview(NOISE), adapt="full") is None
    with pytest.raises(NumericalDrift):
        survey(of_library(talker()), memoryview(babble(3000)), adapt="full")


def test_numbers_are_rounded_only_where_the_header_is_to_be_small():
    plain, small = (
        survey(of_library(talker()), memoryview(babble(3000)), tolerance=1.2345e-3, adapt=a) for a in ("none", "full")
    )
    assert plain is not None and small is not None
    assert (plain.settings.epsilon, small.settings.epsilon) == (1.2345e-3, 1.3e-3)
    assert plain.settings.drift <= small.settings.drift <= 1.1 * plain.settings.drift
    assert plain.settings.grid.margin <= small.settings.grid.margin <= 1.2 * plain.settings.grid.margin
    assert small.settings._replace(adapt="none").layout == plain.settings.layout
    assert [len(found.settings.canary.ids) for found in (plain, small)] == [16, 2]


def test_a_canary_grows_with_the_input():
    found = survey(of_library(talker()), memoryview(babble(30_000)), adapt="light")
    assert found is not None and len(found.settings.canary.ids) == 7
