"""Metadata of a header: canonical JSON, made small by a preset dictionary of what headers are made of.

The dictionaries are part of the format: compression/FORMAT.md, section 6. A short text compresses to a few kilobytes, so
every byte here is one of them.
"""

import json
import math
import zlib
from typing import Any, NamedTuple

ADAPTED_VERSION = (1, 2)  # the first that packs metadata without their SHA-256, and with the second dictionary
SHA256_BYTES = 32

_DICTIONARY = (
    b'"lmeval-bytes-4m-v1"cuda:0bfloat16float64{"made_on":{"device":"cpu","n_threads":4},"model":{"canary_ids":[],'
    b'"canary_log_probs":"","depth":8,"drift_nats":1e-05,"dtype":"float32","epsilon_nats":1e-05,"grid_cells":4,'
    b'"margin_nats":1e-05,"name":"lmeval-bytes-4m-v1","overlap":64,"start_id":256,"tree_depth":8,"vocabulary_sha256":"'
    b'f65752b14951c6c5f9ad5bbb02d9569bef69d435c2b9562fab8817fcd3fc6e56","weights_sha256":"'
    b'adb31360a0083520f5c6dcce9065ee3cc19aa649ee102c1bf70a141825fe69e2","window":512},"n_bytes":1,"sha256":"",'
    b'"versions":{"lmeval":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0"}}'
)
# What differs from archive to archive stands at the ends of long stretches that do not: a match is at most 258 bytes long,
# and costs about three.
_ADAPTED_DICTIONARY = (
    b'bfloat16"drift_nats":1e-10,"dtype":"float64","epsilon_nats":1e-10,"grid_cells":4096,"margin_nats":3e-10,'
    b'"light","made_on":{"device":"cuda:0","n_threads":8},"n_threads":16},{"adapt":"full","n_bytes":1,"versions":{'
    b'{"adapt":"full","made_on":{"device":"cpu","n_threads":4},"model":{"canary_ids":[],"canary_log_probs":"",'
    b'"drift_nats":1.5e-05,"dtype":"float32","epsilon_nats":1.5e-05,"grid_cells":59,"margin_nats":4.5e-05,'
    b'"name":"lmeval-bytes-4m-v1","overlap":64,"start_id":256,"tree_depth":8,"vocabulary_sha256":"'
    b'f65752b14951c6c5f9ad5bbb02d9569bef69d435c2b9562fab8817fcd3fc6e56","weights_sha256":"'
    b'adb31360a0083520f5c6dcce9065ee3cc19aa649ee102c1bf70a141825fe69e2","window":512},"n_bytes":1,'
    b'"versions":{"lmeval":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0"}}'
)


class Header(NamedTuple):
    """What an archive says of itself. `seed` is the checksum that binds its blocks to it."""

    meta: dict[str, Any]
    version: tuple[int, int]
    n_bytes: int
    seed: int


def packed(meta: dict[str, Any], version: tuple[int, int]) -> bytes:
    """Metadata as they stand in a header of this version; since 1.2 they must hold "sha256"."""
    if version < ADAPTED_VERSION:
        packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_DEFAULT_STRATEGY, _DICTIONARY)
        return packer.compress(_json(meta)) + packer.flush()
    text = _json({key: value for key, value in meta.items() if key != "sha256"})
    ways = (
        zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy, _ADAPTED_DICTIONARY)
        for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED)
    )
    return bytes.fromhex(meta["sha256"]) + min((way.compress(text) + way.flush() for way in ways), key=len)


def _json(meta: dict[str, Any]) -> bytes:
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def unpacked(data: bytes, version: tuple[int, int], limit: int) -> Any:
    """The metadata, of at most `limit` bytes of JSON. Raises zlib.error, ValueError and RecursionError for what are none."""
    if version < ADAPTED_VERSION:
        return _read_json(zlib.decompressobj(zdict=_DICTIONARY).decompress(data, limit))
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, zdict=_ADAPTED_DICTIONARY)
    meta = _read_json(unpacker.decompress(data[SHA256_BYTES:], limit))
    if not isinstance(meta, dict):
        raise ValueError("metadata are no object")
    return dict(sorted((meta | {"sha256": data[:SHA256_BYTES].hex()}).items()))


def _read_json(text: bytes) -> Any:
    return json.loads(text, parse_float=_finite, parse_constant=_finite)


def _finite(text: str) -> float:
    """A number of JSON, which has neither NaN nor infinities; 1e999 is a number, but we have none that is as large."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number
