import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmeval.perplexity import blocks
from lmeval.perplexity.blocks import ByteBlocks

TOKENS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=60)


def summed(tokens: list[tuple[int, int]], patch: pytest.MonkeyPatch, cuts: int = 1) -> ByteBlocks:
    """Blocks of 4 bytes, at most 4 of them, of tokens (bytes, nats), added in `cuts` parts."""
    patch.setattr(blocks, "FIRST_SIZE", 4)
    patch.setattr(blocks, "MAX_BLOCKS", 4)
    made, first = ByteBlocks(2), 0
    for part in np.array_split(np.array(tokens, dtype=np.float64), cuts):
        made.add(first, part[:, 0], part)
        first += int(part[:, 0].sum())
    return made


def by_hand(tokens: list[tuple[int, int]], size: int) -> dict[int, np.ndarray]:
    """Every byte carries its share of its token, and goes to its block; a token without bytes goes with the byte before."""
    rows: dict[int, np.ndarray] = {}
    place = 0
    for n, nats in tokens:
        for byte in range(place, place + n) if n else [max(0, place - 1)]:
            row = np.array([1.0 if n else 0.0, nats / max(1, n)])
            rows[byte // size * size] = rows.get(byte // size * size, np.zeros(2)) + row
        place += n
    return {first: row for first, row in rows.items() if row.any()}


@given(TOKENS, st.integers(1, 4))
def test_a_token_is_shared_out_over_its_bytes(tokens: list[tuple[int, int]], cuts: int):
    with pytest.MonkeyPatch.context() as patch:
        made = summed(tokens, patch, cuts)
        expected = by_hand(tokens, made.size)
        assert [block.first for block in made.blocks()] == sorted(expected)
        for block in made.blocks():
            assert block.stop == block.first + made.size
            np.testing.assert_allclose(block.row, expected[block.first], rtol=1e-12)


@given(TOKENS, TOKENS)
def test_the_blocks_are_known_from_the_size_alone(a: list[tuple[int, int]], b: list[tuple[int, int]]):
    with pytest.MonkeyPatch.context() as patch:
        made = [summed(tokens, patch) for tokens in (a, b)]
        sizes = [sum(n for n, _ in tokens) for tokens in (a, b)]
    if sizes[0] == sizes[1]:
        assert made[0].size == made[1].size
    for one, n_bytes in zip(made, sizes, strict=True):
        assert one.size == 4 or 2 * one.size < n_bytes <= 4 * one.size


def test_no_tokens_are_no_blocks():
    made = ByteBlocks(2)
    made.add(0, np.zeros(0), np.zeros((0, 2)))
    assert made.blocks() == []
