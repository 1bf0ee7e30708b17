import bz2
import gzip
import lzma

import pytest

from lmeval.compression import BASELINES, CompressedSize, compressed_sizes

DATA = b"It is a truth universally acknowledged, that a single man \xff\x00 in possession. " * 300
DECOMPRESS = {"gzip -9": gzip.decompress, "bzip2 -9": bz2.decompress, "xz -9e": lzma.decompress}


@pytest.mark.parametrize("name", BASELINES)
def test_what_is_counted_is_a_file_that_decompresses(name: str):
    compressor = BASELINES[name]()
    archive = compressor.compress(DATA) + compressor.flush()
    assert DECOMPRESS[name](archive) == DATA
    assert next(size for size in compressed_sizes([DATA]) if size.name == name).n_bytes_out == len(archive)


def test_sizes_are_those_of_the_strongest_setting():
    expected = {
        "bzip2 -9": len(bz2.compress(DATA, 9)),
        "xz -9e": len(lzma.compress(DATA, preset=9 | lzma.PRESET_EXTREME)),
        "gzip -9": len(gzip.compress(DATA, 9)),
    }
    assert {size.name: size.n_bytes_out for size in compressed_sizes([DATA])} == expected


def test_chunks_are_one_stream():
    whole = compressed_sizes([DATA])
    assert compressed_sizes(DATA[i : i + 100] for i in range(0, len(DATA), 100)) == whole
    assert compressed_sizes([b"", DATA, b""]) == whole


def test_bits_per_byte_count_the_whole_file():
    assert CompressedSize("x", n_bytes_in=16, n_bytes_out=4).bits_per_byte == 2.0
    assert all(size.n_bytes_in == len(DATA) for size in compressed_sizes([DATA]))
