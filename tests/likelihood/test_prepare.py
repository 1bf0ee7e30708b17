"""What is read and refused before anything is computed, and what it is said to cost."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import shared
from small_densities import weights_of, write_density, write_images, write_spec

from lmeval.compute.place import Place
from lmeval.data.images import read_images
from lmeval.errors import DensityError, InputError, InputNotFound, LmevalError, MixedSpaces, ModelNotFound, TaskFileError
from lmeval.likelihood.cost import cost_lines
from lmeval.likelihood.methods import METHODS
from lmeval.likelihood.prepare import Prepared, prepare
from lmeval.likelihood.settings import FixedSettings, Plan
from lmeval.likelihood.spec import DEFAULT_BOUNDS, BoundSpec, read_spec, spec_path, with_overrides

ALONE = Place(0, 1, torch.device("cpu"))
GREY = {"images": "images.npy"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Binary densities of every kind, and grey ones, beside grey images."""
    for kind in ("latent", "made", "implicit"):
        write_density(tmp_path / kind, kind, 2)
    for kind in ("flow", "implicit"):
        write_density(tmp_path / f"grey-{kind}", kind, 256)
    write_images(tmp_path / "images.npy")
    return tmp_path


def prepared(folder: Path, *models: dict[str, Any], data: dict[str, Any] | None = None, **changes: Any) -> Prepared:
    return prepare(read_spec(write_spec(folder / "spec.yaml", list(models), data, **changes), folder / "data"))


def refusal(kind: type[LmevalError], folder: Path, *models: dict[str, Any], data: dict[str, Any] | None = None) -> str:
    with pytest.raises(kind) as caught:
        prepared(folder, *models, data=data)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def test_models_and_data_are_read(folder: Path):
    found = prepared(folder, {"model": "latent"}, {"model": "made"}, {"name": "sampler", "model": "implicit"})
    assert [(m.spec.name, m.kind, m.density.kind) for m in found.models] == [
        ("latent", "latent", "latent"),
        ("made", "exact", "made"),
        ("sampler", "implicit", "implicit"),
    ]
    latent, made, sampler = found.models
    assert tuple(bound.spec for bound in latent.bounds) == DEFAULT_BOUNDS and latent.sandwich is None
    assert [bound.label for bound in made.bounds] == ["log p"] and sampler.bounds == ()
    assert found.x.shape == (12, 9) and found.x.dtype == torch.float32 and set(found.x.unique().tolist()) == {0.0, 1.0}
    assert found.data.tags.describe() == "2 levels, sampled (seed 0)"
    assert found.data.name == "images.npy"  # as the spec has it, not where it lies


def test_a_limit_changes_no_pixel(folder: Path):
    whole = prepared(folder, {"model": "made"})
    first = prepared(folder, {"model": "made"}, data={"images": "images.npy", "binarise": {"seed": 0}, "limit": 5})
    assert torch.equal(first.x, whole.x[:5]) and len(first.data) == 5 and first.data.n_source == 12
    other = prepared(folder, {"model": "made"}, data={"images": "images.npy", "binarise": {"seed": 1}})
    assert not torch.equal(other.x, whole.x)
    spec = with_overrides(whole.spec, 3, 9)
    assert (spec.data.images.limit, spec.seed) == (3, 9) and with_overrides(whole.spec, None, None) == whole.spec


def test_the_anchor_data_are_those_of_the_published_vae():
    file = shared("images/mnist/t10k-images-idx3-ubyte.gz")
    found = prepare(read_spec(spec_path("bbans"), file.parents[2]))
    expected = torch.rand(10000, 784, generator=torch.Generator().manual_seed(0)) < read_images(file).x / 255
    assert torch.equal(found.x.bool(), expected[:100]) and found.data.n_source == 10000


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("made", GREY, "made is a model of images of 2 levels, sampled, and the data are of 256 levels"),
        ("grey-flow", None, "grey-flow is a model of images of 256 levels, and the data are of 2 levels, sampled (seed 0)"),
        ("made", GREY | {"threshold": 128}, "of 2 levels, sampled, and the data are of 2 levels, threshold (1 from 128)"),
        ("made", {"images": "wide.npy", "binarise": {"seed": 0}}, "of images of 3 x 3, and the data are of 4 x 3"),
        ("made", {"images": "digits", "split": "test"}, "and the data are of 17 levels"),
        ("made", {"images": "binary.npy"}, "the data are of 2 levels, static (a fixed file)"),
    ],
)
def test_spaces_are_not_mixed(folder: Path, model: str, data: dict[str, Any] | None, says: str):
    np.save(folder / "wide.npy", np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)
    np.save(folder / "binary.npy", np.eye(9, dtype=np.uint8).reshape(9, 3, 3))
    found = refusal(MixedSpaces, folder, {"model": model}, data=data)
    assert says in found and "no table holds both" in found


def test_a_binary_file_may_say_how_it_was_made(folder: Path):
    np.save(folder / "binary.npy", np.random.default_rng(0).integers(2, size=(9, 3, 3), dtype=np.uint8))
    data = {"images": "binary.npy", "binarisation": "sampled"}
    assert prepared(folder, {"model": "made"}, data=data).data.tags.binarisation == "sampled"
    found = refusal(MixedSpaces, folder, {"model": "made"}, data={"images": "images.npy", "binarisation": "sampled"})
    assert "binarise: {seed: 0}" in found


def test_models_of_two_spaces_never_share_a_table(folder: Path):
    for first, second in (("made", "grey-flow"), ("grey-flow", "made")):
        refusal(MixedSpaces, folder, {"model": first}, {"model": second})
        refusal(MixedSpaces, folder, {"model": first}, {"model": second}, data=GREY)


@pytest.mark.parametrize(
    ("model", "kind", "says"),
    [
        (
            {"model": "made", "bounds": ["elbo"]},
            TaskFileError,
            "made is a model with exact log p, and bounds is for a latent",
        ),
        ({"model": "made", "sandwich": 3}, TaskFileError, "sandwich is for a latent variable model: leave it out"),
        ({"model": "latent", "kde": {"samples": 9}}, TaskFileError, "kde is for an implicit model"),
        ({"model": "implicit", "bounds": ["smc"]}, TaskFileError, "implicit is an implicit model, and bounds is for"),
        ({"model": "nothing"}, ModelNotFound, "no density nothing"),
        ({"model": "made/nothing.yaml"}, ModelNotFound, "no density made/nothing.yaml"),
        ({"model": "implicit", "kde": {"held_out": {"images": "none.npy"}}}, InputNotFound, "no file none.npy"),
        ({"model": "implicit", "kde": {"held_out": {"images": "wide.npy"}}}, MixedSpaces, "held-out images have 12 pixels"),
    ],
)
def test_what_does_not_fit(folder: Path, model: dict[str, Any], kind: type[LmevalError], says: str):
    np.save(folder / "wide.npy", np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5)
    assert says in refusal(kind, folder, model)


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        ({"images": "none.npy"}, InputNotFound, "no file none.npy"),
        ({"images": "digits"}, InputError, "splits train"),
        ({"images": "images.npy", "split": "test"}, InputError, "has no splits"),
        ({"images": "images.npy", "threshold": 300}, InputError, "threshold of 300"),
        ({"images": "images.npy", "shape": [2, 2]}, InputError, "shape [2, 2]"),
        ({"images": "empty.npy"}, InputError, "no images"),
    ],
)
def test_data_that_cannot_be_used(folder: Path, data: dict[str, Any], kind: type[LmevalError], says: str):
    np.save(folder / "empty.npy", np.zeros((0, 3, 3), np.uint8))
    assert says in refusal(kind, folder, {"model": "made"}, data=data)


def test_a_model_that_gives_nan_is_refused_by_name(folder: Path):
    weights = weights_of("latent", 2)
    weights["e.weight"] = weights["e.weight"] * 1e38  # finite, and what it makes of ordinary z is not
    weights["d.weight"] = weights["d.weight"] * 1e10
    write_density(folder / "bad", "latent", 2, weights)
    assert refusal(DensityError, folder, {"name": "my VAE", "model": "bad"}).startswith("my VAE: ")


def test_files_may_lie_in_the_data_folder(folder: Path):
    (folder / "data").mkdir()
    (folder / "images.npy").rename(folder / "data/images.npy")
    (folder / "made").rename(folder / "data/made")
    found = prepared(folder, {"model": "made"})
    assert found.models[0].density.kind == "made" and len(found.data) == 12


def test_held_out_data(folder: Path):
    write_images(folder / "others.npy", 7, seed=5)
    [model] = prepared(folder, {"model": "implicit"}).models
    assert model.held_out is None  # a file says nothing of others
    [model] = prepared(folder, {"model": "implicit", "kde": {"held_out": {"images": "others.npy", "limit": 6}}}).models
    assert model.held_out is not None and model.held_out.shape == (6, 9)
    assert set(model.held_out.unique().tolist()) == {0.0, 1.0}  # made binary as the data are
    sizes = {"a.weight": (16, 2), "a.bias": (16,), "b.weight": (64, 16), "b.bias": (64,)}
    weights = {name: torch.zeros(size) for name, size in sizes.items()}
    write_density(folder / "eight", "implicit", 17, weights, shape=[8, 8])
    [model] = prepared(folder, {"model": "eight"}, data={"images": "digits", "split": "test"}).models
    # the end of the training split, and none of the test digits
    assert model.held_out is not None and torch.equal(model.held_out, read_images("digits", split="train").x[-200:].float())
    [model] = prepared(folder, {"model": "eight"}, data={"images": "digits", "split": "train"}).models
    assert model.held_out is None


def test_costs_are_said_before_they_are_spent(folder: Path):
    write_images(folder / "others.npy", 7, seed=5)
    bounds = [
        "elbo",
        {"iwae": 50},
        {"smc": {"particles": 8, "temperatures": 10}},
        {"ais": {"temperatures": 3, "leapfrogs": 7}},
    ]
    found = prepared(
        folder,
        {"model": "latent", "bounds": bounds, "sandwich": 9},
        {"model": "made"},
        {"model": "implicit", "kde": {"samples": 99}},
        {"name": "i", "model": "implicit", "kde": {"held_out": {"images": "others.npy"}}},
    )
    assert cost_lines(found) == [
        "latent: ELBO: 12 data x 1 draws = 12 decoder evaluations",
        "latent: IWAE-50: 12 data x 50 draws = 600 decoder evaluations",
        "latent: SMC 8 x 10: 12 data x 8 particles x (1 + 9 temperatures x 5 leapfrogs) = 4,416 decoder evaluations, "
        "after a pilot",
        "latent: AIS 16 x 3: 12 data x 16 particles x (1 + 2 temperatures x 7 leapfrogs) = 2,880 decoder evaluations, "
        "after a pilot",
        "latent: sandwich: 9 simulated data x 16 particles x (1 + 2 temperatures x 7 leapfrogs) = 2,160 decoder "
        "evaluations, after a pilot, and as many again for the upper bound",
        "made: log p of 12 data",
        "implicit: kernel density estimate of 12 data from 99 samples, bandwidth by its own samples",
        "i: kernel density estimate of 12 data from 10,000 samples, bandwidth by 7 held-out data",
    ]


def test_a_gap_becomes_temperatures_that_all_processes_share(folder: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[FixedSettings, float]] = []

    def fake(density: Any, x: Any, settings: FixedSettings, gap: float) -> Plan:
        seen.append((settings, gap))
        return Plan(settings._replace(temperatures=41), 0.19, 3.5, 1234, 56.0, 12)

    for name in ("smc", "ais"):
        monkeypatch.setitem(METHODS, name, METHODS[name]._replace(plan=fake))  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("lmeval.likelihood.prepare.agree", lambda n, _: n - 1)
    planned = prepared(
        folder, {"model": "latent", "bounds": ["elbo", {"smc": {"gap": 0.2, "start": "prior", "leapfrogs": 3}}]}
    )
    elbo, smc = planned.models[0].bounds
    assert (elbo.spec, elbo.method, elbo.settings.particles) == (BoundSpec("elbo", {}), METHODS["elbo"], 1)
    assert smc.spec.settings == {"particles": 16, "start": "prior", "leapfrogs": 3, "temperatures": 40}
    assert (smc.settings.temperatures, smc.settings.start, smc.settings.leapfrogs) == (40, "prior", 3)
    [(settings, gap)] = seen
    assert gap == 0.2 and (settings.start, settings.leapfrogs, settings.resample_below) == ("prior", 3, 0.5)
    assert smc.spec.plan == {
        "wanted_gap_nats": 0.2,
        "gap_nats": 0.19,
        "length": 3.5,
        "n_gradients": 1234,
        "seconds": 56.0,
        "n_data": 12,
    }
    assert cost_lines(planned)[1].endswith("after a pilot, planned for a gap of 0.2 nats, about 56 s")
    assert smc.label == "SMC 16 x 40, gap 0.2"
    prepared(folder, {"model": "latent", "bounds": [{"ais": {"gap": 0.2}}]})
    assert seen[-1][0].resample_below == 0.0


def test_the_planner_is_the_real_one(folder: Path):
    wide = {"smc": {"gap": 0.5, "particles": 4}}
    tight = {"smc": {"gap": 0.001, "particles": 4}}
    found = prepared(folder, {"model": "latent", "bounds": [wide, tight]})
    few, many = (bound.settings.temperatures for bound in found.models[0].bounds)
    assert 2 <= few < many
