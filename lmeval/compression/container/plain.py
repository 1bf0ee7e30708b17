"""Blocks without a model: general-purpose codecs, and data as they are."""

import bz2
import lzma
from collections.abc import Callable
from typing import Any

from lmeval.compression.container.frame import Block, digest, span
from lmeval.compression.container.header import Header
from lmeval.compression.container.kinds import REGISTRY, Decoder, Holder, Kind, kind_of, one_by_one
from lmeval.errors import CorruptArchive

STORED, BZIP2, XZ = "stored", "bzip2", "xz"
WAITING_BYTES = 1 << 19  # of payload that may wait for blocks of a model; from there on those are decoded without delay
XZ_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 24}]


def plain_block(data: bytes, offset: int) -> Block:
    """The shortest block that needs no model: of the kinds that encode data by themselves, the first of equal ones.

    Args:
        data: The data of the block.
        offset: Where they begin in the data of the archive.
    """
    encoders = {name: encode for name in REGISTRY if (encode := kind_of(name).encode)}
    payloads = {name: encode(data) for name, encode in encoders.items()}
    kind = min(payloads, key=lambda name: (len(payloads[name]), REGISTRY[name].code))
    return Block(kind, 0, offset, len(data), 0, 0, 0, digest(data), payloads[kind])


def roughly_plain_size(data: bytes) -> int:
    """Bytes of a quick plain coding: those of `plain_block` are at most as many and seldom a tenth fewer."""
    quick = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 24}]
    return min(len(data), len(bz2.compress(data)), len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=quick)))


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=XZ_FILTERS)


def _from_xz(payload: bytes, n_bytes: int) -> bytes:
    return lzma.LZMADecompressor(format=lzma.FORMAT_RAW, filters=XZ_FILTERS).decompress(payload, max_length=n_bytes)


def _from_bzip2(payload: bytes, n_bytes: int) -> bytes:
    return bz2.BZ2Decompressor().decompress(payload, max_length=n_bytes)


def codec(encode: Callable[[bytes], bytes], decode: Callable[[bytes, int], bytes]) -> Kind:
    """The kind of a codec that needs nothing but the data.

    Args:
        encode: Data to payload.
        decode: Payload and number of bytes to data, no more than that many.
    """

    def data_of(block: Block, advance: Callable[[int], None]) -> bytes:
        try:
            data = decode(block.payload, block.n_bytes)
        except (OSError, EOFError, lzma.LZMAError, ValueError) as error:
            raise CorruptArchive(f"{span(block)}: its {block.kind} data are damaged") from error
        advance(len(data))
        return data

    def decoder(_header: Header, _holder: Holder) -> Decoder:
        return one_by_one(data_of, WAITING_BYTES)

    return Kind(check=lambda _block: True, describe=_nothing, decoder=decoder, encode=encode)


def _nothing(_block: Block) -> dict[str, Any]:
    return {}


KINDS: dict[str, Kind] = {
    STORED: codec(lambda data: data, lambda payload, _: payload),
    BZIP2: codec(bz2.compress, _from_bzip2),
    XZ: codec(_xz, _from_xz),
}
