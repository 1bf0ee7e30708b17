import hashlib
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from samples import llama_config, network

from lmeval.errors import ModelError
from lmeval.models import packed
from lmeval.models.fingerprints import arrays_sha256, weights_sha256
from lmeval.models.packed import (
    PackedMatrix,
    PackedWeights,
    as_arrays,
    dequantise,
    packed_sha256,
    read_packed,
    to_packed,
    top_level,
)
from lmeval.models.weight_grid import quantise

SHAPES = [(1, 1), (1, 17), (17, 1), (3, 5), (64, 33), (257, 40)]


def random_matrix(rng: np.random.Generator, shape: tuple[int, int], bits: int) -> PackedMatrix:
    levels = np.rint(rng.normal(0, top_level(bits) / 3, shape)).clip(-top_level(bits), top_level(bits)).astype(np.int8)
    steps = np.exp(rng.normal(-4, 1, shape[0])).astype(np.float16).astype(np.float32)
    return PackedMatrix(levels, steps, bits)


def random_weights(bits: int, seed: int = 0) -> PackedWeights:
    rng = np.random.default_rng(seed)
    matrices = {f"m{i}": random_matrix(rng, shape, bits) for i, shape in enumerate(SHAPES)}
    vectors = {f"v{n}": rng.normal(1, 0.1, n).astype(np.float32) for n in (1, 40)}
    return PackedWeights(matrices, vectors)


def packed_file(folder: Path, weights: PackedWeights) -> Path:
    path = folder / "model.packed"
    path.write_bytes(to_packed(weights))
    return path


def same(a: PackedWeights, b: PackedWeights) -> bool:
    exact = all(
        a.matrices[name].bits == b.matrices[name].bits
        and np.array_equal(a.matrices[name].levels, b.matrices[name].levels)
        and np.array_equal(a.matrices[name].steps, b.matrices[name].steps)
        for name in a.matrices
    )
    return exact and all(np.array_equal(a.vectors[name], b.vectors[name]) for name in a.vectors)


@pytest.mark.parametrize("bits", range(2, 9))
def test_what_is_packed_comes_back_exactly(tmp_path: Path, bits: int):
    weights = random_weights(bits)
    back = read_packed(packed_file(tmp_path, weights))
    assert list(back.matrices) == list(weights.matrices)
    assert list(back.vectors) == list(weights.vectors)
    assert same(back, weights)
    assert {matrix.levels.dtype for matrix in back.matrices.values()} == {np.dtype(np.int8)}
    assert {array.dtype for array in as_arrays(back).values()} == {np.dtype(np.float32)}


def test_matrices_of_different_bits_share_a_file(tmp_path: Path):
    rng = np.random.default_rng(1)
    weights = PackedWeights({f"m{bits}": random_matrix(rng, (9, 31), bits) for bits in (8, 3, 5)}, {})
    assert same(read_packed(packed_file(tmp_path, weights)), weights)


@pytest.mark.parametrize("level", [-1, 0, 1])
def test_matrices_of_one_number_come_back(tmp_path: Path, level: int):
    matrix = PackedMatrix(
        np.full((5, 7), level, dtype=np.int8), np.array([0, 6e-8, 1, 2, 65504], np.float16).astype("f4"), 2
    )
    assert same(read_packed(packed_file(tmp_path, PackedWeights({"m": matrix}, {}))), PackedWeights({"m": matrix}, {}))


def test_vectors_alone_come_back(tmp_path: Path):
    weights = PackedWeights({}, {"v": np.arange(3, dtype=np.float32)})
    assert same(read_packed(packed_file(tmp_path, weights)), weights)


def test_a_level_times_a_step_is_exact_in_float32():
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16)  # every float16 that is finite and not negative
    levels = np.arange(-127, 128, dtype=np.int8)
    matrix = PackedMatrix(np.broadcast_to(levels, (len(halves), len(levels))), halves.astype(np.float32), 8)
    exact = levels.astype(np.float64) * halves.astype(np.float64)[:, None]
    assert np.array_equal(dequantise(matrix), exact)


@pytest.mark.parametrize(
    ("numbers", "n_bytes"), [([1.0009765625], 2), ([1.0078125, 2.0**100], 2), ([1.0000001, 2.0**100], 4)]
)
def test_vectors_take_the_narrowest_numbers_that_hold_them(tmp_path: Path, numbers: list[float], n_bytes: int):
    def size(n: int) -> int:
        return len(to_packed(PackedWeights({}, {"v": np.tile(np.array(numbers, dtype=np.float32), n)})))

    assert size(2000) - size(1000) == pytest.approx(1000 * len(numbers) * n_bytes, abs=10)
    weights = PackedWeights({}, {"v": np.array(numbers, dtype=np.float32)})
    assert same(read_packed(packed_file(tmp_path, weights)), weights)


def test_the_code_is_as_long_as_the_tables_say(tmp_path: Path):
    rng = np.random.default_rng(2)
    steps = np.full(300, 0.5, dtype=np.float32)
    levels = rng.choice([-1, 0, 1], (300, 1000), p=[0.25, 0.5, 0.25]).astype(np.int8)  # 1.5 bits each
    assert len(to_packed(PackedWeights({"m": PackedMatrix(levels, steps, 2)}, {}))) == pytest.approx(
        300_000 * 1.5 / 8, rel=0.02
    )


def test_columns_of_different_magnitude_have_tables_of_their_own():
    rng = np.random.default_rng(3)
    scale = np.exp(rng.normal(0, 1, 400))
    weights = rng.laplace(0, 1, (300, 400)) * scale
    alike = quantise({"m": weights.astype(np.float32)}, 5)
    shuffled = np.random.default_rng(4).permuted(alike.matrices["m"].levels, axis=1)  # rows keep their levels
    mixed = PackedWeights({"m": alike.matrices["m"]._replace(levels=shuffled)}, {})
    assert len(to_packed(alike)) < 0.9 * len(to_packed(mixed))


def test_the_fingerprint_is_that_of_a_network_with_these_weights(tmp_path: Path):
    net = network(llama_config())
    weights = quantise({name: p.detach().numpy() for name, p in net.named_parameters()}, 4)
    for name, parameter in net.named_parameters():
        parameter.data[:] = parameter.new_tensor(as_arrays(weights)[name])
    path = packed_file(tmp_path, weights)
    assert packed_sha256(path) == arrays_sha256(as_arrays(weights)) == weights_sha256(net)
    assert weights_sha256(net.double()) == packed_sha256(path)


def test_every_damage_is_found(tmp_path: Path):
    path = packed_file(tmp_path, random_weights(4))
    data = path.read_bytes()
    for place in (*range(60), *range(60, len(data), 997), len(data) - 1):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(
            ModelError, match=r"model\.packed (is damaged|is packed in version|holds no packed weights)"
        ) as caught:
            read_packed(path)
        assert "\n" not in str(caught.value)
    for n_bytes in (0, 7, 40, 44, 1000, len(data) - 1):
        path.write_bytes(data[:n_bytes])
        with pytest.raises(ModelError, match=r"model\.packed (is damaged|holds no packed weights)"):
            packed_sha256(path)
    with pytest.raises(ModelError, match="cannot read"):
        read_packed(tmp_path / "missing")


def test_other_weights_than_were_packed_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = packed_file(tmp_path, random_weights(4))
    monkeypatch.setattr(packed, "dequantise", lambda matrix: np.zeros_like(matrix.levels, dtype=np.float32))
    with pytest.raises(ModelError, match="other weights on this machine"):
        read_packed(path)


def test_the_coded_part_must_be_used_up(tmp_path: Path):
    weights = random_weights(4)
    path = packed_file(tmp_path, weights)
    data = path.read_bytes()
    n_plain = sum(rows for rows, _ in SHAPES) + 4 * sum(vector.size for vector in weights.vectors.values())
    coded = 45 + struct.unpack("<I", data[41:45])[0] + n_plain  # the word in front of it is read last
    rest = data[41:coded] + struct.pack("<I", 12345) + data[coded:]
    path.write_bytes(data[:9] + hashlib.sha256(rest).digest() + rest)
    with pytest.raises(ModelError, match="cannot be unpacked: something is left over"):
        read_packed(path)


def test_the_file_is_as_the_module_says(tmp_path: Path):
    data = to_packed(random_weights(3))
    assert data[:9] == b"lmpacked\x01"
    n_head = struct.unpack("<I", data[41:45])[0]
    head = json.loads(zlib.decompress(data[45 : 45 + n_head]))
    assert head["tensors"][0] == {"name": "m0", "shape": [1, 1], "bits": 3}
    assert {"name": "v40", "shape": [40], "dtype": "float32"} in head["tensors"]
    names = [name for name, _ in head["tables"]]
    assert names[:2] == ["steps", "columns"]
    assert names[2:] == sorted(names[2:])
    assert {sum(table) for _, table in head["tables"]} == {1 << 16}
    assert all(len(table) == 7 for name, table in head["tables"][2:])


@pytest.mark.parametrize(("bits", "most"), [(6, 2_700_000), (5, 2_200_000), (4, 1_770_000)])
def test_the_bundled_model_packs_small(bits: int, most: int):
    from lmeval.models import load_model

    names = dict(load_model().network.named_parameters())
    weights = quantise({name: p.detach().numpy() for name, p in names.items()}, bits)
    assert len(to_packed(weights)) < most


def test_reading_does_not_import_pytorch(tmp_path: Path):
    path = packed_file(tmp_path, random_weights(4))
    code = f"""
import sys
from pathlib import Path
from lmeval.models.packed import read_packed
from lmeval.models.weight_grid import quantise
read_packed(Path({str(path)!r}))
assert not {{"torch", "transformers", "numba"}} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
