import numpy as np
import page_online
import pytest

from lmeval.compression.text.online.tables import LIMIT, NAT, ONE, limited, squash, stretch, tables

SOME = np.unique(np.r_[1:300, 65_000:66_000, 2_097_000:2_097_300, np.random.default_rng(1).integers(1, ONE, 3000)])
SOME = np.unique(np.r_[SOME, ONE - SOME]).tolist()


def _stretch(p: int) -> int:
    lookup = tables()
    return int(stretch(p, lookup.middle, lookup.tail))


def _squash(x: int) -> int:
    return int(squash(x, tables().squashed))


def test_log_odds_and_probabilities_are_those_of_the_page():
    assert [_stretch(p) for p in SOME] == [page_online.logit(p) for p in SOME]
    assert _stretch(0) == page_online.logit(0)
    some = list(range(-LIMIT, LIMIT + 1, 37))
    assert [_squash(x) for x in some] == [page_online.squash(x) for x in some]


def test_the_rates_are_those_of_the_page():
    assert tables().rates.tolist() == [page_online.rate(k) for k in range(1024)]


def test_log_odds_are_natural_logarithms():
    for p in SOME:
        assert _stretch(p) / NAT == pytest.approx(np.log(p / (ONE - p)), abs=2e-3)


def test_log_odds_grow_with_the_probability():
    lookup = tables()
    every = np.arange(ONE)
    found = np.where(every < 1 << 16, lookup.tail[np.minimum(every, 1 << 16)], lookup.middle[every >> 6])
    found = np.where(every > ONE - (1 << 16), -lookup.tail[np.minimum(ONE - every, 1 << 16)], found)
    assert (np.diff(found) >= 0).all()
    assert [found[p] for p in SOME] == [_stretch(p) for p in SOME]


def test_log_odds_of_the_opposite_are_the_opposite():
    for p in SOME:
        if p < 1 << 16:
            assert _stretch(ONE - p) == -_stretch(p)
        else:
            assert abs(_stretch(ONE - p) + _stretch(p)) <= 2 + NAT * 64 * ONE // (p * (ONE - p))


def test_probabilities_grow_with_the_log_odds():
    squashed = tables().squashed
    assert (np.diff(squashed) >= 0).all()
    assert squashed[0] >= 1
    assert squashed[-1] <= ONE - 1


def test_probabilities_of_opposite_log_odds_make_one():
    squashed = tables().squashed.astype(np.int64)
    assert set((squashed + squashed[::-1]).tolist()) <= {ONE - 1, ONE}


def test_a_probability_comes_back_from_its_log_odds():
    for p in SOME:
        back = _squash(limited(_stretch(p)))
        assert abs(back - p) <= p * (ONE - p) / ONE / 240 + 65


def test_log_odds_are_kept_where_the_table_reaches():
    assert limited(LIMIT + 1) == limited(1 << 40) == LIMIT
    assert limited(-LIMIT - 1) == -LIMIT
    assert limited(-7) == -7
