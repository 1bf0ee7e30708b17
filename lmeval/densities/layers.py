"""Feed-forward networks as data: a tuple of affine layers and names of activations.

A network that is data can be run in float32 here, moved to a device, and run again in exact integer arithmetic by the
compressor, without a second description of it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lmeval.errors import DensityError
from lmeval.messages import nearest


class Linear(NamedTuple):
    """An affine layer, h -> weight @ h + bias: `weight` [n_out, n_in], `bias` [n_out], float32."""

    weight: Tensor
    bias: Tensor


Layers = tuple[Linear | str, ...]
"""A feed-forward network: affine layers and names of ACTIVATIONS, in the order in which they are applied."""

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "elu": functional.elu,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "sigmoid": torch.sigmoid,
    "leaky_relu": functional.leaky_relu,
}
"""Elementwise functions by name, with torch's default parameters (elu: alpha 1; leaky_relu: slope 0.01)."""


def run_layers(layers: Layers, h: Tensor) -> Tensor:
    """Output of a network for inputs h [..., n_in]; no layers give h itself."""
    for layer in layers:
        h = ACTIVATIONS[layer](h) if isinstance(layer, str) else functional.linear(h, layer.weight, layer.bias)
    return h


def linear_layers(layers: Layers) -> tuple[Linear, ...]:
    """The affine layers of a network, in order."""
    return tuple(layer for layer in layers if not isinstance(layer, str))


def check_layers(layers: Layers, n_in: int, n_out: int | None, where: str) -> int:
    """Width of a network's output.

    Raises DensityError, one line that begins with `where`, for an unknown activation, shapes that do not follow each other
    from `n_in` inputs on, weights that are not finite, and an output that is not `n_out` wide (None: any).
    """
    width = n_in
    for layer in layers:
        if isinstance(layer, str):
            if layer not in ACTIVATIONS:
                raise DensityError(f"{where}: unknown activation {layer!r:.60}{nearest(layer, ACTIVATIONS)}")
            continue
        shape = list(layer.weight.shape)
        if len(shape) != 2 or shape[1] != width or list(layer.bias.shape) != shape[:1]:
            raise DensityError(
                f"{where}: a layer's weight is {shape} and its bias {list(layer.bias.shape)}, but {width} inputs reach it:"
                f" the weight must be [n, {width}] and the bias [n]"
            )
        if not (layer.weight.isfinite().all() and layer.bias.isfinite().all()):
            raise DensityError(f"{where}: a layer's weights hold NaN or infinity: the file is damaged or training failed")
        width = shape[0]
    if n_out is not None and width != n_out:
        raise DensityError(f"{where}: the network gives {width} numbers, and {n_out} are needed")
    return width
