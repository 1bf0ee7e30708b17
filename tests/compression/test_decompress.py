"""What decompression reports, and what is written for what is lost."""

import hashlib
import importlib
import io
import json
import tempfile
import tracemalloc

import numpy as np
import pytest
from inspected import gaps_of
from samples import talker
from told import Told

from lmeval.compression import CompressSettings, Gap, compress, decompress, decompress_range, decompress_to, salvage
from lmeval.compression.container import archive
from lmeval.compression.container.frame import Block
from lmeval.compression.container.plain import plain_block
from lmeval.compression.text.online_only import online_block
from lmeval.errors import CorruptArchive
from lmeval.results import as_json

DECOMPRESS = importlib.import_module("lmeval.compression.decompress")
NOISE = np.random.default_rng(0).bytes(900)


def made_of(blocks: list[Block], n_bytes: int, **meta: object) -> bytes:
    """An archive of these blocks, whose header claims so many bytes."""
    out = io.BytesIO()
    header = archive.write_header(out, {"n_bytes": n_bytes, "sha256": hashlib.sha256(NOISE).hexdigest()} | meta)
    size = out.tell()
    archive.write_end(out, [archive.write_block(out, block, header.seed) for block in blocks], size, header.seed)
    return out.getvalue()


@pytest.fixture
def few_zeros(monkeypatch: pytest.MonkeyPatch) -> int:
    """Zeros are written for no more than this many bytes."""
    monkeypatch.setattr(DECOMPRESS, "LEAST_ZEROS", 2000)
    monkeypatch.setattr(DECOMPRESS, "ZEROS_PER_BYTE", 0)
    return 2000


@pytest.mark.usefixtures("few_zeros")
@pytest.mark.parametrize("far", [0, 1, 1999, 2000])
def test_zeros_stand_for_what_may_have_been_lost(far: int):
    data = made_of([plain_block(NOISE[:300], far)], far + 300)
    out = io.BytesIO()
    report = salvage(out, memoryview(data))
    assert out.getvalue() == bytes(far) + NOISE[:300]
    assert gaps_of(report) == ([Gap(0, far, far)] if far else [])
    assert report.ledger["n_bytes"] == 300


@pytest.mark.usefixtures("few_zeros")
@pytest.mark.parametrize("far", [2001, 1 << 40, (1 << 63) - 1])
def test_nothing_is_written_for_more_than_that(far: int):
    """Neither before a block that says it is far away, nor to an end that only the header knows."""
    data = made_of([plain_block(NOISE[:300], 0), plain_block(NOISE[300:], 300 + far)], 300 + far + 600)
    out = io.BytesIO()
    assert gaps_of(salvage(out, memoryview(data))) == [Gap(300, 900 + far, 0)]
    assert out.getvalue() == NOISE[:300]
    data = made_of([plain_block(NOISE[:300], 0)], 300 + far)
    out = io.BytesIO()
    assert gaps_of(salvage(out, memoryview(data))) == [Gap(300, 300 + far, 0)]
    assert out.getvalue() == NOISE[:300]


def test_salvage_holds_one_block_at_a_time():
    pieces = [np.random.default_rng(i).bytes(200_000) for i in range(20)]
    data = memoryview(made_of([plain_block(piece, 200_000 * i) for i, piece in enumerate(pieces)], 4_000_000))
    with tempfile.TemporaryFile() as out:
        tracemalloc.start()
        report = salvage(out, data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert report.ledger["n_bytes"] == 4_000_000
    assert peak < 1_500_000


@pytest.mark.usefixtures("few_zeros")
def test_the_zeros_of_all_gaps_count_together():
    blocks = [plain_block(NOISE[i : i + 100], 1000 * (i // 100 + 1)) for i in range(0, 500, 100)]
    data = made_of(blocks, 6000)
    out = io.BytesIO()
    assert gaps_of(salvage(out, memoryview(data))) == [Gap(0, 1000, 1000), Gap(1100, 2000, 900), Gap(2100, 6000, 0)]
    assert len(out.getvalue()) == 2100


def test_a_header_that_names_no_level_costs_the_blocks_of_online_models_alone():
    blocks = [plain_block(NOISE[:300], 0), online_block(NOISE[300:600], 300, "light"), plain_block(NOISE[600:], 600)]
    data = made_of(blocks, 900)
    with pytest.raises(CorruptArchive, match="names no level"):
        decompress(data)
    out = io.BytesIO()
    assert gaps_of(salvage(out, memoryview(data))) == [Gap(300, 600, 300)]
    assert out.getvalue() == NOISE[:300] + bytes(300) + NOISE[600:]
    assert decompress(made_of(blocks, 900, adapt="light")) == NOISE


def test_a_report_says_what_came_out():
    data = compress(NOISE, talker(), CompressSettings(adapt="none"))
    told = Told()
    report = decompress_to(io.BytesIO(), memoryview(data + data), progress=told)
    assert report.kind == "decompress" and report["data_bytes"] == 1800 and report["decode_speed"] > 0
    assert report.ledger["n_archives"] == 2 and report.ledger["sha256"] == [hashlib.sha256(NOISE).hexdigest()] * 2
    assert told.stages == [("decoding", 1800, "bytes")] and sum(told.numbers) == 1800
    assert json.loads(json.dumps(as_json(report)))["provenance"]["inputs"] == {"archive": {"n_bytes": 2 * len(data)}}
    report = decompress_range(io.BytesIO(), memoryview(data), 5, 25)
    assert report["data_bytes"] == 20 and report.ledger["range"] == [5, 25]
