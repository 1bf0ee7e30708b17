"""How the tokens of a block are laid out: lanes that are coded in lockstep, and the windows of context inside a lane.

A block's tokens are cut into `n_lanes` contiguous lanes of equal length (the first lanes have one token more). Step t codes
token t of every lane. In coding order, token t of lane l has the number t * n_lanes + l.

The model reads a lane in windows of `window` input tokens. Each begins with the start token; the first then holds the lane's
first tokens, each later one the last `overlap` tokens before it as context. So the windows begin at tokens
0, window, 2 window - overlap, ... of their lane, the same for all lanes.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64


class Layout(NamedTuple):
    """Input tokens of a window, tokens of context that a window takes over, and the id that each window begins with."""

    window: int
    overlap: int
    start_id: int


class Span(NamedTuple):
    """Tokens [first, stop) of a lane are coded from a context that begins at token `begin`."""

    begin: int
    first: int
    stop: int


def lane_bounds(n_tokens: int, n_lanes: int) -> Int64[np.ndarray, " lanes+1"]:
    """Where the lanes begin and end.

    >>> lane_bounds(10, 3).tolist()
    [0, 4, 7, 10]
    """
    lanes = np.arange(n_lanes + 1)
    return lanes * (n_tokens // n_lanes) + np.minimum(lanes, n_tokens % n_lanes)


def n_steps(n_tokens: int, n_lanes: int) -> int:
    """Length of the longest lane."""
    return -(-n_tokens // n_lanes)


def n_active(step: int, n_tokens: int, n_lanes: int) -> int:
    """Lanes that have a token at this step: all, but for the last step of lanes of unequal length."""
    return max(0, min(n_lanes, n_tokens - step * n_lanes))


def coding_order(n_tokens: int, n_lanes: int) -> Int64[np.ndarray, " tokens"]:
    """Number in coding order of each token of the block.

    >>> coding_order(5, 2).tolist()
    [0, 2, 4, 1, 3]
    """
    bounds = lane_bounds(n_tokens, n_lanes)
    lane = np.repeat(np.arange(n_lanes), np.diff(bounds))
    return (np.arange(n_tokens) - bounds[lane]) * n_lanes + lane


def spans(length: int, layout: Layout) -> Iterator[Span]:
    """The windows of a lane of `length` tokens.

    >>> [tuple(span) for span in spans(10, Layout(window=4, overlap=1, start_id=0))]
    [(0, 0, 4), (3, 4, 7), (6, 7, 10)]
    """
    first = 0
    while first < length:
        begin = max(0, first - layout.overlap)
        stop = min(length, begin + layout.window)
        yield Span(begin, first, stop)
        first = stop
