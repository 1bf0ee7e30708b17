import importlib.util
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from samples import gpt2_config, network
from torch import nn
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import binary_cross_entropy

from lmeval.densities import (
    check_exact,
    check_latent,
    check_normalised,
    dequantise,
    draw,
    from_autoencoder_kl,
    from_causal_lm,
    from_flow,
    from_pythae,
    kind_of,
)
from lmeval.errors import ContextTooLong, DensityError, InputError
from lmeval.models import from_pair
from lmeval.models.toys import byte_tokenizer, markov_model

SHAPE = (1, 4, 3)
BINARY = (torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0)) < 0.5).float()
GREY = torch.rand(8, *SHAPE, generator=torch.Generator().manual_seed(0))


class Output(dict[str, torch.Tensor]):
    """What pythae's networks return: a mapping whose items are attributes too."""

    def __getattr__(self, name: str) -> torch.Tensor:
        if name not in self:
            raise AttributeError(name)
        return self[name]


class PythaeEncoder(nn.Module):
    def __init__(self, latent_dim: int, *, deterministic: bool = False):
        super().__init__()
        self.embedding, self.log_var = nn.Linear(12, latent_dim), nn.Linear(12, latent_dim)
        self.deterministic = deterministic

    def forward(self, x: torch.Tensor) -> Output:
        flat = x.reshape(len(x), -1)
        found = Output(embedding=self.embedding(flat))
        return found if self.deterministic else Output(found, log_covariance=self.log_var(flat))


class PythaeDecoder(nn.Module):
    def __init__(self, latent_dim: int, *, logits: bool = False):
        super().__init__()
        self.layer, self.logits = nn.Linear(latent_dim, 12), logits

    def forward(self, z: torch.Tensor) -> Output:
        found = self.layer(z).reshape(len(z), *SHAPE)
        return Output(reconstruction=found if self.logits else torch.sigmoid(found))


class PythaeVAE(nn.Module):
    """The attributes of pythae.models.VAE that its own get_nll uses."""

    def __init__(self, *, name: str = "VAE", deterministic: bool = False, logits: bool = False):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.encoder = PythaeEncoder(2, deterministic=deterministic)
            self.decoder = PythaeDecoder(2, logits=logits)
        self.model_name, self.latent_dim = name, 2


def real_pythae() -> Any:
    if importlib.util.find_spec("pythae") is None:
        pytest.skip("pythae is not installed")
    from pythae.models import VAE, VAEConfig  # pyright: ignore[reportMissingImports]

    return VAE(VAEConfig(input_dim=SHAPE, latent_dim=2)).eval()


def pythae_model(which: str) -> Any:
    return PythaeVAE() if which == "stand-in" else real_pythae()


@pytest.mark.parametrize("which", ["stand-in", "real"])
def test_a_pythae_model_is_a_latent_density(which: str):
    model = pythae_model(which)
    density = from_pythae(model, "bernoulli_probs")
    found = check_latent(density, BINARY, levels=2).shape
    assert (kind_of(density), found.d_latent, found.has_encoder, found.differentiable) == ("latent", 2, True, True)
    z = torch.randn(8, 2)
    with torch.no_grad():
        reconstruction = model.decoder(z)["reconstruction"]
        by_hand = -binary_cross_entropy(reconstruction, BINARY, reduction="none").flatten(1).sum(1)
        output = model.encoder(BINARY)
        q = density.encode(BINARY) if density.encode else None
        assert torch.allclose(density.decode(z).log_prob(BINARY), by_hand, atol=1e-4)
    assert q is not None and torch.equal(q.mean, output.embedding)
    assert torch.allclose(q.variance, output.log_covariance.exp())


def test_the_observation_of_a_pythae_model_has_to_be_said():
    x = torch.full_like(BINARY, 0.3)
    z = torch.randn(8, 2)
    with torch.no_grad():
        logits = PythaeVAE(logits=True)
        probs = PythaeVAE()
        one = from_pythae(logits, "bernoulli_logits").decode(z).log_prob(BINARY)
        assert torch.allclose(one, from_pythae(probs, "bernoulli_probs").decode(z).log_prob(BINARY), atol=1e-4)
        sigma = 0.2
        mean = probs.decoder(z)["reconstruction"]
        by_hand = -0.5 * ((x - mean) / sigma) ** 2 - math.log(sigma) - 0.5 * math.log(2 * math.pi)
        found = from_pythae(probs, ("gaussian", sigma)).decode(z).log_prob(x)
        assert torch.allclose(found, by_hand.flatten(1).sum(1), atol=1e-3)
    for wrong in ("bce", "mse", None, ("gaussian", 0.0), ("gaussian", math.inf), ("gaussian", "1"), ("laplace", 1.0), 1.0):
        with pytest.raises(InputError, match=r"observation is .*say what the decoder's output is"):
            from_pythae(probs, wrong)  # pyright: ignore[reportArgumentType]


def test_probabilities_taken_for_logits_and_the_reverse_do_not_go_unseen():
    # Log-odds as probabilities leave [0, 1]. The reverse cannot be seen: it is why the observation has to be named.
    with pytest.raises(DensityError, match="a probability or log-odds"):
        check_latent(from_pythae(PythaeVAE(logits=True), "bernoulli_probs"), BINARY)


def test_grey_images_have_no_bernoulli_likelihood_in_pythae_either():
    with pytest.raises(DensityError, match="binarise"):
        check_latent(from_pythae(PythaeVAE(), "bernoulli_probs"), GREY)


def test_flat_images_do_not_fit_a_pythae_model():
    with pytest.raises(DensityError, match="reshape"):
        check_latent(from_pythae(PythaeVAE(), "bernoulli_probs"), BINARY.flatten(1))


@pytest.mark.parametrize("name", ["AE", "VQVAE", "VAMP", "PoincareVAE", "SVAE", "RAE_GP"])
def test_models_with_another_prior_are_refused(name: str):
    with pytest.raises(DensityError, match=f"pythae's {name} has .*not z ~ N"):
        from_pythae(PythaeVAE(name=name), "bernoulli_probs")


def test_a_deterministic_encoder_can_be_left_out():
    model = PythaeVAE(deterministic=True)
    with pytest.raises(DensityError, match="no log_covariance: leave it out"):
        check_latent(from_pythae(model, "bernoulli_probs"), BINARY)
    assert check_latent(from_pythae(model, "bernoulli_probs", encoder=False), BINARY).shape.has_encoder is False


def test_what_is_no_pythae_model_is_refused():
    with pytest.raises(DensityError, match="no encoder, so it is not a pythae VAE"):
        from_pythae(nn.Linear(2, 2), "bernoulli_probs")
    model = PythaeVAE()
    model.decoder = nn.Linear(2, 12)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(DensityError, match="no 'reconstruction'"):
        check_latent(from_pythae(model, "bernoulli_probs"), BINARY)


class Kl(nn.Module):
    """AutoencoderKL's encode(x).latent_dist and decode(z).sample, with convolutions as it has them."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.down, self.up = nn.Conv2d(3, 8, 2, stride=2), nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.config = SimpleNamespace(in_channels=3, sample_size=8, scaling_factor=0.18)

    def encode(self, x: torch.Tensor) -> Any:
        mean, log_var = self.down(x).chunk(2, 1)
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=mean, std=torch.exp(0.5 * log_var)))

    def decode(self, z: torch.Tensor) -> Any:
        return SimpleNamespace(sample=self.up(z))


def real_autoencoder() -> Any:
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip("diffusers is not installed")
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL  # pyright: ignore[reportMissingImports]

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(**blocks, block_out_channels=(8, 8), norm_num_groups=4, sample_size=8, latent_channels=4).eval()


@pytest.mark.parametrize("which", ["stand-in", "real"])
def test_an_autoencoder_is_a_latent_density_with_the_noise_that_was_said(which: str):
    vae = Kl() if which == "stand-in" else real_autoencoder()
    x = torch.rand(5, 3, 8, 8) * 2 - 1
    density = from_autoencoder_kl(vae, sigma=0.1)
    found = check_latent(density, x).shape
    assert (found.d_latent, found.has_encoder, found.differentiable) == (4 * 4 * 4, True, True)
    z = torch.randn(5, 64)
    with torch.no_grad():
        mean = vae.decode(z.view(5, 4, 4, 4)).sample
        by_hand = (-0.5 * ((x - mean) / 0.1) ** 2 - math.log(0.1) - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
        assert torch.allclose(density.decode(z).log_prob(x), by_hand, rtol=1e-4)
        posterior = vae.encode(x).latent_dist
        assert density.encode is not None
        assert torch.equal(density.encode(x).mean, posterior.mean.flatten(1))
    assert from_autoencoder_kl(vae, 0.1, (3, 16, 8)).n_latent == 4 * 8 * 4


def test_an_autoencoder_wants_its_noise_its_range_and_its_size():
    x = torch.rand(5, 3, 8, 8) * 255
    with pytest.raises(DensityError, match=r"takes x in \[-1, 1\], and x reaches"):
        check_latent(from_autoencoder_kl(Kl(), 0.1), x)
    for sigma in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="sigma is"):
            from_autoencoder_kl(Kl(), sigma)
    vae = Kl()
    vae.config = SimpleNamespace()
    with pytest.raises(InputError, match="give image_shape"):
        from_autoencoder_kl(vae, 0.1)
    with pytest.raises(DensityError, match="encode"):
        from_autoencoder_kl(Kl(), 0.1, (1, 8, 8))
    with pytest.raises(DensityError, match="not an AutoencoderKL"):
        from_autoencoder_kl(nn.Linear(2, 2), 0.1)


def zuko_flow() -> Any:
    checking = Distribution._validate_args  # pyright: ignore[reportAttributeAccessIssue]
    import zuko

    Distribution.set_default_validate_args(checking)  # zuko switches torch's checks off for the whole process
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return zuko.flows.NSF(2, transforms=2, hidden_features=(8, 8))


def nflows_flow() -> Any:
    if importlib.util.find_spec("nflows") is None:
        pytest.skip("nflows is not installed")
    from nflows import distributions, flows, transforms  # pyright: ignore[reportMissingImports]

    steps = [transforms.MaskedAffineAutoregressiveTransform(2, 8), transforms.ReversePermutation(2)]
    return flows.Flow(transforms.CompositeTransform(steps), distributions.StandardNormal([2])).eval()


def normflows_flow() -> Any:
    if importlib.util.find_spec("normflows") is None:
        pytest.skip("normflows is not installed")
    import normflows  # pyright: ignore[reportMissingImports]

    steps = [normflows.flows.MaskedAffineAutoregressive(2, 8), normflows.flows.LULinearPermute(2)]
    return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(2, trainable=False), steps).eval()


class LikeNflows(nn.Module):
    """log_prob(inputs, context=None) and sample(n): what nflows' Flow has."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor([0.5, -1.0]))

    def log_prob(self, inputs: torch.Tensor, context: Any = None) -> torch.Tensor:
        return Independent(Normal(self.shift, 1.0), 1).log_prob(inputs)

    def sample(self, num_samples: int) -> torch.Tensor:
        return self.shift.detach() + torch.randn(num_samples, 2)


class LikeNormflows(LikeNflows):
    """Samples come with their log-probabilities, as normflows' do."""

    def sample(self, num_samples: int = 1) -> Any:
        found = super().sample(num_samples)
        return found, self.log_prob(found)


FLOWS = {
    "zuko": zuko_flow,
    "zuko, called": lambda: zuko_flow()(),
    "torch": lambda: Independent(Normal(torch.zeros(2), torch.ones(2)), 1),
    "like nflows": LikeNflows,
    "like normflows": LikeNormflows,
    "nflows": nflows_flow,
    "normflows": normflows_flow,
}


@pytest.mark.parametrize("kind", FLOWS)
def test_a_flow_of_any_library_is_an_exact_density(kind: str):
    flow = from_flow(FLOWS[kind]())
    x = torch.randn(6, 2)
    assert check_exact(flow, x).side == "exact"
    assert check_normalised(flow, None, 2, tolerance=0.01) == pytest.approx(1, abs=0.01)
    samples = draw(flow, 50, seed=1)
    assert samples.shape == (50, 2) and torch.equal(samples, draw(flow, 50, seed=1))
    assert check_exact(dequantise(flow, 4, 3), torch.tensor([[0.0, 3.0], [1.0, 2.0]]), levels=4).side == "lower"


def test_a_flow_gives_the_numbers_of_its_library():
    x = torch.randn(6, 2)
    flow = zuko_flow()
    assert torch.equal(from_flow(flow).log_prob(x), flow().log_prob(x))
    assert torch.equal(from_flow(LikeNflows()).log_prob(x), LikeNflows().log_prob(x))


def test_what_is_no_flow_is_refused():
    for wrong, expected in (
        (LikeNflows, "is a class"),
        (3, "is no flow"),
        (lambda: 3, "gives int, not a torch Distribution"),
        (lambda c: 3, "fails"),
        (nn.Linear(2, 2), "fails"),
    ):
        with pytest.raises(DensityError, match=expected):
            from_flow(wrong)
    with pytest.raises(DensityError, match="wrap the distribution in Independent"):
        check_exact(from_flow(Normal(torch.zeros(2), torch.ones(2))), torch.randn(3, 2))


def every_image(n_dims: int) -> torch.Tensor:
    return torch.tensor(list(np.ndindex(*(2,) * n_dims)), dtype=torch.float32)


def almost_binary(leak: float) -> Any:
    """A Markov chain over bytes that puts `leak` on everything but 0 and 1."""
    transitions = np.full((257, 257), leak / 255)
    transitions[:, 0], transitions[:, 1] = 0.3 * (1 - leak), 0.7 * (1 - leak)
    transitions[0, :2] = transitions[0, :2][::-1]
    return from_pair(markov_model(transitions), byte_tokenizer(), name="almost-binary"), transitions


@pytest.mark.parametrize("leak", [1e-9, 0.05])
def test_a_causal_model_loses_what_it_gives_to_other_tokens(leak: float):
    model, transitions = almost_binary(leak)
    density = from_causal_lm(model, levels=2)
    x = every_image(8)
    found = density.log_prob(x)
    assert float(found.exp().sum()) == pytest.approx((1 - leak) ** 8, rel=1e-9)
    by_hand = np.log(transitions[256, x[77, 0].int()]) + sum(
        np.log(transitions[x[77, i].int(), x[77, i + 1].int()]) for i in range(7)
    )
    assert float(found[77]) == pytest.approx(by_hand, rel=1e-9)
    assert check_exact(density, x, levels=2).side == "exact"
    if leak > 1e-3:
        with pytest.raises(DensityError, match="not normalised"):
            check_normalised(density, 2, 8)
    else:
        assert check_normalised(density, 2, 8) == pytest.approx(1, abs=1e-6)


def test_a_network_over_two_ids_sums_to_one():
    # Every id is a level, so nothing leaks: the 256 images of 8 pixels have all of the probability.
    tokenizer = byte_tokenizer()
    gpt2 = from_pair(network(gpt2_config(16)), tokenizer, name="tiny")
    everything = from_causal_lm(gpt2, levels=257)
    assert check_normalised(everything, 257, 1) == pytest.approx(1, abs=1e-5)
    two = from_causal_lm(gpt2, levels=2)
    total = float(two.log_prob(every_image(8)).exp().sum())
    assert 0 < total < 1
    # Renormalised over the two levels at every pixel, the same network's probabilities sum to 1.
    with torch.no_grad():
        x = every_image(8).long()
        inputs = torch.cat([torch.full((256, 1), 256), x[:, :-1]], 1)
        logits = gpt2.network(inputs).logits
        over_all = torch.log_softmax(logits.double(), -1).gather(2, x[:, :, None]).sum((1, 2))
        over_two = torch.log_softmax(logits[:, :, :2].double(), -1).gather(2, x[:, :, None]).sum((1, 2))
    assert torch.allclose(two.log_prob(every_image(8)), over_all, atol=1e-4)
    assert float(over_two.exp().sum()) == pytest.approx(1, abs=1e-9)


def test_levels_may_be_any_tokens():
    model, transitions = almost_binary(0.05)
    turned = from_causal_lm(model, start_id=7, levels=2, ids=(1, 0))
    x = torch.tensor([[0.0, 1.0]])
    assert float(turned.log_prob(x)[0]) == pytest.approx(math.log(transitions[7, 1]) + math.log(transitions[1, 0]))


def test_images_are_read_in_rows():
    model, _ = almost_binary(0.05)
    density = from_causal_lm(model, levels=2)
    x = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
    assert torch.equal(density.log_prob(x), density.log_prob(x.flatten(1)))


def test_a_causal_model_is_asked_for_levels_that_it_knows():
    model, _ = almost_binary(0.05)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"levels": 300}, "knows token ids below 257"),
        ({"levels": 2, "ids": (0, 0)}, "1 different token ids for 2 levels"),
        ({"levels": 3, "ids": (0, 1)}, "2 different token ids for 3 levels"),
        ({"levels": 2, "start_id": -1}, "-1 is none"),
        ({"levels": 1}, "2 or more"),
    )
    for arguments, expected in wrong:
        with pytest.raises(InputError, match=expected):
            from_causal_lm(model, **arguments)
    with pytest.raises(InputError, match="2 levels are the whole numbers 0 to 1"):
        from_causal_lm(model, levels=2).log_prob(torch.full((1, 3), 2.0))
    short = from_pair(network(gpt2_config(16)), byte_tokenizer(), name="tiny")
    with pytest.raises(ContextTooLong):
        from_causal_lm(short, levels=2).log_prob(torch.zeros(1, 40))
