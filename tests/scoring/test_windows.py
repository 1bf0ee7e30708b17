import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import later_targets_have_context, windows_cover_a_document
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from lmeval.models import TokenRun
from lmeval.scoring import BosPolicy, Windowing, rolling_requests, windows

BOS = 999


@st.composite
def windowings(draw: st.DrawFn, policies: tuple[BosPolicy, ...] = ("window", "document", "none")) -> Windowing:
    context = draw(st.integers(1, 24))
    return Windowing(context, draw(st.integers(1, context)), draw(st.sampled_from(policies)), BOS)


def runs_of(n: int, cuts: list[int]) -> list[TokenRun]:
    """Tokens 0 .. n - 1, cut into runs at the given places; the units of token t are (t, 2 t, 3 t)."""
    ids = np.arange(n, dtype=np.int64)
    units = np.outer(ids, [1, 2, 3]).astype(np.int32)
    places = sorted(c % (n + 1) for c in cuts)
    return [TokenRun(i, u, True) for i, u in zip(np.split(ids, places), np.split(units, places), strict=True)]


@given(st.integers(0, 120), windowings())
def test_every_token_is_a_target_exactly_once_within_the_context(n: int, windowing: Windowing):
    windows_cover_a_document(n, windowing)


@given(st.integers(0, 120), windowings())
def test_later_targets_have_at_least_context_minus_stride_before_them(n: int, windowing: Windowing):
    later_targets_have_context(n, windowing)


@given(st.integers(0, 120), windowings(), st.lists(st.integers(0, 1000), max_size=12))
def test_streamed_requests_are_those_of_the_windows_however_the_text_comes(n: int, windowing: Windowing, cuts: list[int]):
    streamed = list(rolling_requests(iter(runs_of(n, cuts)), windowing))
    planned = list(windows(n, windowing))
    assert len(streamed) == len(planned)
    for (request, units, first_byte), window in zip(streamed, planned, strict=True):
        assert request.context.tolist() == [BOS] * window.bos + list(range(window.start, window.first))
        assert request.target.tolist() == list(range(window.first, window.stop))
        assert units[:, 2].tolist() == [3 * t for t in request.target]
        assert first_byte == sum(range(window.first))  # token t has t bytes
        assert request.n_inputs == window.stop - 1 - window.start + window.bos


@given(st.integers(0, 120), st.integers(1, 24))
def test_disjoint_windows_are_those_of_lm_evaluation_harness(n: int, context: int):
    theirs = [make_disjoint_window(pair) for pair in get_rolling_token_windows(list(range(n)), BOS, context, 1)]
    ours = rolling_requests(runs_of(n, []), Windowing(context, context, "document", BOS))
    assert [(request.context.tolist(), request.target.tolist()) for request, _, _ in ours] == theirs


@given(st.integers(2, 120), st.integers(2, 24))
def test_windows_are_those_of_the_transformers_documentation(n: int, context: int):
    """Its recipe: input tokens[begin : begin + L], of which the last min(stride, ...) are scored; no BOS."""
    stride, expected, previous = max(1, context // 2), [], 1
    for begin in range(0, n, stride):
        end = min(begin + context + 1, n)  # it counts the last target as an input: L of theirs is our L + 1
        if end > previous:
            expected.append((begin, previous, end))
        previous = max(previous, end)
        if end == n:
            break
    ours = [(w.first, w.stop) for w in windows(n, Windowing(context, stride, "none", BOS))]
    assert [(first, stop) for _, first, stop in expected] == ours


@pytest.mark.parametrize(
    ("bos", "expected"),
    [
        ("window", [([BOS], [0, 1, 2, 3]), ([BOS, 2, 3], [4, 5]), ([BOS, 4, 5], [6, 7]), ([BOS, 5, 6, 7], [8])]),
        ("document", [([BOS], [0, 1, 2, 3]), ([1, 2, 3], [4, 5]), ([3, 4, 5], [6, 7]), ([4, 5, 6, 7], [8])]),
        ("none", [([0], [1, 2, 3, 4]), ([2, 3, 4], [5, 6]), ([4, 5, 6], [7, 8])]),
    ],
)
def test_nine_tokens_by_hand(bos: BosPolicy, expected: list):
    found = rolling_requests(runs_of(9, [2, 3]), Windowing(4, 2, bos, BOS))
    assert [(request.context.tolist(), request.target.tolist()) for request, _, _ in found] == expected


@pytest.mark.parametrize(("bos", "n"), [("window", 0), ("document", 0), ("none", 0), ("none", 1)])
def test_where_nothing_can_be_scored_there_is_no_window(bos: BosPolicy, n: int):
    assert list(windows(n, Windowing(4, 2, bos, BOS))) == []
    assert list(rolling_requests(runs_of(n, []), Windowing(4, 2, bos, BOS))) == []


def test_a_long_document_is_held_a_window_at_a_time():
    """Requests come out as soon as their last target is in; nothing waits for the end of the document."""
    taken = 0

    def runs():
        nonlocal taken
        for begin in range(0, 10_000, 10):
            taken = begin + 10
            yield TokenRun(np.arange(begin, begin + 10), np.ones((10, 3), dtype=np.int32), True)

    for request, _, _ in rolling_requests(runs(), Windowing(32, 16, "window", BOS)):
        assert taken - int(request.target[-1]) <= 10 + 16
