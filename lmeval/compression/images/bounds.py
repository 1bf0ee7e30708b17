"""Bounds on the log-likelihood of images under the float model, which a code length is held against."""

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from lmeval.compression.images.imagefile import levels_of, read_layout
from lmeval.compute.seeds import seeded
from lmeval.densities.networks import LayeredVAE
from lmeval.results import Report

BOUND_SAMPLES = 2  # of the latent for each image
BOUND_EVALUATIONS = 1 << 20  # of a decoder, for a bound with several particles: as many as do not take long
_ROWS = 512  # images at a time: it decides which random numbers an image gets, so it is the same on every machine


def bound_draws(model: LayeredVAE, images: UInt8[np.ndarray, "n dims"], seed: int = 0) -> Float64[np.ndarray, "samples n"]:
    """Draws of log p(x, z) - log q(z|x), with z from q, of the float model: unbiased for the evidence lower bound.

    Args:
        model: The density.
        images: Levels.
        seed: Of the draws.

    Returns:
        BOUND_SAMPLES draws for each image, in nats.
    """
    draws_nats = np.empty((BOUND_SAMPLES, len(images)))
    device = model.mean.bias.device
    with seeded(seed, device), torch.inference_mode():
        for first in range(0, len(images), _ROWS):
            x = torch.from_numpy(images[first : first + _ROWS].astype(np.float32)).to(device)
            q = model.encode(x)
            for draws in draws_nats:
                z = q.sample()
                nats = model.decode(z).log_prob(x) + model.prior.log_prob(z) - q.log_prob(z)
                draws[first : first + _ROWS] = nats.double().cpu().numpy()
    return draws_nats


def bounded_images(data: memoryview, report: Report) -> Float32[Tensor, "n dims"] | None:
    """Images of a file that was compressed, for a bound that takes several latents for each.

    Args:
        data: The file.
        report: Of its compression by `compress_images_to`.

    Returns:
        The levels of the first images, as many as take BOUND_EVALUATIONS latents; None where the file has none.
    """
    density = report.ledger["density"]
    layout = read_layout(data, density["n_dims"])
    n = min(layout.n, BOUND_EVALUATIONS >> density["particle_bits"])
    levels = levels_of(data, layout, 0, n, density["levels"], density["name"])
    return torch.from_numpy(levels).to(torch.float32) if n else None
