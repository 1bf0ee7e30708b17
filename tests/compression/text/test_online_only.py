import hashlib
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import ODD_BYTES, PROSE

from lmeval.compression import LEVELS, decompress
from lmeval.compression.container import archive, frame
from lmeval.compression.text.online.recipes import online_level
from lmeval.compression.text.online_only import online_block, online_data
from lmeval.errors import CorruptArchive

TEXT = (PROSE * 3).encode()


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("kind", [kind for kind in ODD_BYTES if 0 < len(ODD_BYTES[kind]) < 1000])
def test_any_bytes_come_back(kind: str, level: str):
    data = ODD_BYTES[kind]
    seen: list[int] = []
    block = online_block(data, 7, level, seen.append)
    assert block[:7] == ("online", 0, 7, len(data), 1, len(data), 0)
    assert online_level(block.payload) == level
    assert online_data(block, seen.append) == data
    assert sum(seen) == 2 * len(data)


@given(data=st.binary(min_size=1, max_size=40), level=st.sampled_from(LEVELS[1:]))
@settings(max_examples=10)
def test_any_short_bytes_come_back(data: bytes, level: str):
    assert online_data(online_block(data, 0, level)) == data


def test_they_learn():
    once, thrice = (len(online_block(text, 0, "full").payload) for text in (TEXT[: len(TEXT) // 3], TEXT))
    assert thrice < 3 * once


def test_a_block_says_the_same_wherever_it_stands():
    assert online_block(TEXT, 0, "full").payload == online_block(TEXT, 1 << 40, "full").payload


def test_damaged_payloads_are_refused():
    block = online_block(TEXT[:60], 0, "full")
    rng = np.random.default_rng(0)
    for _ in range(20):
        payload = bytearray(block.payload)
        payload[int(rng.integers(1, len(payload)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(CorruptArchive):
            online_data(block._replace(payload=bytes(payload)))
    for payload in (
        b"",
        b"\0" + block.payload[1:],
        b"\x03" + block.payload[1:],
        block.payload[:-4],
        block.payload + bytes(4),
    ):
        with pytest.raises(CorruptArchive):
            online_data(block._replace(payload=payload))


def _archive(block: frame.Block, **meta: Any) -> bytes:
    out = io.BytesIO()
    digest = hashlib.sha256(TEXT[:60]).hexdigest()
    header = archive.write_header(out, {"n_bytes": block.n_bytes, "sha256": digest, "versions": {}} | meta)
    size = out.tell()
    line = archive.write_block(out, block, header.seed)
    archive.write_end(out, [line], size, header.seed)
    return out.getvalue()


@pytest.mark.parametrize("adapt", ["light", "full"])
def test_a_header_that_names_a_level_will_do(adapt: str):
    assert decompress(_archive(online_block(TEXT[:60], 0, "full"), adapt=adapt)) == TEXT[:60]


@pytest.mark.parametrize("meta", [{}, {"adapt": "none"}, {"adapt": 7}, {"adapt": {}}, {"adapt": None}])
def test_a_header_must_name_a_level(meta: dict[str, Any]):
    with pytest.raises(CorruptArchive, match="names no level"):
        decompress(_archive(online_block(TEXT[:60], 0, "full"), **meta))


def test_no_such_block_stands_among_images():
    with pytest.raises(CorruptArchive, match="names no level"):
        decompress(_archive(online_block(TEXT[:60], 0, "full"), density={}))
