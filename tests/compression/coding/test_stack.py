import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmeval.compression.coding.coder import BitReader, encode_bits
from lmeval.compression.coding.grid import FREQUENCY_BITS
from lmeval.compression.coding.stack import Stack, is_used_up, open_stack, pop_bit
from lmeval.errors import CorruptArchive

ONE = 1 << FREQUENCY_BITS
EXTREME = np.array([1, 2, 3, ONE // 2, ONE - 3, ONE - 2, ONE - 1])


def some_frequencies(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.3, rng.choice(EXTREME, n), rng.integers(1, ONE, n)).astype(np.int64)


def popped(stack: Stack, frequencies: np.ndarray) -> list[int]:
    return [pop_bit(stack, np.int64(frequency)) for frequency in frequencies]


@pytest.mark.parametrize("likely", [True, False])
@given(n=st.integers(0, 400), seed=st.integers(0, 2**32))
@example(n=20_000, seed=0)
def test_what_was_encoded_is_read_back(likely: bool, n: int, seed: int):
    frequencies, draws = some_frequencies(n, seed), np.random.default_rng(seed).random(n)
    bits = (draws < (frequencies / ONE if likely else 0.5)).astype(np.int32)
    stack = open_stack(encode_bits(bits, frequencies))
    assert popped(stack, frequencies) == bits.tolist()
    assert is_used_up(stack)


@given(data=st.binary(max_size=300), seed=st.integers(0, 2**32), n=st.integers(0, 900))
@example(data=b"", seed=0, n=100)
@example(data=b"\x00" * 8, seed=0, n=100)
@example(data=b"\x00" * 7 + b"\x01", seed=0, n=0)
@example(data=b"\x00\x00\x00\x80" * 2, seed=0, n=0)
@example(data=b"abc", seed=0, n=100)
@example(data=b"\xff" * 299, seed=0, n=900)
def test_damaged_words_are_read_or_refused_as_the_library_does(data: bytes, seed: int, n: int):
    frequencies = some_frequencies(n, seed)
    try:
        reader = BitReader(data)
    except CorruptArchive as error:
        with pytest.raises(CorruptArchive, match=str(error)):
            open_stack(data)
        return
    stack = open_stack(data)
    assert is_used_up(stack) == reader.used_up()
    assert popped(stack, frequencies) == reader.read(frequencies).tolist()
    assert is_used_up(stack) == reader.used_up()


def test_reading_goes_on_past_the_end():
    frequencies = some_frequencies(5000, 1)
    data = bytes(range(1, 41))
    assert popped(open_stack(data), frequencies) == BitReader(data).read(frequencies).tolist()
