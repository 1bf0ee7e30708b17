from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lmeval.densities.kinds import KINDS, DensityKind, Weights
from lmeval.densities.layers import Linear
from lmeval.densities.modelfile import load_density
from lmeval.densities.networks import Generator
from lmeval.errors import DensityError
from lmeval.specs.keys import Keys, needed, whole
from lmeval.specs.reader import Node


def test_every_kind_is_registered_under_the_name_that_its_files_give():
    assert list(KINDS) == ["latent", "made", "flow", "implicit"]
    assert all(kind.name == name and "weights" in kind.keys for name, kind in KINDS.items())


def test_a_new_kind_is_one_registration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def build(keys: Node, weights: Weights, device: str | torch.device) -> Generator:
        return Generator((Linear(weights["w"], torch.zeros(4)), "sigmoid"), keys.values["levels"], 4, keys.values["noises"])

    def check(keys: Node) -> None:
        if keys.values["noises"] == 3:
            raise DensityError(f"{keys.where('noises')} must not be 3")

    common: Keys = {key: KINDS["flow"].keys[key] for key in ("density", "weights", "shape", "levels", "binarisation")}
    toy = DensityKind("toy", common | {"noises": needed(whole(1, 9))}, build, check)
    monkeypatch.setattr("lmeval.densities.modelfile.KINDS", {**KINDS, "toy": toy})
    save_file({"w": torch.ones(4, 2)}, tmp_path / "w.safetensors")
    text = "density: toy\nweights: w.safetensors\nshape: [2, 2]\nlevels: 5\nnoises: 2\n"
    (tmp_path / "density.yaml").write_text(text)
    loaded = load_density(tmp_path)
    assert loaded.kind == "toy" and isinstance(loaded.model, Generator) and loaded.model.sample(3).shape == (3, 4)
    for old, new, message in (
        ("noises: 2", "noises: 3", "line 5: noises must not be 3"),
        ("noises: 2", "noises: 0", "line 5: noises must be a whole number from 1 to 9, not 0"),
        ("noises: 2", "noise: 2", r"line 5: unknown key 'noise' for density toy \(did you mean 'noises'\?\)"),
        ("density: toy", "density: tpy", "line 1: density must be one of .*toy.*, not 'tpy'"),
    ):
        (tmp_path / "density.yaml").write_text(text.replace(old, new))
        with pytest.raises(DensityError, match=message):
            load_density(tmp_path)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{kind: nsf, transforms: 1, hidden: [4]}", "flow must have bins where its kind is nsf"),
        ("{kind: maf, transforms: 1, hidden: [4], bins: 4}", "flow must have bins where its kind is nsf, and only there"),
        ("{kind: nfs, transforms: 1, hidden: [4]}", r"flow.kind must be nsf or maf, not 'nfs' \(did you mean 'nsf'\?\)"),
        ("{kind: maf, transform: 1, hidden: [4]}", r"unknown key 'transform' in flow \(did you mean 'transforms'\?\)"),
        ("{kind: maf, hidden: [4]}", "key 'transforms' must be given, as a whole number from 1 to 100"),
        ("maf", "flow must be a mapping, not 'maf'"),
    ],
)
def test_a_flow_names_what_is_wrong_inside_it(tmp_path: Path, written: str, message: str):
    text = "density: flow\nweights: w.safetensors\nshape: [2, 2]\nlevels: 5\nalpha: 0.01\ndequantisations: 4\n"
    (tmp_path / "density.yaml").write_text(f"{text}flow: {written}\n")
    with pytest.raises(DensityError, match=f"line 7: {message}"):
        load_density(tmp_path)
