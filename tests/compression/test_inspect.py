"""The report of what archives say of themselves."""

import hashlib
import io
import json
import tracemalloc

import numpy as np
from samples import babble, model_archive, talker

from lmeval.compression import CompressSettings, compress, inspect
from lmeval.compression.container import archive
from lmeval.compression.container.plain import plain_block
from lmeval.results import as_json
from lmeval.results.report import from_json


def test_one_archive_is_one_report():
    coded = model_archive(talker(), [babble(200), b"abc" * 20], 0)
    report = inspect(memoryview(coded))
    assert report.kind == "inspect" and not report.parts
    assert report["archive_bytes"] == report.ledger["n_archive_bytes"] == len(coded)
    assert report["bits_per_byte"] == 8 * len(coded) / 260
    blocks = report.tables["blocks"]
    assert blocks.column("kind") == ["model", "xz"]
    assert blocks.column("n_tokens") == [200, None] and blocks.column("n_lanes") == [4, None]
    sizes = sum(report.ledger[key] for key in ("n_header_bytes", "n_framing_bytes"))
    assert sizes + sum(blocks.column("payload_bytes")) == len(coded)


def test_several_archives_are_parts():
    coded = compress(babble(50), talker(), CompressSettings(adapt="none"))
    report = inspect(memoryview(coded + coded))
    assert len(report.parts) == 2
    assert [part.ledger["n_bytes"] for part in report.parts] == [50, 50]


def test_json_holds_all_of_it():
    report = inspect(memoryview(compress(babble(50), talker(), CompressSettings(adapt="none"))))
    data = json.loads(json.dumps(as_json(report)))
    assert (data["schema"], data["kind"]) == (2, "inspect")
    assert from_json(data).ledger["sha256"] == report.ledger["sha256"]
    assert [row["digest"] for row in data["tables"]["blocks"]["rows"]] == report.tables["blocks"].column("digest")


def test_an_empty_input_has_no_rate():
    report = inspect(memoryview(compress(b"", talker(), CompressSettings(adapt="none"))))
    assert [m.name for m in report.results] == ["archive_bytes"]
    assert len(report.tables["blocks"]) == 0


def test_one_block_is_held_at_a_time():
    pieces = [np.random.default_rng(i).bytes(200_000) for i in range(20)]
    out = io.BytesIO()
    header = archive.write_header(out, {"n_bytes": 4_000_000, "sha256": hashlib.sha256(b"".join(pieces)).hexdigest()})
    begin, blocks = out.tell(), (plain_block(piece, 200_000 * i) for i, piece in enumerate(pieces))
    archive.write_end(out, [archive.write_block(out, block, header.seed) for block in blocks], begin, header.seed)
    data = memoryview(out.getvalue())
    tracemalloc.start()
    inspect(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000 < len(data) / 3
