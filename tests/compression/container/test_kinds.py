"""The registry of kinds: a new one is one entry."""

import importlib
import io
import sys
import types
import zlib

import numpy as np
import pytest
from inspected import gaps_of
from samples import PROSE, talker
from told import Told

from lmeval.compression import CompressSettings, Gap, compress, decompress, decompress_range, inspect, salvage
from lmeval.compression.container import archive, plain
from lmeval.compression.container.frame import Block, digest
from lmeval.compression.container.header import Header
from lmeval.compression.container.kinds import REGISTRY, Holder, Home, Lost, kind_of, name_of, one_by_one, version_of
from lmeval.errors import CorruptArchive, NotAnArchive

TEXT = (PROSE * 3).encode()
LATER = (archive.VERSION[0], archive.VERSION[1] + 1)


def test_codes_are_those_of_the_definition():
    assert [name_of(code) for code in range(8)] == ["stored", "bzip2", "xz", "model", "bits-back", "adapted", "online", None]
    assert len({home.code for home in REGISTRY.values()}) == len(REGISTRY)


@pytest.mark.parametrize("name", REGISTRY)
def test_every_kind_is_where_the_registry_says(name: str):
    assert name in importlib.import_module(REGISTRY[name].module).KINDS


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """Registers a kind: zlib with a dictionary of TEXT itself, so that no other codec comes near."""
    dictionary = TEXT[:4000]

    def encode(data: bytes) -> bytes:
        packer = zlib.compressobj(9, zdict=dictionary)
        return packer.compress(data) + packer.flush()

    def decode(payload: bytes, n_bytes: int) -> bytes:
        try:
            return zlib.decompressobj(zdict=dictionary).decompress(payload, n_bytes)
        except zlib.error as error:
            raise ValueError from error

    home = types.ModuleType("toy_kind")
    home.KINDS = {"toy": plain.codec(encode, decode)}  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "toy_kind", home)
    monkeypatch.setitem(REGISTRY, "toy", Home(7, "toy_kind", LATER))
    return "toy"


def test_one_registration_adds_a_kind(toy: str):
    """It is tried, written, read, described, and takes part in ranges."""
    data = TEXT[:500]
    coded = compress(data, talker(), CompressSettings(adapt="none"))
    report = inspect(memoryview(coded))
    (block,) = report.tables["blocks"]
    assert (block["kind"], report.ledger["format"]) == (toy, "2.1")
    assert decompress(coded, talker()) == data
    out = io.BytesIO()
    decompress_range(out, memoryview(coded), 7, 90)
    assert out.getvalue() == data[7:90]


def test_an_older_reader_asks_for_an_update(toy: str, monkeypatch: pytest.MonkeyPatch):
    """It knows neither the kind nor the version that came with it; what it does know of such an archive it reads."""
    noise = np.random.default_rng(0).bytes(100)
    coded, stored = (compress(data, talker(), CompressSettings(adapt="none")) for data in (TEXT[:500], noise))
    monkeypatch.delitem(REGISTRY, toy)
    with pytest.raises(NotAnArchive, match=r"after format version 2\.0.*the archive has 2\.1.*update"):
        decompress(coded)
    assert decompress(stored) == noise
    out = io.BytesIO()
    assert gaps_of(salvage(out, memoryview(coded))) == [Gap(0, 500, 500)]


def test_a_kind_that_no_version_knows_is_refused(toy: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(REGISTRY, toy, REGISTRY[toy]._replace(since=archive.VERSION))
    coded = compress(TEXT[:500], talker(), CompressSettings(adapt="none"))
    monkeypatch.delitem(REGISTRY, toy)
    with pytest.raises(CorruptArchive, match="no encoder writes"):
        decompress(coded)


def test_an_archive_is_of_the_first_version_that_knew_what_it_may_hold(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(REGISTRY, "toy", Home(7, "toy_kind", LATER, "toy model"))
    needs = {home.needs for home in REGISTRY.values() if home.needs is not None}
    assert needs == {"model", "density", "adapt", "toy model"}
    assert {version_of({key: {}}) for key in needs - {"toy model"}} == {version_of({})} == {(2, 0)}
    assert version_of({"model": {}, "toy model": {}}) == LATER


def test_the_registry_names_no_version_that_readers_do_not_know():
    assert max(home.since for home in REGISTRY.values()) == archive.VERSION
    assert all(home.needs is None for name, home in REGISTRY.items() if kind_of(name).encode)


def test_blocks_that_are_decoded_each_by_itself_are_checked_and_may_be_lost():
    blocks = [plain.plain_block(data, 0) for data in (b"abc" * 40, bytes(range(50)), TEXT)]
    blocks[1] = blocks[1]._replace(digest=digest(b"another"))
    told = Told()
    decoders = [kind_of(block.kind).decoder(Header({}, archive.VERSION, 0, 0), Holder()) for block in blocks]
    pieces = [piece for block, decoder in zip(blocks, decoders, strict=True) for piece in decoder.decode([block], told)]
    assert (pieces[0], pieces[2], isinstance(pieces[1], Lost)) == (b"abc" * 40, TEXT, True)
    assert sum(told.numbers) == 120 + 50 + len(TEXT)
    assert not any(decoder.gathers for decoder in decoders)


def test_the_share_of_what_may_wait_is_of_payloads():
    decoder = one_by_one(lambda block, _: block.payload, 1000)
    block = Block("stored", 0, 0, 100, 0, 0, 0, b"", bytes(250))
    assert decoder.share(block) == 0.25


def test_a_holder_keeps_the_last_and_loads_no_more_than_it_must():
    loaded: list[str] = []
    holder = Holder()

    def get(key: str) -> str:
        return holder.get(key, lambda: loaded.append(key) or key)

    assert [get(key) for key in "aabbba"] == list("aabbba")
    assert loaded == ["a", "b", "a"]
