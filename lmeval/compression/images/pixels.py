"""Images of levels as binary decisions with integer probabilities, given a decoder network's output in whole numbers.

A level 0..L-1 is coded as the bits of its number, high bit first, all pixels' high bits before their second bits. The
probability of a bit is a ratio of two masses: of the levels that agree with the bits so far and have 1 here, and of all that
agree with the bits so far. Masses are integers, so encoder and decoder cannot differ.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

from lmeval.compression.coding.integer_tables import FRACTION_BITS, LIMIT, MASS_BITS, exp_minus, logistic
from lmeval.compression.images.latent_tables import PART_BITS

Bits = Callable[[Int64[np.ndarray, "n dims"], int], Int64[np.ndarray, "n dims"]]
"""Parts of 2^24 for a 1 at a place (0: the lowest bit) of each pixel's level, given its higher bits; 1 to 2^24 - 1."""
_Below = Callable[[Int64[np.ndarray, "n dims"]], Int64[np.ndarray, "n dims"]]  # mass of the levels below a given one
MAX_LEVELS = 256
_INVERSE_BITS = 20
_SMALLEST_LOG_SCALE = -7 << FRACTION_BITS
_E7 = 1149903211  # 2^20 e^7, rounded


def n_bits(levels: int) -> int:
    """Decisions for a pixel."""
    return (levels - 1).bit_length()


def bit_parts(observation: str, levels: int, outputs: Int64[np.ndarray, "n n_out"]) -> Bits:
    """Probabilities of bits for a decoder's outputs, which are LayeredVAE's in units of 2^-16."""
    if observation == "bernoulli":
        ones = _clip((logistic(outputs) + (1 << (MASS_BITS - PART_BITS - 1))) >> (MASS_BITS - PART_BITS))
        return lambda _higher, _place: ones
    below = _categorical(levels, outputs) if observation == "categorical" else _rounded_logistic(levels, outputs)

    def parts(higher: Int64[np.ndarray, "n dims"], place: int) -> Int64[np.ndarray, "n dims"]:
        first = higher << (place + 1)
        bounds = [below(np.minimum(first + (i << place), levels)) for i in range(3)]
        ones, both = bounds[2] - bounds[1], bounds[2] - bounds[0]
        nearest = ((ones << PART_BITS) + (both >> 1)) // np.maximum(both, 1)
        return _clip(np.where(both > 0, nearest, 1 << (PART_BITS - 1)))

    return parts


def _clip(ones: Int64[np.ndarray, "n dims"]) -> Int64[np.ndarray, "n dims"]:
    return np.clip(ones, 1, (1 << PART_BITS) - 1)


def _categorical(levels: int, outputs: Int64[np.ndarray, "n n_out"]) -> _Below:
    logits = outputs.reshape(len(outputs), -1, levels)
    masses = exp_minus(logits.max(axis=2, keepdims=True) - logits) >> 8
    bounds = np.concatenate([np.zeros_like(masses[:, :, :1]), np.cumsum(masses, axis=2)], axis=2)
    return lambda level: np.take_along_axis(bounds, level[:, :, None], axis=2)[:, :, 0]


def _rounded_logistic(levels: int, outputs: Int64[np.ndarray, "n n_out"]) -> _Below:
    mean, log_scale = np.split(outputs, 2, axis=1)
    whole = 1 << FRACTION_BITS
    # Clipped so far out that every level's mass is in the tail: no model that predicts anything is touched.
    mean = np.clip((mean + whole) * (levels - 1) >> 1, -levels * whole, 2 * levels * whole)
    inverse = (exp_minus(np.clip(log_scale - _SMALLEST_LOG_SCALE, 0, LIMIT)) >> 8) * _E7 >> (MASS_BITS - 8)

    def below(level: Int64[np.ndarray, "n dims"]) -> Int64[np.ndarray, "n dims"]:
        edge = level * whole - whole // 2 - mean
        mass = logistic(np.clip(edge * inverse >> _INVERSE_BITS, -LIMIT, LIMIT))
        return np.where(level <= 0, 0, np.where(level >= levels, 1 << MASS_BITS, mass))

    return below


def coder_weights(ones: Int64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape 2"]:
    """Weights that make the coder give exactly these parts of 2^24 to a 1 and the rest to a 0 (see `coder_model`)."""
    weights = np.empty((*ones.shape, 2), dtype=np.float64)
    weights[..., 1] = ones - 1
    np.subtract((1 << PART_BITS) - 2, weights[..., 1], out=weights[..., 0])
    return weights
