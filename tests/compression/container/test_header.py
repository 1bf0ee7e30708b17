import io
import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from inspected import inspected
from samples import ROOT, babble, shared, talker

from lmeval.compression import CompressSettings, compress, decompress
from lmeval.compression.container import archive
from lmeval.compression.container.header import _DICTIONARY, packed, unpacked
from lmeval.errors import CorruptArchive

SHA = "5a" * 32
METAS: list[dict[str, Any]] = [
    {"adapt": "full", "n_bytes": 0, "sha256": SHA},
    {"adapt": "light", "n_bytes": 10**12, "sha256": "00ff" * 16, "model": {"name": "é" * 500, "canary_ids": [1] * 999}},
    {"n_bytes": 3, "sha256": SHA},
    {"n_bytes": 3, "sha256": SHA, "density": {}},
]


@pytest.mark.parametrize("meta", METAS, ids=["empty", "long", "plain", "images"])
def test_metadata_come_back(meta: dict[str, Any]):
    data = packed(meta)
    assert data[:32].hex() == meta["sha256"]
    assert unpacked(data, 1 << 20) == meta
    out = io.BytesIO()
    header = archive.write_header(out, meta)
    found, end = archive.read_header(memoryview(out.getvalue()))
    assert (found, end) == (header, len(out.getvalue())) == (header, archive.header_bytes(header))
    assert found.version == (2, 0)


def test_the_dictionary_is_that_of_the_definition():
    page = (ROOT / "compression" / "FORMAT.md").read_text(encoding="utf-8").splitlines()
    lines = [line.strip().encode() for line in page if line.startswith("    ")]
    assert lines.count(_DICTIONARY) == 1


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(32), bytes(50), bytes(32) + b"\xff" * 30], ids=len)
def test_what_is_no_metadata_is_refused(data: bytes):
    with pytest.raises((zlib.error, ValueError)):
        unpacked(data, 1 << 20)


NOT_HEADERS = [b"[]", b"0", b"null", b'{"n_bytes":-1}', b"{", b"\xff", b"[" * 100_000, b'{"sha256":1}']
NOT_NUMBERS = [b'{"n_bytes":0,"made_on":%s}' % text for text in (b"NaN", b"-Infinity", b"[1e999]")]
TOO_LONG = [b'{"n_bytes":%d}' % (1 << 64), b'{"n_bytes":1%s}' % (b"0" * 400)]


@pytest.mark.parametrize("text", NOT_HEADERS + NOT_NUMBERS + TOO_LONG)
def test_headers_that_hold_something_else_are_refused(text: bytes):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = bytes(32) + packer.compress(text) + packer.flush()
    head = archive.MAGIC + b"\x02\x00\x00\x00" + len(body).to_bytes(4, "little") + body
    with pytest.raises(CorruptArchive, match="header"):
        archive.read_header(memoryview(head + zlib.crc32(head).to_bytes(4, "little")))


def test_the_sha_stands_in_front():
    coded = compress(b"some text", talker())
    found = inspected(memoryview(coded))[0]
    assert coded[16:48].hex() == found["sha256"]
    assert next(iter(found)) == "format" and found["adapt"] == "full"


def header_size(data: bytes, **settings: Any) -> int:
    # The header of an archive whose blocks are of the model is that of its survey: what follows costs time alone.
    return inspected(memoryview(compress(data, "bundled", CompressSettings(verify=False, **settings))))[0]["n_header_bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["eng", "cmn_hans"])
def test_the_header_of_a_short_text_is_small(name: str):
    data = Path(shared(f"text/test/udhr/{name}.txt")).read_bytes()
    assert header_size(data[:6000]) <= 125
    assert header_size(data[:6000], adapt="none") > 200


def test_numbers_of_a_header_are_short_and_on_the_safe_side():
    data = babble(3000)
    found = json.loads(
        json.dumps(inspected(memoryview(compress(data, talker(), CompressSettings(verify=False))))[0]["model"])
    )
    for key in ("epsilon_nats", "drift_nats", "margin_nats"):
        assert len(f"{found[key]:e}".split("e")[0].rstrip("0")) <= 3
    assert found["margin_nats"] >= (2 * found["epsilon_nats"] + found["drift_nats"]) * (1 - 1e-12)
    assert len(found["canary_ids"]) == 2


def test_an_archive_without_blocks_of_the_model_does_not_describe_it():
    data = b"".join(b"%d,%d\r\n" % (i, i * i) for i in range(300))
    coded = compress(data, talker(), CompressSettings(adapt="light"))
    (found,) = inspected(memoryview(coded))
    assert "model" not in found and "made_on" not in found and found["n_header_bytes"] < 70
    assert decompress(coded) == data
