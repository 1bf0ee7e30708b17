import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lmeval.compression.text.lanes import Layout, coding_order, lane_bounds, n_active, n_steps, spans

SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400)).filter(lambda pair: pair[1] <= pair[0])
LAYOUTS = st.tuples(st.integers(1, 40), st.integers(0, 39)).filter(lambda pair: pair[1] < pair[0])


@given(size=SIZES)
def test_lanes_are_contiguous_and_equally_long(size: tuple[int, int]):
    bounds = lane_bounds(*size)
    lengths = np.diff(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == size[0]
    assert len(lengths) == size[1]
    assert lengths.min() >= 1
    assert lengths.max() - lengths.min() <= 1
    assert (np.diff(lengths) <= 0).all()  # the first are the longer
    assert lengths.max() == n_steps(*size)


@given(size=SIZES)
def test_the_coding_order_goes_through_all_lanes_in_lockstep(size: tuple[int, int]):
    n_tokens, n_lanes = size
    order, bounds = coding_order(n_tokens, n_lanes), lane_bounds(n_tokens, n_lanes)
    assert sorted(order.tolist()) == list(range(n_tokens))
    expected = [
        int(bounds[lane]) + step
        for step in range(n_steps(n_tokens, n_lanes))
        for lane in range(n_lanes)
        if bounds[lane] + step < bounds[lane + 1]
    ]
    assert np.argsort(order).tolist() == expected


@given(size=SIZES)
def test_active_lanes_are_the_first_ones_and_sum_to_the_tokens(size: tuple[int, int]):
    n_tokens, n_lanes = size
    active = [n_active(step, n_tokens, n_lanes) for step in range(n_steps(n_tokens, n_lanes) + 3)]
    assert sum(active) == n_tokens
    assert active[-3:] == [0, 0, 0]
    lengths = np.diff(lane_bounds(n_tokens, n_lanes))
    for step, n in enumerate(active):
        assert (lengths > step).tolist() == [True] * n + [False] * (n_lanes - n)
    order = coding_order(n_tokens, n_lanes)
    assert (order // n_lanes == np.concatenate([np.arange(n) for n in lengths])).all()  # number = step * n_lanes + lane


@given(length=st.integers(0, 300), layout=LAYOUTS)
def test_each_token_of_a_lane_is_coded_once(length: int, layout: tuple[int, int]):
    window, overlap = layout
    found = list(spans(length, Layout(window, overlap, 0)))
    assert [t for span in found for t in range(span.first, span.stop)] == list(range(length))
    for span in found:
        assert 0 <= span.begin <= span.first < span.stop
        # Inputs: the start token, and the span's tokens but the last.
        assert span.stop - span.begin <= window
        assert span.first - span.begin == min(span.first, overlap)
    assert all(span.stop - span.begin == window for span in found[:-1])


@given(length=st.integers(1, 300), longer=st.integers(0, 300), layout=LAYOUTS)
def test_windows_begin_at_the_same_places_in_every_lane(length: int, longer: int, layout: tuple[int, int]):
    one, other = (list(spans(n, Layout(*layout, 0))) for n in (length, length + longer))
    assert [span[:2] for span in one] == [span[:2] for span in other[: len(one)]]
    assert [span.stop for span in one[:-1]] == [span.stop for span in other[: len(one) - 1]]


@given(length=st.integers(2, 300), layout=LAYOUTS)
def test_windows_begin_where_the_definition_says(length: int, layout: tuple[int, int]):
    window, overlap = layout
    assume(length > window)
    begins = [span.first for span in spans(length, Layout(window, overlap, 0))]
    assert begins == [0, *range(window, length, window - overlap)]


@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_a_decoder_that_counts_inputs_meets_the_same_windows(overlap: int):
    """The rule of `decode._Lanes`: read on until `window` inputs are held, then begin anew with the overlap."""
    window, found, held, begin = 4, [], 0, 0
    for step in range(50):
        if step and held < window:
            held += 1
        else:
            begin = step - min(step, overlap)
            held = 1 + step - begin
        found.append(begin)
    expected = [span.begin for span in spans(50, Layout(window, overlap, 0)) for _ in range(span.first, span.stop)]
    assert found == expected
