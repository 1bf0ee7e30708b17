import io
import json
import os
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from samples import ROOT, save_pair
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmeval.errors import ModelError
from lmeval.models import load_model, packed_folders, transformers_folder
from lmeval.models.fingerprints import arrays_sha256
from lmeval.models.packed import as_arrays, packed_sha256, read_packed
from lmeval.models.packed_folders import pack_folder
from lmeval.models.weight_grid import quantise


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    pack_folder(save_pair(folder / "plain"), folder / "tiny", bits=4)
    return folder / "tiny"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    packed_folders._temporary.cache_clear()
    packed_folders._announce.cache_clear()
    return tmp_path / "cache" / "lmeval" / "models"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_transformers_loads_the_same_numbers(source: Path, cache: Path):
    folder = transformers_folder(source)
    assert folder.parent == cache
    assert folder.name.startswith("tiny-")
    network = AutoModelForCausalLM.from_pretrained(folder)
    assert len(AutoTokenizer.from_pretrained(folder)) == 257
    assert network.dtype == torch.float32
    arrays = as_arrays(read_packed(source / "model.packed"))
    state = network.state_dict()
    assert all(torch.equal(state[name], torch.from_numpy(array)) for name, array in arrays.items())
    assert not (folder / "model.packed").exists()


def test_a_packed_folder_is_loaded_like_any_other(source: Path):
    model = load_model(str(source))
    assert model.weights_sha256 == packed_sha256(source / "model.packed")
    assert load_model(str(source), dtype="float64").weights_sha256 == model.weights_sha256
    assert load_model(str(source), dtype="bfloat16").dtype == torch.bfloat16
    assert model.name == str(source)


def test_files_that_are_right_stay(source: Path):
    folder = transformers_folder(source)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert transformers_folder(source) == folder
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "changed", "junk"])
def test_what_is_damaged_is_written_again(source: Path, name: str, damage: str):
    folder = transformers_folder(source)
    before = contents(folder)
    data, path = before[name], folder / name
    if damage == "missing":
        path.unlink()
    else:
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes({"empty": b"", "cut": data[:-3], "changed": changed, "junk": b"\xff" * 100}[damage])
    assert transformers_folder(source) == folder
    assert contents(folder) == before


def test_weights_that_transformers_would_refuse_are_written_again(source: Path):
    from safetensors.torch import save_file

    path = transformers_folder(source) / "model.safetensors"
    save_file(load_file(path), path)  # without its metadata
    transformers_folder(source)
    AutoModelForCausalLM.from_pretrained(path.parent)


def test_another_model_of_the_same_name_has_another_folder(source: Path, tmp_path: Path):
    other = shutil.copytree(source, tmp_path / "tiny")
    assert transformers_folder(other) == transformers_folder(source)
    (other / "README.md").write_text("another card")
    assert transformers_folder(other) != transformers_folder(source)


def test_other_folders_are_themselves(source: Path, tmp_path: Path, cache: Path):
    plain = save_pair(tmp_path / "plain")
    assert transformers_folder(plain) == plain
    both = shutil.copytree(source, tmp_path / "both")
    shutil.copyfile(plain / "model.safetensors", both / "model.safetensors")
    assert transformers_folder(both) == both
    assert not cache.exists()


def test_damaged_weights_are_named_in_one_line(source: Path, tmp_path: Path, cache: Path):
    damaged = shutil.copytree(source, tmp_path / "damaged")
    data = bytearray((damaged / "model.packed").read_bytes())
    data[1000] ^= 1
    (damaged / "model.packed").write_bytes(data)
    for load in (lambda: transformers_folder(damaged), lambda: load_model(str(damaged))):
        with pytest.raises(ModelError, match=r"model\.packed is damaged") as caught:
            load()
        assert "\n" not in str(caught.value)
    assert not list(cache.rglob("*.safetensors"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))


def no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cache() -> Path:
        raise RuntimeError("could not determine home directory")

    monkeypatch.setattr(packed_folders, "user_cache", no_cache)


def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "cache" not in str(path) and access(path, mode))


def full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, calls = os.fsync, []

    def fail_once(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            raise OSError("no space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fail_once)


@pytest.mark.parametrize("trouble", [in_the_way, no_home, read_only, full_disk])
def test_a_temporary_folder_stands_in_for_a_cache_that_cannot_be_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble
):
    trouble(tmp_path, monkeypatch)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    folder = transformers_folder(source)
    assert (folder / "model.safetensors").is_file()
    assert tmp_path / "cache" not in folder.parents
    if trouble is not full_disk:
        assert transformers_folder(source) == folder
    lines = terminal.getvalue().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lmeval: tiny is unpacked anew in every run, as it cannot be kept (")


def test_a_folder_that_is_right_is_used_though_it_cannot_be_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = transformers_folder(source)
    read_only(tmp_path, monkeypatch)
    assert transformers_folder(source) == folder


def test_processes_may_write_the_folder_at_once(source: Path):
    folder = transformers_folder(source)
    before = contents(folder)
    code = f"""
import time
from pathlib import Path
from lmeval.models.fingerprints import arrays_sha256
from lmeval.models.packed_folders import transformers_folder
from safetensors.numpy import load_file
time.sleep(max(0, {time.time() + 1.5} - time.time()))
folder = transformers_folder(Path({str(source)!r}))
print(arrays_sha256(load_file(folder / "model.safetensors")))
"""
    for path in folder.iterdir():
        path.write_bytes(b"damaged")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) for _ in range(3)]
    for run in runs:
        out, err = run.communicate(timeout=60)
        assert (out.strip(), err) == (packed_sha256(source / "model.packed"), "")
    assert contents(folder) == before  # and nothing else is left


def test_packing_copies_all_but_the_weights(source: Path):
    plain = source.parent / "plain"
    names = {path.name for path in plain.iterdir()}
    assert {path.name for path in source.iterdir()} == names - {"model.safetensors"} | {"model.packed"}
    assert json.loads((source / "config.json").read_text())["dtype"] == "float32"
    assert (source / "tokenizer.json").read_bytes() == (plain / "tokenizer.json").read_bytes()


def test_weights_on_a_grid_are_packed_as_they_are(source: Path, tmp_path: Path):
    folder = transformers_folder(source)
    assert pack_folder(folder, tmp_path / "again") == packed_sha256(source / "model.packed")
    assert (tmp_path / "again" / "model.packed").read_bytes() == (source / "model.packed").read_bytes()


def test_bfloat16_weights_are_rounded_as_they_are(tmp_path: Path):
    plain = save_pair(tmp_path / "plain")
    network = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.bfloat16)
    network.save_pretrained(tmp_path / "half")
    arrays = {name: p.detach().float().numpy() for name, p in network.named_parameters()}
    sha256 = pack_folder(tmp_path / "half", tmp_path / "packed", bits=6)
    assert sha256 == arrays_sha256(as_arrays(quantise(arrays, 6)))


def test_weights_off_the_grid_are_not_packed(source: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=r"lm_head\.weight lies on no grid"):
        pack_folder(source.parent / "plain", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match="holds no weights"):
        pack_folder(source, tmp_path / "out")


def test_the_script_packs_and_enters_the_fingerprint(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    known = tmp_path / "fingerprints.json"
    known.write_text(json.dumps({"a" * 64: "other", "b" * 64: "tiny"}))

    command = ["pack_model.py", str(source.parent / "plain"), str(tmp_path / "tiny")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match=r"^pack_model: lm_head\.weight lies on no grid.*$"):
        runpy.run_path(str(ROOT / "scripts" / "pack_model.py"), run_name="__main__")
    monkeypatch.setattr(sys, "argv", [*command, "--bits", "4"])
    runpy.run_path(str(ROOT / "scripts" / "pack_model.py"), run_name="__main__")
    sha256 = packed_sha256(source / "model.packed")
    assert sha256 in capsys.readouterr().out
    assert json.loads(known.read_text()) == {sha256: "tiny", "a" * 64: "other"}
