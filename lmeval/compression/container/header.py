"""Metadata of a header: canonical JSON, made small by a preset dictionary of what headers are made of.

The dictionary is part of the format: compression/FORMAT.md, section 6. A short text compresses to a few kilobytes, so
every byte here is one of them.
"""

import json
import math
import zlib
from typing import Any, NamedTuple

SHA256_BYTES = 32

# What differs from archive to archive stands at the ends of long stretches that do not: a match is at most 258 bytes long,
# and costs about three.
_DICTIONARY = (
    b'bfloat16"drift_nats":1e-10,"dtype":"float64","epsilon_nats":1e-10,"grid_cells":4096,"margin_nats":3e-10,"density":'
    b'"light","made_on":{"device":"cuda:0","n_threads":8,"steps":"library"},"n_threads":16},{"adapt":"full","n_bytes":1,'
    b'"versions":{{"adapt":"full","made_on":{"device":"cpu","n_threads":4,"steps":"compiled"},"model":{"canary_ids":[],'
    b'"canary_log_probs":"","drift_nats":3e-05,"dtype":"float32","epsilon_nats":3e-05,"grid_cells":59,'
    b'"margin_nats":9e-05,"name":"lmeval-bytes-4m-v2","overlap":128,"start_id":256,"tree_depth":8,"vocabulary_sha256":"'
    b'f65752b14951c6c5f9ad5bbb02d9569bef69d435c2b9562fab8817fcd3fc6e56","weights_sha256":"'
    b'411b140437f2dc2fb64b5c74bb0356203e228cd5a434c68eecb5a9463fa9e2b6","window":1024},"n_bytes":1,'
    b'"versions":{"lmeval":"0.1.0","torch":"2.13.0+cpu","transformers":"5.23.0"}}'
)


class Header(NamedTuple):
    """What an archive says of itself. `seed` is the checksum that binds its blocks to it."""

    meta: dict[str, Any]
    version: tuple[int, int]
    n_bytes: int
    seed: int


def packed(meta: dict[str, Any]) -> bytes:
    """Metadata as they stand in a header; they must hold "sha256"."""
    text = _json({key: value for key, value in meta.items() if key != "sha256"})
    ways = (
        zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy, _DICTIONARY)
        for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED)
    )
    return bytes.fromhex(meta["sha256"]) + min((way.compress(text) + way.flush() for way in ways), key=len)


def _json(meta: dict[str, Any]) -> bytes:
    return json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def unpacked(data: bytes, limit: int) -> dict[str, Any]:
    """The metadata, of at most `limit` bytes of JSON. Raises zlib.error, ValueError and RecursionError for what are none."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS, zdict=_DICTIONARY)
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
