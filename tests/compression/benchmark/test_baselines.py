import bz2
import gzip
import lzma
import random

import pytest

from lmeval.compression.benchmark.baselines import (
    BASELINES,
    STANDARD_LIBRARY,
    BaselineResult,
    CompressedSize,
    compressed_sizes,
    measure_baseline,
)
from lmeval.errors import EmptyInput, InputError

DATA = b"It is a truth universally acknowledged, that a single man \xff\x00 in possession. " * 300
NOISE = random.Random(10).randbytes(60_000)  # pyppmd loses a byte of its archive when it gets all of it at once
NUMBERS = " ".join(str(i * i % 9973) for i in range(60_000)).encode()


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("data", [b"", b"x", DATA, NOISE, b"a" * 100_000], ids=["empty", "byte", "text", "noise", "run"])
def test_what_is_counted_is_a_file_that_decompresses(name: str, data: bytes):
    result = measure_baseline(BASELINES[name], data)
    assert result.verified
    assert (result.name, result.n_bytes_in) == (name, len(data))
    assert result.encode_seconds > 0
    assert result.decode_seconds > 0
    assert compressed_sizes([data], [name]) == [CompressedSize(name, len(data), result.n_bytes_out)]


@pytest.mark.parametrize("name", BASELINES)
def test_a_damaged_archive_is_not_verified(name: str):
    baseline = BASELINES[name]
    lazy = baseline._replace(decompress=lambda archive, n_bytes: baseline.decompress(archive, n_bytes)[:-1] + b"?")
    assert not measure_baseline(lazy, DATA).verified


def test_sizes_are_those_of_the_strongest_setting():
    expected = {
        "bzip2 -9": len(bz2.compress(DATA, 9)),
        "xz -9e": len(lzma.compress(DATA, preset=9 | lzma.PRESET_EXTREME)),
        "gzip -9": len(gzip.compress(DATA, 9)),
    }
    assert {size.name: size.n_bytes_out for size in compressed_sizes([DATA], STANDARD_LIBRARY)} == expected


def test_ppmd_is_variant_i():
    # Its algorithm is fixed, so its size is too. Variant H gives 18,983 bytes, order 6 of variant I 33,388.
    assert [size.n_bytes_out for size in compressed_sizes([NUMBERS], ["ppmd -o16 -m256m"])] == [18_923]


def test_stronger_compressors_make_smaller_files():
    sizes = {size.name: size.n_bytes_out for size in compressed_sizes([DATA + NUMBERS])}
    assert sizes["zstd --ultra -22 --long=27"] < sizes["gzip -9"]
    assert sizes["brotli -q 11 --lgwin=24"] < sizes["gzip -9"]
    assert sizes["ppmd -o16 -m256m"] < sizes["bzip2 -9"]


def test_zstd_looks_back_further_than_its_usual_window():
    # 9 MiB of noise twice: found by a window of 128 MiB, and not by level 9's of 4 MiB.
    block = random.Random(1).randbytes(9 << 20)
    [size] = compressed_sizes([block, block], ["zstd --ultra -22 --long=27"])
    assert size.n_bytes_out < 1.01 * len(block)


def test_chunks_are_one_stream():
    whole = compressed_sizes([DATA])
    assert [size.name for size in whole] == list(BASELINES)
    assert compressed_sizes(DATA[i : i + 100] for i in range(0, len(DATA), 100)) == whole
    assert compressed_sizes([b"", DATA, b""]) == whole


def test_names_choose_and_order():
    sizes = compressed_sizes([DATA], ["xz -9e", "gzip -9"])
    assert [size.name for size in sizes] == ["xz -9e", "gzip -9"]
    assert compressed_sizes([DATA], []) == []
    with pytest.raises(InputError, match="unknown compressor 'gzip': known are gzip -9, bzip2 -9"):
        compressed_sizes([DATA], ["gzip"])


def test_the_names_of_the_standard_library_are_known():
    assert set(STANDARD_LIBRARY) <= set(BASELINES)
    assert all(baseline.name == name for name, baseline in BASELINES.items())


def test_bits_per_byte_count_the_whole_file():
    assert CompressedSize("x", n_bytes_in=16, n_bytes_out=4).bits_per_byte == 2.0
    assert BaselineResult("x", 16, 4, 0.1, 0.1, verified=True).bits_per_byte == 2.0
    assert all(size.n_bytes_in == len(DATA) for size in compressed_sizes([DATA]))
    with pytest.raises(EmptyInput, match="empty text"):
        _ = CompressedSize("x", n_bytes_in=0, n_bytes_out=4).bits_per_byte
