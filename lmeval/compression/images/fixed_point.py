"""Networks in fixed-point integers: the same bits on every machine, by construction and not by care.

Weights are whole numbers of 2^-16, activations too. A product of matrices of whole numbers in float64 is exact as long as no
partial sum can reach 2^53, whatever the order of summation, the number of threads, the library, the batch or fused
multiplication; that no sum can is checked from the weights when a network is made, with the bound to which its inputs are
clipped. So an encoder that runs a thousand images at once and a decoder that runs one find equal integers.
"""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64

from lmeval.compression.coding.integer_tables import FRACTION_BITS, curve
from lmeval.densities.layers import Layers
from lmeval.errors import ModelError

WEIGHT_BITS = 16
"""Weights are integers in units of 2^-WEIGHT_BITS; biases have both fractions, as the sums that they join."""
CLIP = 1 << (10 + FRACTION_BITS)
"""Outputs of affine layers are clipped to +-1024."""
_EXACT = 1 << 53  # float64 holds every integer below


class IntegerLinear(NamedTuple):
    """An affine layer of whole numbers held in float64: `weight` in 2^-16, `bias` in 2^-32."""

    weight: Float64[np.ndarray, "n_in n_out"]
    bias: Float64[np.ndarray, " n_out"]


IntegerLayers = tuple[IntegerLinear | str, ...]


def integer_layers(layers: Layers, bound: int, where: str) -> tuple[IntegerLayers, int]:
    """A network in whole numbers, and the bound of its outputs, for inputs of at most `bound` (in 2^-16) in magnitude.

    Raises ModelError, one line that begins with `where`, for weights that are not finite or so large that sums could leave
    the range in which float64 is exact: the L1 norm of a unit's weights times the bound of its inputs must stay below 2^21.
    """
    integers: list[IntegerLinear | str] = []
    for layer in layers:
        if isinstance(layer, str):
            integers.append(layer)
            # All six have slopes of at most 1; tanh and sigmoid stay below 1, softplus above |x| by at most ln 2.
            bound = bound + (1 << FRACTION_BITS)
            continue
        weight, bias = (part.detach().cpu().double().numpy() for part in layer)
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise ModelError(f"{where}: a weight is not finite: train the model again, or give another")
        with np.errstate(over="ignore"):
            whole = IntegerLinear(
                np.ascontiguousarray(np.rint(weight.T * 2.0**WEIGHT_BITS)),
                np.rint(bias * 2.0 ** (WEIGHT_BITS + FRACTION_BITS)),
            )
        # In Python's integers: the check itself must not round.
        largest = max(
            (
                sum(int(abs(w)) for w in column) * bound + int(abs(b))
                for column, b in zip(whole.weight.T.tolist(), whole.bias.tolist(), strict=True)
            ),
            default=0,
        )
        if largest + (1 << WEIGHT_BITS) >= _EXACT:
            raise ModelError(
                f"{where}: a unit's weights could sum to {largest / 2.0 ** (WEIGHT_BITS + FRACTION_BITS):.4g}, and exact "
                f"integers end at {_EXACT >> (WEIGHT_BITS + FRACTION_BITS):,}: train with weight decay, or scale the weights"
            )
        integers.append(whole)
        bound = min(CLIP, (largest >> WEIGHT_BITS) + 1)
    return tuple(integers), bound


def run_integers(layers: IntegerLayers, h: Int64[np.ndarray, "n n_in"]) -> Int64[np.ndarray, "n n_out"]:
    """Outputs in units of 2^-16 for inputs in units of 2^-16 that keep to the bound the network was made with."""
    for layer in layers:
        if isinstance(layer, str):
            h = curve(layer, h)
            continue
        sums = (torch.from_numpy(h.astype(np.float64)) @ torch.from_numpy(layer.weight)).numpy() + layer.bias
        rounded = np.floor((sums + (1 << (WEIGHT_BITS - 1))) / (1 << WEIGHT_BITS))  # powers of two: exact
        h = np.clip(rounded, -CLIP, CLIP).astype(np.int64)
    return h


def layers_sha256(networks: Iterable[IntegerLayers]) -> str:
    """Fingerprint of networks: of the names of activations, shapes and whole numbers (64 bits, little-endian), in order."""
    digest = hashlib.sha256()
    for network in networks:
        digest.update(b"network")
        for layer in network:
            if isinstance(layer, str):
                digest.update(b"activation " + layer.encode())
            else:
                digest.update("linear {} {}".format(*layer.weight.shape).encode())
                digest.update(layer.weight.astype("<i8").tobytes() + layer.bias.astype("<i8").tobytes())
    return digest.hexdigest()
