"""A LayeredVAE in whole numbers, as bits-back coding runs it: posteriors of images, and the grid that suits them."""

import hashlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from lmeval.compression.coding.integer_tables import FRACTION_BITS
from lmeval.compression.images import pixels
from lmeval.compression.images.fixed_point import IntegerLayers, integer_layers, layers_sha256, run_integers
from lmeval.compression.images.latent_tables import FEWEST_STEP_BITS, MAX_STEP_BITS, PRIOR_LIMIT, Posterior, posterior
from lmeval.densities.networks import LayeredVAE
from lmeval.errors import ModelError

ROWS = 256  # images that go through the encoder's network at once

Images = UInt8[np.ndarray, "n dims"]


class IntegerVAE(NamedTuple):
    """A LayeredVAE in whole numbers."""

    encoder: IntegerLayers
    mean: IntegerLayers
    log_std: IntegerLayers
    decoder: IntegerLayers
    observation: str
    levels: int
    n_dims: int
    n_latent: int

    @property
    def sha256(self) -> str:
        """Fingerprint of the whole numbers and of what they are weights of."""
        networks = layers_sha256((self.encoder, self.mean, self.log_std, self.decoder))
        text = f"{self.observation} {self.levels} {self.n_dims} {self.n_latent} {networks}"
        return hashlib.sha256(text.encode()).hexdigest()


def integer_vae(model: LayeredVAE, name: str) -> IntegerVAE:
    """The model in whole numbers.

    Args:
        model: A latent density with an encoder.
        name: What messages call it.

    Raises:
        ModelError: Exact integers cannot run the model; one line that begins with the name.
    """
    if model.levels > pixels.MAX_LEVELS:
        raise ModelError(f"{name}: {model.levels:,} levels a pixel, and bits-back coding takes at most {pixels.MAX_LEVELS}")
    encoder, bound = integer_layers(model.encoder, 1 << FRACTION_BITS, f"{name}: encoder")
    mean, _ = integer_layers((model.mean,), bound, f"{name}: mean")
    log_std, _ = integer_layers((model.log_std,), bound, f"{name}: log_std")
    decoder, _ = integer_layers(model.decoder, PRIOR_LIMIT << FRACTION_BITS, f"{name}: decoder")
    return IntegerVAE(encoder, mean, log_std, decoder, model.observation, model.levels, model.n_dims, model.n_latent)


def posteriors(vae: IntegerVAE, step_bits: int, images: Images) -> Posterior:
    """Posteriors of images, rounded to the grid.

    Args:
        vae: The model.
        step_bits: The grid's steps are 2^-step_bits.
        images: Levels.

    Returns:
        Means and tables, [n, latents] each.
    """
    rounded = []
    for first in range(0, len(images), ROWS):
        h = run_integers(vae.encoder, network_input(images[first : first + ROWS], vae.levels))
        rounded.append(posterior(run_integers(vae.mean, h), run_integers(vae.log_std, h), step_bits))
    return Posterior(*(np.concatenate(part) for part in zip(*rounded, strict=True)))


def network_input(images: Images, levels: int) -> Int64[np.ndarray, "n dims"]:
    """Levels as an encoder's input in units of 2^-16: 0 and 1 as they are, more levels as 2 x / (L-1) - 1 rounded down."""
    x = images.astype(np.int64)
    if levels == 2:
        return x << FRACTION_BITS
    return ((2 * x - (levels - 1)) << FRACTION_BITS) // (levels - 1)


def particle_numbers(vae: IntegerVAE) -> int:
    """Numbers that are held for one particle."""
    return vae.n_dims * (vae.levels if vae.observation == "categorical" else (vae.levels - 1).bit_length())


def choose_step_bits(vae: IntegerVAE, images: Images) -> int:
    """Step bits of the coarsest grid on which all but the narrowest 2% of these posteriors are at least 3/4 of a step wide.

    Down to half a step a coarse grid costs nothing: sums over it equal integrals, up to exp(-2 pi^2 std^2) for a standard
    deviation in steps.
    """
    h = run_integers(vae.encoder, network_input(images[:ROWS], vae.levels))
    log_std = np.quantile(run_integers(vae.log_std, h), 0.02) / (1 << FRACTION_BITS)
    return int(np.clip(np.ceil(np.log2(0.75) - log_std / np.log(2)), FEWEST_STEP_BITS, MAX_STEP_BITS))
