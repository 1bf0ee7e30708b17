"""Sums over blocks of bytes of a corpus: the same blocks for every tokenizer, so that two models can be paired over them."""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

FIRST_SIZE = 512  # bytes of a block in a short text
MAX_BLOCKS = 1024  # at more of them blocks are joined by twos


class Block(NamedTuple):
    """Bytes [first, stop) of the corpus and their row of sums."""

    first: int
    stop: int
    row: Float64[np.ndarray, " columns"]


class ByteBlocks:
    """Sums of rows over consecutive blocks of bytes, in constant memory.

    All blocks have one size: FIRST_SIZE, doubled as often as the corpus needs to make no more than MAX_BLOCKS, so it is
    known from the corpus's size alone. A token that lies in several blocks is shared out in proportion to its bytes.
    """

    def __init__(self, n_columns: int) -> None:
        self.size = FIRST_SIZE
        self._rows = np.zeros((MAX_BLOCKS, n_columns))

    def add(
        self, first_byte: int, n_bytes: Float64[np.ndarray, " tokens"], rows: Float64[np.ndarray, "tokens columns"]
    ) -> None:
        """Add the rows of consecutive tokens.

        Args:
            first_byte: Where the first token begins in the corpus.
            n_bytes: Bytes of each token, whole numbers.
            rows: What is summed, a row a token.
        """
        if not len(rows):
            return
        stops = first_byte + np.cumsum(n_bytes.astype(np.int64))
        starts = stops - n_bytes.astype(np.int64)
        lasts = np.maximum(stops - 1, 0)  # a token without bytes goes with the byte before it
        while lasts[-1] >= self.size * MAX_BLOCKS:
            joined = self._rows[::2] + self._rows[1::2]
            self._rows = np.concatenate([joined, np.zeros_like(joined)])
            self.size *= 2
        blocks = lasts // self.size
        whole = np.minimum(starts, lasts) // self.size == blocks
        np.add.at(self._rows, blocks[whole], rows[whole])
        for i in np.flatnonzero(~whole):
            self._share_out(int(starts[i]), int(stops[i]), rows[i])

    def _share_out(self, start: int, stop: int, row: Float64[np.ndarray, " columns"]) -> None:
        edges = [start, *range((start // self.size + 1) * self.size, stop, self.size), stop]
        for first, end in itertools.pairwise(edges):
            self._rows[first // self.size] += row * ((end - first) / (stop - start))

    def blocks(self) -> list[Block]:
        """The blocks that hold something, in order."""
        held = np.flatnonzero(self._rows.any(axis=1)).tolist()
        return [Block(i * self.size, (i + 1) * self.size, self._rows[i]) for i in held]
