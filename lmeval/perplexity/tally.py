"""The sums that are kept of a corpus while it streams by: never its tokens, and never more as it grows longer.

A row is float64, with a column for each of COLUMNS, of some scored tokens. Rows are summed over the corpus, over each
document, over short pieces of text in their order (for the block bootstrap), over blocks of bytes, and over positions in the
window.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int32

from lmeval import stats
from lmeval.models.text_units import UNITS
from lmeval.perplexity.blocks import ByteBlocks

COLUMNS = ("nats", "tokens", *UNITS)
"""The columns of every row: what a model says of tokens, their number, what they count of the text. `_rows` fills them."""
COLUMN: Mapping[str, int] = {name: i for i, name in enumerate(COLUMNS)}
"""The place of each column in a row."""

ENOUGH_DOCUMENTS = 30  # from here on documents are the units of the interval; below it, pieces of text are
ENOUGH_PIECES = 8  # for a bootstrap; below it, documents are the units after all, with a wide Student t interval
MAX_PIECES = 8192


Row = Float64[np.ndarray, " columns"]


def named(row: Row) -> dict[str, float]:
    """The sums of a row by the names of their columns."""
    return dict(zip(COLUMNS, row.tolist(), strict=True))


class ScoredWindow(NamedTuple):
    """A window and what the engine gave for its target tokens.

    `document` is (index, name). `units` is what each target counts of the text. `n_before` tokens stand before the first
    target, which begins at byte `first_byte` of the corpus: all documents, end to end.
    """

    document: tuple[int, str]
    log_probs: Float[np.ndarray, " target"]
    units: Int32[np.ndarray, "target units"]
    n_before: int
    first_byte: int


class DocumentSums(NamedTuple):
    """One scored document: its name and its row of sums."""

    name: str
    row: Row


class Spread(NamedTuple):
    """How far ratios of a tally's sums may lie from those of more text like it, and the method that says so.

    `method` is "documents" (linearised, over independent documents), "blocks" (circular block bootstrap over pieces of
    text) or "none" (one document, too short to say anything about spread).
    """

    method: str
    n: int
    block_length: int | None
    moments: stats.Moments
    bootstrap: stats.BlockBootstrap | None


class PositionBin(NamedTuple):
    """Scored tokens with at least `first` and fewer than `stop` input tokens before their own input: one row of sums."""

    first: int
    stop: int
    row: Row


class Tally:
    """Accumulates windows in document order. `on_document` receives every document when its last window is in."""

    def __init__(self, context: int, on_document: Callable[[DocumentSums], None] | None = None) -> None:
        self.moments = stats.no_moments(len(COLUMNS))  # over documents
        self.blocks = ByteBlocks(len(COLUMNS))
        self.n_windows = 0
        self._on_document = on_document
        self._positions = np.zeros((context, len(COLUMNS)))
        self._pieces: list[np.ndarray] = []
        self._per_piece = 1  # windows merged into each piece
        self._unfilled = 0  # windows in the last piece
        self._document: tuple[int, str] | None = None
        self._row = np.zeros(len(COLUMNS))

    def add_window(self, window: ScoredWindow) -> None:
        """Add one window's target tokens."""
        if self._document is not None and window.document[0] != self._document[0]:
            self._end_document()
        self._document = window.document
        rows = _rows(window)
        self.blocks.add(window.first_byte, rows[:, COLUMN["bytes"]], rows)
        self._positions[window.n_before : window.n_before + len(rows)] += rows
        row = rows.sum(axis=0)
        self._row += row
        self._add_piece(row)
        self.n_windows += 1

    def _add_piece(self, row: Row) -> None:
        if self._unfilled and self._unfilled < self._per_piece:
            self._pieces[-1] = self._pieces[-1] + row
            self._unfilled += 1
            return
        if len(self._pieces) == MAX_PIECES:
            self._pieces = [a + b for a, b in zip(self._pieces[::2], self._pieces[1::2], strict=True)]
            self._per_piece *= 2
        self._pieces.append(row)
        self._unfilled = 1

    def _end_document(self) -> None:
        assert self._document is not None
        self.moments = stats.add_row(self.moments, self._row)
        if self._on_document:
            self._on_document(DocumentSums(self._document[1], self._row))
        self._row = np.zeros(len(COLUMNS))

    def finish(self) -> None:
        """End the last document. Call once, after the last window."""
        if self._document is not None:
            self._end_document()

    def spread(self, seed: int) -> Spread:
        """Choose the method for intervals, and run the bootstrap where it is needed."""
        n, pieces = self.moments.n, np.array(self._pieces)
        if n >= ENOUGH_DOCUMENTS or (n > 1 and len(pieces) < ENOUGH_PIECES):
            return Spread("documents", n, None, self.moments, None)
        if len(pieces) < ENOUGH_PIECES:
            return Spread("none", len(pieces), None, self.moments, None)
        total = pieces.sum(axis=0)
        nats, tokens = COLUMN["nats"], COLUMN["tokens"]
        residuals = pieces[:, nats] - total[nats] / total[tokens] * pieces[:, tokens]
        block = stats.automatic_block_length(residuals)
        return Spread("blocks", len(pieces), block, self.moments, stats.block_bootstrap(pieces, block, seed))

    def by_position(self) -> list[PositionBin]:
        """Sums by the number of input tokens before a target's own input, in bins [0, 1), [1, 2), [2, 4), [4, 8) ..."""
        stops = [2**k for k in range(math.ceil(math.log2(len(self._positions))) + 1)]
        bins = (PositionBin(a, b, self._positions[a:b].sum(axis=0)) for a, b in zip([0, *stops], stops, strict=False))
        return [one for one in bins if one.row[COLUMN["tokens"]]]


def _rows(window: ScoredWindow) -> Float64[np.ndarray, "target columns"]:
    """A row for each target, in the order of COLUMNS."""
    nats = -window.log_probs.astype(np.float64)
    return np.column_stack([nats, np.ones(len(nats)), window.units])


def ratio(spread: Spread, denominator: str) -> stats.Estimate:
    """Nats over another column's sum, with its standard error and interval."""
    over, under = COLUMN["nats"], COLUMN[denominator]
    if spread.bootstrap is not None:
        return stats.bootstrapped_ratio(spread.moments.total, spread.bootstrap, over, under)
    if spread.method == "documents":
        return stats.linearised_ratio(spread.moments, over, under)
    total = spread.moments.total
    return stats.Estimate(float(total[over] / total[under]), None, None, spread.n, spread.n)
