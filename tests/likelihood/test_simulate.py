"""Both sides of the truth, on data that the model made."""

from typing import Any

import numpy as np
import pytest
import torch
from samples import ROOT, SHARED, shared
from told import Told
from torch import Tensor
from torch.distributions import Independent, Normal
from toy_densities import ASYMMETRIC, PRIORS, Amortised, assert_below, assert_mean, linear, quadrature, standard

from lmeval.compute.memory import PARTICLES
from lmeval.compute.place import Place
from lmeval.densities.modelfile import load_density
from lmeval.errors import DensityError, InputError
from lmeval.likelihood import BoundSettings, log_likelihood, sandwich
from lmeval.likelihood.simulate import simulate_data
from lmeval.stats import paired_difference

CPU = torch.device("cpu")


@pytest.mark.parametrize("start", ["prior", "encoder", "pilot"])
def test_the_truth_lies_between(start: str):
    model = linear(10, 50, 0.1, kind=Amortised)
    found = sandwich(model, 60, BoundSettings(start=start, temperatures=40))
    truth = model.log_p(found.x)
    assert (found.lower.side, found.upper.side) == ("lower", "upper")
    assert_below(found.lower.nats - truth)
    assert_below(truth - found.upper.nats)
    assert found.gap.value == pytest.approx(float((found.upper.nats - found.lower.nats).mean()))
    if start == "pilot":
        assert_mean(found.lower.nats - truth, 0.0, 3, most=0.05)
        assert_mean(found.upper.nats - truth, 0.0, 3, most=0.05)
        assert found.gap.value < 0.3
    if start == "prior":
        assert found.upper.mean.value > truth.mean() > found.lower.mean.value


@pytest.mark.slow
def test_the_truth_of_images_lies_between():
    model = linear(20, 784, 0.05, dtype=torch.float32)
    found = sandwich(model, 32, BoundSettings(temperatures=60))
    truth = model.log_p(found.x)
    assert_below(found.lower.nats - truth)
    assert_below(truth - found.upper.nats)
    assert_mean(found.lower.nats - truth, 0.0, 3, most=0.06)
    assert_mean(found.upper.nats - truth, 0.0, 3, most=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("prior", list(PRIORS))
def test_priors_of_any_kind(prior: str):
    model = linear(3, 6, 1.5, prior=PRIORS[prior]())
    found = sandwich(model, 60, BoundSettings(temperatures=20, start="prior"))
    truth = model.log_p(found.x)
    for over in (found.lower.nats - truth, truth - found.upper.nats):
        assert_below(over)
        assert_mean(np.exp(over), 1.0, 3.5, most=0.15)


@pytest.mark.parametrize("name", ["banana", "poisson", "exponential"])
def test_asymmetric_models_against_quadrature(name: str):
    model, _ = ASYMMETRIC[name]
    found = sandwich(model, 40, BoundSettings(temperatures=25))
    truth = quadrature(model, found.x)
    for over in (found.lower.nats - truth, truth - found.upper.nats):
        assert_below(over)
        assert_mean(np.exp(over), 1.0, 3.5, most=0.1)


def test_one_particle_and_no_resampling():
    model = linear(3, 6, 2.0)
    cases: list[dict[str, Any]] = [{"particles": 1}, {"resample_below": 0.0}, {"particles": 2, "resample_below": 1.0}]
    for changes in cases:
        found = sandwich(model, 120, BoundSettings(temperatures=10, start="prior", **changes))
        truth = model.log_p(found.x)
        for over in (found.lower.nats - truth, truth - found.upper.nats):
            assert_below(over)
            assert_mean(np.exp(over), 1.0, 3.5)


def test_more_temperatures_narrow_it():
    model = linear(5, 20, 0.1)
    gaps = [sandwich(model, 60, BoundSettings(start="prior", temperatures=n)).gap for n in (5, 25)]
    assert gaps[0].value > 3 * gaps[1].value > 0


@pytest.mark.parametrize("prior", list(PRIORS))
def test_simulated_data_follow_the_model(prior: str):
    model = linear(3, 6, 0.5, prior=PRIORS[prior]())
    x, z = simulate_data(model, 400, 0, CPU)
    torch.manual_seed(1)
    expected = model.prior.sample((20000,))
    torch.testing.assert_close(z.mean(0), expected.mean(0), rtol=0, atol=0.4)
    torch.testing.assert_close(z.T.cov(), expected.T.cov(), rtol=0.25, atol=0.3)
    noise = (x - z @ model.weight.T - model.bias) / model.s2**0.5
    assert_mean(noise + 0, 0.0, 4)
    assert_mean(noise**2, 1.0, 4)
    for i in range(3):
        assert_mean(noise[:, i] * z[:, i], 0.0, 4)


@pytest.mark.parametrize("prior", ["standard", "mixture"])
def test_the_first_data_are_the_same_for_every_number(prior: str):
    model = linear(3, 6, 0.5, prior=PRIORS[prior]())
    few, many = simulate_data(model, 3, 0, CPU), simulate_data(model, 8, 0, CPU)
    assert torch.equal(few[0], many[0][:3]) and torch.equal(few[1], many[1][:3])
    other = simulate_data(model, 3, 1, CPU)
    assert not torch.isclose(other[1], few[1]).any()
    assert len(many[1].unique()) == many[1].numel()


def test_the_callers_random_state_stays():
    model = linear(3, 6)
    before = torch.get_rng_state()
    first = sandwich(model, 3, BoundSettings(temperatures=3, particles=2))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)
    assert (sandwich(model, 3, BoundSettings(temperatures=3, particles=2)).upper.nats == first.upper.nats).all()


def test_neither_batches_nor_their_number_change_it():
    model = linear(3, 6, 0.2)
    given: dict[str, Any] = {"temperatures": 5, "particles": 6}
    found, few = sandwich(model, 7, BoundSettings(**given)), sandwich(model, 4, BoundSettings(**given))
    place = Place(0, 1, CPU, int(12 * 4 * 6 / PARTICLES.share) + 1)  # for 12 data times particles at once
    small = sandwich(model, 7, BoundSettings(**given), place=place)
    for side in ("lower", "upper"):
        a, b, c = (getattr(s, side).nats for s in (found, few, small))
        np.testing.assert_allclose(b, a[:4], atol=1e-9)
        np.testing.assert_allclose(c, a, atol=1e-9)
    assert (sandwich(model, 7, BoundSettings(**given, seed=1)).upper.nats != found.upper.nats).all()


def test_the_lower_side_is_what_anyone_would_get():
    model = linear(3, 6, 0.2)
    found = sandwich(model, 5, BoundSettings(temperatures=6))
    assert (log_likelihood(model, found.x, "smc", BoundSettings(temperatures=6)).nats == found.lower.nats).all()


def test_both_sides_cost_the_same_and_are_told():
    model = linear(3, 6, 0.2)
    told = Told()
    found = sandwich(model, 4, BoundSettings(temperatures=6, particles=5), progress=told)
    assert found.lower.n_gradients == found.upper.n_gradients
    [(name, total, _)] = told.stages
    assert name == "sandwich" and sum(told.numbers) == total
    assert found.upper.method == "conditional smc" and found.lower.method == "smc"
    assert found.x.shape == (4, 6) and found.z.shape == (4, 3)
    assert found.gap == paired_difference(found.upper.nats, found.lower.nats)
    assert found.upper.certificate() > found.upper.mean.value and found.lower.certificate() < found.lower.mean.value


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_a_number_of_data_is_needed(n: Any):
    with pytest.raises(InputError, match=r"n is .*: give the number of data to simulate"):
        sandwich(linear(2, 3), n)


def test_other_models_have_no_sandwich():
    with pytest.raises(DensityError, match="needs a model with prior and decode"):
        sandwich(standard(3))


@pytest.mark.parametrize(("name", "value"), [("particles", 0), ("start", "x"), ("schedule", "x"), ("temperatures", 0)])
def test_settings_are_checked(name: str, value: Any):
    with pytest.raises(InputError, match=rf"{name}.*{value}"):
        sandwich(linear(2, 3), 2, BoundSettings(**{name: value}))


def test_no_gap_is_planned_for_data_that_are_not_there():
    with pytest.raises(InputError, match="a sandwich takes temperatures, and no gap"):
        sandwich(linear(2, 3), 2, BoundSettings(gap=0.1))


def test_an_encoder_start_needs_an_encoder():
    with pytest.raises(DensityError, match=r"encode\(x\) is not there"):
        sandwich(linear(2, 3), 2, BoundSettings(start="encoder"))


def test_a_model_that_ignores_z():
    class Flat:
        prior = standard(2)

        def decode(self, z: Tensor) -> Independent:
            return Independent(Normal(torch.zeros(*z.shape[:-1], 3).double() + 0 * z[..., :1], 1.0), 1)

    found = sandwich(Flat(), 5, BoundSettings(temperatures=4))
    truth = Independent(Normal(torch.zeros(3).double(), 1.0), 1).log_prob(found.x).numpy()
    np.testing.assert_allclose(found.lower.nats, truth, atol=0.3)
    np.testing.assert_allclose(found.upper.nats, truth, atol=0.3)
    prior = sandwich(Flat(), 5, BoundSettings(temperatures=4, start="prior"))
    np.testing.assert_allclose(prior.lower.nats, truth, atol=1e-9)
    np.testing.assert_allclose(prior.upper.nats, truth, atol=1e-9)


@pytest.mark.slow
def test_a_published_model_within_a_tenth_of_a_nat():
    shared("models/bbans_binary_vae/model.safetensors")
    model = load_density(ROOT / "tasks/densities/bbans_binary_vae.yaml", SHARED / "data").model
    found = sandwich(model, 100)
    assert found.gap.stderr is not None
    assert -3 * found.gap.stderr <= found.gap.value <= 0.1 + 3 * found.gap.stderr
    assert found.lower.mean.value < -105  # the model's own samples are harder than digits


def test_a_model_that_cannot_make_data_is_told_so_in_one_line():
    class Raw:
        prior = standard(2)

        def decode(self, z: Tensor) -> Any:
            return z

    with pytest.raises(DensityError, match="simulating data from Raw"):
        sandwich(Raw(), 3)
    with pytest.raises(DensityError, match="training mode"):
        sandwich(_Dropping(), 3)


class _Dropping:
    prior = standard(2)

    def __init__(self) -> None:
        self.net = torch.nn.Dropout(0.5)

    def decode(self, z: Tensor) -> Any:
        return Independent(Normal(self.net(z), 1.0), 1)
