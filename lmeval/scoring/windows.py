"""Cut a document into windows that a model can take, so that every token is a target exactly once.

With context length L and stride s the first window scores up to L tokens, every later one s, the last what remains. Each
window has up to L input tokens, as many as fit before its last target, so a scored token has at least L - s tokens before it
once the document is that long:

    tokens     0 1 2 3 4 5 6 7 8 9        L = 4, s = 2
    window 0   [t t t t]                  t: scored here    c: context only
    window 1       [c c t t]
    window 2           [c c t t]
    window 3               [c c t t]

s = L is lm-evaluation-harness's `loglikelihood_rolling` (disjoint targets, one token of context); s = L / 2 is the recipe of
the transformers documentation.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from lmeval.models import TokenRun
from lmeval.models.text_units import BYTES, UNITS
from lmeval.scoring.requests import Request

BosPolicy = Literal["window", "document", "none"]


class Windowing(NamedTuple):
    """How documents are cut: at most `context` input tokens a window, `stride` scored tokens a window after the first.

    `bos` says where `bos_id` is put, once, as the first input token, never scored: "window" at the head of every window
    (where it takes the place of the oldest token), "document" only where a window begins with the document (later windows
    then begin with plain text, as lm-evaluation-harness has it), "none" nowhere: the first token of a document then has
    nothing before it and is not scored.
    """

    context: int
    stride: int
    bos: BosPolicy
    bos_id: int


class Window(NamedTuple):
    """Token positions of one window: input [BOS if `bos`] + tokens[start : stop - 1], targets tokens[first : stop]."""

    start: int
    first: int
    stop: int
    bos: bool


class WindowRequest(NamedTuple):
    """A window made ready to score, with what each target token counts of the text (see `models.text_units`), and the byte
    of the document at which the first of them begins."""

    request: Request
    units: Int32[np.ndarray, "target units"]
    first_byte: int


def windows(n_tokens: int, windowing: Windowing) -> Iterator[Window]:
    """The windows of a document of `n_tokens` tokens, in order.

    Args:
        n_tokens: Length of the document in tokens.
        windowing: How it is cut.

    Returns:
        A window at a time. All of their targets together are the document's tokens, each of them once (but for its first one
        where no BOS stands before it); a document without a token to score has no window.

    >>> [w.stop - w.first for w in windows(10, Windowing(context=4, stride=2, bos="document", bos_id=0))]
    [4, 2, 2, 2]
    """
    first, stop = _first_targets(windowing)
    while first < n_tokens:
        stop = min(stop, n_tokens)
        yield _window(first, stop, windowing)
        first, stop = stop, stop + windowing.stride


def _first_targets(windowing: Windowing) -> tuple[int, int]:
    skipped = 1 if windowing.bos == "none" else 0
    return skipped, skipped + windowing.context


def _window(first: int, stop: int, windowing: Windowing) -> Window:
    if windowing.bos == "window":
        return Window(max(0, stop - windowing.context), first, stop, bos=True)
    start = max(0, stop - 1 - windowing.context)
    return Window(start, first, stop, bos=windowing.bos == "document" and stop <= windowing.context)


def rolling_requests(runs: Iterable[TokenRun], windowing: Windowing) -> Iterator[WindowRequest]:
    """The requests of one document's windows, from its tokens as they come; holds one window and one run at a time.

    Args:
        runs: The document's tokens in order.
        windowing: How it is cut.

    Returns:
        A window each, in order; all of their targets together are the document's tokens (but for its first one where no BOS
        stands before it).
    """
    held = _Held(np.empty(0, dtype=np.int64), np.empty((0, len(UNITS)), dtype=np.int32), 0, 0)
    first, stop = _first_targets(windowing)
    for run in runs:
        held = held._replace(ids=np.concatenate([held.ids, run.ids]), units=np.concatenate([held.units, run.units]))
        while stop <= held.offset + len(held.ids):
            yield _request(_window(first, stop, windowing), held, windowing.bos_id)
            first, stop = stop, stop + windowing.stride
        # A window that ends with the next token reaches back so far.
        held = _without_first(held, max(0, len(held.ids) - windowing.context - 1))
    if first < held.offset + len(held.ids):
        yield _request(_window(first, held.offset + len(held.ids), windowing), held, windowing.bos_id)


class _Held(NamedTuple):
    """Consecutive tokens of a document: the first is its token `offset` and begins at its byte `first_byte`."""

    ids: Int64[np.ndarray, " tokens"]
    units: Int32[np.ndarray, "tokens units"]
    offset: int
    first_byte: int


def _without_first(held: _Held, n: int) -> _Held:
    ids, units, offset, first_byte = held
    return _Held(ids[n:], units[n:], offset + n, first_byte + int(units[:n, BYTES].sum()))


def _request(window: Window, held: _Held, bos_id: int) -> WindowRequest:
    start, first, stop = (position - held.offset for position in (window.start, window.first, window.stop))
    context = held.ids[start:first]
    if window.bos:
        context = np.concatenate([[bos_id], context])
    request = Request(context, held.ids[first:stop])
    return WindowRequest(request, held.units[first:stop], held.first_byte + int(held.units[:first, BYTES].sum()))
