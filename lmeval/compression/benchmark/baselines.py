"""General-purpose compressors at their strongest setting, to set a model's bits per byte beside.

Each can also decompress, so that a benchmark can time both directions and prove the round trip.
"""

import bz2
import lzma
import time
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import brotli
import pyppmd
import zstandard

from lmeval.errors import EmptyInput, InputError

PPMD_ORDER, PPMD_MEMORY = 16, 256 << 20
_PPMD_PIECE = 1024  # bytes of input a call: see _Ppmd
_PPMD_PADDING = bytes(8)  # the decoder reads ahead of the symbol that it decodes, and stops early without something to read


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


class Baseline(NamedTuple):
    """A compressor under the name of the command that does the same.

    `compressor` makes a fresh one. `decompress` takes a whole archive and the number of bytes that were compressed, which a
    bare PPMd stream does not say.
    """

    name: str
    compressor: Callable[[], _Compressor]
    decompress: Callable[[bytes, int], bytes]


class CompressedSize(NamedTuple):
    """Size of a whole compressed file, container and checksums included."""

    name: str
    n_bytes_in: int
    n_bytes_out: int

    @property
    def bits_per_byte(self) -> float:
        """Bits of the compressed file for each byte of the input."""
        return _bits_per_byte(self.n_bytes_in, self.n_bytes_out)


class BaselineResult(NamedTuple):
    """What one compressor did with one text: size, wall-clock seconds of both directions, and whether it came back."""

    name: str
    n_bytes_in: int
    n_bytes_out: int
    encode_seconds: float
    decode_seconds: float
    verified: bool

    @property
    def bits_per_byte(self) -> float:
        """Bits of the compressed file for each byte of the input."""
        return _bits_per_byte(self.n_bytes_in, self.n_bytes_out)


def _bits_per_byte(n_bytes_in: int, n_bytes_out: int) -> float:
    if not n_bytes_in:
        raise EmptyInput("bits per byte of an empty text are not defined: give a text of one byte or more")
    return 8 * n_bytes_out / n_bytes_in


class _Brotli:
    def __init__(self) -> None:
        self._compressor = brotli.Compressor(quality=11, lgwin=24)

    def compress(self, data: bytes, /) -> bytes:
        return self._compressor.process(data)

    def flush(self) -> bytes:
        return self._compressor.finish()


class _Ppmd:
    """PPMd variant I as one bare stream.

    pyppmd 1.3.1 loses bytes of the archive where the output of one call fills a block of 32 KiB in the middle of a symbol,
    and it never lets go of the input of a call. So it is fed pieces too short to fill a block, all from one buffer.
    """

    def __init__(self) -> None:
        self._encoder = pyppmd.Ppmd8Encoder(PPMD_ORDER, PPMD_MEMORY, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
        self._piece = bytearray(_PPMD_PIECE)
        self._rest = b""

    def compress(self, data: bytes, /) -> bytes:
        data = self._rest + data
        end = len(data) - len(data) % _PPMD_PIECE
        self._rest = data[end:]
        return b"".join(self._encode(data[start : start + _PPMD_PIECE]) for start in range(0, end, _PPMD_PIECE))

    def _encode(self, piece: bytes) -> bytes:
        self._piece[:] = piece
        return self._encoder.encode(self._piece)

    def flush(self) -> bytes:
        return self._encoder.encode(self._rest) + self._encoder.flush(endmark=False)


def _zstd() -> _Compressor:
    parameters = zstandard.ZstdCompressionParameters(
        compression_level=22, window_log=27, enable_ldm=True, write_checksum=True
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compressobj()


def _ppmd_decompress(archive: bytes, n_bytes: int) -> bytes:
    decoder = pyppmd.Ppmd8Decoder(PPMD_ORDER, PPMD_MEMORY, pyppmd.PPMD8_RESTORE_METHOD_CUT_OFF)
    return decoder.decode(archive + _PPMD_PADDING, n_bytes)


STANDARD_LIBRARY = ("gzip -9", "bzip2 -9", "xz -9e")
"""Names of the baselines that Python's standard library has."""

BASELINES: dict[str, Baseline] = {
    baseline.name: baseline
    for baseline in (
        Baseline(
            "gzip -9",
            lambda: zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS),
            lambda archive, _: zlib.decompress(archive, 16 + zlib.MAX_WBITS),
        ),
        Baseline("bzip2 -9", lambda: bz2.BZ2Compressor(9), lambda archive, _: bz2.decompress(archive)),
        Baseline(
            "xz -9e",
            lambda: lzma.LZMACompressor(lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME),
            lambda archive, _: lzma.decompress(archive, lzma.FORMAT_XZ),
        ),
        Baseline(
            "zstd --ultra -22 --long=27",
            _zstd,
            lambda archive, _: zstandard.ZstdDecompressor().decompressobj().decompress(archive),
        ),
        Baseline("brotli -q 11 --lgwin=24", _Brotli, lambda archive, _: brotli.decompress(archive)),
        Baseline("ppmd -o16 -m256m", _Ppmd, _ppmd_decompress),
    )
}
"""By name, which is that of the command that gives the same format at the same setting.

gzip: GNU gzip's own deflate differs from zlib's by a fraction of a percent. zstd: as the command does from a pipe, where it
does not know the length; it takes 0.8 GB. brotli: its format has no checksum. ppmd: variant I (Ppmd8 in 7-Zip, which writes
it into .zip), with the restoration method "cut off", and neither length nor checksum in its stream; it takes 0.3 GB.
Variant H, of .7z, gave archives 0.3 to 0.5% larger."""


def compressed_sizes(chunks: Iterable[bytes], names: Iterable[str] | None = None) -> list[CompressedSize]:
    """Sizes of data under general-purpose compressors, each at its strongest setting, in constant memory.

    >>> [size.n_bytes_out < 100 for size in compressed_sizes([b"a" * 1000], STANDARD_LIBRARY)]
    [True, True, True]

    Args:
        chunks: The data in pieces; they are compressed as one stream.
        names: Which BASELINES to try; None for all.

    Returns:
        Bytes in and out, one entry a name, in the order of the names.

    Raises:
        InputError: A name is not in BASELINES.
    """
    compressors = {name: _named(name).compressor() for name in (BASELINES if names is None else names)}
    n_in, n_out = 0, dict.fromkeys(compressors, 0)
    for chunk in chunks:
        n_in += len(chunk)
        for name, compressor in compressors.items():
            n_out[name] += len(compressor.compress(chunk))
    for name, compressor in compressors.items():
        n_out[name] += len(compressor.flush())
    return [CompressedSize(name, n_in, n_out[name]) for name in compressors]


def _named(name: str) -> Baseline:
    if name not in BASELINES:
        raise InputError(f"unknown compressor '{name}': known are {', '.join(BASELINES)}")
    return BASELINES[name]


def measure_baseline(baseline: Baseline, data: bytes) -> BaselineResult:
    """Compress, decompress, compare and time. The archive is the one whose size `compressed_sizes` gives."""
    start = time.perf_counter()
    compressor = baseline.compressor()
    archive = compressor.compress(data) + compressor.flush()
    encoded = time.perf_counter()
    decompressed = baseline.decompress(archive, len(data))
    decoded = time.perf_counter()
    return BaselineResult(
        baseline.name, len(data), len(archive), encoded - start, decoded - encoded, verified=decompressed == data
    )
