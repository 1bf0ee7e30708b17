"""Archives of images: the container around bits-back blocks."""

import functools
import importlib
import io
import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from samples import tiny_llama
from vaes import density, drawn, fitting_vae, npy

from lmeval.compression import (
    CompressSettings,
    Gap,
    ImageSettings,
    compress,
    compress_images_to,
    decompress,
    decompress_range,
    inspect,
    salvage,
)
from lmeval.compression.container import archive
from lmeval.compression.container.kinds import REGISTRY
from lmeval.densities.layers import Linear
from lmeval.densities.modelfile import LoadedDensity
from lmeval.densities.networks import LayeredVAE
from lmeval.errors import ArchiveError, CorruptArchive, LmevalError, ModelMismatch, ModelNotFound
from lmeval.results import Report

MODULE = importlib.import_module("lmeval.compression.images.encode")
BLOCK = struct.Struct("<4sIIQBBHII8sI")
KIND, FLAGS, LANES, IMAGES, INITIAL = 4, 5, 6, 7, 8


@functools.cache
def model() -> LoadedDensity:
    return density(fitting_vae(5))


@functools.cache
def sample() -> tuple[bytes, bytes]:
    """An archive of four bits-back blocks between plain ones, and its data."""
    data = npy(drawn(fitting_vae(5), 90).astype("<u2")) + b"behind the images"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "BLOCK_IMAGES", 25)
        out = io.BytesIO()
        compress_images_to(out, memoryview(data), model(), ImageSettings(particles=2))
    return out.getvalue(), data


def remade(change: Callable[[dict[str, Any], list[list[Any]], list[bytes]], None]) -> bytes:
    """The archive with its metadata, blocks' fields and payloads changed, and with checksums that fit."""
    raw, _ = sample()
    ((part, header),) = [(part, part.header) for part in archive.read_index(memoryview(raw))]
    blocks = list(archive.Blocks(memoryview(raw), part.blocks_begin, header))
    meta = json.loads(json.dumps(header.meta))
    fields = [
        [b"LMZB", 0, b.n_bytes, b.offset, REGISTRY[b.kind].code, b.flags, b.n_lanes, b.n_units, b.parameter, b.digest]
        for b in blocks
    ]
    payloads = [block.payload for block in blocks]
    change(meta, fields, payloads)
    out = io.BytesIO()
    seed, size, lines = archive.write_header(out, meta).seed, out.tell(), []
    for row, payload in zip(fields, payloads, strict=True):
        row[1] = len(payload)
        packed = BLOCK.pack(*row, zlib.crc32(payload))
        out.write(packed + struct.pack("<I", zlib.crc32(packed, seed)) + payload)
        lines.append((len(packed) + 4 + len(payload), row[2]))
    archive.write_end(out, lines, size, seed)
    return out.getvalue()


def outcome(data: bytes) -> str:
    try:
        found = decompress(data, model())
    except LmevalError as error:
        assert "\n" not in str(error)
        return f"{type(error).__name__}: {error}"
    assert found == sample()[1]
    return "exact"


def test_an_archive_that_is_put_together_again_is_the_same():
    assert remade(lambda *_: None) == sample()[0]
    assert outcome(sample()[0]) == "exact"
    kinds = inspect(memoryview(sample()[0])).tables["blocks"].column("kind")
    assert kinds.count("bits-back") == 4 and kinds[0] != "bits-back" != kinds[-1]


# Parts.


@pytest.mark.parametrize("span", [(0, 0), (0, 5), (100, 140), (129, 2000), (3000, 6001), (10_900, None), (0, None)])
def test_a_range_is_a_slice(span: tuple[int, int | None]):
    data, expected = sample()
    out = io.BytesIO()
    decompress_range(out, memoryview(data), *span, model())
    assert out.getvalue() == expected[span[0] : span[1]]


def test_a_range_decodes_the_blocks_that_it_needs(monkeypatch: pytest.MonkeyPatch):
    data, _ = sample()  # made, and verified, before anything is watched
    decoding, seen = importlib.import_module("lmeval.compression.images.bitsback"), []
    real = decoding.decode_blocks
    monkeypatch.setattr(
        decoding, "decode_blocks", lambda scheme, blocks, *a: seen.extend(blocks) or real(scheme, blocks, *a)
    )
    decompress_range(io.BytesIO(), memoryview(data), 3000, 3001, model())
    assert len(seen) == 1
    decompress_range(io.BytesIO(), memoryview(data), 0, 20, model())
    assert len(seen) == 1


def gaps(report: Report) -> list[Gap]:
    return [Gap(**row) for row in report.tables["gaps"]]


def test_damage_is_named_and_costs_its_own_block():
    data, expected = sample()
    (part,) = archive.read_index(memoryview(data))
    for entry in part.entries:
        changed = bytearray(data)
        changed[entry.position + archive.BLOCK_OVERHEAD + 3] ^= 1
        assert "damaged: checksum" in outcome(bytes(changed))
        out = io.BytesIO()
        gap = Gap(entry.offset, entry.offset + entry.n_bytes, entry.n_bytes)
        assert gaps(salvage(out, memoryview(bytes(changed)), model())) == [gap]
        assert out.getvalue() == expected[: gap.first] + bytes(gap.stop - gap.first) + expected[gap.stop :]


def test_a_payload_that_no_encoder_wrote_is_a_gap():
    def change(_meta: Any, _fields: list[list[Any]], payloads: list[bytes]) -> None:
        payloads[2] = payloads[2][:-8] + bytes(7) + b"\1"

    data = remade(change)
    assert outcome(data).startswith("CorruptArchive: block of bytes")
    out = io.BytesIO()
    (gap,) = gaps(salvage(out, memoryview(data), model()))
    assert out.getvalue() == sample()[1][: gap.first] + bytes(gap.stop - gap.first) + sample()[1][gap.stop :]


def test_archives_of_text_and_images_one_behind_the_other():
    text = compress(b"to be or not to be", settings=CompressSettings(adapt="none"))
    data, expected = sample()
    assert decompress(data + data, model()) == expected + expected
    with pytest.raises(ModelMismatch, match="language model"):
        decompress(data + text, model())
    with pytest.raises(ModelMismatch, match="density"):
        decompress(data, tiny_llama())


# Models.


def test_the_density_must_be_the_one_that_encoded():
    data, _ = sample()
    with pytest.raises(ModelMismatch, match="not bundled"):
        decompress(data)
    with pytest.raises(ModelMismatch, match=r"needs the density toy .* lmeval-digits-vae-v1 has"):
        decompress(data, "lmeval-digits-vae-v1")
    with pytest.raises(ModelMismatch):
        decompress(data, "lmeval-bytes-4m-v2")
    with pytest.raises((ModelMismatch, ModelNotFound)):
        decompress(data, "nowhere.yaml")


def test_equal_weights_in_another_network_are_another_density():
    data, vae = sample()[0], fitting_vae(5)
    swapped = LayeredVAE(vae.encoder, vae.log_std, vae.mean, vae.decoder, "bernoulli", 2, 60, 5)
    with pytest.raises(ModelMismatch, match="differently"):
        decompress(data, model()._replace(model=swapped))


def test_weights_that_round_to_the_same_whole_numbers_decode():
    vae = fitting_vae(5)
    near = vae.decoder[0]
    assert isinstance(near, Linear)
    moved = LayeredVAE(vae.encoder, vae.mean, vae.log_std, (Linear(near.weight + 1e-7, near.bias),), "bernoulli", 2, 60, 5)
    assert decompress(sample()[0], model()._replace(model=moved)) == sample()[1]
    assert not torch.equal(near.weight + 1e-7, near.weight)


# Hostile headers.

NO_ENCODER = {
    "lanes": (LANES, 1),
    "flags": (FLAGS, 1),
    "no images": (IMAGES, 0),
    "more images than bytes": (IMAGES, 1 << 21),
    "too many initial words": (INITIAL, (1 << 16) + 1),
}
WRONG = {
    "one image less": (IMAGES, 21),
    "as many images as bytes": (IMAGES, 2640),
    "more initial words than an encoder begins with": (INITIAL, 60_000),
    "one initial word less": (INITIAL, 5),
    "no initial words": (INITIAL, 0),
    "fewer bytes": (2, 2638),
    "language model": (KIND, REGISTRY["model"].code),
    "stored": (KIND, REGISTRY["stored"].code),
}


@pytest.mark.parametrize("name", NO_ENCODER | WRONG)
def test_blocks_that_no_encoder_writes_are_refused(name: str):
    place, value = (NO_ENCODER | WRONG)[name]

    def change(_meta: Any, fields: list[list[Any]], _payloads: Any) -> None:
        fields[1][place] = value

    found = outcome(remade(change))
    assert found.startswith("CorruptArchive")
    assert name not in NO_ENCODER or "no encoder writes" in found


@pytest.mark.parametrize(
    "name", ["as many images as bytes", "more initial words than an encoder begins with", "fewer bytes"]
)
def test_blocks_that_claim_too_much_are_refused_before_they_are_decoded(name: str, monkeypatch: pytest.MonkeyPatch):
    place, value = WRONG[name]
    decoding, sizes = importlib.import_module("lmeval.compression.images.bitsback"), []
    real = decoding.decode_blocks

    def watched(scheme: Any, blocks: Any, *rest: Any) -> Any:
        sizes.extend(block.n_images for block in blocks)
        return real(scheme, blocks, *rest)

    monkeypatch.setattr(decoding, "decode_blocks", watched)

    def change(_meta: Any, fields: list[list[Any]], _payloads: Any) -> None:
        fields[1][place] = value

    assert outcome(remade(change)).startswith("CorruptArchive")
    assert len(sizes) < 4 and max(sizes, default=0) <= 25


META = {
    "name": 5,
    "weights_sha256": None,
    "network_sha256": "0" * 64,
    "observation": "gamma",
    "levels": 257,
    "n_dims": 59,
    "n_latent": 0,
    "step_bits": 1,
    "particle_bits": 11,
    "dtype": "|O",
}
MORE = [
    ("levels", 2.0),
    ("levels", True),
    ("levels", -1),
    ("levels", 17),
    ("n_dims", 1 << 60),
    ("n_dims", 61),
    ("dtype", "<f2"),
]
MORE += [("n_latent", 6), ("n_latent", 1 << 40), ("step_bits", 9), ("step_bits", "4"), ("particle_bits", -1)]
MORE += [("particle_bits", 10), ("step_bits", 5), ("observation", "categorical"), ("dtype", "|u1"), ("dtype", ">u2")]
MORE += [("dtype", "<f2"), ("dtype", 3)]


@pytest.mark.parametrize(("key", "value"), [*META.items(), *MORE])
def test_a_changed_density_is_refused(key: str, value: Any):
    def change(meta: dict[str, Any], _fields: Any, _payloads: Any) -> None:
        meta["density"][key] = value

    limit, data = 1 << 26, remade(change)
    outcome(data)  # imports what it needs
    tracemalloc.start()
    assert outcome(data).split(":")[0] in ("CorruptArchive", "ModelMismatch")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit


@pytest.mark.parametrize("key", META)
def test_a_density_that_lacks_something_is_refused(key: str):
    assert outcome(remade(lambda meta, *_: meta["density"].pop(key))).startswith(
        "CorruptArchive: the archive's header lacks"
    )


@pytest.mark.parametrize("value", [None, 3, [], "density", {}])
def test_a_density_of_another_kind_is_refused(value: Any):
    assert outcome(remade(lambda meta, *_: meta.update(density=value))).startswith("CorruptArchive")


def test_blocks_of_images_need_a_density():
    assert "names no density" in outcome(remade(lambda meta, *_: meta.pop("density") and None))


def test_payloads_that_are_no_stack_are_refused():
    for payload in (b"", b"\0", b"123", b"1234", bytes(4), bytes(80), b"x" * 81, b"\xff" * 4000):

        def change(_meta: Any, _fields: Any, payloads: list[bytes], payload: bytes = payload) -> None:
            payloads[1] = payload

        assert outcome(remade(change)).startswith("CorruptArchive")


def test_random_damage_gives_the_data_or_an_error():
    data, _ = sample()
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(len(changed))] = rng.integers(256)
        if rng.integers(4) == 0:
            del changed[rng.integers(len(changed)) :]
        outcome(bytes(changed))
        try:
            salvage(io.BytesIO(), memoryview(bytes(changed)), model())
        except ArchiveError:
            continue


@pytest.mark.slow  # compiles online models where they are not compiled yet
def test_metadata_name_the_version():
    data, _ = sample()
    plain, adapted = compress(b"text", settings=CompressSettings(adapt="none")), compress(b"text")
    assert [inspect(memoryview(made)).ledger["format"] for made in (data, plain, adapted)] == ["2.0"] * 3
    with pytest.raises(CorruptArchive):
        decompress(data[:-1], model())
