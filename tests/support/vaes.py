"""Small random autoencoders, and image sets that are hard on a coder."""

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmeval.compression.images.bitsback import Scheme
from lmeval.compression.images.integer_vae import integer_vae
from lmeval.densities.layers import Layers, Linear, linear_layers
from lmeval.densities.modelfile import LoadedDensity
from lmeval.densities.networks import LayeredVAE, outputs_per_pixel


def linear(n_in: int, n_out: int, generator: torch.Generator, scale: float = 1.5) -> Linear:
    weight = torch.randn(n_out, n_in, generator=generator) * scale / n_in**0.5
    return Linear(weight, torch.randn(n_out, generator=generator) * 0.3)


def random_vae(
    observation: str = "bernoulli",
    levels: int = 2,
    n_dims: int = 20,
    n_latent: int = 3,
    hidden: int = 12,
    activation: str = "relu",
    seed: int = 0,
) -> LayeredVAE:
    g = torch.Generator().manual_seed(seed)
    n_out = n_dims * outputs_per_pixel(observation, levels)
    return LayeredVAE(
        encoder=(linear(n_dims, hidden, g), activation),
        mean=linear(hidden, n_latent, g, 0.7),
        log_std=Linear(torch.randn(n_latent, hidden, generator=g) * 0.1, torch.full((n_latent,), -1.0)),
        decoder=(linear(n_latent, hidden, g), activation, linear(hidden, n_out, g)),
        observation=observation,
        levels=levels,
        n_dims=n_dims,
        n_latent=n_latent,
    )


def fitting_vae(n_latent: int, group: int = 12) -> LayeredVAE:
    """One whose encoder fits: a latent tells the number of ones of its group of pixels, and the encoder counts them."""
    n_dims = n_latent * group
    weight = torch.eye(n_latent).repeat_interleave(group, dim=0) * 0.7
    mean = Linear(weight.T * 0.55, torch.full((n_latent,), -0.5 * 0.55 * 0.7 * group))
    log_std = Linear(torch.zeros(n_latent, n_dims), torch.full((n_latent,), math.log(0.62)))
    decoder = (Linear(weight, torch.zeros(n_dims)),)
    return LayeredVAE((), mean, log_std, decoder, "bernoulli", 2, n_dims, n_latent)


def scheme(model: LayeredVAE, step_bits: int = 4, particle_bits: int = 0) -> Scheme:
    return Scheme(integer_vae(model, "model"), step_bits, particle_bits)


def density(model: LayeredVAE, name: str = "toy") -> LoadedDensity:
    """As if it had been read from a file."""
    layers: Layers = (*model.encoder, model.mean, model.log_std, *model.decoder)
    values = b"".join(part.numpy().tobytes() for layer in linear_layers(layers) for part in layer)
    fingerprint = hashlib.sha256(values).hexdigest()
    return LoadedDensity(name, "latent", model, model.levels, (model.n_dims,), None, fingerprint, Path(name))


def drawn(model: LayeredVAE, n: int, seed: int = 0) -> np.ndarray:
    """Images that the model itself draws."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return model.decode(model.prior.sample(torch.Size([n]))).sample().numpy().astype(np.uint8)


def npy(images: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, images, **options)
    return out.getvalue()
