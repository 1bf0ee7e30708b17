import base64
import bz2
import contextlib
import copy
import functools
import hashlib
import importlib
import io
import itertools
import json
import lzma
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from inspected import gaps_of, inspected
from samples import llama_config, model_archive, model_settings, network

from lmeval.compression import Gap, decompress, decompress_range, decompress_to, salvage
from lmeval.compression.coding.coder import BitReader, decode_ranks
from lmeval.compression.container import archive, frame, plain
from lmeval.compression.container.header import _ADAPTED_DICTIONARY, _DICTIONARY
from lmeval.compression.container.kinds import REGISTRY, Holder, Lost, kind_of
from lmeval.compression.text.online_only import online_block
from lmeval.errors import ArchiveError, CorruptArchive, LmevalError, NotAnArchive, NumericalDrift
from lmeval.models import CausalLM, from_pair
from lmeval.models.toys import byte_tokenizer
from lmeval.progress import SILENT

SEED = 11
PROLOGUE, BLOCK, LINE, FOOTER = (struct.Struct(form) for form in ("<8sBBHI", "<4sIIQBBHII8sI", "<II", "<IQI"))
KIND, FLAGS, LANES, TOKENS, GROUP = 4, 5, 6, 7, 8  # fields of a block
FIELDS = ("magic", "stored", "n_bytes", "offset", "kind", "flags", "n_lanes", "n_tokens", "group_tokens", "digest", "crc")


@functools.cache
def mini() -> CausalLM:
    """One layer, 16 wide: it reads a token in a millisecond."""
    config = llama_config(64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return from_pair(network(config), byte_tokenizer(), name="mini")


def plain_archive(pieces: list[bytes], **meta: Any) -> bytes:
    out, data = io.BytesIO(), b"".join(pieces)
    header = archive.write_header(out, {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} | meta)
    size, lines, offset = out.tell(), [], 0
    for piece in pieces:
        lines.append(archive.write_block(out, plain.plain_block(piece, offset), header.seed))
        offset += len(piece)
    archive.write_end(out, lines, size, header.seed)
    return out.getvalue()


def online_archive(pieces: list[bytes], level: str = "full") -> bytes:
    """As plain_archive, by online models alone."""
    data = b"".join(pieces)
    loose = taken_apart(plain_archive(pieces))
    loose.prologue[2] = 2
    loose.meta = json.dumps(json.loads(loose.meta) | {"adapt": level, "n_bytes": len(data)}).encode()
    blocks = [online_block(piece, 0, level) for piece in pieces]
    loose.blocks = [[b"LMZB", 0, b.n_bytes, 0, 6, 0, 1, b.n_bytes, 0, b.digest, 0] for b in blocks]
    loose.payloads = [block.payload for block in blocks]
    return loose.reindexed().sealed()


NOISE = np.random.default_rng(0).bytes(50)
WORDS = b" ".join(np.random.default_rng(1).choice([b"one", b"two", b"three", b"four"], 200).tolist())
LETTERS = b"It was a bright cold day."
PLAIN: dict[str, list[bytes]] = {
    "empty": [],
    "stored": [NOISE],
    "xz": [b"abc" * 40],
    "bzip2": [WORDS],
    "three": [NOISE[:20], b"abc" * 20, NOISE[20:]],
}
CODED: dict[str, tuple[list[bytes], int]] = {
    "model": ([LETTERS], 5),
    "odd": ([b"\xff\x00" + NOISE[:11]], 2),
    "mixed": ([LETTERS[:11], b"abc" * 20, LETTERS[11:]], 0),  # model, xz, model
    "two": ([LETTERS[:12], LETTERS[12:]], 3),
}
ADAPTED: dict[str, tuple[list[bytes], int, str]] = {
    "adapted": ([LETTERS], 5, "full"),
    "light": ([LETTERS], 2, "light"),
    "adapted and online": ([LETTERS[:11], NOISE[:9], LETTERS[11:]], 0, "full"),  # adapted, online, adapted
}


@functools.cache
def archives() -> dict[str, tuple[bytes, bytes]]:
    """Small archives of every sort, with their data."""
    made = {name: (plain_archive(pieces), b"".join(pieces)) for name, pieces in PLAIN.items()}
    settings = model_settings(mini(), window=12, overlap=3)
    for name, (pieces, lanes) in CODED.items():
        canary = 2 if name == "model" else 0  # it takes longer than all the rest
        made[name] = (model_archive(mini(), pieces, lanes, settings, canary), b"".join(pieces))
    for name, (pieces, lanes, level) in ADAPTED.items():
        canary = 2 if name == "adapted" else 0
        made[name] = (model_archive(mini(), pieces, lanes, settings._replace(adapt=level), canary), b"".join(pieces))
    made["online"] = (online_archive([NOISE[:20]]), NOISE[:20])
    for name, parts in TOGETHER.items():
        made[name] = (b"".join(made[part][0] for part in parts), b"".join(made[part][1] for part in parts))
    return made


TOGETHER = {
    "together": ("stored", "model"),
    "three together": ("xz", "empty", "stored"),
    "of two versions": ("stored", "online"),
}
NAMES = (*PLAIN, *CODED, *ADAPTED, "online", *TOGETHER)


def gap(first: int, stop: int) -> Gap:
    return Gap(first, stop, stop - first)


def plain_data(block: frame.Block) -> bytes:
    header = archive.Header({}, (1, 0), 0, 0)
    (data,) = kind_of(block.kind).decoder(header, Holder()).decode([block], SILENT)
    if isinstance(data, Lost):
        raise data.error
    return data


def kinds_of(data: bytes) -> list[str]:
    return [block["kind"] for part in inspected(memoryview(data)) for block in part["blocks"]]


def is_coded(data: bytes) -> bool:
    """Whether a model is in it, of a language or online."""
    return not {"model", "adapted", "online"}.isdisjoint(kinds_of(data))


@dataclass
class Loose:
    """An archive taken apart by its definition; `sealed` puts it together with checksums that fit, whatever was changed."""

    prologue: list[Any]
    meta: bytes
    blocks: list[list[Any]]
    payloads: list[bytes]
    index: list[tuple[int, int]]
    lies: dict[str, int] = field(default_factory=dict)

    def sealed(self) -> bytes:
        text = self.meta if self.lies.get("raw meta") else self.packed_meta()
        head = PROLOGUE.pack(*self.prologue[:4], self.lies.get("meta size", len(text))) + text
        seed = zlib.crc32(head)
        out = head + struct.pack("<I", seed)
        for fields, payload in zip(self.blocks, self.payloads, strict=True):
            packed = BLOCK.pack(*fields[:-1], zlib.crc32(payload))
            out += packed + struct.pack("<I", zlib.crc32(packed, seed)) + payload
        index = b"LMZI" + struct.pack("<I", self.lies.get("n lines", len(self.index)))
        index += b"".join(LINE.pack(*line) for line in self.index)
        index += struct.pack("<I", zlib.crc32(index, seed))
        length = len(out) + len(index) + FOOTER.size + 12
        footer = FOOTER.pack(self.lies.get("index size", len(index)), self.lies.get("length", length), seed)
        return out + index + footer + struct.pack("<I", zlib.crc32(footer)) + archive.MAGIC[::-1]

    def packed_meta(self) -> bytes:
        if self.prologue[2] < 2:
            return zlib.compress(self.meta, 9)
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        return bytes.fromhex(json.loads(self.meta)["sha256"]) + packer.compress(self.meta) + packer.flush()

    def reindexed(self) -> "Loose":
        """With an index, offsets and lengths that fit the blocks."""
        self.index, offset = [], 0
        for fields, payload in zip(self.blocks, self.payloads, strict=True):
            fields[1], fields[3] = len(payload), offset
            self.index.append((BLOCK.size + 4 + len(payload), fields[2]))
            offset += fields[2]
        return self

    def with_meta(self, **changes: Any) -> "Loose":
        self.meta = json.dumps(json.loads(self.meta) | changes).encode()
        return self


def taken_apart(data: bytes) -> Loose:
    """Without the module under test, but for the dictionaries."""
    fields = list(PROLOGUE.unpack(data[: PROLOGUE.size]))
    position = PROLOGUE.size + fields[4]
    if fields[2] < 2:
        meta = zlib.decompressobj(zdict=_DICTIONARY).decompress(data[PROLOGUE.size : position])
    else:
        sha256, rest = data[PROLOGUE.size : PROLOGUE.size + 32].hex(), data[PROLOGUE.size + 32 : position]
        unpacker = zlib.decompressobj(-15, zdict=_ADAPTED_DICTIONARY)
        meta = json.dumps(json.loads(unpacker.decompress(rest)) | {"sha256": sha256}).encode()
    seed = zlib.crc32(data[:position])
    assert struct.unpack("<I", data[position : position + 4])[0] == seed
    position, blocks, payloads, lines = position + 4, [], [], []
    while data[position : position + 4] == b"LMZB":
        block = list(BLOCK.unpack(data[position : position + BLOCK.size]))
        begin = position + BLOCK.size + 4
        assert struct.unpack("<I", data[begin - 4 : begin])[0] == zlib.crc32(data[position : begin - 4], seed)
        blocks.append(block)
        payloads.append(data[begin : begin + block[1]])
        assert zlib.crc32(payloads[-1]) == block[-1]
        lines.append((BLOCK.size + 4 + block[1], block[2]))
        position = begin + block[1]
    return Loose(fields, meta, blocks, payloads, lines)


def outcome(data: bytes, expected: bytes, read: Callable[[bytes], bytes] | None = None) -> str:
    """What comes of it: "exact", or the name of an error of ours. Anything else fails."""
    try:
        found = (read or (lambda given: decompress(given, mini())))(data)
    except LmevalError as error:
        assert "\n" not in str(error)
        return type(error).__name__
    assert found == expected
    return "exact"


def by_range(data: bytes) -> bytes:
    out = io.BytesIO()
    decompress_range(out, memoryview(data), 0, None, mini())
    return out.getvalue()


def salvaged(data: bytes | memoryview) -> tuple[bytes, list[Gap]]:
    out = io.BytesIO()
    gaps = gaps_of(salvage(out, memoryview(data), mini()))
    return out.getvalue(), gaps


# What is written is read.


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_read(name: str):
    data, expected = archives()[name]
    assert decompress(data, mini()) == expected
    assert by_range(data) == expected
    view, position, total = memoryview(data), 0, b""
    for part in archive.read_index(view):
        header, begin = archive.read_header(view, position)
        assert (header, position, begin) == (part.header, part.start, part.blocks_begin)
        blocks = list(archive.Blocks(view, begin, header))
        assert [archive.read_block(view, entry.position, header) for entry in part.entries] == blocks
        assert [(e.offset, e.n_bytes, e.stored - archive.BLOCK_OVERHEAD) for e in part.entries] == [
            (b.offset, b.n_bytes, len(b.payload)) for b in blocks
        ]
        end = part.entries[-1].position + part.entries[-1].stored if part.entries else begin
        assert archive.read_block(view, end, header) is None
        position = archive.read_end(view, end, header)
        assert position == part.stop
        assert [archive.read_entry(view, entry, header) for entry in part.entries] == blocks
        assert tuple(archive.intact_entries(view, begin, header))[: len(blocks)] == part.entries
        total += b"".join(plain_data(b) for b in blocks if b.kind in plain.KINDS)
    assert position == len(data)
    assert len(total) == len(expected) or is_coded(data)


def test_samples_are_of_the_kinds_they_should_be():
    kinds = {name: kinds_of(archives()[name][0]) for name in NAMES}
    assert kinds["three"] == ["stored", "xz", "stored"]
    assert kinds["mixed"] == ["model", "xz", "model"]
    assert kinds["together"] == ["stored", "model"]
    assert {kind for found in kinds.values() for kind in found} == set(REGISTRY) - {"bits-back"}
    assert kinds["empty"] == []
    assert kinds["adapted"] == kinds["light"] == ["adapted"]
    assert kinds["adapted and online"] == ["adapted", "online", "adapted"]
    assert kinds["online"] == ["online"]


@pytest.mark.parametrize("name", ["empty", "stored", "three", "mixed", "adapted", "online"])
def test_the_layout_is_that_of_the_definition(name: str):
    data, expected = archives()[name]
    loose = taken_apart(data)
    assert outcome(loose.sealed(), expected) == "exact"  # a reader takes metadata without the dictionary, too
    header = PROLOGUE.size + loose.prologue[4]
    loose.lies, loose.meta = {"raw meta": 1}, data[PROLOGUE.size : header]
    assert loose.sealed() == data
    assert data[:8] == b"\x89LMZ\r\n\x1a\n"
    assert list(data[8:12]) == [1, 2 if name in ("adapted", "online") else 0, 0, 0]


@pytest.mark.parametrize("data", [b"", b"x", NOISE, b"abc" * 500, WORDS, bytes(5000)], ids=str)
def test_plain_blocks_take_the_shortest_codec(data: bytes):
    block = plain.plain_block(data, 7)
    assert plain_data(block) == data
    assert len(block.payload) <= len(data)
    assert block[1:7] == (0, 7, len(data), 0, 0, 0)
    assert block.digest == hashlib.blake2b(data, digest_size=8).digest()


@pytest.mark.parametrize("name", ["xz", "bzip2", "stored"])
@pytest.mark.parametrize("change", [{"n_bytes": -1}, {"n_bytes": 1}, {"digest": b"12345678"}], ids=str)
def test_plain_data_that_are_not_what_was_written_are_refused(name: str, change: dict[str, Any]):
    block = plain.plain_block(PLAIN[name][0], 0)
    if "n_bytes" in change:
        change = {"n_bytes": block.n_bytes + change["n_bytes"]}
    with pytest.raises(CorruptArchive, match="checksum"):
        plain_data(block._replace(**change))


@pytest.mark.parametrize("kind", [plain.BZIP2, plain.XZ])
def test_any_payload_of_a_codec_is_refused(kind: int):
    rng = np.random.default_rng(2)
    block = plain.plain_block(WORDS, 0)
    for payload in [b"", b"\0", *(rng.bytes(n) for n in (1, 5, 80) for _ in range(30))]:
        with pytest.raises(CorruptArchive, match="block of bytes 0 to"):
            plain_data(block._replace(kind=kind, payload=payload))


def test_an_archive_of_an_empty_input_is_one():
    data = archives()["empty"][0]
    assert decompress(data) == b""
    assert [part.entries for part in archive.read_index(memoryview(data))] == [()]


def test_archives_one_behind_the_other_are_their_data():
    names = ("xz", "empty", "model", "stored", "adapted", "model", "online")
    data = b"".join(archives()[name][0] for name in names)
    expected = b"".join(archives()[name][1] for name in names)
    assert decompress(data, mini()) == by_range(data) == expected
    assert len(archive.read_index(memoryview(data))) == len(names)
    for first in range(0, len(expected), 13):
        out = io.BytesIO()
        decompress_range(out, memoryview(data), first, first + 9, mini())
        assert len(out.getvalue()) == 9
        assert out.getvalue() == expected[first : first + 9]
        if first + 22 > len(expected):
            break


@pytest.mark.parametrize("behind", [b"\0", b"garbage that is long enough to be a header", archive.MAGIC, NOISE])
def test_what_follows_an_archive_is_another_or_refused(behind: bytes):
    data = archives()["stored"][0] + behind
    for read in (decompress, by_range):
        with pytest.raises(ArchiveError):
            read(data)


# Limits.


@pytest.mark.parametrize("data", [b"", b"x", b"\x89PNG\r\n\x1a\n" + bytes(60), b"\x89LMZ\r\n\x1a\r" + bytes(60), bytes(99)])
def test_what_does_not_begin_with_the_signature_is_no_archive(data: bytes):
    for read in (decompress, by_range, salvaged, lambda given: inspected(memoryview(given))):
        with pytest.raises(NotAnArchive):
            read(data)


@pytest.mark.parametrize(("place", "value"), [(1, 0), (1, 2), (1, 255), (3, 1), (3, 65535)])
def test_other_versions_are_refused_by_name(place: int, value: int):
    loose = taken_apart(archives()["stored"][0])
    loose.prologue[place] = value
    with pytest.raises(NotAnArchive, match=r"version"):
        decompress(loose.sealed())


def test_a_later_minor_version_is_read():
    loose = taken_apart(archives()["stored"][0])
    loose.prologue[2] = 7
    assert outcome(loose.with_meta(new_key=[1]).sealed(), NOISE) == "exact"
    assert inspected(memoryview(loose.sealed()))[0]["format"] == "1.7"


NO_ENCODER = {
    "kind": (KIND, 7),
    "largest kind": (KIND, 255),
    "flags": (FLAGS, 2),
    "all flags": (FLAGS, 255),
    "lanes": (LANES, frame.MAX_LANES + 1),
    "no lanes": (LANES, 0),
    "more lanes than tokens": (LANES, len(LETTERS) + 1),
    "no tokens": (TOKENS, 0),
    "more tokens than bytes": (TOKENS, len(LETTERS) + 2),
    "tokens": (TOKENS, 2**32 - 1),
    "no group": (GROUP, 0),
    "a group of more than all": (GROUP, len(LETTERS) + 1),
    "bytes": (2, frame.MAX_BLOCK_BYTES + 1),
}


@pytest.mark.parametrize("of", ["model", "adapted"])
@pytest.mark.parametrize("name", NO_ENCODER)
def test_what_no_encoder_writes_is_refused(name: str, of: str):
    loose = taken_apart(archives()[of][0])
    place, value = NO_ENCODER[name]
    loose.blocks[0][place] = value
    with pytest.raises(CorruptArchive, match="no encoder writes"):
        decompress(loose.sealed(), mini())


@pytest.mark.parametrize(
    ("place", "value"),
    [(FLAGS, 1), (LANES, 0), (LANES, 2), (TOKENS, 0), (TOKENS, 19), (TOKENS, 21), (GROUP, 1), (2, 0), (2, 1 << 23)],
)
def test_what_no_encoder_of_online_blocks_writes_is_refused(place: int, value: int):
    loose = taken_apart(archives()["online"][0])
    loose.blocks[0][place] = value
    with pytest.raises(CorruptArchive, match="no encoder writes"):
        decompress(loose.sealed())


@pytest.mark.parametrize("payload", [b"", b"\0", b"\3", b"\xff", b"\1word", b"\2" + bytes(8)])
def test_an_online_payload_that_no_encoder_writes_is_refused(payload: bytes):
    loose = taken_apart(archives()["online"][0])
    loose.payloads[0] = payload
    data = loose.reindexed().sealed()
    with pytest.raises(CorruptArchive):
        decompress(data)
    assert salvaged(data) == (bytes(20), [gap(0, 20)])


@pytest.mark.parametrize("level", [None, "none", "fuller", [], 1])
def test_adapted_blocks_of_no_level_are_refused(level: Any):
    loose = taken_apart(archives()["adapted"][0])
    meta = json.loads(loose.meta)
    loose.meta = json.dumps({key: value for key, value in meta.items() if key != "adapt"}).encode()
    with pytest.raises(CorruptArchive, match=r"no level of adaptation|no encoder writes"):
        decompress((loose if level is None else loose.with_meta(adapt=level)).sealed(), mini())


def test_online_models_of_another_level_do_not_decode():
    loose = taken_apart(archives()["adapted"][0])
    assert outcome(loose.with_meta(adapt="light").sealed(), LETTERS) in ("NumericalDrift", "exact")
    loose = taken_apart(archives()["online"][0])
    loose.payloads[0] = b"\1" + loose.payloads[0][1:]
    assert outcome(loose.sealed(), NOISE[:20]) in ("CorruptArchive", "exact")


def test_a_block_of_more_lanes_than_allowed_is_refused():
    loose = taken_apart(archives()["model"][0])
    loose.blocks[0][2] = loose.blocks[0][TOKENS] = 5000
    loose.blocks[0][LANES] = frame.MAX_LANES + 1
    with pytest.raises(CorruptArchive, match="no encoder writes"):
        decompress(loose.sealed(), mini())


def test_words_that_no_decision_needs_are_refused():
    loose = taken_apart(archives()["model"][0])
    _, size = decode_ranks(loose.payloads[0], 1)
    loose.payloads[0] = loose.payloads[0][:size] + b"word" + loose.payloads[0][size:]
    with pytest.raises(NumericalDrift, match="decode to something else"):
        decompress(loose.reindexed().sealed(), mini())


def test_a_coder_that_is_not_used_up_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BitReader, "used_up", lambda self: False)
    monkeypatch.setattr("lmeval.compression.text.decode.is_used_up", lambda stack: False)
    assert outcome(archives()["model"][0], LETTERS) == "NumericalDrift"


def test_a_block_of_more_tokens_than_allowed_is_refused():
    loose = taken_apart(archives()["model"][0])
    loose.blocks[0][2] = loose.blocks[0][TOKENS] = frame.MAX_BLOCK_UNITS + 1
    with pytest.raises(CorruptArchive, match="no encoder writes"):
        decompress(loose.sealed(), mini())


def header_of(text: bytes, size: int | None = None) -> bytes:
    head = PROLOGUE.pack(archive.MAGIC, 1, 0, 0, len(text) if size is None else size) + text
    return head + struct.pack("<I", zlib.crc32(head))


def test_headers_up_to_the_limit():
    data, limit = b'{"n_bytes":0}', archive.MAX_HEADER_BYTES
    stored = zlib.compress(data, 0)
    archive.read_header(memoryview(header_of(stored + bytes(limit - len(stored)))))
    with pytest.raises(CorruptArchive, match="header"):
        archive.read_header(memoryview(header_of(stored + bytes(limit + 1 - len(stored)))))
    for n, whole in ((limit - 20, True), (limit + 1, False)):
        text = zlib.compress(b'{"n_bytes":0}' + b" " * n + b" " * (limit - n - len(data) if whole else 0))
        assert len(text) < 3000
        if whole:
            archive.read_header(memoryview(header_of(text)))
    bomb = zlib.compress(b'{"n_bytes":0,"x":"' + b"a" * (20 * limit) + b'"}')
    with pytest.raises(CorruptArchive, match="header"):
        archive.read_header(memoryview(header_of(bomb)))


METAS = [
    b"",
    b"{}",
    b"[]",
    b"0",
    b"null",
    b'"n_bytes"',
    b'["n_bytes"]',
    b'{"n_bytes":-1}',
    b'{"n_bytes":"1"}',
    b'{"n_bytes":1.5}',
    b'{"n_bytes":null}',
    b'{"n_bytes":1e400}',
    b'{"n_bytes":NaN}',
    b"[" * 100_000,
    b'{"n_bytes":' + b"9" * 5000 + b"}",
    b"\xff\xfe\x00{",
    b'{"n_bytes":0',
    b"not json",
]


@pytest.mark.parametrize("meta", METAS, ids=lambda meta: repr(meta[:20]))
def test_metadata_that_cannot_be_are_refused(meta: bytes):
    with pytest.raises(CorruptArchive, match="header"):
        archive.read_header(memoryview(header_of(zlib.compress(meta))))


def test_metadata_that_are_not_zlib_are_refused():
    for text in (b"", b"x", b'{"n_bytes":0}', zlib.compress(b'{"n_bytes":0}')[:-6]):
        with pytest.raises(CorruptArchive, match="header"):
            archive.read_header(memoryview(header_of(text)))


HOSTILE: list[Any] = [None, -1, 0, 1, 2**31, 2**70, 0.5, -1e9, 1e-320, float("nan"), "", "x", "é", [], {}, [[]], True]
HOSTILE_KEYS = [
    ("n_bytes",), ("sha256",), ("model",), ("made_on",), ("versions",), *[("model", key) for key in (
        "name", "weights_sha256", "vocabulary_sha256", "dtype", "tree_depth", "window", "overlap", "start_id", "grid_cells",
        "margin_nats", "epsilon_nats", "drift_nats", "canary_ids", "canary_log_probs")],
]  # fmt: skip


def with_hostile_meta(keys: tuple[str, ...], value: Any) -> bytes:
    loose = taken_apart(archives()["model"][0])
    meta = json.loads(loose.meta)
    inner = meta if len(keys) == 1 else meta[keys[0]]
    inner[keys[-1]] = value
    loose.meta = json.dumps(meta).encode()
    return loose.sealed()


@pytest.mark.parametrize("keys", [keys for keys in HOSTILE_KEYS if keys[-1] != "tree_depth"], ids="-".join)
def test_hostile_metadata_with_a_good_checksum(keys: tuple[str, ...]):
    for value in [*HOSTILE, "MISSING"]:
        data = with_hostile_meta(keys, value)
        for read in (None, by_range):
            found = outcome(data, LETTERS, read)
            if keys[-1] in ("weights_sha256", "vocabulary_sha256"):
                assert found == ("CorruptArchive" if value != value else "ModelMismatch")  # JSON has no NaN
            if keys[-1] in ("sha256", "n_bytes") and read is None:
                assert found == "CorruptArchive"


@pytest.mark.parametrize("depth", [-1, -(2**70), 2**70])
def test_a_hostile_depth_is_refused(depth: int):
    assert outcome(with_hostile_meta(("model", "tree_depth"), depth), LETTERS) == "CorruptArchive"


@pytest.mark.parametrize("depth", [0, 33, 10, 7, 1, None, "x", [], 0.5])
def test_a_depth_that_does_not_fit_is_refused(depth: Any):
    found = outcome(with_hostile_meta(("model", "tree_depth"), depth), LETTERS)
    assert found in ("CorruptArchive", "NumericalDrift")


HUGE = [
    pytest.param(
        keys,
        float("inf"),
        id="-".join(keys),
    )
    for keys in HOSTILE_KEYS
    if keys[-1] in ("window", "overlap", "start_id", "tree_depth", "grid_cells", "margin_nats", "epsilon_nats", "drift_nats")
]


@pytest.mark.parametrize(("keys", "value"), HUGE)
def test_infinite_numbers_in_metadata_are_refused(keys: tuple[str, ...], value: float):
    assert outcome(with_hostile_meta(keys, value), LETTERS) == "CorruptArchive"


@pytest.mark.parametrize(
    "keys", [("model", "margin_nats"), ("model", "epsilon_nats"), ("model", "drift_nats")], ids="-".join
)
def test_numbers_in_metadata_that_no_float_holds_are_refused(keys: tuple[str, ...]):
    assert outcome(with_hostile_meta(keys, 10**400), LETTERS) == "CorruptArchive"


def test_canary_ids_that_the_model_lacks_are_refused():
    model = from_pair(network(llama_config(vocab_size=600)), byte_tokenizer())
    loose = taken_apart(model_archive(model, [LETTERS]))
    inner = json.loads(loose.meta)["model"] | {"tree_depth": 10, "canary_ids": [1000, 65]}
    with pytest.raises(ArchiveError):
        decompress(loose.with_meta(model=inner).sealed(), model)


@pytest.mark.parametrize(
    "made_on",
    [None, {}, [], 0, "x", {"device": 3}],
)
def test_a_drift_is_named_whatever_the_header_says_of_its_making(made_on: Any):
    loose = taken_apart(archives()["model"][0])
    far = base64.b64encode(np.array([-50.0, -50.0], dtype="<f4").tobytes()).decode()
    loose.with_meta(made_on=made_on, model=json.loads(loose.meta)["model"] | {"canary_log_probs": far})
    assert outcome(loose.sealed(), LETTERS) == "NumericalDrift"


# Damage.


def damaged(data: bytes, other: bytes, rng: np.random.Generator, every: int) -> Iterator[bytes]:
    """All single-bit flips (or one in `every`), all truncations, and random changes of all sorts."""
    n = len(data)
    for i in range(0, n, max(1, every // 8)):
        bits = range(8) if every == 1 else rng.choice(8, max(1, 8 // every), replace=False)
        for bit in bits:
            yield data[:i] + bytes([data[i] ^ 1 << int(bit)]) + data[i + 1 :]
        yield data[:i]
        if i % every == 0:
            yield data[i:] if i else data + data[:7]
            yield data[:i] + bytes([int(rng.integers(256))]) + data[i + 1 :]
            yield data[:i] + rng.bytes(int(rng.integers(1, 9))) + data[i:]
            yield data[:i] + data[i + int(rng.integers(1, 9)) :]
            j, k = sorted(rng.integers(0, n, 2).tolist())
            yield data[:j] + data[k:] + data[j:k]
            yield data[:k] + data[j:]
            yield data[:i] + other[i:]
            yield data[:i] + bytes(min(n - i, 40)) + data[i + 40 :]
            a, b = sorted(rng.integers(0, len(other), 2).tolist())
            yield data[:i] + other[a:b] + data[i:]


def damages(name: str) -> Iterator[bytes]:
    """All damages of a sample; fewer where every one costs a model's pass."""
    data, other = (archives()[i][0] for i in (name, "odd"))
    return damaged(data, other, np.random.default_rng(SEED), 8 if is_coded(data) else 1)


def whole_files(parts: tuple[str, ...]) -> dict[bytes, bytes]:
    """What damage may happen to leave: files that are whole archives, one behind the other."""
    rows = [row for n in (1, 2, 3) for row in itertools.product(parts, repeat=n)]
    return {b"".join(archives()[i][0] for i in row): b"".join(archives()[i][1] for i in row) for row in rows}


WHOLE = {name: (*parts, "odd") for name, parts in TOGETHER.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_damage_is_named(name: str):
    data = archives()[name][0]
    whole, count = whole_files(WHOLE.get(name, (name, "odd"))), {}
    for changed in damages(name):
        if changed not in whole:
            found = outcome(changed, archives()[name][1])
            count[found] = count.get(found, 0) + 1
        elif len(changed) != len(data):
            assert outcome(changed, whole[changed]) == "exact"
    assert set(count) <= {"CorruptArchive", "NotAnArchive"}
    assert sum(count.values()) > 800


def test_more_than_ten_thousand_damages_are_tried():
    """Counted without reading them."""
    assert sum(len(set(damages(name)) - whole_files(WHOLE.get(name, (name, "odd"))).keys()) for name in NAMES) >= 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stored", "three", "mixed", "adapted and online", "together"])
def test_damage_met_on_other_ways(name: str):
    """A range, an inspection, a salvage: no way leads to anything but data and errors of ours."""
    data, expected = archives()[name]
    whole = whole_files(WHOLE.get(name, (name, "odd")))
    for changed in damaged(data, archives()["odd"][0], np.random.default_rng(SEED), 24 if is_coded(data) else 2):
        found = outcome(changed, whole.get(changed, expected), by_range)
        assert found != "exact" or changed in whole or expected_by_index(changed, data)
        with contextlib.suppress(LmevalError):
            inspected(memoryview(changed))
        if name == "together" or changed[:60] != data[:60]:
            continue
        with contextlib.suppress(LmevalError):
            found, gaps = salvaged(changed)
            assert found == with_zeros(expected, gaps)


def expected_by_index(changed: bytes, data: bytes) -> bool:
    """Damage that a range does not look at: it reads footer, index, header and blocks."""
    return changed.endswith(data)


LIES = (0, 1, 2, 7, 255, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def lies(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Hostile numbers in every field, with checksums that fit."""
    start = taken_apart(data)
    for i in range(len(start.blocks)):
        for place in range(1, 9):
            size = {KIND: 1, FLAGS: 1, LANES: 2, 3: 8}.get(place, 4)
            for value in {*LIES, start.blocks[i][place] + 1, max(0, start.blocks[i][place] - 1), 2**63, 2**64 - 1}:
                if value < 1 << 8 * size:
                    loose = copy.deepcopy(start)
                    loose.blocks[i][place] = value
                    yield f"block {i} {FIELDS[place]} {value}", loose.sealed()
                    if place == 2:  # and the index says so too
                        loose.index[i] = (loose.index[i][0], value)
                        yield f"block {i} {FIELDS[place]} {value} indexed", loose.sealed()
        for change in (
            b"",
            b"\0",
            start.payloads[i][:-1],
            start.payloads[i] + b"\0",
            start.payloads[i][::-1],
            bytes(40),
            b"\xff" * 40,
        ):
            loose = copy.deepcopy(start)
            loose.payloads[i] = change
            loose.blocks[i][1] = len(change)
            yield f"block {i} payload {change[:4]!r}", loose.sealed()
            loose = copy.deepcopy(loose).reindexed()
            yield f"block {i} payload {change[:4]!r} indexed", loose.sealed()
    for name, limit in (("n lines", 2**32), ("index size", 2**32), ("length", 2**64), ("meta size", 2**32)):
        for value in (*LIES, 2**63, 2**64 - 1, len(data), len(data) + 1, len(data) - 1):
            if value < limit:
                loose = copy.deepcopy(start)
                loose.lies[name] = value
                yield f"{name} {value}", loose.sealed()
    for i in range(len(start.index)):
        for value in LIES:
            for line in ((value, start.index[i][1]), (start.index[i][0], value)):
                loose = copy.deepcopy(start)
                loose.index[i] = line
                yield f"line {i} {line}", loose.sealed()
    for value in (*LIES, 2**63, 2**64, 10**30):
        yield f"n_bytes {value}", copy.deepcopy(start).with_meta(n_bytes=value).sealed()


def moved(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Blocks swapped, doubled, removed; with the index that fits, too."""
    start = taken_apart(data)
    n = len(start.blocks)
    orders = {"swapped": [1, 0, *range(2, n)], "doubled": [0, *range(n)], "last doubled": [*range(n), n - 1]}
    orders |= {"first removed": [*range(1, n)], "last removed": [*range(n - 1)], "all removed": []}
    for name, order in orders.items():
        if max(order, default=0) < n:
            loose = copy.deepcopy(start)
            loose.blocks = [list(start.blocks[i]) for i in order]
            loose.payloads = [start.payloads[i] for i in order]
            yield name, loose.sealed()
            loose.index = [start.index[i] for i in order]
            yield f"{name}, index too", loose.sealed()
            yield f"{name}, index and offsets too", loose.reindexed().sealed()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["stored", "xz", "bzip2", "three", "model", "two", "mixed", "adapted", "adapted and online", "online"]
)
def test_lies_with_good_checksums(name: str):
    data, expected = archives()[name]
    for what, changed in lies(data):
        for read in (None, by_range):
            try:
                outcome(changed, expected, read)
            except Exception as error:
                raise AssertionError(what) from error


@pytest.mark.parametrize("name", ["three", "two", "mixed", "adapted and online"])
def test_moved_blocks_with_good_checksums(name: str):
    data, expected = archives()[name]
    for what, changed in moved(data):
        found = outcome(changed, expected)
        assert found == "CorruptArchive", what
        if "offsets" not in what and what.startswith(("swapped", "doubled", "first removed")):
            with pytest.raises(CorruptArchive, match="not in its place"):
                decompress(changed, mini())
        if "offsets" not in what:
            outcome(changed, expected, by_range)


@pytest.mark.parametrize("name", ["three", "mixed"])
def test_blocks_of_another_archive_are_refused(name: str):
    data, _ = archives()[name]
    one, other = (taken_apart(x) for x in (data, archives()["two" if name == "mixed" else "stored"][0]))
    position = PROLOGUE.size + one.prologue[4] + 4
    foreign = PROLOGUE.size + other.prologue[4] + 4
    spliced = data[:position] + archives()["two" if name == "mixed" else "stored"][0][foreign:]
    with pytest.raises(CorruptArchive, match="another archive"):
        decompress(spliced, mini())


@pytest.mark.parametrize("name", ["three", "mixed", "adapted and online"])
def test_lies_make_inspection_fail_by_name(name: str):
    for _, changed in [*lies(archives()[name][0]), *moved(archives()[name][0])]:
        with contextlib.suppress(LmevalError):
            inspected(memoryview(changed))


def test_an_index_of_fewer_lines_than_blocks_is_refused_by_inspection():
    loose = taken_apart(archives()["three"][0])
    (a, b), (c, d) = loose.index[:2]
    loose.index[:2] = [(a + c, b + d)]
    assert outcome(loose.sealed(), archives()["three"][1]) in ("exact", "CorruptArchive")
    assert outcome(loose.sealed(), archives()["three"][1], by_range) == "CorruptArchive"
    with pytest.raises(CorruptArchive):
        inspected(memoryview(loose.sealed()))


def peak_of(call: Callable[[], Any]) -> int:
    """Bytes that a call held at most."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with contextlib.suppress(LmevalError):
            call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def read_container(data: bytes, *, decode: bool) -> None:
    """All that is read without a model."""
    view = memoryview(data)
    ways: list[Callable[[], Any]] = [
        lambda: archive.read_index(view),
        lambda: [plain_data(b) for b in archive.Blocks(view, begin, header) if decode and b.kind in plain.KINDS],
        lambda: list(archive.intact_entries(view, begin, header)),
        lambda: archive.read_end(view, max(begin, data.rfind(b"LMZI")), header),
    ]
    with contextlib.suppress(ArchiveError):
        header, begin = archive.read_header(view)
        for read in ways:
            with contextlib.suppress(ArchiveError):
                read()


@pytest.mark.parametrize("name", ["stored", "three", "mixed", "bzip2"])
def test_hostile_lengths_do_not_cost_memory(name: str):
    data, _ = archives()[name]
    hostile = [changed for _, changed in [*lies(data), *moved(data)]]
    for decode, limit in ((False, 100_000), (True, 18 << 20)):  # a decoder of xz has a window of 16 MiB
        for changed in hostile:
            assert peak_of(lambda: read_container(changed, decode=decode)) < limit  # noqa: B023 (called at once)


def test_metadata_that_grow_do_not_cost_memory():
    limit = archive.MAX_HEADER_BYTES
    data = header_of(zlib.compress(b'{"n_bytes":0,"x":"' + b"a" * (40 * limit) + b'"}'))
    assert peak_of(lambda: read_container(data, decode=False)) < 4 * limit


def test_a_codec_gives_out_no_more_than_the_block_claims():
    block = plain.plain_block(b"x" * 100, 0)
    bombs = {
        plain.BZIP2: bz2.compress(bytes(30 << 20)),
        plain.XZ: lzma.compress(bytes(30 << 20), format=lzma.FORMAT_RAW, filters=plain.XZ_FILTERS),
    }
    for kind, payload in bombs.items():
        changed = block._replace(kind=kind, payload=payload)
        assert peak_of(lambda: plain_data(changed)) < 24 << 20  # noqa: B023 (called at once)
        with pytest.raises(CorruptArchive):
            plain_data(changed)


class Sink(io.RawIOBase):
    """Takes bytes and keeps none, up to a limit."""

    def __init__(self, limit: int = 1 << 30) -> None:
        super().__init__()
        self.left = limit

    def write(self, data: Any) -> int:
        self.left -= len(data)
        assert self.left >= 0, "more is written than there can be"
        return len(data)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_plain_blocks_behind_a_model_coded_one():
    pieces = [LETTERS, *(np.random.default_rng(i).bytes(100_000) for i in range(40))]
    loose = taken_apart(plain_archive(pieces))
    coded = taken_apart(archives()["model"][0])
    loose.meta = json.dumps(json.loads(loose.meta) | {"model": json.loads(coded.meta)["model"]}).encode()
    loose.blocks[0], loose.payloads[0] = coded.blocks[0], coded.payloads[0]
    data = memoryview(loose.reindexed().sealed())
    out = Sink()
    assert peak_of(lambda: decompress_to(out, data, mini())) < 1 << 20  # pyright: ignore[reportArgumentType]
    assert out.left == (1 << 30) - 4_000_025


def test_a_payload_longer_than_any_encoder_writes_is_refused_before_it_is_unpacked():
    loose = taken_apart(archives()["model"][0])
    loose.payloads[0] += bytes(4 << 20)
    data = loose.reindexed().sealed()
    assert peak_of(lambda: decompress(data, mini())) < 3 * len(data)


def test_salvage_does_not_write_without_end():
    loose = taken_apart(archives()["stored"][0]).with_meta(n_bytes=1 << 60)
    with contextlib.suppress(LmevalError):
        salvage(Sink(1 << 24), memoryview(loose.sealed()))  # pyright: ignore[reportArgumentType]


# Salvage.


@functools.cache
def five(adapt: str = "none") -> tuple[bytes, bytes, list[tuple[int, int]], list[int]]:
    """An archive of five blocks (model, xz, model, stored, model; or adapted, online, adapted, stored, adapted), its data,
    their spans, and where each block begins."""
    pieces = [LETTERS[:9], b"abc" * 20, LETTERS[9:16], NOISE, LETTERS[16:]]
    data = model_archive(mini(), pieces, 0, model_settings(mini(), window=12, overlap=3)._replace(adapt=adapt))
    stops = np.cumsum([len(piece) for piece in pieces]).tolist()
    spans = list(zip([0, *stops[:-1]], stops, strict=True))
    (part,) = archive.read_index(memoryview(data))
    return data, b"".join(pieces), spans, [entry.position for entry in part.entries]


def with_zeros(data: bytes, gaps: list[Gap]) -> bytes:
    found = bytearray(data)
    for gap in gaps:
        found[gap.first : gap.stop] = bytes(gap.stop - gap.first)
    return bytes(found)


@pytest.mark.parametrize("adapt", ["none", "full"])
@pytest.mark.parametrize("place", ["magic", "header", "payload"])
@pytest.mark.parametrize("i", range(5))
def test_a_damaged_block_costs_its_own_bytes_only(i: int, place: str, adapt: str):
    data, expected, spans, positions = five(adapt)
    at = positions[i] + {"magic": 1, "header": 20, "payload": archive.BLOCK_OVERHEAD + 2}[place]
    changed = data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
    with pytest.raises(CorruptArchive):
        decompress(changed, mini())
    found, gaps = salvaged(changed)
    assert gaps == [gap(*spans[i])]
    assert found == with_zeros(expected, gaps)


@pytest.mark.parametrize("lost", [(), (0, 1), (1, 3), (0, 2, 4), (2, 3, 4), (0, 1, 2, 3, 4)])
def test_gaps_are_named_exactly_and_joined(lost: tuple[int, ...]):
    data, expected, spans, positions = five()
    changed = bytearray(data)
    for i in lost:
        changed[positions[i] + archive.BLOCK_OVERHEAD] ^= 1
    found, gaps = salvaged(bytes(changed))
    assert found == with_zeros(expected, gaps)
    missing = {place for i in lost for place in range(*spans[i])}
    assert {place for gap in gaps for place in range(gap.first, gap.stop)} == missing
    assert all(one.stop < other.first for one, other in itertools.pairwise(gaps))


@pytest.mark.parametrize("i", range(5))
@pytest.mark.parametrize("change", ["inserted", "removed", "removed block", "cut", "no end", "doubled", "moved to the end"])
def test_blocks_are_found_wherever_they_have_got_to(i: int, change: str):
    data, expected, spans, positions = five()
    stops = [*positions[1:], data.rindex(b"LMZI")]
    at, stop = positions[i], stops[i]
    block = data[at:stop]
    changed, gaps = {
        "inserted": (data[:at] + b"LMZBLMZB junk" + data[at:], []),
        "removed": (data[: at + 5] + data[at + 6 :], [gap(*spans[i])]),
        "removed block": (data[:at] + data[stop:], [gap(*spans[i])]),
        "cut": (data[: at + 30], [gap(spans[i][0], len(expected))]),
        "no end": (data[: stops[-1]], []),
        "doubled": (data[:stop] + block + data[stop:], []),
        "moved to the end": (data[:at] + data[stop:] + block, []),
    }[change]
    found, named = salvaged(changed)
    assert named == gaps
    assert found == with_zeros(expected, gaps)


def test_salvage_of_a_whole_archive_is_the_data():
    for name in ("empty", "stored", "three", "model", "mixed", "adapted", "adapted and online", "online"):
        data, expected = archives()[name]
        assert salvaged(data) == (expected, [])


def test_salvage_needs_the_header():
    data = five()[0]
    for changed in (data[:20], data[1:], data[:30] + b"\xff" + data[31:]):
        with pytest.raises(ArchiveError):
            salvaged(changed)


def test_a_block_that_decodes_to_something_else_is_a_gap(monkeypatch: pytest.MonkeyPatch):
    module = importlib.import_module("lmeval.compression.text.reader")
    data, expected, spans, _ = five()
    decode_blocks, lost = module.decode_blocks, Lost(NumericalDrift("astray"))
    monkeypatch.setattr(module, "decode_blocks", lambda *a, **k: [lost, *decode_blocks(*a, **k)[1:]])
    found, gaps = salvaged(data)
    assert gaps == [gap(*spans[0])]
    assert found == with_zeros(expected, gaps)


@pytest.mark.parametrize("adapt", ["none", "full"])
@pytest.mark.parametrize("payload", [b"", b"\xff\xff", bytes(9)])
def test_a_block_that_no_encoder_wrote_is_a_gap_too(payload: bytes, adapt: str):
    data, expected, spans, _ = five(adapt)
    loose = taken_apart(data)
    loose.payloads[2] = payload
    found, gaps = salvaged(loose.reindexed().sealed())
    assert gaps == [gap(*spans[2])]
    assert found == with_zeros(expected, gaps)


@pytest.mark.parametrize("kind", ["bytes", "bytearray", "slice"])
def test_salvage_of_any_buffer(kind: str):
    data, expected, spans, positions = five()
    changed = bytearray(data)
    changed[positions[1] + archive.BLOCK_OVERHEAD] ^= 1
    views = {
        "bytes": memoryview(bytes(changed)),
        "bytearray": memoryview(changed),
        "slice": memoryview(b"in front" + bytes(changed) + b"behind")[8:-6],
    }
    found, gaps = salvaged(views[kind])
    assert gaps == [gap(*spans[1])]
    assert found == with_zeros(expected, gaps)


def test_blocks_are_searched_for_over_the_ends_of_pieces():
    """A buffer that cannot be searched is taken by pieces of 16 MiB; a block may begin in one and end in the next."""
    data = plain_archive([NOISE, b"abc" * 40])
    (part,) = archive.read_index(memoryview(data))
    second = part.entries[1].position
    for shift in (-3, -1, 0, 1):
        gap = (1 << 24) + part.blocks_begin + shift - second
        changed = bytearray(data[:second] + bytes(gap) + data[second:])
        out = io.BytesIO()
        assert gaps_of(salvage(out, memoryview(changed))) == []
        assert out.getvalue() == NOISE + b"abc" * 40
