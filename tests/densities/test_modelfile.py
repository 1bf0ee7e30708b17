import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from samples import ROOT, shared

from lmeval.data.resources import bundled_by_fingerprint, bundled_densities, bundled_names, reference_folder
from lmeval.densities.kinds import KINDS
from lmeval.densities.modelfile import build_density, checked_keys, load_density, read_density_file
from lmeval.densities.named import is_density
from lmeval.densities.networks import DequantisedFlow, Generator, LayeredVAE, Made, order_ranks
from lmeval.errors import DensityError, LmevalError, ModelNotFound
from lmeval.models.fingerprints import weights_sha256

COMMON: dict[str, Any] = {"weights": "model.safetensors", "shape": [2, 3], "levels": 5}
SMALL: dict[str, dict[str, Any]] = {
    "latent": COMMON
    | {
        "density": "latent",
        "latent": 2,
        "encoder": ["a", "relu"],
        "mean": "b",
        "log_std": "c",
        "decoder": ["d", "relu", "e"],
    }
    | {"observation": "categorical"},
    "made": COMMON | {"density": "made", "layers": ["a", "relu", "b"], "orderings": [0, 3], "inputs": "one_hot"},
    "flow": COMMON
    | {"density": "flow", "flow": {"kind": "maf", "transforms": 1, "hidden": [4]}, "alpha": 0.01, "dequantisations": 4},
    "implicit": COMMON | {"density": "implicit", "latent": 2, "decoder": ["a", "relu", "b", "sigmoid"]},
}
WIDTHS = {
    "latent": {"a": (6, 4), "b": (4, 2), "c": (4, 2), "d": (2, 4), "e": (4, 30)},
    "made": {"a": (30, 8), "b": (8, 30)},
    "implicit": {"a": (2, 4), "b": (4, 6)},
}
CLASSES = {"latent": LayeredVAE, "made": Made, "flow": DequantisedFlow, "implicit": Generator}


def small_weights(kind: str) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(7)
    if kind == "flow":
        import zuko

        named = zuko.flows.MAF(features=6, transforms=1, hidden_features=[4]).named_parameters()
        return {name: torch.randn(parameter.shape, generator=rng) for name, parameter in named}
    weights = {}
    for name, (n_in, n_out) in WIDTHS[kind].items():
        weights[f"{name}.weight"] = torch.randn(n_out, n_in, generator=rng)
        weights[f"{name}.bias"] = torch.randn(n_out, generator=rng)
    return weights


def write(folder: Path, kind: str = "latent", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A folder with a small density; a change of None takes a key away."""
    folder.mkdir(exist_ok=True)
    values = {key: value for key, value in (SMALL[kind] | changes).items() if value is not None}
    (folder / "density.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    save_file({name: tensor.to(dtype) for name, tensor in small_weights(kind).items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_read_to_the_model_that_it_describes(tmp_path: Path, kind: str):
    loaded = load_density(write(tmp_path, kind))
    assert isinstance(loaded.model, CLASSES[kind])
    assert (loaded.kind, loaded.levels, loaded.shape, loaded.binarisation) == (kind, 5, (2, 3), None)
    assert loaded.path == tmp_path / "density.yaml" and loaded.name == str(tmp_path)
    assert loaded.model.n_parameters == sum(tensor.numel() for tensor in small_weights(kind).values())
    x = torch.tensor([[0.0, 1, 2, 3, 4, 0], [4, 4, 4, 0, 0, 1]])
    if isinstance(loaded.model, LayeredVAE):
        assert loaded.model.decode(loaded.model.encode(x).sample()).log_prob(x).shape == (2,)
    elif isinstance(loaded.model, Generator):
        assert loaded.model.sample(3).shape == (3, 6)
    else:
        assert loaded.model.log_prob(x).isfinite().all() and loaded.model.sample(3).shape == (3, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_is_that_of_the_values_as_float32(tmp_path: Path, kind: str):
    class Named(torch.nn.Module):
        def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
            return iter(weights.items())

    half = write(tmp_path / "half", kind, torch.float16)
    weights = {name: tensor.float() for name, tensor in load_file(half / "model.safetensors").items()}
    save_file(weights, write(tmp_path / "wide", kind) / "model.safetensors")
    found = load_density(half).weights_sha256
    assert found == load_density(tmp_path / "wide").weights_sha256 == weights_sha256(Named())
    assert found != load_density(write(tmp_path / "other", kind)).weights_sha256  # not rounded to float16


def test_numbers_of_the_file_reach_the_model(tmp_path: Path):
    made, flow = (
        load_density(write(tmp_path / "made", "made")).model,
        load_density(write(tmp_path / "flow", "flow", alpha=0.07)).model,
    )
    assert isinstance(made, Made) and isinstance(flow, DequantisedFlow)
    assert [rank.tolist() for rank in made.ranks] == [order_ranks(6, 0).tolist(), order_ranks(6, 3).tolist()]
    assert made.one_hot and not made.direct and (flow.alpha, flow.n_dequantisations, flow.levels) == (0.07, 4, 5)


def test_a_direct_layer_of_the_file_reaches_the_model():
    weights = small_weights("made")
    weights |= {"skip.weight": torch.ones(30, 30), "skip.bias": torch.zeros(30)}
    made = build_density(checked_keys(SMALL["made"] | {"direct": "skip"}), weights)
    assert isinstance(made, Made) and len(made.direct) == 2 and made.n_parameters == sum(w.numel() for w in weights.values())


def test_weights_are_read_as_float32(tmp_path: Path):
    model = load_density(write(tmp_path, "latent", torch.float16)).model
    assert isinstance(model, LayeredVAE) and model.mean.weight.dtype == torch.float32
    assert model.decode(torch.zeros(1, 2)).log_prob(torch.zeros(1, 6)).dtype == torch.float32


def test_a_key_that_is_given_twice(tmp_path: Path):
    folder = write(tmp_path)
    with (folder / "density.yaml").open("a") as file:
        file.write("levels: 5\n")
    with pytest.raises(DensityError, match=r"line \d+: key 'levels' is given twice"):
        load_density(folder)


def test_log_var_is_halved(tmp_path: Path):
    one = load_density(write(tmp_path / "std")).model
    two = load_density(write(tmp_path / "var", log_std=None, log_var="c")).model
    assert isinstance(one, LayeredVAE) and isinstance(two, LayeredVAE)
    x = torch.tensor([[0.0, 1, 2, 3, 4, 0]])
    torch.testing.assert_close(two.encode(x).stddev, one.encode(x).stddev.sqrt())


def test_a_flow_does_not_draw_from_the_callers_generator(tmp_path: Path):
    folder = write(tmp_path, "flow")
    state = torch.random.get_rng_state()
    load_density(folder)
    assert torch.equal(state, torch.random.get_rng_state())


def test_gradients_reach_the_weights_that_were_given():
    for kind in ("latent", "made", "implicit"):
        weights = {name: tensor.requires_grad_() for name, tensor in small_weights(kind).items()}
        model: Any = build_density(checked_keys(SMALL[kind]), weights)
        x = torch.tensor([[0.0, 1, 2, 3, 4, 0]])
        q = model.encode(x).rsample() if kind == "latent" else None
        loss = (
            model.decode(q).log_prob(x)
            if kind == "latent"
            else model.log_prob(x)
            if kind == "made"
            else model.images(x[:, :2])
        )
        loss.sum().backward()
        assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in weights.values())


def test_names_that_stand_for_densities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "model")
    (tmp_path / "task.yaml").write_text("task: x\noutput_type: multiple_choice\n")
    (tmp_path / "mine.yaml").write_text("density: latent\nlatent: [\n  2]\n")
    (tmp_path / "broken.yaml").write_text("density: [\n")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [name for name in ("model", "model/density.yaml", "mine.yaml") if not is_density(name)] == []
    for name in ("task.yaml", "broken.yaml", "empty", "absent", "absent.yaml", "gpt2", "bundled", "a\0b", "x" * 5000, ""):
        assert not is_density(name), name


def test_a_bundled_name_means_the_bundled_model_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "lmeval-digits-vae-v1")
    monkeypatch.chdir(tmp_path)
    assert load_density("lmeval-digits-vae-v1").path == reference_folder("lmeval-digits-vae-v1") / "density.yaml"
    assert load_density("./lmeval-digits-vae-v1").path == Path("lmeval-digits-vae-v1/density.yaml")


def test_bundled_densities_and_language_models_are_kept_apart():
    assert "lmeval-bytes-4m-v2" in bundled_names() and not is_density("lmeval-bytes-4m-v2")
    assert not set(bundled_names()) & set(bundled_densities())
    assert all(is_density(name) for name in bundled_densities())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"density": "vae"}, "density must be one of latent, made, flow, implicit, not 'vae'"),
        ({"lattent": 3}, "unknown key 'lattent' for density latent (did you mean 'latent'?)"),
        ({"orderings": [0]}, "unknown key 'orderings' for density latent"),
        ({"encoder": None}, "key 'encoder' must be given"),
        ({"levels": 1}, "levels must be a whole number from 2"),
        ({"levels": True}, "levels must be a whole number from 2"),
        ({"shape": []}, "shape must be a list of 1 to 4 whole numbers"),
        ({"shape": [2, 2.5]}, "shape must be a list"),
        ({"shape": [2, 4]}, "encoder: a layer's weight is [4, 6] and its bias [4], but 8 inputs reach it"),
        ({"latent": 3}, "the network gives 2 numbers, and 3 are needed"),
        ({"encoder": ["a", "rellu"]}, "no activation rellu and no weights rellu.weight"),
        ({"encoder": [["a"]]}, "encoder must be a list of layers and activations"),
        ({"encoder": "a"}, "encoder must be a list of layers and activations"),
        ({"mean": "relu"}, "mean must be the name of a layer"),
        ({"decoder": ["d", "relu", "a"]}, "but 4 inputs reach it"),
        ({"log_std": None}, "as log_std or as log_var"),
        ({"log_var": "c"}, "as log_std or as log_var"),
        ({"observation": "bernoulli"}, "bernoulli is for 2 levels"),
        ({"observation": "normal"}, "observation must be one of bernoulli, categorical, discretized_logistic"),
        ({"observation": ["categorical"]}, "observation must be one of"),
        ({"observation": "discretized_logistic"}, "the network gives 30 numbers, and 12 are needed"),
        ({"binarisation": "sampled"}, "binarisation must be null where levels is 5"),
        ({"binarisation": "often"}, "binarisation must be null or one of"),
        ({"trained_on": 3}, "trained_on must be text"),
        ({"encoder": [], "mean": "a", "log_std": "a"}, "holds b.bias, which no layer of the density file uses"),
    ],
)
def test_a_file_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], says: str):
    if changes == {"encoder": [], "mean": "a", "log_std": "a"}:
        changes = changes | {"latent": 4, "decoder": ["e"]}
    folder = write(tmp_path, **changes)
    with pytest.raises(DensityError) as found:
        load_density(folder)
    assert says in str(found.value) and str(folder) in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("made", {"inputs": "scaled"}, "weight is [8, 30] and its bias [8], but 6 inputs reach it"),
        ("made", {"inputs": "raw"}, "inputs must be scaled or one_hot"),
        ("made", {"orderings": [-1]}, "orderings must be a list of seeds"),
        ("made", {"direct": "b"}, "but 30 inputs reach it"),
        ("flow", {"alpha": 0.6}, "alpha must be a number between 0 and 0.5"),
        ("flow", {"flow": {"kind": "nsf", "transforms": 1, "hidden": [4]}}, "flow must have bins where its kind is nsf"),
        ("flow", {"flow": {"kind": "nsf", "transforms": 1, "hidden": [4], "bins": 4}}, "in the weights file and"),
        ("flow", {"flow": {"kind": "maf", "transforms": 2, "hidden": [4]}}, "the weights file lacks"),
        ("implicit", {"decoder": ["a", "relu", "b"]}, "decoder must end with sigmoid"),
    ],
)
def test_a_file_of_another_kind_that_does_not_fit(tmp_path: Path, kind: str, changes: dict[str, Any], says: str):
    with pytest.raises(DensityError) as found:
        load_density(write(tmp_path, kind, **changes))
    assert says in str(found.value) and str(tmp_path) in str(found.value) and "\n" not in str(found.value)


@pytest.mark.parametrize(
    "text", ["", "3", "- a", "density: [", "density: latent\ndensity: made", "a: &a [*a]", "d: 2024-02-31", "? [a]\n: b"]
)
def test_a_file_that_is_no_mapping_of_keys(tmp_path: Path, text: str):
    (tmp_path / "density.yaml").write_text(text)
    with pytest.raises(DensityError) as found:
        read_density_file(tmp_path / "density.yaml")
    assert "density.yaml" in str(found.value) and "\n" not in str(found.value)


def test_a_message_tells_the_line(tmp_path: Path):
    text = (write(tmp_path) / "density.yaml").read_text()
    (tmp_path / "density.yaml").write_text("# a comment\n\n" + text.replace("latent: 2", "latent: 0"))
    with pytest.raises(DensityError, match=r"density.yaml: line \d+: latent must be a whole number from 1") as found:
        load_density(tmp_path)
    line = int(str(found.value).split("line ")[1].split(":")[0])
    assert (tmp_path / "density.yaml").read_text().splitlines()[line - 1] == "latent: 0"


def test_what_is_missing_is_named(tmp_path: Path):
    folder = write(tmp_path)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelNotFound, match="is no safetensors file"):
        load_density(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"weights: no file model.safetensors in .*--data-dir"):
        load_density(folder)
    with pytest.raises(ModelNotFound, match=r"no density nothing: give a folder with density.yaml"):
        load_density("nothing")
    with pytest.raises(LmevalError, match=r"no density absent.yaml"):
        load_density("absent.yaml")


def test_weights_beside_the_file_come_before_those_of_the_data_folder(tmp_path: Path):
    folder, data = write(tmp_path / "here"), write(tmp_path / "data", "latent", torch.bfloat16)
    here, there = load_density(folder, data), load_density(data)
    assert here.weights_sha256 != there.weights_sha256
    (folder / "model.safetensors").unlink()
    assert load_density(folder, data).weights_sha256 == there.weights_sha256


def test_weights_that_are_not_finite_are_refused(tmp_path: Path):
    for kind in KINDS:
        weights = small_weights(kind)
        name = sorted(weights)[0]
        weights[name].view(-1)[0] = math.nan
        save_file(weights, write(tmp_path, kind) / "model.safetensors")
        with pytest.raises(DensityError, match="NaN or infinity"):
            load_density(tmp_path)


def test_the_published_vae_has_its_bound():
    import gzip

    import numpy as np

    data = shared("models").parent
    loaded = load_density(ROOT / "tasks" / "densities" / "bbans_binary_vae.yaml", data)
    raw = gzip.decompress((data / "images" / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    grey = torch.tensor(np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784), dtype=torch.float32) / 255
    x = (torch.rand(10000, 784, generator=torch.Generator().manual_seed(0)) < grey).float()
    noise = torch.randn(10000, 40, generator=torch.Generator().manual_seed(1))
    assert isinstance(loaded.model, LayeredVAE)
    q = loaded.model.encode(x)
    z = q.mean + q.stddev * noise
    log_weights = loaded.model.prior.log_prob(z) + loaded.model.decode(z).log_prob(x) - q.log_prob(z)
    assert float(log_weights.double().mean()) == pytest.approx(-105.497, abs=0.002)


@pytest.mark.parametrize("name", bundled_densities())
def test_a_bundled_density_is_found_by_its_fingerprint(name: str):
    loaded = load_density(name)
    assert loaded.name == name and bundled_by_fingerprint(loaded.weights_sha256) == str(reference_folder(name))
    card = (reference_folder(name) / "README.md").read_text(encoding="utf-8")
    assert name in card and f"{loaded.model.n_parameters:,}" in card
    size = (reference_folder(name) / "model.safetensors").stat().st_size
    assert f"{size:,} bytes" in card
    assert {tensor.dtype for tensor in load_file(reference_folder(name) / "model.safetensors").values()} == {torch.float16}


def test_bundled_densities_are_small():
    files = [path for name in bundled_densities() for path in reference_folder(name).rglob("*")]
    assert sum(path.stat().st_size for path in files) < 8_000_000


def test_every_fingerprint_names_a_bundled_model():
    known = json.loads((reference_folder("").parent / "reference" / "fingerprints.json").read_text())
    assert set(known.values()) <= {*bundled_names(), *bundled_densities()}
