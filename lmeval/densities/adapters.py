"""Other libraries' models as densities: pythae's, diffusers' AutoencoderKL, flows of zuko, nflows, normflows; causal LMs.

None of these libraries is imported: what is used of a model is a few attributes by their names. What a library leaves open,
such as the noise of an autoencoder's output, has to be said: it decides the likelihood.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

from lmeval.densities.checks import Data, call_foreign, check_data, name_of
from lmeval.errors import DensityError, InputError
from lmeval.models import CausalLM
from lmeval.results import Side
from lmeval.scoring import request, score

Observation = Literal["bernoulli_probs", "bernoulli_logits"] | tuple[Literal["gaussian"], float]
# Of pythae's models, those whose samples do not begin with z ~ N(0, I).
_OTHER_PRIORS = {
    "AE": "has no distribution of z",
    "RAE_L2": "has no distribution of z",
    "RAE_GP": "has no distribution of z",
    "VQVAE": "has discrete z",
    "VAMP": "has a mixture as its prior",
    "PoincareVAE": "has hyperbolic z",
    "SVAE": "has z on a sphere",
}


@dataclass(frozen=True, eq=False)
class WrappedVAE:
    """A latent variable model out of another library's: z ~ N(0, I) in `n_latent` dimensions, and its two networks.

    `module` is the library's model, `decode` and `encode` (None: there is none) as `protocols.Latent` has them.
    """

    name: str
    module: Any
    n_latent: int
    decode: Callable[[Tensor], Distribution]
    encode: Callable[[Tensor], Distribution] | None

    @property
    def prior(self) -> Distribution:
        """N(0, I), where the weights are and in their type."""
        weight = next(self.module.parameters())
        return standard_normal(self.n_latent, weight)


def standard_normal(n_dims: int, like: Tensor) -> Distribution:
    """N(0, I) as one event of `n_dims` numbers, on the device and in the dtype of `like`."""
    zeros = torch.zeros(n_dims, device=like.device, dtype=like.dtype)
    return Independent(Normal(zeros, torch.ones_like(zeros)), 1)


def from_pythae(model: Any, observation: Observation, *, encoder: bool = True) -> WrappedVAE:
    """A pythae model (a VAE with z ~ N(0, I)) as a latent density of x [n, *input_dim], in the form that it was trained on.

    `observation` says what the decoder's "reconstruction" is: "bernoulli_probs" (pythae's "bce": probabilities of a 1),
    "bernoulli_logits" (their log-odds), or ("gaussian", sigma): the mean of real pixels with noise of standard deviation
    sigma. pythae's own get_nll takes sigma = 1 for "mse", whatever the pixels' scale: a density, and no rate of bits a
    dimension. torch keeps Bernoulli probabilities 1e-7 away from 0 and 1 in float32.

    Args:
        model: The pythae model, in evaluation mode.
        observation: What its decoder's output is.
        encoder: False leaves out an encoder that gives no log_covariance.

    Raises:
        DensityError: The model has another prior, or is none of pythae's.
        InputError: There is no such observation.
    """
    name = getattr(model, "model_name", type(model).__name__)
    if name in _OTHER_PRIORS:
        raise DensityError(
            f"pythae's {name} {_OTHER_PRIORS[name]}, not z ~ N(0, I): give an object with its prior and decode(z)"
        )
    _needs(model, ("encoder", "decoder", "latent_dim"), "a pythae VAE")
    noise = _noise(observation)

    def decode(z: Tensor) -> Distribution:
        output = model.decoder(z)
        try:
            reconstruction = output["reconstruction"]
        except (KeyError, TypeError, IndexError) as error:
            raise DensityError(f"{name}.decoder(z) has no 'reconstruction': is it a decoder of pythae's?") from error
        return _per_image(noise(reconstruction), reconstruction)

    def encode(x: Tensor) -> Distribution:
        output = model.encoder(x)
        mean, log_variance = getattr(output, "embedding", None), getattr(output, "log_covariance", None)
        if mean is None or log_variance is None:
            missing = "embedding" if mean is None else "log_covariance"
            raise DensityError(f"{name}.encoder(x) has no {missing}: leave it out with from_pythae(..., encoder=False)")
        return Independent(Normal(mean, torch.exp(0.5 * log_variance)), 1)

    return WrappedVAE(name, model, int(model.latent_dim), decode, encode if encoder else None)


def _noise(observation: Observation) -> Callable[[Tensor], Distribution]:
    match observation:
        case "bernoulli_probs":
            return lambda output: Bernoulli(probs=output)
        case "bernoulli_logits":
            return lambda output: Bernoulli(logits=output)
        case ("gaussian", int() | float() as sigma) if 0 < sigma < math.inf:
            return lambda output: Normal(output, float(sigma))
        case _:
            raise InputError(
                f"observation is {observation!r}: say what the decoder's output is, 'bernoulli_probs', 'bernoulli_logits' "
                "or ('gaussian', sigma) with sigma > 0"
            )


def _per_image(distribution: Distribution, values: Tensor) -> Distribution:
    return Independent(distribution, values.ndim - 1)


def from_autoencoder_kl(vae: Any, sigma: float, image_shape: Sequence[int] | None = None) -> WrappedVAE:
    """diffusers' AutoencoderKL as a latent density of images x [n, channels, height, width] in [-1, 1].

        z ~ N(0, I) over the latent tensor, flattened;   x | z ~ N(decoder(z), sigma^2 I)

    The library states no likelihood, so `sigma` is the caller's to choose, on validation data. Such models are trained with
    perceptual and adversarial losses and next to no weight on the divergence from N(0, I): under that prior their likelihood
    is poor, which is what the number then says. `scaling_factor` belongs to the diffusion model and is not applied.

    Args:
        vae: The autoencoder, in evaluation mode.
        sigma: Standard deviation of the noise of x, above 0.
        image_shape: Of x without n; by default what the configuration says (in_channels, sample_size, sample_size).

    Raises:
        InputError: sigma is not positive, or the configuration tells no size.
        DensityError: It is no AutoencoderKL.
    """
    if not 0 < sigma < math.inf:
        raise InputError(f"sigma is {sigma}: the noise of x in [-1, 1] has a standard deviation above 0")
    _needs(vae, ("encode", "decode", "parameters"), "an AutoencoderKL")
    name, weight = type(vae).__name__, next(vae.parameters())
    if image_shape is None:
        config = getattr(vae, "config", None)
        channels, size = getattr(config, "in_channels", None), getattr(config, "sample_size", None)
        if not isinstance(channels, int) or not isinstance(size, int):
            raise InputError(f"{name}'s configuration tells no size of images: give image_shape, e.g. (3, 256, 256)")
        image_shape = (channels, size, size)
    blank = torch.zeros(1, *image_shape, device=weight.device, dtype=weight.dtype)
    with torch.no_grad():
        moments = call_foreign(lambda: vae.encode(blank).latent_dist, f"{name}.encode(x).latent_dist", blank)
    latent_shape = moments.mean.shape[1:]

    def decode(z: Tensor) -> Distribution:
        images = vae.decode(z.reshape(len(z), *latent_shape)).sample
        return _per_image(Normal(images, sigma), images)

    def encode(x: Tensor) -> Distribution:
        if float(x.abs().max()) > 1 + 1e-6:
            raise DensityError(
                f"{name} takes x in [-1, 1], and x reaches {float(x.abs().max()):g}: give 2 * level / 255 - 1"
            )
        posterior = vae.encode(x).latent_dist
        return Independent(Normal(posterior.mean.flatten(1), posterior.std.flatten(1)), 1)

    return WrappedVAE(name, vae, math.prod(latent_shape), decode, encode)


@dataclass(frozen=True, eq=False)
class Flow:
    """A flow of any library: log_prob(x) of real x [n, *event], exact for the density of real numbers that it is.

    On 8-bit images that is no probability of levels: `spaces.dequantise` bounds it.
    """

    module: Any
    name: str
    side: Side = "exact"

    def _distribution(self) -> Any:
        return self.module if callable(getattr(self.module, "log_prob", None)) else self.module()

    def log_prob(self, x: Data) -> Tensor:
        """log p(x) [n] in nats."""
        return self._distribution().log_prob(x)

    def sample(self, n: int) -> Data:
        """`n` samples [n, *event]."""
        flow = self._distribution()
        samples = flow.sample((n,)) if isinstance(flow, Distribution) else flow.sample(n)
        return samples[0] if isinstance(samples, tuple) else samples  # normflows adds their log-probabilities


def from_flow(flow: Any) -> Flow:
    """A flow as an exact density of real numbers.

    Flows with a context or with classes are densities given those: fix them first, e.g. from_flow(flow(context)) of zuko.

    Args:
        flow: Whatever has log_prob(x), as nflows' and normflows' flows and torch's distributions have, or gives a torch
            Distribution when it is called, as zuko's do.

    Raises:
        DensityError: It is neither.
    """
    name = type(flow).__name__
    if isinstance(flow, type):
        raise DensityError(f"{flow.__name__} is a class, not a flow: make an object of it and give that")
    if not callable(getattr(flow, "log_prob", None)):
        if not callable(flow):
            raise DensityError(f"{name} is no flow: it has no log_prob(x) and gives no distribution when called")
        with torch.no_grad():
            distribution = call_foreign(flow, f"{name}()", None)
        if not isinstance(distribution, Distribution):
            raise DensityError(
                f"{name}() gives {type(distribution).__name__}, not a torch Distribution, and {name} has no log_prob(x)"
            )
    return Flow(flow, name)


@dataclass(frozen=True, eq=False)
class TokenImages:
    """Images as token sequences of a causal language model; `from_causal_lm` makes one with its checks."""

    model: CausalLM
    start_id: int
    ids: tuple[int, ...]
    name: str
    side: Side = "exact"

    def log_prob(self, x: Data) -> Float64[Tensor, " n"]:
        """log P(x) in nats for levels x, over pixels in row-major order. Raises InputError where x holds no levels."""
        check_data(x, len(self.ids))
        ids = np.array(self.ids)
        rows = ids[x.flatten(1).round().long().cpu().numpy()].tolist()
        scored = score(self.model, (request([self.start_id], row) for row in rows))
        sums = [float(np.sum(log_probs, dtype=np.float64)) for log_probs in scored]
        return torch.tensor(sums, dtype=torch.float64, device=x.device)


def from_causal_lm(
    model: CausalLM, start_id: int | None = None, levels: int = 256, ids: Sequence[int] | None = None
) -> TokenImages:
    """A causal language model over pixels: an exact density of images of `levels` levels, one token a pixel.

        log P(x) = sum over pixels i of log p(id(x_i) | start, id(x_1), .., id(x_{i-1}))

    The probabilities are the model's own over its whole vocabulary, not renormalised over the levels: what it gives to
    tokens that are no levels counts as loss, and the probabilities of all images then sum to less than 1. Where tokens are a
    palette, as ImageGPT's 512 colours are, this is the likelihood of the palette image, and no number of bits for the
    picture that it was made from.

    Args:
        model: A causal language model.
        start_id: The token before the first pixel; None for the model's BOS.
        levels: How many levels a pixel has.
        ids: The token of each level; None for the ids 0 .. levels - 1.

    Raises:
        InputError: The model does not know an id, or two levels share one.
    """
    start = model.bos_id if start_id is None else start_id
    chosen = tuple(range(levels)) if ids is None else tuple(int(i) for i in ids)
    if start is None:
        raise InputError(f"{model.name} has no BOS token: say which token stands before the first pixel, as start_id")
    if len(chosen) != levels or len(set(chosen)) != levels or levels < 2:
        raise InputError(f"{len(set(chosen))} different token ids for {levels} levels: give every one of 2 or more its own")
    unknown = [i for i in (start, *chosen) if not 0 <= i < model.vocab_size]
    if unknown:
        raise InputError(f"{model.name} knows token ids below {model.vocab_size:,}, and {unknown[0]} is none: give others")
    return TokenImages(model, start, chosen, f"{model.name} over pixels")


def _needs(model: Any, names: Sequence[str], kind: str) -> None:
    missing = [name for name in names if not hasattr(model, name)]
    if missing:
        raise DensityError(
            f"{name_of(model)} has no {missing[0]}, so it is not {kind}: see lmeval.densities for what fits it"
        )
