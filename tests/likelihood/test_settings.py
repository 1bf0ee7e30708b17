"""What callers set, with defaults filled in, and what cannot be set."""

import math
from typing import Any

import pytest

from lmeval.errors import InputError
from lmeval.likelihood.settings import STARTS, TEMPERATURES, BoundSettings, fix_settings


def checked(**changes: Any):
    return fix_settings(BoundSettings(**changes), particles=16)


def test_settings():
    for start, expected in (("auto", "pilot"), ("pilot", "pilot"), ("encoder", "encoder"), ("prior", "prior")):
        assert checked(start=start).temperatures == TEMPERATURES[expected]
    found = checked(temperatures=9, particles=3, leapfrogs=4)
    assert found.temperatures == 9
    assert found.n_gradients == 3 * (1 + 8 * 4)


def test_defaults_are_the_methods_own():
    assert fix_settings(BoundSettings(), particles=500).particles == 500
    assert fix_settings(BoundSettings(), 16, resample_below=0.0).resample_below == 0.0
    assert fix_settings(BoundSettings(resample_below=0.3), 16, resample_below=0.0).resample_below == 0.3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start": "middle"}, "unknown start 'middle': use one of auto, pilot, encoder, prior"),
        ({"particles": 0}, "particles is 0: give a whole number of at least 1"),
        ({"particles": -3}, "particles is -3"),
        ({"particles": 2.0}, r"particles is 2\.0"),
        ({"particles": True}, "particles is True"),
        ({"temperatures": 0}, "temperatures is 0"),
        ({"temperatures": math.nan}, "temperatures is nan"),
        ({"leapfrogs": 0}, "leapfrogs is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, r"seed is 1\.5"),
        ({"seed": True}, "seed is True"),
        ({"resample_below": 1.5}, r"resample_below is 1\.5: give a share of the particles from 0"),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words) as caught:
        checked(**changes)
    assert "\n" not in str(caught.value)


def test_starts_that_are_documented():
    assert set(TEMPERATURES) | {"auto"} == set(STARTS)
