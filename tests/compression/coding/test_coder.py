import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmeval.compression.coding import grid
from lmeval.compression.coding.coder import BitReader, decode_ranks, encode_bits, encode_ranks, quantised_bits
from lmeval.compression.coding.grid import FREQUENCY_BITS, PHASES
from lmeval.errors import CorruptArchive

ONE = 1 << FREQUENCY_BITS
PRECISION, WORD = 24, 32  # bits of the coder's probabilities, and of what it writes
EXTREME = np.array([1, 2, 3, ONE // 2, ONE - 3, ONE - 2, ONE - 1])


def some(n: int, seed: int, kind: str = "likely") -> tuple[np.ndarray, np.ndarray]:
    """Bits and frequencies: bits as likely as the frequencies say, or any."""
    rng = np.random.default_rng(seed)
    table = rng.choice(grid.frequency_table(), n)
    frequencies = np.where(rng.random(n) < 0.3, rng.choice(EXTREME, n), np.where(rng.random(n) < 0.5, table, ONE // 2 + 1))
    p = frequencies / ONE if kind == "likely" else 0.5
    return (rng.random(n) < p).astype(np.int32), frequencies.astype(np.int64)


# The format's rule, from first principles. A payload is a stack of words, the last on top, and a state of up to 64 bits.


def ones_begin(frequency: int) -> int:
    """Of the 2^24 quantiles those from here on stand for 1: each of the two has one for certain, the rest are shared."""
    return (ONE - frequency) * (2**PRECISION - 2) // ONE + 1


def pop_all(data: bytes, frequencies: list[int]) -> tuple[list[int], int]:
    """Bits, and what is left in the end: the state, with the words that were not read below it."""
    words = [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]
    state, bits = 0, []
    while words and state < 1 << WORD:
        state = state << WORD | words.pop()
    for frequency in frequencies:
        split, quantile = ones_begin(frequency), state % (1 << PRECISION)
        bit = int(quantile >= split)
        first, size = (split, (1 << PRECISION) - split) if bit else (0, split)
        state = (state >> PRECISION) * size + quantile - first
        if state < 1 << WORD and words:
            state = state << WORD | words.pop()
        bits.append(bit)
    return bits, state + len(words)


def push_all(bits: list[int], frequencies: list[int], state: int = 0) -> bytes:
    words: list[int] = []
    for bit, frequency in zip(reversed(bits), reversed(frequencies), strict=True):
        split = ones_begin(frequency)
        first, size = (split, (1 << PRECISION) - split) if bit else (0, split)
        if state >> (2 * WORD - PRECISION) >= size:
            words.append(state % (1 << WORD))
            state >>= WORD
        state = (state // size << PRECISION) + first + state % size
    while state:
        words.append(state % (1 << WORD))
        state >>= WORD
    return b"".join(word.to_bytes(4, "little") for word in words)


@pytest.mark.parametrize("kind", ["likely", "any"])
@given(n=st.integers(0, 400), seed=st.integers(0, 2**32))
@example(n=20_000, seed=0)
def test_the_rule_from_first_principles_writes_and_reads_the_same(kind: str, n: int, seed: int):
    bits, frequencies = some(n, seed, kind)
    data = encode_bits(bits, frequencies)
    assert push_all(bits.tolist(), frequencies.tolist()) == data
    assert pop_all(data, frequencies.tolist()) == (bits.tolist(), 0)


def test_each_frequency_is_split_as_the_rule_says():
    # Alone, a 1 leaves the state at the first quantile that stands for it.
    rng = np.random.default_rng(0)
    for frequency in {*grid.frequency_table()[::5].tolist(), *rng.integers(1, ONE, 3000).tolist(), *EXTREME.tolist()}:
        data = encode_bits(np.array([1], dtype=np.int32), np.array([frequency]))
        assert int.from_bytes(data, "little") == ones_begin(frequency)
        exact = (ONE - frequency) << (PRECISION - FREQUENCY_BITS)
        assert abs(ones_begin(frequency) - exact) <= 1


def test_what_cannot_be_wrong_takes_no_space():
    """Zeros behind the last 1 leave the state at 0, and 0 reads as zeros for ever."""
    for n in (0, 1, 500):
        assert encode_bits(np.zeros(n, dtype=np.int32), np.full(n, 1)) == b""
    reader = BitReader(b"")
    assert reader.used_up()
    assert not reader.read(np.full(50, ONE - 1)).any()
    assert reader.used_up()


@given(
    n=st.integers(1, 600), seed=st.integers(0, 2**32), chunks=st.lists(st.integers(0, 90), max_size=30), kind=st.booleans()
)
def test_any_chunks_give_the_bits_back(n: int, seed: int, chunks: list[int], kind: bool):
    bits, frequencies = some(n, seed, "likely" if kind else "any")
    reader, done, found = BitReader(encode_bits(bits, frequencies)), 0, []
    for chunk in [*chunks, n]:
        stop = min(n, done + chunk)
        found.append(reader.read(frequencies[done:stop]))
        done = stop
        assert reader.used_up() == (not bits[done:].any())  # what is left unread are zeros at most
    assert np.concatenate(found).tolist() == bits.tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 10, 1000, 200_000])
def test_the_size_is_the_code_length(n: int, seed: int):
    bits, frequencies = some(n, seed)
    ideal, size = quantised_bits(bits, frequencies), len(encode_bits(bits, frequencies))
    assert ideal == pytest.approx(
        sum(-math.log2((f if b else ONE - f) / ONE) for b, f in zip(bits.tolist(), frequencies.tolist(), strict=True))
    )
    assert ideal / 8 * 0.9999 - 8 <= size <= ideal / 8 * 1.0001 + 8
    assert size % 4 == 0


@pytest.mark.parametrize("bit", [0, 1])
@pytest.mark.parametrize("frequency", [1, ONE // 3, ONE - 1])
def test_the_rounding_of_a_probability_costs_next_to_nothing(frequency: int, bit: int):
    n = 20_000
    bits, frequencies = np.full(n + 1, bit, dtype=np.int32), np.full(n + 1, frequency)
    bits[n] = 1  # zeros alone would take no space at all
    first, ideal = (quantised_bits(bits[i:], frequencies[i:]) / 8 for i in (n, 0))
    # 2^-22 = 4 / 2^24 becomes 4 or 5 of them for the rarer bit, and the other has no more than that to lose.
    assert 0.98 * (ideal - first) - 8 <= len(encode_bits(bits, frequencies)) <= (ideal - first) * 1.0001 + n * 1e-7 + 8


def test_input_arrays_of_other_layouts_are_taken():
    bits, frequencies = some(400, 1)
    expected = encode_bits(bits, frequencies)
    assert encode_bits(np.repeat(bits, 2)[::2], np.repeat(frequencies, 3)[::3]) == expected


@given(data=st.binary(max_size=300), seed=st.integers(0, 2**32), n=st.integers(0, 900))
@example(data=b"", seed=0, n=100)
@example(data=b"\x00" * 8, seed=0, n=100)
@example(data=b"abc", seed=0, n=100)
def test_any_words_are_refused_or_read_as_bits(data: bytes, seed: int, n: int):
    _, frequencies = some(n, seed)
    whole = data[: len(data) // 4 * 4]
    try:
        reader = BitReader(data)
    except CorruptArchive:
        assert whole.endswith(bytes(4))  # the top of the stack is never an empty word
        return
    assert not whole.endswith(bytes(4)) or not whole
    found = reader.read(frequencies)
    assert found.tolist() == pop_all(whole, frequencies.tolist())[0]


def test_a_coder_that_began_with_something_is_not_used_up():
    bits, frequencies = some(500, 6)
    for state in (0, 1, 7, 2**24 - 1):
        reader = BitReader(push_all(bits.tolist(), frequencies.tolist(), state))
        assert reader.read(frequencies).tolist() == bits.tolist()
        assert reader.used_up() == (state == 0)


def test_a_damaged_word_is_not_used_up():
    bits, frequencies = some(3000, 5)
    data = encode_bits(bits, frequencies)
    whole = 0
    for i in range(0, len(data), 16):
        reader = BitReader(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        differs = reader.read(frequencies).tolist() != bits.tolist()
        whole += reader.used_up()
        assert differs or not reader.used_up()
    assert whole == 0


@given(
    ranks=st.lists(st.one_of(st.integers(0, 40), st.integers(0, PHASES - 1), st.just(PHASES - 1)), max_size=200),
    behind=st.binary(max_size=9),
)
@example(ranks=[PHASES - 1] * 50, behind=b"")
@example(ranks=[0] * 900, behind=b"\xff")
@example(ranks=[PHASES - 1], behind=b"")
@example(ranks=[], behind=b"")
def test_ranks_come_back_and_say_where_they_end(ranks: list[int], behind: bytes):
    data = encode_ranks(np.array(ranks, dtype=np.int64))
    found, size = decode_ranks(data + behind, len(ranks))
    assert found.tolist() == ranks
    assert size == len(data)


def rice(ranks: list[int], b: int) -> bytes:
    """As it is defined."""
    text = "".join("1" * (rank >> b) + "0" + (format(rank % (1 << b), f"0{b}b") if b else "") for rank in ranks)
    padded = text + "0" * (-len(text) % 8)
    return bytes([b, *(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8))])


@given(ranks=st.lists(st.integers(0, PHASES - 1), min_size=1, max_size=60), scale=st.integers(0, 12))
def test_ranks_are_written_by_the_best_rice_code(ranks: list[int], scale: int):
    ranks = [rank >> scale for rank in ranks]
    lengths = [sum((rank >> b) + 1 + b for rank in ranks) for b in range(13)]
    data = encode_ranks(np.array(ranks, dtype=np.int64))
    assert data == rice(ranks, lengths.index(min(lengths)))
    for b in range(13):  # a reader takes any
        assert decode_ranks(rice(ranks, b), len(ranks))[0].tolist() == ranks


def test_geometric_ranks_take_the_bits_of_their_entropy():
    ranks = np.random.default_rng(0).geometric(math.exp(-5), 5000) - 1
    ranks = ranks[ranks < PHASES]
    assert 8 * len(encode_ranks(ranks)) / len(ranks) < 8.66 + 0.15  # entropy of the geometric distribution with mean e^5


@given(data=st.binary(max_size=60), n=st.integers(0, 400))
@example(data=b"", n=0)
@example(data=b"\x0d\x00\x00\x00", n=1)
@example(data=b"\x00" + b"\xff" * 600, n=1)
@example(data=b"\x0c" + b"\xff" * 3, n=1)
def test_hostile_ranks_are_refused_or_in_range(data: bytes, n: int):
    try:
        ranks, size = decode_ranks(data, n)
    except CorruptArchive:
        return
    assert len(ranks) == n
    assert ((ranks >= 0) & (ranks < PHASES)).all()
    assert 1 <= size <= len(data)


@pytest.mark.parametrize(
    ("data", "n"),
    [(b"", 0), (b"\x0d\x00", 1), (b"\xff\x00", 1), (b"\x00", 1), (b"\x00\xff", 1), (b"\x05\x00", 2), (rice([PHASES], 6), 1)],
    ids=["nothing", "parameter", "largest parameter", "no bits", "no end", "too few", "too large"],
)
def test_ranks_that_no_encoder_wrote_are_refused(data: bytes, n: int):
    with pytest.raises(CorruptArchive, match="phases"):
        decode_ranks(data, n)
