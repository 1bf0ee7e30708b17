"""The kinds of density that a file can describe: what keys each has, what must hold between them, and how it is built.

A new kind is one more `DensityKind` in `KINDS`.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from lmeval.compute.seeds import seeded
from lmeval.data.tags import BINARISATIONS
from lmeval.densities.layers import ACTIVATIONS, Layers, Linear, check_layers
from lmeval.densities.networks import OBSERVATIONS, DequantisedFlow, Generator, LayeredVAE, Made, made_of, outputs_per_pixel
from lmeval.errors import DensityError
from lmeval.messages import nearest
from lmeval.specs.keys import ANY_TEXT, TEXT, Key, Keys, choice, listed, mapping, needed, real, whole
from lmeval.specs.reader import Node

MAX_LEVELS = 65_536
Density = LayeredVAE | Made | DequantisedFlow | Generator
Weights = Mapping[str, Tensor]
Build = Callable[[Node, Weights, str | torch.device], Density]


class DensityKind(NamedTuple):
    """A kind of density file.

    Attributes:
        name: What the key `density` says.
        keys: The table of all keys.
        build: Density of a file's checked keys, its weights (name -> tensor, as in the weights file) and a device. Raises
            DensityError where a layer has no weights, a shape does not fit, or weights belong to no layer.
        check: Raises DensityError for keys that contradict each other.
    """

    name: str
    keys: Keys
    build: Build
    check: Callable[[Node], None] = lambda node: None


_NETWORK = listed(TEXT, "a list of layers and activations")
_LAYER = Key(lambda value: TEXT.fits(value) and value not in ACTIVATIONS, "the name of a layer")
_SIZE = whole(1, 65_536)
_COMMON: Keys = {
    "density": needed(TEXT),
    "weights": needed(TEXT._replace(description="the name of a safetensors file")),
    "shape": needed(listed(_SIZE, "a list of 1 to 4 whole numbers", 1, 4)),
    "levels": needed(whole(2, MAX_LEVELS)),
    "binarisation": choice(BINARISATIONS)._replace(description=f"null or one of {', '.join(BINARISATIONS)}"),
    "trained_on": ANY_TEXT,
}
_LATENT: Keys = _COMMON | {
    "latent": needed(_SIZE),
    "encoder": needed(listed(TEXT, "a list of layers and activations", 0)),
    "mean": needed(_LAYER),
    "log_std": _LAYER,
    "log_var": _LAYER,
    "decoder": needed(_NETWORK),
    "observation": needed(choice(OBSERVATIONS)),
}
_MADE: Keys = _COMMON | {
    "layers": needed(_NETWORK),
    "orderings": needed(listed(whole(0, 2**31), "a list of seeds, whole numbers from 0", 1, 1000)),
    "inputs": needed(choice(("scaled", "one_hot"))),
    "direct": _LAYER,
}
_FLOW: Keys = _COMMON | {
    "flow": needed(
        mapping(
            {
                "kind": needed(choice(("nsf", "maf"))),
                "transforms": needed(whole(1, 100)),
                "hidden": needed(listed(_SIZE, "a list of widths", 0)),
                "bins": whole(2, 1000),
            }
        )
    ),
    "alpha": needed(real(0, 0.5)),
    "dequantisations": needed(whole(1, 100_000)),
}
_IMPLICIT: Keys = _COMMON | {"latent": needed(_SIZE), "decoder": needed(_NETWORK)}


def _check_latent(keys: Node) -> None:
    values = keys.values
    if bool(values.get("log_std")) == bool(values.get("log_var")):
        raise DensityError(f"{keys.path}: give the layer of the posterior's spread once, as log_std or as log_var")
    if (values["observation"] == "bernoulli") != (values["levels"] == 2):
        raise DensityError(
            f"{keys.where('observation')} is {values['observation']} for {values['levels']} levels: bernoulli is for 2"
            " levels, categorical and discretized_logistic for more"
        )


def _check_flow(keys: Node) -> None:
    given = keys.values["flow"]
    if (given["kind"] == "nsf") != (given.get("bins") is not None):
        raise DensityError(f"{keys.where('flow')} must have bins where its kind is nsf, and only there")


def _check_implicit(keys: Node) -> None:
    if keys.values["decoder"][-1] != "sigmoid":
        raise DensityError(
            f"{keys.where('decoder')} must end with sigmoid: an implicit density's image is (levels - 1) times it"
        )


def _latent(keys: Node, weights: Weights) -> LayeredVAE:
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


def _made(keys: Node, weights: Weights) -> Made:
    values, n_dims, levels = keys.values, math.prod(keys.values["shape"]), keys.values["levels"]
    layers, hot = _layers(keys, "layers", weights), values["inputs"] == "one_hot"
    n_out = n_dims * (1 if levels == 2 else levels)
    n_in = n_dims * (levels if hot else 1)
    check_layers(layers, n_in, n_out, keys.where("layers"))
    direct = _layers(keys, "direct", weights) if values.get("direct") else ()
    if direct:
        check_layers(direct, n_in, n_out, keys.where("direct"))
    return made_of(layers, values["orderings"], levels, n_dims, one_hot=hot, direct=direct)


def _implicit(keys: Node, weights: Weights) -> Generator:
    values, n_dims = keys.values, math.prod(keys.values["shape"])
    layers = _layers(keys, "decoder", weights)
    check_layers(layers, values["latent"], n_dims, keys.where("decoder"))
    return Generator(layers, values["levels"], n_dims, values["latent"])


def _flow(keys: Node, weights: Weights, device: str | torch.device) -> DequantisedFlow:
    checks = Distribution._validate_args  # pyright: ignore[reportPrivateUsage]
    import zuko  # slow to import, and only flows need it

    Distribution.set_default_validate_args(checks)  # the import turns torch's checks off for the whole process
    values, given, n_dims = keys.values, keys.values["flow"], math.prod(keys.values["shape"])
    shared = {"features": n_dims, "transforms": given["transforms"], "hidden_features": given["hidden"]}
    with seeded(None):
        flow = zuko.flows.NSF(bins=given["bins"], **shared) if given["kind"] == "nsf" else zuko.flows.MAF(**shared)
    parameters = dict(flow.named_parameters())
    for name, parameter in parameters.items():
        if name not in weights:
            raise DensityError(f"{keys.path}: the weights file lacks {name}, which the flow needs")
        given_shape, shape = list(weights[name].shape), list(parameter.shape)
        if given_shape != shape:
            raise DensityError(f"{keys.path}: {name} is {given_shape} in the weights file and {shape} in the flow")
        if not weights[name].isfinite().all():
            raise DensityError(f"{keys.path}: {name} holds NaN or infinity: the file is damaged or training failed")
        parameter.data.copy_(weights[name])
    left = sorted(set(weights) - set(parameters))
    if left:
        raise DensityError(f"{keys.path}: the weights file holds {left[0]}, which the flow does not have")
    return DequantisedFlow(flow.to(device).eval(), values["levels"], n_dims, values["alpha"], values["dequantisations"])


def _layers(keys: Node, key: str, weights: Weights) -> Layers:
    """The network that a key lists."""
    network: list[str | Linear] = []
    for name in _names(keys, key):
        if name in ACTIVATIONS:
            network.append(name)
            continue
        for part in ("weight", "bias"):
            if f"{name}.{part}" not in weights:
                near = nearest(f"{name}.{part}", weights)
                raise DensityError(f"{keys.where(key)}: no activation {name} and no weights {name}.{part}{near}")
        network.append(Linear(weights[f"{name}.weight"], weights[f"{name}.bias"]))
    return tuple(network)


def _names(keys: Node, key: str) -> list[str]:
    """Names of the layers and activations that a key lists."""
    names = keys.values.get(key) or []
    return [names] if isinstance(names, str) else names


def _of_layers(build: Callable[[Node, Weights], Density], *networks: str) -> Build:
    """How to build a density whose weights all belong to layers that the keys `networks` list."""

    def build_on(keys: Node, weights: Weights, device: str | torch.device) -> Density:
        model = build(keys, {name: tensor.to(device) for name, tensor in weights.items()})
        layers = {name for key in networks for name in _names(keys, key) if name not in ACTIVATIONS}
        left = sorted(set(weights) - {f"{name}.{part}" for name in layers for part in ("weight", "bias")})
        if left:
            raise DensityError(f"{keys.path}: the weights file holds {left[0]}, which no layer of the density file uses")
        return model

    return build_on


KINDS: Mapping[str, DensityKind] = {
    kind.name: kind
    for kind in (
        DensityKind(
            "latent", _LATENT, _of_layers(_latent, "encoder", "mean", "log_std", "log_var", "decoder"), _check_latent
        ),
        DensityKind("made", _MADE, _of_layers(_made, "layers", "direct")),
        DensityKind("flow", _FLOW, _flow, _check_flow),
        DensityKind("implicit", _IMPLICIT, _of_layers(_implicit, "decoder"), _check_implicit),
    )
}
