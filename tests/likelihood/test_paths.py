"""Both ends of the path: values and gradients against autograd, starts against their laws."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import (
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
    Uniform,
)
from torch.distributions.transforms import AffineTransform
from toy_densities import PRIORS, Simple, linear, standard, target_for, two_states

from lmeval.errors import DensityError, NonFiniteScore
from lmeval.likelihood import paths
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import Gaussian, gaussian

G = torch.Generator().manual_seed(0)
MEAN = torch.randn(4, 3, generator=G, dtype=torch.float64)
FACTOR = torch.linalg.cholesky(torch.eye(3).double() + 0.3 * torch.ones(3, 3).double()).expand(4, 3, 3)
STARTS: dict[str, Gaussian | None] = {
    "prior": None,
    "diagonal": gaussian(MEAN, torch.rand(4, 3, generator=G, dtype=torch.float64) + 0.2),
    "dense": gaussian(MEAN, FACTOR),
}
Z = torch.randn(5, 4, 3, generator=G, dtype=torch.float64)


def start_law(target: paths.Target) -> Any:
    if target.start is None:
        return target.model.prior
    mean, scale = target.start.mean, target.start.scale
    return Independent(Normal(mean, scale), 1) if scale.dim() == 2 else MultivariateNormal(mean, scale_tril=scale)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("start", list(STARTS))
@pytest.mark.parametrize("prior", list(PRIORS))
def test_values_and_gradients(prior: str, start: str, batched: bool):
    model = linear(3, 6, prior=PRIORS[prior]())
    target = target_for(model, model.sample(4), STARTS[start], batched)
    found = paths.log_prob_and_grad(target, Z)
    z = Z.clone().requires_grad_()
    joint = torch.stack([model.prior.log_prob(one) + model.decode(one).log_prob(target.x) for one in z])
    begin = start_law(target).log_prob(z)
    (joint_slope,) = torch.autograd.grad(joint.sum(), z)
    (start_slope,) = torch.autograd.grad(begin.sum(), z)
    for a, b in zip(found, (Z, joint, begin, joint_slope, start_slope), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-9, atol=1e-9)
        assert not a.requires_grad
    torch.testing.assert_close(found.tilt, (joint - begin).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(paths.log_weights(target, Z), found.tilt, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("start", ["diagonal", "dense"])
def test_precisions_are_those_of_the_scales(start: str):
    found = STARTS[start]
    assert found is not None
    whole = torch.diag_embed(found.scale) if start == "diagonal" else found.scale
    precision = torch.diag_embed(found.precision) if start == "diagonal" else found.precision
    torch.testing.assert_close(precision, torch.linalg.inv(whole @ whole.mT))


def test_gradients_are_found_where_they_are_switched_off():
    model = linear(3, 6)
    with torch.no_grad():
        found = paths.log_prob_and_grad(target_for(model, model.sample(4)), Z)
    assert found.joint_slope.abs().sum() > 0


def test_tilts_are_taken_in_float64():
    state = paths.State(Z, torch.tensor([[2.0**24 + 2]]), torch.tensor([[1.0]]), Z, Z)
    assert state.tilt.dtype == torch.float64
    assert state.tilt.item() == 2**24 + 1  # float32 has no such number


@pytest.mark.parametrize("prior", list(PRIORS))
def test_draws_from_the_prior_follow_it(prior: str):
    model = linear(3, 6, prior=PRIORS[prior]())
    target = target_for(model, model.sample(2))
    z = paths.sample_start(target, 4000, Streams(0, "run", [(1, 0), (2, 0)], target.x)).flatten(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = model.prior.sample((8000,))
    for i in range(3):
        found: Any = stats.ks_2samp(z[:, i].numpy(), expected[:, i].numpy())
        assert found.pvalue > 0.01
    torch.testing.assert_close(z.T.cov(), expected.T.cov(), rtol=0.1, atol=0.12)


@pytest.mark.parametrize("start", ["diagonal", "dense"])
def test_draws_from_a_start_follow_it(start: str):
    model = linear(3, 6)
    target = target_for(model, model.sample(4), STARTS[start])
    z = paths.sample_start(target, 4000, Streams(0, "run", [(i, 0) for i in range(4)], target.x))
    law = start_law(target)
    for i in range(4):
        torch.testing.assert_close(z[:, i].mean(0), law.mean[i], rtol=0, atol=0.08)
        covariance = torch.diag_embed(law.variance)[i] if start == "diagonal" else law.covariance_matrix[i]
        torch.testing.assert_close(z[:, i].T.cov(), covariance, rtol=0.1, atol=0.06)


def test_draws_from_a_foreign_prior_are_a_datums_own():
    prior = two_states(3)
    together = paths.sample_prior(prior, 5, Streams(0, "run", [(1, 0), (2, 0), (3, 0)], Z))
    alone = paths.sample_prior(prior, 5, Streams(0, "run", [(2, 0)], Z))
    assert torch.equal(together[:, 1], alone[:, 0])
    assert len(together.unique()) == together.numel()


def test_the_callers_random_state_stays():
    before = torch.get_rng_state()
    paths.sample_prior(two_states(3), 5, Streams(0, "run", [(1, 0)], Z))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "scale", [torch.rand(4, 3, generator=G).double(), FACTOR * torch.rand(4, 1, 1, generator=G).double()]
)
def test_scaled_back_is_the_adjoint(scale: Tensor):
    a, b = torch.randn(2, 5, 4, 3, generator=G, dtype=torch.float64)
    torch.testing.assert_close(
        (paths.scale_vectors(scale, a) * b).sum(-1), (a * paths.scale_vectors_transposed(scale, b)).sum(-1)
    )
    whole = torch.diag_embed(scale) if scale.dim() == 2 else scale
    torch.testing.assert_close(paths.scale_vectors(scale, a), (whole @ a[..., None])[..., 0])


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (standard(3), True),
        (Independent(Normal(torch.zeros(2), torch.tensor([1.0, 1.1])), 1), False),
        (Independent(Normal(torch.tensor([0.0, 0.1]), torch.ones(2)), 1), False),
        (Independent(Laplace(torch.zeros(2), torch.ones(2)), 1), False),
        (MultivariateNormal(torch.zeros(2), torch.eye(2)), False),
    ],
)
def test_standard_normal(prior: torch.distributions.Distribution, expected: bool):
    assert paths.is_standard_normal(prior) is expected


def test_normal_encoders_are_widened_by_their_standard_deviations():
    mean, sd = torch.zeros(4, 3), torch.full((4, 3), 2.0)
    found = paths.gaussian_of(Independent(Normal(mean, sd), 1), 1.5)
    assert found is not None and torch.equal(found.scale, torch.full((4, 3), 3.0))
    dense = paths.gaussian_of(MultivariateNormal(MEAN, scale_tril=FACTOR), 2.0)
    assert dense is not None
    torch.testing.assert_close(dense.scale @ dense.scale.mT, 4 * FACTOR @ FACTOR.mT)
    assert paths.gaussian_of(Independent(Laplace(mean, sd), 1), 1.0) is None
    assert paths.gaussian_of(Independent(StudentT(5.0, mean, sd), 1), 1.0) is None


def test_a_start_without_weight_names_its_datum():
    def decoder(z: Tensor) -> Independent:
        mean = torch.where(z[..., :1] > -1, z, math.nan)
        return Independent(Normal(mean, 1.0, validate_args=False), 1)

    model = Simple(standard(1), decoder)
    target = target_for(model, torch.zeros(3, 1).double())._replace(ids=(7, 8, 9))
    with pytest.raises(NonFiniteScore, match=r"datum [789]: .* NaN at \d+ of 100 starting points") as caught:
        paths.init_particles(target, 100, Streams(0, "run", [(i, 0) for i in range(3)], target.x))
    assert "\n" not in str(caught.value)
    shifted = target._replace(start=gaussian(torch.tensor([[5.0], [-9.0], [5.0]]).double(), torch.ones(3, 1).double()))
    with pytest.raises(NonFiniteScore, match=r"datum 8: .* at 10 of 10"):
        paths.init_particles(shifted, 10, Streams(0, "run", [(i, 0) for i in range(3)], target.x))


@pytest.mark.parametrize(
    "prior",
    [
        Independent(Uniform(torch.zeros(2), torch.ones(2)), 1),
        Independent(Gamma(torch.ones(2), torch.ones(2)), 1),
        Independent(LogNormal(torch.zeros(2), torch.ones(2)), 1),
    ],
)
def test_a_bounded_prior_is_refused(prior: torch.distributions.Distribution):
    with pytest.raises(DensityError, match="not on all of space"):
        paths.check_unbounded(prior)


@pytest.mark.parametrize(
    "prior",
    [
        *(make() for make in PRIORS.values()),
        Independent(StudentT(3.0, torch.zeros(2), torch.ones(2)), 1),
        Independent(TransformedDistribution(Normal(torch.zeros(2), 1.0), [AffineTransform(1.0, 2.0)]), 1),
        MultivariateNormal(torch.zeros(2), torch.eye(2)),
    ],
)
def test_priors_on_all_of_space_are_taken(prior: torch.distributions.Distribution):
    paths.check_unbounded(prior)
