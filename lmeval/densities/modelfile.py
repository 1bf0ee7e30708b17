"""Density files: YAML that says of what layers a density is made, beside a safetensors file with their weights.

    density: latent                # latent, made, flow or implicit
    weights: model.safetensors     # looked for beside this file, then in the data folder
    shape: [28, 28]                # of an image; pixels are in row-major order
    levels: 2                      # a pixel is one of 0..levels-1
    binarisation: sampled          # how two levels were made of more (images.BINARISATIONS); null where not
    trained_on: the first 55,000 training images of MNIST           # for people

and, by kind, with layers named as in the weights file ("fc1" has "fc1.weight" and "fc1.bias") and activations by name:

    latent: 40                     # numbers in z, which is standard normal
    encoder: [fc1, relu]
    mean: fc21
    log_std: fc22                  # or log_var: fc22
    decoder: [fc3, relu, fc4]
    observation: bernoulli         # categorical, discretized_logistic

    layers: [fc1, relu, fc2]       # made; masks are made here
    orderings: [0]                 # seeds of the orders of pixels: 0 is their own order; several make an even mixture
    inputs: scaled                 # or one_hot
    direct: skip                   # may be left out: a layer from inputs to outputs, whose result is added

    flow: {kind: nsf, transforms: 3, hidden: [64, 64], bins: 8}     # or maf; as zuko builds them, in features' own order
    alpha: 0.01                    # of the logit transform
    dequantisations: 32            # draws of the importance-weighted bound

    latent: 10                     # implicit
    decoder: [fc1, relu, fc2, sigmoid]

A key that is not known is an error that tells file, line and the nearest known key. No file runs code.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.distributions import Distribution

from lmeval.data.images import BINARISATIONS
from lmeval.data.resources import bundled_densities, reference_folder
from lmeval.densities.layers import ACTIVATIONS, Layers, Linear, check_layers
from lmeval.densities.networks import OBSERVATIONS, DequantisedFlow, Generator, LayeredVAE, Made, made_of, outputs_per_pixel
from lmeval.errors import DensityError, ModelNotFound, first_line
from lmeval.messages import nearest
from lmeval.models.fingerprints import tensors_sha256

FILE_NAME = "density.yaml"
KINDS = ("latent", "made", "flow", "implicit")
MAX_LEVELS = 65_536
_COMMON = {"density", "weights", "shape", "levels", "binarisation", "trained_on"}
_LATENT_KEYS = {"latent", "encoder", "mean", "log_std", "log_var", "decoder", "observation"}
_KEYS: Mapping[str, set[str]] = {
    "latent": _COMMON | _LATENT_KEYS,
    "made": _COMMON | {"layers", "orderings", "inputs", "direct"},
    "flow": _COMMON | {"flow", "alpha", "dequantisations"},
    "implicit": _COMMON | {"latent", "decoder"},
}
_OPTIONAL = {"binarisation", "trained_on", "log_std", "log_var", "direct"}
_NETWORKS = ("encoder", "mean", "log_std", "log_var", "decoder", "layers", "direct")
_FLOW_KEYS = {"kind", "transforms", "hidden", "bins"}

Density = LayeredVAE | Made | DequantisedFlow | Generator


class LoadedDensity(NamedTuple):
    """A density read from a density file.

    `name` is what the caller asked for, `kind` one of KINDS, `levels` the number of levels of a pixel, `shape` an image's,
    `binarisation` how two levels were made of more (None where they were not), `weights_sha256` the fingerprint of the
    weights (`models.fingerprints.tensors_sha256`), `path` the density file.
    """

    name: str
    kind: str
    model: Density
    levels: int
    shape: tuple[int, ...]
    binarisation: str | None
    weights_sha256: str
    path: Path


def is_density(name: str) -> bool:
    """Whether a name stands for a density: a bundled one, a folder with density.yaml, or a .yaml file with the key `density`
    at its top. Reads at most that file, no weights."""
    path = _density_path(name)
    if path is None:
        return False
    if path.name == FILE_NAME:
        return True
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(node, yaml.MappingNode) and any(key.value == "density" for key, _ in node.value)


def load_density(name: str | Path, data_dir: str | Path | None = None, device: str | torch.device = "cpu") -> LoadedDensity:
    """Load a bundled density by its name, a folder that holds density.yaml, or a density file.

    Weights are read as float32, whatever they are stored as. Raises ModelNotFound where there is no such file or it lacks
    weights, and DensityError with file and line where a value or a shape is wrong.
    """
    path = _density_path(str(name))
    if path is None:
        known = ", ".join(bundled_densities())
        raise ModelNotFound(f"no density {name}: give a folder with {FILE_NAME}, a density file (.yaml) or one of {known}")
    keys = read_density_file(path)
    weights = {name: tensor.float() for name, tensor in _weights_of(keys, data_dir).items()}
    model = build_density(keys, weights, device)
    values = keys.values
    found = tensors_sha256(weights.items())
    return LoadedDensity(
        str(name), values["density"], model, values["levels"], tuple(values["shape"]), values["binarisation"], found, path
    )


class DensityKeys(NamedTuple):
    """The checked keys of a density file, and the line of each for messages."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[str, int]

    def where(self, key: str) -> str:
        """Name, file and line of a key."""
        return f"{self.path}: line {self.lines[key]}: {key}" if key in self.lines else f"{self.path}: {key}"


def read_density_file(path: Path) -> DensityKeys:
    """Read and check a density file, without its weights. Raises DensityError with file and line, and ModelNotFound."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DensityError(f"{path}: not UTF-8 text: {error.reason} at offset {error.start}") from error
    except (OSError, ValueError) as error:
        raise ModelNotFound(f"no such density file: {path}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise DensityError(f"{path}:{line} {getattr(error, 'problem', None) or first_line(error)}") from error
    except RecursionError as error:
        raise DensityError(f"{path}: nested too deeply") from error
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise DensityError(f"{path}: not a density file: it is a YAML mapping with keys such as density, weights, shape")
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if str(key.value) in lines:
            raise DensityError(f"{path}: line {key.start_mark.line + 1}: key {key.value!r:.60} is given twice")
        lines[str(key.value)] = key.start_mark.line + 1
    return checked_keys(values, path, lines)


def checked_keys(
    values: Mapping[str, Any], path: Path = Path(FILE_NAME), lines: Mapping[str, int] | None = None
) -> DensityKeys:
    """The keys of a density file, checked one by one; `binarisation` and `trained_on` are given their defaults.

    Raises DensityError, one line, for an unknown or missing key and for a value of the wrong kind or size.
    """
    keys = DensityKeys(path, {"binarisation": None, "trained_on": "", **values}, lines or {})
    kind = values.get("density")
    if kind not in KINDS:
        raise DensityError(f"{keys.where('density')} is {kind!r:.60}: use one of {', '.join(KINDS)}")
    for key in values:
        if key not in _KEYS[kind]:
            near = nearest(str(key), _KEYS[kind])
            raise DensityError(f"{keys.where(str(key))}: unknown key {key!r:.60} for density {kind}{near}")
    missing = sorted(_KEYS[kind] - _OPTIONAL - set(values))
    if missing:
        raise DensityError(f"{path}: key '{missing[0]}' must be given for density {kind}")
    for key, (accepts, description) in _CHECKS.items():
        if key in values and not accepts(values[key]):
            raise DensityError(f"{keys.where(key)} must be {description}, not {values[key]!r:.60}")
    if kind == "latent":
        _check_latent(keys)
    if kind == "implicit" and values["decoder"][-1] != "sigmoid":
        raise DensityError(
            f"{keys.where('decoder')} must end with sigmoid: an implicit density's image is (levels - 1) times it"
        )
    if keys.values["binarisation"] is not None and values["levels"] != 2:
        raise DensityError(f"{keys.where('binarisation')} must be null where levels is {values['levels']}, not 2")
    return keys


def build_density(keys: DensityKeys, weights: Mapping[str, Tensor], device: str | torch.device = "cpu") -> Density:
    """A density of given weights (name -> tensor, as in the weights file), which it shares: their gradients reach them, but
    for a flow's, which are copied into its module.

    Raises DensityError where a layer has no weights, a shape does not fit, or weights belong to no layer.
    """
    kind = keys.values["density"]
    if kind == "flow":
        return _flow(keys, weights, device)
    build = {"latent": _latent, "made": _made, "implicit": _implicit}[kind]
    model = build(keys, {name: tensor.to(device) for name, tensor in weights.items()})
    used = {name for key in _NETWORKS for name in _layer_names(keys, key)}
    left = sorted(set(weights) - {f"{name}.{part}" for name in used for part in ("weight", "bias")})
    if left:
        raise DensityError(f"{keys.path}: the weights file holds {left[0]}, which no layer of the density file uses")
    return model


def _latent(keys: DensityKeys, weights: Mapping[str, Tensor]) -> LayeredVAE:
    values, n_dims = keys.values, math.prod(keys.values["shape"])
    encoder, decoder = _layers(keys, "encoder", weights), _layers(keys, "decoder", weights)
    width = check_layers(encoder, n_dims, None, keys.where("encoder"))
    spread = "log_std" if values.get("log_std") else "log_var"
    (mean,), (log_std,) = _layers(keys, "mean", weights), _layers(keys, spread, weights)
    check_layers((mean,), width, values["latent"], keys.where("mean"))
    check_layers((log_std,), width, values["latent"], keys.where(spread))
    n_out = n_dims * outputs_per_pixel(values["observation"], values["levels"])
    check_layers(decoder, values["latent"], n_out, keys.where("decoder"))
    assert isinstance(mean, Linear) and isinstance(log_std, Linear)
    if spread == "log_var":  # halving is exact in binary
        log_std = Linear(log_std.weight / 2, log_std.bias / 2)
    return LayeredVAE(encoder, mean, log_std, decoder, values["observation"], values["levels"], n_dims, values["latent"])


def _made(keys: DensityKeys, weights: Mapping[str, Tensor]) -> Made:
    values, n_dims, levels = keys.values, math.prod(keys.values["shape"]), keys.values["levels"]
    layers, hot = _layers(keys, "layers", weights), values["inputs"] == "one_hot"
    n_out = n_dims * (1 if levels == 2 else levels)
    n_in = n_dims * (levels if hot else 1)
    check_layers(layers, n_in, n_out, keys.where("layers"))
    direct = _layers(keys, "direct", weights) if values.get("direct") else ()
    if direct:
        check_layers(direct, n_in, n_out, keys.where("direct"))
    return made_of(layers, values["orderings"], levels, n_dims, one_hot=hot, direct=direct)


def _implicit(keys: DensityKeys, weights: Mapping[str, Tensor]) -> Generator:
    values, n_dims = keys.values, math.prod(keys.values["shape"])
    layers = _layers(keys, "decoder", weights)
    check_layers(layers, values["latent"], n_dims, keys.where("decoder"))
    return Generator(layers, values["levels"], n_dims, values["latent"])


def _flow(keys: DensityKeys, weights: Mapping[str, Tensor], device: str | torch.device) -> DequantisedFlow:
    checks = Distribution._validate_args  # pyright: ignore[reportPrivateUsage]
    import zuko  # slow to import, and only flows need it

    Distribution.set_default_validate_args(checks)  # the import turns torch's checks off for the whole process
    values, given, n_dims = keys.values, keys.values["flow"], math.prod(keys.values["shape"])
    shared = {"features": n_dims, "transforms": given["transforms"], "hidden_features": given["hidden"]}
    with torch.random.fork_rng(devices=[]):
        flow = zuko.flows.NSF(bins=given["bins"], **shared) if given["kind"] == "nsf" else zuko.flows.MAF(**shared)
    parameters = dict(flow.named_parameters())
    for name, parameter in parameters.items():
        if name not in weights:
            raise DensityError(f"{keys.path}: the weights file lacks {name}, which the flow needs")
        shape, needed = list(weights[name].shape), list(parameter.shape)
        if shape != needed:
            raise DensityError(f"{keys.path}: {name} is {shape} in the weights file and {needed} in the flow")
        if not weights[name].isfinite().all():
            raise DensityError(f"{keys.path}: {name} holds NaN or infinity: the file is damaged or training failed")
        parameter.data.copy_(weights[name])
    left = sorted(set(weights) - set(parameters))
    if left:
        raise DensityError(f"{keys.path}: the weights file holds {left[0]}, which the flow does not have")
    return DequantisedFlow(flow.to(device).eval(), values["levels"], n_dims, values["alpha"], values["dequantisations"])


def _layer_names(keys: DensityKeys, key: str) -> list[str]:
    """Names of affine layers that a key lists."""
    listed = keys.values.get(key) or ()
    return [name for name in ([listed] if isinstance(listed, str) else listed) if name not in ACTIVATIONS]


def _layers(keys: DensityKeys, key: str, weights: Mapping[str, Tensor]) -> Layers:
    """The network that a key lists."""
    listed, found = keys.values[key], []
    for name in [listed] if isinstance(listed, str) else listed:
        if name in ACTIVATIONS:
            found.append(name)
            continue
        for part in ("weight", "bias"):
            if f"{name}.{part}" not in weights:
                near = nearest(f"{name}.{part}", weights)
                raise DensityError(f"{keys.where(key)}: no activation {name} and no weights {name}.{part}{near}")
        found.append(Linear(weights[f"{name}.weight"], weights[f"{name}.bias"]))
    return tuple(found)


def _check_latent(keys: DensityKeys) -> None:
    values = keys.values
    if bool(values.get("log_std")) == bool(values.get("log_var")):
        raise DensityError(f"{keys.path}: give the layer of the posterior's spread once, as log_std or as log_var")
    if (values["observation"] == "bernoulli") != (values["levels"] == 2):
        raise DensityError(
            f"{keys.where('observation')} is {values['observation']} for {values['levels']} levels: bernoulli is for 2"
            " levels, categorical and discretized_logistic for more"
        )


def _weights_of(keys: DensityKeys, data_dir: str | Path | None) -> dict[str, Tensor]:
    given = keys.values["weights"]
    folders = [keys.path.parent, *([Path(data_dir)] if data_dir is not None else [])]
    file = next((folder / given for folder in folders if (folder / given).is_file()), None)
    if file is None:
        looked = " nor ".join(str(folder) for folder in folders)
        remedy = "" if data_dir is not None else ": name the data folder that holds it (--data-dir)"
        raise ModelNotFound(f"{keys.where('weights')}: no file {given} in {looked}{remedy}")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelNotFound(f"{file} is no safetensors file: {first_line(error)}") from error


def _density_path(name: str) -> Path | None:
    """The density file that a name stands for, None where it stands for none."""
    path = Path(name)
    try:
        if name in bundled_densities():  # as for language models, whatever lies in the current folder
            return reference_folder(name) / FILE_NAME
        if path.suffix in (".yaml", ".yml"):
            return path if path.is_file() else None
        if (path / FILE_NAME).is_file():
            return path / FILE_NAME
    except (OSError, ValueError):  # a name that no file can have
        pass
    return None


def _whole(low: int, high: int = 2**31) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _layer(value: Any) -> bool:
    return _text(value) and value not in ACTIVATIONS


def _layer_or_none(value: Any) -> bool:
    return value is None or _layer(value)


def _network(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_text(name) for name in value)


def _flow_of(value: Any) -> bool:
    if not isinstance(value, dict) or set(value) != _FLOW_KEYS - ({"bins"} if value.get("kind") == "maf" else set()):
        return False
    hidden = value["hidden"]
    sizes = isinstance(hidden, list) and all(_whole(1, 65_536)(size) for size in hidden)
    return (
        value["kind"] in ("nsf", "maf")
        and _whole(1, 100)(value["transforms"])
        and sizes
        and _whole(2, 1000)(value.get("bins", 2))
    )


_CHECKS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "weights": (_text, "the name of a safetensors file"),
    "shape": (
        lambda value: isinstance(value, list) and 1 <= len(value) <= 4 and all(_whole(1, 65_536)(size) for size in value),
        "a list of 1 to 4 whole numbers",
    ),
    "levels": (_whole(2, MAX_LEVELS), f"a whole number from 2 to {MAX_LEVELS}"),
    "binarisation": (lambda value: value is None or value in BINARISATIONS, f"null or one of {', '.join(BINARISATIONS)}"),
    "trained_on": (lambda value: isinstance(value, str), "text"),
    "latent": (_whole(1, 65_536), "a whole number from 1 to 65536"),
    "encoder": (lambda value: value == [] or _network(value), "a list of layers and activations"),
    "decoder": (_network, "a list of layers and activations"),
    "layers": (_network, "a list of layers and activations"),
    "mean": (_layer, "the name of a layer"),
    "log_std": (_layer_or_none, "the name of a layer"),
    "log_var": (_layer_or_none, "the name of a layer"),
    "direct": (_layer_or_none, "the name of a layer"),
    "observation": (lambda value: value in OBSERVATIONS, f"one of {', '.join(OBSERVATIONS)}"),
    "orderings": (
        lambda value: isinstance(value, list) and 1 <= len(value) <= 1000 and all(_whole(0)(seed) for seed in value),
        "a list of seeds, whole numbers from 0",
    ),
    "inputs": (lambda value: value in ("scaled", "one_hot"), "scaled or one_hot"),
    "flow": (_flow_of, "a mapping with kind (nsf or maf), transforms, hidden (a list of widths) and, for nsf, bins"),
    "alpha": (lambda value: isinstance(value, float) and 0 < value < 0.5, "a number between 0 and 0.5"),
    "dequantisations": (_whole(1, 100_000), "a whole number from 1 to 100000"),
}
