from dataclasses import replace
from pathlib import Path

import pytest
from samples import save_pair

from lmeval.compression.benchmark.decoder_size import model_bytes, model_folder, source_bytes
from lmeval.data.resources import BUNDLED_MODEL, bundled_names, reference_folder
from lmeval.models import CausalLM, load_model
from lmeval.models.packed_folders import pack_folder

HUB_ID = "someone/tiny"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> CausalLM:
    return load_model(str(folder))


def test_a_bundled_model_has_the_size_of_its_files(model: CausalLM):
    assert model_bytes(replace(model, name="lmeval-reviews-4m-v1")) == 7_982_286
    unread = {"README.md"}
    packed = [file for file in reference_folder(BUNDLED_MODEL).iterdir() if file.name not in unread]
    assert model_bytes(replace(model, name=BUNDLED_MODEL)) == sum(file.stat().st_size for file in packed)


def test_every_bundled_model_is_found(model: CausalLM):
    for name in bundled_names():
        assert model_folder(name) == reference_folder(name)


def test_a_folder_has_the_size_of_its_files(model: CausalLM, folder: Path):
    assert model_bytes(model) == sum(file.stat().st_size for file in folder.iterdir())


def test_packed_weights_count_as_they_are_packed(model: CausalLM, folder: Path, tmp_path: Path):
    pack_folder(folder, tmp_path / "packed", bits=4)
    sizes = {file.name: file.stat().st_size for file in (tmp_path / "packed").iterdir()}
    assert model_bytes(replace(model, name=str(tmp_path / "packed"))) == sum(sizes.values())
    assert 0 < sizes["model.packed"] < 4 * model.n_parameters / 4
    (tmp_path / "packed" / "model.safetensors").write_bytes(bytes(100_000))  # which would be loaded
    assert (
        model_bytes(replace(model, name=str(tmp_path / "packed"))) == sum(sizes.values()) - sizes["model.packed"] + 100_000
    )


def test_weights_that_are_stored_twice_count_once(model: CausalLM, folder: Path, tmp_path: Path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(100_000))
    (tmp_path / "README.md").write_bytes(bytes(1000))
    assert model_bytes(replace(model, name=str(tmp_path))) == model_bytes(model)


def test_a_model_of_the_hub_has_the_size_of_its_cached_files(
    model: CausalLM, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_folder(HUB_ID) is None
    for commit, n_more in (("a" * 40, 50_000), ("b" * 40, 0)):  # the older snapshot is another model
        snapshot = tmp_path / "models--someone--tiny" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for file in folder.iterdir():
            (snapshot / file.name).write_bytes(file.read_bytes() + bytes(n_more))
    refs = tmp_path / "models--someone--tiny" / "refs"
    refs.mkdir()
    (refs / "main").write_text("b" * 40)
    assert model_bytes(replace(model, name=HUB_ID)) == model_bytes(model)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "in memory", "a/b/c"])
def test_a_network_in_memory_has_the_size_of_its_parameters(model: CausalLM, name: str):
    assert model_folder(name) is None
    assert model_bytes(replace(model, name=name)) == 4 * model.n_parameters


def test_the_source_is_compressed():
    assert 50_000 < source_bytes() < 1_000_000
