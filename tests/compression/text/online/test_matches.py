import numpy as np
import pytest

from lmeval.compression.text.online.matches import Matches, _following, expect, follow, learn_matches, open_matches
from lmeval.compression.text.online.tables import NAT, tables

LENGTH, DEPTH = 4, 4


def _followed(text: list[bytes], length: int = LENGTH) -> tuple[Matches, np.ndarray, list[list[int]]]:
    """One model that has followed lanes to their ends; for each step the places that the lanes then expect."""
    n_lanes = len(text)
    ids = np.array([list(lane) for lane in text], dtype=np.int64).T.reshape(-1).copy()
    matches, places = open_matches(DEPTH, [length], 12, n_lanes), []
    for step in range(1, len(text[0])):
        follow(matches, ids, step, n_lanes, n_lanes)
        places.append(matches.place[0].tolist())
    return matches, ids, places


def _ahead(text: list[bytes], length: int = LENGTH) -> list[list[str]]:
    """For each step from the second on, what the lanes expect there."""
    _, ids, places = _followed(text, length)
    return [["" if place < 0 else chr(ids[place]) for place in lanes] for lanes in places]


def test_what_followed_before_is_expected_again():
    text = b"abcdefgh...abcdefgh"
    expected = [lanes[0] for lanes in _ahead([text])]
    assert expected[:14] == [""] * 14
    assert expected[14:] == ["e", "f", "g", "h"]


def test_a_text_is_found_in_another_lane_but_not_at_the_same_step():
    expected = _ahead([b"abcdefgh....", b"....abcdefgh"])
    assert [lanes[1] for lanes in expected][7:] == ["e", "f", "g", "h"]
    assert [lanes[0] for lanes in _ahead([b"abcdefgh", b"abcdefgh"])] == [""] * 7


def test_of_lanes_that_agree_the_last_is_remembered():
    assert _ahead([b"abcd1ABCDEFabcd#", b"abcd2GHIJKLabcd#"])[-1] == ["2", "2"]


def test_a_match_goes_on_where_the_next_lane_begins():
    assert [_following(place, 8, 3) for place in range(8)] == [3, 4, 5, 6, 7, -1, 1, 2]
    assert [_following(place, 9, 3) for place in range(9)] == [3, 4, 5, 6, 7, 8, 1, 2, -1]
    assert [_following(place, 3, 1) for place in range(3)] == [1, 2, -1]


def test_a_match_survives_a_miss_and_ends_after_many():
    once = bytes(range(65, 91)) + b"." + bytes(range(65, 75)) + b"#" + bytes(range(76, 91))
    expected = [lanes[0] for lanes in _ahead([once])]
    assert "".join(expected[-15:]) == bytes(range(76, 91)).decode()
    never = bytes(range(65, 91)) + b"." + bytes(range(65, 75)) + bytes(range(33, 43))
    matches, _, places = _followed([never])
    assert matches.missed[0, 0] > 8
    assert places[-1] == [-1]


def test_a_long_agreement_forgives_misses():
    words = bytes(range(97, 123))
    matches, _, _ = _followed([words * 2 + words[:5] + b"#" + words[6:24]])
    assert matches.missed[0, 0] == 0
    assert matches.agreed[0, 0] > 16


def test_agreement_is_compared_no_further_than_it_counts():
    matches, _, _ = _followed([bytes(range(40, 110)) + b"." + bytes(range(40, 100))], length=33)
    assert (matches.place == -1).all()
    matches, _, _ = _followed([bytes(range(40, 110)) + b"." + bytes(range(40, 100))], length=32)
    assert (matches.place >= 0).all()


@pytest.mark.parametrize("bit", [0, 1])
def test_the_expected_bit_is_said_until_it_is_missed(bit: int):
    symbol = 0b1010 if bit else 0b0101
    matches, ids, _ = _followed([bytes([1, 2, 3, 4, symbol, 9, 9, 9, 1, 2, 3, 4, 0])])
    inputs, strongest = np.zeros((1, 3), dtype=np.int32), matches.strongest

    def said(node: int, decision: int) -> int:
        expect(matches, tables(), ids, np.array([node]), decision, 1, inputs, 1)
        return int(inputs[0, 1])

    sign = 1 if bit else -1
    assert sign * said(1, 0) > NAT
    assert strongest[0] == 1 + 2 * min(abs(inputs[0, 1]) >> 12, 7) + bit
    first = said(1, 0)
    learn_matches(matches, tables(), np.array([bit]), 1)
    assert sign * said(1, 0) > sign * first
    assert sign * said(2 + bit, 1) < 0
    assert said(3 - bit, 1) == 0
    assert strongest[0] == 0
