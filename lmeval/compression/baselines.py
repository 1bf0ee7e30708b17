"""General-purpose compressors at their strongest setting, to set a model's bits per byte beside."""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


BASELINES: dict[str, Callable[[], _Compressor]] = {
    "gzip -9": lambda: zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS),
    "bzip2 -9": lambda: bz2.BZ2Compressor(9),
    "xz -9e": lambda: lzma.LZMACompressor(lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME),
}
"""Name of the command that gives the same format at the same setting -> a fresh compressor of the standard library. (GNU
gzip's own deflate differs from zlib's by a fraction of a percent.)"""


class CompressedSize(NamedTuple):
    """Size of a whole compressed file, container and checksums included."""

    name: str
    n_bytes_in: int
    n_bytes_out: int

    @property
    def bits_per_byte(self) -> float:
        """Bits of the compressed file for each byte of the input."""
        return 8 * self.n_bytes_out / self.n_bytes_in


def compressed_sizes(chunks: Iterable[bytes]) -> list[CompressedSize]:
    """Sizes of the concatenated chunks under each of BASELINES, as one stream, in constant memory.

    >>> [size.n_bytes_out < 100 for size in compressed_sizes([b"a" * 1000])]
    [True, True, True]
    """
    compressors = {name: make() for name, make in BASELINES.items()}
    n_in, n_out = 0, dict.fromkeys(compressors, 0)
    for chunk in chunks:
        n_in += len(chunk)
        for name, compressor in compressors.items():
            n_out[name] += len(compressor.compress(chunk))
    for name, compressor in compressors.items():
        n_out[name] += len(compressor.flush())
    return [CompressedSize(name, n_in, n_out[name]) for name in compressors]
