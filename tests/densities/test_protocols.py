import math
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    Poisson,
    Uniform,
)

from lmeval.densities import check_exact, check_latent, draw, kind_of
from lmeval.errors import DensityError, EmptyInput, InputError, LmevalError

D, DZ = 6, 2
X = (torch.rand(9, D, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def standard(n: int = DZ) -> Independent:
    return Independent(Normal(torch.zeros(n), torch.ones(n)), 1)


class Model(nn.Module):
    """A good model, whose parts a test replaces."""

    def __init__(self, **parts: Any):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.encoder, self.decoder = nn.Linear(D, 2 * DZ), nn.Linear(DZ, D)
        self.prior = standard()
        for name, part in parts.items():
            setattr(self, name, part)

    def decode(self, z):
        return Independent(Bernoulli(logits=self.decoder(z)), 1)

    def encode(self, x):
        mean, log_std = self.encoder(x).chunk(2, -1)
        return Independent(Normal(mean, log_std.exp()), 1)


def decoding(distribution: Any) -> Model:
    """A model whose decode makes `distribution(logits)`."""
    model = Model()
    return Model(decode=lambda z: distribution(model.decoder(z)))


def encoding(distribution: Any) -> Model:
    model = Model()
    return Model(encode=lambda x: distribution(model.encoder(x)[:, :DZ]))


def message_of(call: Any) -> str:
    with pytest.raises(LmevalError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and 20 < len(message) < 420
    return message


def test_a_good_model_is_found_good():
    assert check_latent(Model(), X).shape == (DZ, True, True, True)
    assert check_latent(Model(), X[:1], levels=2).shape == (DZ, True, True, True)
    assert check_latent(Model(encode=None), X).shape == (DZ, True, False, True)


def test_a_prior_may_be_a_mixture():
    mixture = MixtureSameFamily(Categorical(torch.ones(3)), Independent(Normal(torch.randn(3, DZ), torch.ones(3, DZ)), 1))
    assert check_latent(Model(prior=mixture), X).shape.d_latent == DZ


class Convolution(nn.Module):
    """A decoder that takes [n, d] only, as most networks on images do."""

    def __init__(self):
        super().__init__()
        self.grow = nn.ConvTranspose2d(DZ, 1, (2, 3))

    def forward(self, z):
        return self.grow(z[:, :, None, None]).flatten(1)


def test_a_network_that_takes_no_particles_is_told_apart():
    assert check_latent(Model(decoder=Convolution()), X).shape == (DZ, False, True, True)
    assert check_latent(Model(decoder=nn.Sequential(nn.BatchNorm1d(DZ), nn.Linear(DZ, D)).eval()), X).shape[1] is False


def test_a_network_that_mixes_particles_is_told_apart():
    # Each [n, d] is right on its own, but a third dimension is averaged over.
    model = Model()
    mixed = Model(decode=lambda z: model.decode(z if z.ndim == 2 else z.mean(0, keepdim=True).expand_as(z)))
    assert check_latent(mixed, X).shape[1] is False


def test_a_network_that_loses_dimensions_of_one_is_told_apart():
    model = Model()
    squeezing = Model(decode=lambda z: model.decode(z.squeeze(0) if z.ndim == 3 else z))
    assert check_latent(squeezing, X).shape[1] is False


def test_a_prior_elsewhere_is_told():
    away = Normal(torch.zeros(DZ, device="meta"), torch.ones(DZ, device="meta"), validate_args=False)
    model = Model(prior=Independent(away, 1, validate_args=False))
    assert "prior lies on meta and x on cpu" in message_of(lambda: check_latent(model, X))


def test_weights_elsewhere_are_told():
    model = Model()
    elsewhere = torch.nn.Linear(DZ, D, device="meta")
    with pytest.raises(DensityError, match=r"decode\(z\) (fails|of 3)"):
        check_latent(Model(decode=lambda z: Independent(Bernoulli(logits=elsewhere(z) + model.decoder(z)), 1)), X)


def test_a_network_without_gradient_is_told_apart():
    model = Model()
    assert check_latent(Model(decode=lambda z: model.decode(z.detach())), X).shape[3] is False
    assert check_latent(Model(decode=torch.no_grad()(model.decode)), X).shape[3] is False
    assert check_latent(Model(decode=lambda z: model.decode(torch.nan_to_num((z - z).sqrt()) + z)), X).shape[3] is False


LATENT_FAULTS = {
    "prior without Independent": (Model(prior=Normal(torch.zeros(DZ), torch.ones(DZ))), r"Independent\(prior, 1\)"),
    "prior of a number": (Model(prior=Normal(0.0, 1.0)), r"vector of one number"),
    "prior with a batch of 1": (Model(prior=MultivariateNormal(torch.zeros(1, DZ), torch.eye(DZ))), "leading dimension"),
    "prior of images": (Model(prior=Independent(Normal(torch.zeros(2, 1), torch.ones(2, 1)), 2)), "flatten z"),
    "prior of a batch of images": (Model(prior=Normal(torch.zeros(2, 1), torch.ones(2, 1))), r"Independent\(prior, 2\)"),
    "prior that is a tensor": (Model(prior=torch.zeros(DZ)), "not a torch Distribution"),
    "prior that is a function": (Model(prior=standard), "not a torch Distribution: give the distribution itself"),
    "bounded prior": (Model(prior=Independent(Uniform(torch.zeros(DZ), torch.ones(DZ)), 1)), "Interval 0 to 1"),
    "positive prior": (Model(prior=Independent(LogNormal(torch.zeros(DZ), torch.ones(DZ)), 1)), "GreaterThan 0"),
    "discrete prior": (Model(prior=Independent(Poisson(torch.ones(DZ)), 1)), "some z"),
    "prior of NaN": (
        Model(prior=Independent(Normal(torch.full((DZ,), math.nan), 1.0, validate_args=False), 1, validate_args=False)),
        "NaN",
    ),
    "prior of another size": (Model(prior=standard(3)), r"decode\(z\) fails for float32 \[3, 3\] on cpu"),
    "decode gives a tensor": (decoding(lambda out: out), "returns a tensor"),
    "decode gives a pair": (decoding(lambda out: (out, out)), "returns a tuple"),
    "decode without Independent": (decoding(lambda out: Bernoulli(logits=out)), r"Independent\(\.\.\., 1\)"),
    "decode with too much Independent": (decoding(lambda out: Independent(Bernoulli(logits=out), 2)), "batch counts as"),
    "decode of images for flat x": (
        decoding(lambda out: Independent(Bernoulli(logits=out.view(-1, 2, 3)), 2)),
        r"x has shape \(6,\) and this \(2, 3\): reshape",
    ),
    "decode of other images": (
        decoding(lambda out: Independent(Bernoulli(logits=out[:, :5]), 1)),
        "x has 6 numbers and this 5",
    ),
    "decode that squeezes": (
        decoding(lambda out: Independent(Bernoulli(logits=out.squeeze()), 1)),
        "of 1 has batch_shape .* batch dimension is lost",
    ),
    "decode that averages the batch": (decoding(lambda out: Independent(Bernoulli(logits=out.mean(0)), 1)), "batch_shape"),
    "decode with noise": (decoding(lambda out: Independent(Bernoulli(logits=out + torch.randn(D)), 1)), "two calls.*eval"),
    "decode with little noise": (
        decoding(lambda out: Independent(Bernoulli(logits=out + torch.randn(D) / 1000), 1)),
        "two calls.*eval",
    ),
    "decode that centres the batch": (
        decoding(lambda out: Independent(Bernoulli(logits=out - out.mean(0)), 1)),
        "other z of the batch.*eval",
    ),
    "decode of NaN": (
        decoding(lambda out: Independent(Bernoulli(logits=out * math.nan), 1)),
        "leaves its range.* NaN: check the weights",
    ),
    "decode of NaN, unchecked": (
        decoding(lambda out: Independent(Bernoulli(logits=out * math.nan, validate_args=False), 1)),
        "logits of its Bernoulli leaves its range",
    ),
    "decode of impossible data": (
        decoding(lambda out: Independent(Uniform(out - 9, out - 8, validate_args=False), 1, validate_args=False)),
        "allows only|impossible",
    ),
    "decode that changes z": (Model(decode=lambda z: Model().decode(z.relu_())), "in place"),
    "decode that fails": (Model(decode=lambda z: {}["absent"]), r"decode\(z\) fails.*absent"),
    "encode gives a pair": (encoding(lambda out: (out, out)), "returns a tuple.*Normal"),
    "encode gives a tensor": (encoding(lambda out: out), "returns a tensor"),
    "encode without Independent": (encoding(lambda out: Normal(out, 1.0)), r"Independent\(\.\.\., 1\)"),
    "encode of another size": (encoding(lambda out: Independent(Normal(out[:, :1], 1.0), 1)), "has 2 numbers and this 1"),
    "encode with scale 0": (encoding(lambda out: Independent(Normal(out, 0.0), 1)), "leaves its range.*check the weights"),
    "encode with scale 0, unchecked": (
        encoding(lambda out: Independent(Normal(out, 0.0, validate_args=False), 1)),
        "scale of its Normal leaves its range",
    ),
    "encode with scale inf": (encoding(lambda out: Independent(Normal(out, math.inf), 1)), "infinite"),
    "encode with NaN": (encoding(lambda out: Independent(Normal(out * math.nan, 1.0, validate_args=False), 1)), "NaN"),
    "encode with noise": (encoding(lambda out: Independent(Normal(out + torch.randn(DZ), 1.0), 1)), "two calls.*eval"),
    "encode that centres the batch": (encoding(lambda out: Independent(Normal(out - out.mean(0), 1.0), 1)), "other data"),
    "weights of NaN": (Model(decoder=nn.Linear(DZ, D).requires_grad_(False)), "decoder.weight is not finite"),
    "batch normalisation in training": (
        Model(decoder=nn.Sequential(nn.BatchNorm1d(DZ), nn.Linear(DZ, D))),
        r"decoder.0 \(BatchNorm1d\) is in training mode.*eval",
    ),
    "dropout in training": (Model(decoder=nn.Sequential(nn.Linear(DZ, D), nn.Dropout(0.1))), r"decoder.1 \(Dropout\).*eval"),
}
LATENT_FAULTS["weights of NaN"][0].decoder.weight[0, 0] = math.nan


@pytest.fixture(params=[True, False], ids=["torch checks", "torch does not check"])
def validation(request: pytest.FixtureRequest):
    """torch's own checks of parameters and values, which zuko switches off when it is imported."""
    before = Distribution._validate_args  # pyright: ignore[reportAttributeAccessIssue]
    Distribution.set_default_validate_args(request.param)
    yield
    Distribution.set_default_validate_args(before)


@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("fault", LATENT_FAULTS)
def test_every_fault_of_a_latent_model_is_one_line_with_its_remedy(fault: str):
    model, expected = LATENT_FAULTS[fault]
    with pytest.raises(DensityError, match=expected):
        check_latent(model, X)
    message_of(lambda: check_latent(model, X))


def test_dropout_of_nothing_is_harmless():
    model = Model(decoder=nn.Sequential(nn.Linear(DZ, D), nn.Dropout(0.0), nn.LayerNorm(D)))
    assert model.training and check_latent(model, X).shape.d_latent == DZ


def test_hidden_batch_normalisation_is_found_by_what_it_does():
    # In a closure, where no search for modules finds it; statistics of the batch differ from call to call.
    module = nn.Sequential(nn.Linear(DZ, D), nn.BatchNorm1d(D))
    dropout = nn.Sequential(nn.Linear(DZ, D), nn.Dropout(0.5))
    with torch.random.fork_rng(devices=[]):
        for hidden in (module, dropout):
            model = Model(decode=lambda z, hidden=hidden: Independent(Bernoulli(logits=hidden(z)), 1))
            assert "eval()" in message_of(lambda model=model: check_latent(model, X))
            hidden.eval()
            assert check_latent(model, X).shape.d_latent == DZ


@pytest.mark.parametrize("checked", [True, False])
def test_grey_levels_have_no_bernoulli_likelihood(checked: bool):
    model = decoding(lambda out: Independent(Bernoulli(logits=out, validate_args=checked), 1, validate_args=checked))
    one_grey = X.clone()
    one_grey[2] = X[2] * 0.5 + 0.25  # neither the first, the middle nor the last, and neither least nor greatest
    for x in (one_grey, X * 255, X / 2):
        assert "binarise" in message_of(lambda x=x: check_latent(model, x))


def test_levels_need_probabilities():
    gaussian = decoding(lambda out: Independent(Normal(out, 1.0), 1))
    assert check_latent(gaussian, X).shape.d_latent == DZ
    assert "dequantise" in message_of(lambda: check_latent(gaussian, X, levels=2))


@pytest.mark.parametrize(("shift", "expected"), [(2.0, "no probability exceeds 1"), (math.nan, "at ordinary z is nan")])
def test_log_probabilities_that_cannot_be_are_refused(shift: float, expected: str):
    class Shifted(Bernoulli):
        def log_prob(self, value: Any) -> Any:
            return super().log_prob(value) + shift

    assert expected in message_of(lambda: check_latent(decoding(lambda out: Independent(Shifted(logits=out), 1)), X))


@pytest.mark.parametrize(
    ("x", "kind", "expected"),
    [
        (X.numpy(), InputError, "not ndarray"),
        (X.long(), InputError, "float tensors"),
        (X[0], InputError, "batch is"),
        (X[:0], EmptyInput, "no data"),
        (X[:, :0], EmptyInput, "no data"),
        (torch.where(X == 0, math.nan, X), InputError, "must not leave it out"),
        (X / 0, InputError, "not finite"),
        (X.view(-1, 2, 3), DensityError, "reshape|shapes"),
        (X.double(), DensityError, "float64: give"),
        (X[:, :4], DensityError, "4|shapes"),
    ],
    ids=range(10),
)
def test_data_that_cannot_be_used_are_refused(x: Any, kind: type[LmevalError], expected: str):
    with pytest.raises(kind, match=expected):
        check_latent(Model(), x)
    message_of(lambda: check_latent(Model(), x))


def test_levels_must_be_levels():
    for x in (X / 255, X * 2, -X):
        with pytest.raises(InputError, match="2 levels are the whole numbers 0 to 1"):
            check_latent(Model(), x, levels=2)


def test_the_callers_random_state_stays():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    check_latent(Model(), X)
    check_exact(Independent(Bernoulli(torch.full((D,), 0.5)), 1), X)
    draw(standard(), 5, seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_checks_are_cheap():
    seen: list[int] = []
    model = Model()

    def decode(z: Any) -> Any:
        seen.append(z.numel() // DZ)
        return model.decode(z)

    check_latent(Model(decode=decode), torch.cat([X] * 1000))
    assert sum(seen) < 50


class WithLogProb:
    def __init__(self, log_prob: Any, side: Any = None):
        self.log_prob = log_prob
        if side is not None:
            self.side = side


EXACT_FAULTS = {
    "no Independent": (Normal(torch.zeros(D), torch.ones(D)), r"Independent\(\.\.\., 1\)"),
    "a sum": (WithLogProb(lambda x: x.sum()), "summed or averaged"),
    "a list": (WithLogProb(lambda x: x.sum(1).tolist()), "list"),
    "another length": (WithLogProb(lambda x: x.sum(1)[:2]), "one number for every datum"),
    "NaN": (WithLogProb(lambda x: x.sum(1) * math.nan), "nan"),
    "infinite": (WithLogProb(lambda x: x.sum(1) + math.inf), "inf"),
    "impossible": (WithLogProb(lambda x: x.sum(1) - math.inf), "impossible"),
    "noise": (WithLogProb(lambda x: x.sum(1) + torch.randn(len(x))), "two calls"),
    "neighbours": (WithLogProb(lambda x: x.sum(1) - x.mean() - len(x)), "other data of the batch"),
    "side": (WithLogProb(lambda x: -x.sum(1), "upper"), "side is 'upper'"),
    "outside": (Independent(Uniform(torch.zeros(D), torch.ones(D) / 2), 1), "allows only Interval 0 to 0.5"),
    "grey": (Independent(Bernoulli(torch.ones(D) / 2), 1), None),
}


@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("fault", EXACT_FAULTS)
def test_every_fault_of_an_exact_model_is_one_line_with_its_remedy(fault: str):
    model, expected = EXACT_FAULTS[fault]
    x = X / 2 if fault == "grey" else X
    with pytest.raises(DensityError, match=expected or "binarise"):
        check_exact(model, x)
    message_of(lambda: check_exact(model, x))


def test_exact_models_say_which_side_they_are_on():
    assert check_exact(standard(D), X).side == "exact"
    assert check_exact(WithLogProb(lambda x: -x.sum(1), "lower"), X).side == "lower"


def test_a_density_is_no_probability_of_levels():
    sharp = Independent(Normal(torch.zeros(D), torch.full((D,), 0.01)), 1)
    assert check_exact(sharp, X * 0).side == "exact"
    assert "density and not a probability of 2 levels; dequantise" in message_of(lambda: check_exact(sharp, X * 0, levels=2))


def test_kinds_are_told_apart():
    assert kind_of(Model()) == "latent"
    assert kind_of(standard()) == "exact"
    assert kind_of(WithLogProb(lambda x: x)) == "exact"

    class Samples:
        def sample(self, n: int) -> Any:
            return torch.zeros(n, D)

    assert kind_of(Samples()) == "implicit"
    assert "is a class" in message_of(lambda: kind_of(Samples))
    assert "no decode(z)" in message_of(lambda: kind_of(type("Half", (), {"prior": standard()})()))
    assert "no prior" in message_of(lambda: kind_of(type("Half", (), {"decode": lambda self, z: z})()))
    assert "from_flow" in message_of(lambda: kind_of(3))


class Sampler:
    def __init__(self, sample: Any):
        self.sample = sample


def test_samples_come_from_their_seed_whatever_the_form_of_sample():
    sampler = Sampler(lambda n: torch.randn(n, D))
    for source in (sampler, standard(D)):
        assert torch.equal(draw(source, 4, seed=3), draw(source, 4, seed=3))
        assert not torch.equal(draw(source, 4, seed=3), draw(source, 4, seed=4))
        assert draw(source, 4, seed=3).shape == (4, D)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (lambda n: torch.zeros(n + 1, D), r"\[5, 6\]"),
        (lambda n: torch.zeros(n), r"\[4\]"),
        (lambda n: torch.zeros(n, D).long(), "int64"),
        (lambda n: [0] * n, "list"),
        (lambda n: torch.full((n, D), math.nan), "not finite"),
        (lambda: torch.zeros(4, D), "fails"),
    ],
)
def test_samples_that_cannot_be_used_are_refused(sample: Any, expected: str):
    with pytest.raises(DensityError, match=expected):
        draw(Sampler(sample), 4, seed=0)


def test_densities_pull_in_no_plots_flows_or_data_sets():
    code = "import lmeval.densities, sys; assert not {'zuko', 'matplotlib', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
