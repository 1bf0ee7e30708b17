import itertools

import pytest

from lmeval.results.measurement import Measurement, Side, difference_side, flipped, is_of, label

SIDES: tuple[Side, ...] = ("exact", "lower", "upper", "estimate")
# Values that a number of each side may stand for when it reads 1.0.
TRUTHS = {"exact": (1.0,), "lower": (1.0, 1.5), "upper": (0.5, 1.0), "estimate": (0.5, 1.0, 1.5)}


@pytest.mark.parametrize(("a", "b"), list(itertools.product(SIDES, SIDES)))
def test_a_difference_lies_on_the_side_that_its_numbers_leave_open(a: Side, b: Side):
    apart = {x - y for x, y in itertools.product(TRUTHS[a], TRUTHS[b])}  # the numbers themselves differ by 0
    expected = {(False, False): "exact", (False, True): "lower", (True, False): "upper", (True, True): "estimate"}
    assert difference_side(a, b) == expected[any(d < 0 for d in apart), any(d > 0 for d in apart)]


@pytest.mark.parametrize("side", SIDES)
def test_turning_round_twice_changes_nothing(side: Side):
    assert flipped(flipped(side)) == side
    assert (flipped(side) == side) == (side in ("exact", "estimate"))


def test_a_measurement_is_of_what_it_says():
    m = Measurement("acc", 0.5, "1", "exact", of={"task": "copa", "rule": "sum"})
    assert is_of(m, {})
    assert is_of(m, {"rule": "sum"})
    assert not is_of(m, {"rule": "sum", "model": "m"})
    assert label(m.of) == "task copa, rule sum"
