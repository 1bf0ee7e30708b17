"""The registry of kinds: a new one is one entry."""

import importlib
import io
import sys
import types
import zlib

import pytest
from samples import PROSE, talker
from told import Told

from lmeval.compression import CompressSettings, compress, decompress, decompress_range, inspect
from lmeval.compression.container import plain
from lmeval.compression.container.frame import Block, digest
from lmeval.compression.container.header import Header
from lmeval.compression.container.kinds import REGISTRY, Holder, Home, Lost, kind_of, name_of, one_by_one
from lmeval.errors import CorruptArchive

TEXT = (PROSE * 3).encode()


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
    monkeypatch.setitem(REGISTRY, "toy", Home(7, "toy_kind"))
    return "toy"


def test_one_registration_adds_a_kind(toy: str):
    """It is tried, written, read, described, and takes part in ranges."""
    data = TEXT[:500]
    coded = compress(data, talker(), CompressSettings(adapt="none"))
    (block,) = inspect(memoryview(coded)).tables["blocks"]
    assert block["kind"] == toy
    assert decompress(coded, talker()) == data
    out = io.BytesIO()
    decompress_range(out, memoryview(coded), 7, 90)
    assert out.getvalue() == data[7:90]


def test_a_kind_that_is_not_registered_is_refused(toy: str, monkeypatch: pytest.MonkeyPatch):
    coded = compress(TEXT[:500], talker(), CompressSettings(adapt="none"))
    monkeypatch.delitem(REGISTRY, toy)
    with pytest.raises(CorruptArchive, match="no encoder writes"):
        decompress(coded)


def test_blocks_that_are_decoded_each_by_itself_are_checked_and_may_be_lost():
    blocks = [plain.plain_block(data, 0) for data in (b"abc" * 40, bytes(range(50)), TEXT)]
    blocks[1] = blocks[1]._replace(digest=digest(b"another"))
    told = Told()
    decoders = [kind_of(block.kind).decoder(Header({}, (1, 0), 0, 0), Holder()) for block in blocks]
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
