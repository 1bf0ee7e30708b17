"""Archives with online models: what goes in comes out, at every level, in every kind of block."""

import functools
import importlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inspected import inspected
from samples import ODD_BYTES, PROSE, babble, talker, unigram_tokenizer, with_tokenizer
from told import Told

from lmeval.compression import (
    CompressSettings,
    code_length,
    compress,
    compress_to,
    decompress,
    decompress_range,
)
from lmeval.compression.container.kinds import REGISTRY, Lost
from lmeval.errors import CorruptArchive, NumericalDrift
from lmeval.models import CausalLM
from lmeval.results import Report

BLOCKS, PLAN = (importlib.import_module(f"lmeval.compression.text.{name}") for name in ("blocks", "plan"))
ROWS = b"".join(b"%d,%d,%d\r\n" % (i, i * i, i % 7) for i in range(200))
UNIGRAM = functools.cache(lambda: with_tokenizer(unigram_tokenizer()))


def compressed(data: bytes, model: CausalLM, **settings: Any) -> tuple[bytes, Report]:
    out = io.BytesIO()
    report = compress_to(out, memoryview(data), model, CompressSettings(**settings))
    return out.getvalue(), report


def kinds_of(data: bytes) -> list[str]:
    return [block["kind"] for part in inspected(memoryview(data)) for block in part["blocks"]]


@pytest.mark.parametrize("adapt", ["light", "full"])
@pytest.mark.parametrize("lanes", [None, 3])
def test_what_the_model_knows_is_adapted(lanes: int | None, adapt: str):
    data = babble(600)
    coded, report = compressed(data, talker(), adapt=adapt, lanes=lanes)
    assert kinds_of(coded) == ["adapted"]
    assert inspected(memoryview(coded))[0]["format"] == "2.0"
    assert inspected(memoryview(coded))[0]["adapt"] == adapt == report.ledger["adapt"]
    assert inspected(memoryview(coded))[0]["blocks"][0]["n_lanes"] == (lanes or 1)
    assert report.ledger["verified"] and report.ledger["n_not_verified"] == 0
    assert decompress(coded, talker()) == data


@pytest.mark.parametrize("kind", ["empty", "one odd byte", "odd and text", "zeros", "random", "leading spaces"])
@pytest.mark.parametrize("name", ["talker", "unigram"])
def test_any_bytes(name: str, kind: str):
    data, model = ODD_BYTES[kind][:600], talker() if name == "talker" else UNIGRAM()
    coded, report = compressed(data, model, adapt="light")
    assert decompress(coded, model) == data
    assert report.ledger["n_archive_bytes"] == len(coded) <= len(data) + 400


def test_what_no_token_spells_is_coded_by_online_models_alone():
    coded, report = compressed(PROSE.upper().encode() * 5, UNIGRAM(), adapt="full")
    assert kinds_of(coded)[0] in ("online", "xz", "bzip2")
    assert report.ledger["model"] is None and report.ledger["model_bytes"] == 0
    assert decompress(coded) == PROSE.upper().encode() * 5


def small_blocks(monkeypatch: pytest.MonkeyPatch, n_bytes: int = 700) -> None:
    monkeypatch.setattr(PLAN, "ADAPTED_BLOCK_DECISIONS", 8 * n_bytes)
    monkeypatch.setattr(PLAN, "CUT_BYTES", 1)


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, bytes]:
    """An archive of adapted, online and other blocks, and its data."""
    small_blocks(monkeypatch)
    data = babble(1400) + (ROWS * 2)[:700] + babble(700, seed=1) + bytes(700) + np.random.default_rng(0).bytes(700)
    coded, report = compressed(data, talker(), lanes=7)
    assert report.ledger["n_blocks"] == {kind: kinds_of(coded).count(kind) for kind in REGISTRY}
    return coded, data


def test_blocks_of_all_kinds(mixed: tuple[bytes, bytes]):
    coded, data = mixed
    kinds = kinds_of(coded)
    assert kinds[:2] == ["adapted"] * 2 and kinds[-1] == "stored" and len(kinds) == 6
    assert decompress(coded, talker()) == data
    assert decompress(coded + compress(data[:99], talker(), CompressSettings(adapt="none")) + coded, talker()) == (
        data + data[:99] + data
    )


@pytest.mark.parametrize("span", [(0, 0), (0, 1), (699, 701), (1390, 2110), (3000, 3001), (2099, None)], ids=str)
def test_ranges_are_slices(mixed: tuple[bytes, bytes], span: tuple[int, int | None]):
    coded, data = mixed
    out = io.BytesIO()
    decompress_range(out, memoryview(coded), *span, talker())
    assert out.getvalue() == data[slice(*span)]


def test_an_account_of_every_bit(mixed: tuple[bytes, bytes]):
    coded, data = mixed
    report = code_length(data, talker(), CompressSettings(lanes=7))
    assert (report.ledger["n_archive_bytes"], report.ledger["verified"]) == (len(coded), False)
    blocks = inspected(memoryview(coded))[0]["blocks"]
    assert report.ledger["n_payload_bytes"] == sum(block["payload_bytes"] for block in blocks)
    by_model = [block for block in blocks if block["kind"] == "adapted"]
    assert sum(report.ledger["length_bits"].values()) == pytest.approx(8 * sum(block["payload_bytes"] for block in by_model))
    assert report.ledger["model_bytes"] == sum(block["n_bytes"] for block in by_model)
    assert report.ledger["length_bits"]["adaptation"] != 0


def test_progress_counts_every_byte(monkeypatch: pytest.MonkeyPatch):
    small_blocks(monkeypatch)
    data, told = babble(900) + np.random.default_rng(0).bytes(200), Told()
    out = io.BytesIO()
    compress_to(out, memoryview(data), talker(), CompressSettings(lanes=5), progress=told)
    assert sum(told.counts["encoding"]) == len(data)
    checked = sum(
        b["n_bytes"] for b in inspected(memoryview(out.getvalue()))[0]["blocks"] if b["kind"] in ("adapted", "online")
    )
    assert abs(sum(told.counts["verifying"]) - checked) <= 10


def test_archives_of_the_same_input_are_the_same():
    assert compress(babble(500), talker()) == compress(babble(500), talker())


def test_without_adaptation_an_archive_is_made_like_the_golden_one():
    """What is in an archive without online models: what is in a golden one."""
    golden = Path(__file__).resolve().parents[2] / "compression" / "golden"
    data = (golden / "v2.0-table.data").read_bytes()
    coded = compress(data, "bundled", CompressSettings(adapt="none"))
    golden_one, new = (inspected(memoryview(raw))[0] for raw in ((golden / "v2.0-table.lmz").read_bytes(), coded))
    assert new["format"] == "2.0" and "adapt" not in new
    assert new["model"].keys() == golden_one["model"].keys()
    assert [b["kind"] for b in new["blocks"]] == [b["kind"] for b in golden_one["blocks"]]


# Which way a block is coded.


def ways_tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    tried: list[str] = []
    encode_tokens, online_block = BLOCKS.encode_tokens, BLOCKS.online_block
    monkeypatch.setattr(BLOCKS, "encode_tokens", lambda *a: tried.append("model") or encode_tokens(*a))
    monkeypatch.setattr(BLOCKS, "online_block", lambda *a: tried.append("alone") or online_block(*a))
    return tried


def test_small_blocks_are_coded_both_ways(monkeypatch: pytest.MonkeyPatch):
    tried = ways_tried(monkeypatch)
    compressed(babble(600), talker(), verify=False, adapt="light")
    assert tried == ["model", "alone"]


@pytest.mark.parametrize(("hopeless", "way"), [(1e-9, "alone"), (1e9, "model")])
def test_large_blocks_are_probed(monkeypatch: pytest.MonkeyPatch, hopeless: float, way: str):
    tried = ways_tried(monkeypatch)
    monkeypatch.setattr(BLOCKS, "BOTH_BYTES", 500)
    monkeypatch.setattr(BLOCKS, "ADAPTED_HOPELESS", hopeless)
    compressed(babble(600), talker(), verify=False, adapt="light", context=20)
    assert tried == [way]


def test_what_nothing_shortens_is_not_tried(monkeypatch: pytest.MonkeyPatch):
    tried = ways_tried(monkeypatch)
    coded, _ = compressed(np.random.default_rng(1).bytes(5000), talker())
    assert tried == [] and kinds_of(coded) == ["stored"]


def test_a_grid_without_safe_phases_leaves_the_online_models(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BLOCKS, "BOTH_BYTES", 0)
    monkeypatch.setattr(BLOCKS, "encode_tokens", lambda *a: None)
    coded, _ = compressed(ROWS, talker(), adapt="full")
    assert kinds_of(coded)[0] in ("online", "xz", "bzip2")
    assert decompress(coded) == ROWS


def test_blocks_that_do_not_decode_are_coded_without_the_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BLOCKS, "decode_blocks", lambda *a: [Lost(NumericalDrift("astray"))])
    coded, report = compressed(babble(900), talker(), lanes=5)
    assert report.ledger["n_not_verified"] == 1 and kinds_of(coded)[0] != "adapted"
    assert "model" not in inspected(memoryview(coded))[0]
    assert decompress(coded) == babble(900)


@pytest.mark.parametrize("found", [b"something else", CorruptArchive("damaged")], ids=str)
def test_online_blocks_are_verified_too(monkeypatch: pytest.MonkeyPatch, found: bytes | CorruptArchive):
    def failing(*_: Any) -> bytes:
        if isinstance(found, CorruptArchive):
            raise found
        return found

    monkeypatch.setattr(BLOCKS, "encode_tokens", lambda *a: None)
    monkeypatch.setattr(BLOCKS, "online_data", failing)
    coded, _ = compressed(ROWS, talker())
    assert "online" not in kinds_of(coded)
    assert decompress(coded) == ROWS
