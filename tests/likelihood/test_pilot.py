"""What the pilot finds: lengths, steps, masses and a normal distribution like the posterior; each datum's on its own."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from toy_densities import Simple, assert_mean, linear, standard, target_for

from lmeval.errors import DensityError
from lmeval.likelihood import pilot
from lmeval.likelihood.hmc import hmc_step
from lmeval.likelihood.ladder import beta_at_length, move_at
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import Gaussian, Target, gaussian, log_prob_and_grad
from lmeval.likelihood.pilot import PilotSettings, run_pilot, systematic

MORE = PilotSettings(particles=200, sweeps=2)


def keys_for(target: Target) -> list[tuple[int, int]]:
    return [(i, 0) for i in target.ids]


def prior_start(n: int, d: int) -> Gaussian:
    return gaussian(torch.zeros(n, d).double(), torch.eye(d).double().expand(n, d, d))


@pytest.mark.slow
@pytest.mark.parametrize(("d", "n_dims", "s2"), [(3, 8, 0.2), (10, 50, 0.1)])
def test_lengths_are_those_of_the_path(d: int, n_dims: int, s2: float):
    model = linear(d, n_dims, s2)
    target = target_for(model, model.sample(12))
    truth = model.length(target.x, prior_start(12, d))
    few = run_pilot(target, 0, keys_for(target), PilotSettings(), "pilot")
    assert float(few.total_length.mean()) == pytest.approx(float(truth.mean()), rel=0.15)
    many = run_pilot(target, 0, keys_for(target), MORE, "pilot")
    torch.testing.assert_close(many.total_length, truth, rtol=0.15, atol=0)
    # along the way as well: lengths at the temperatures of the nodes
    for node in range(1, len(many.beta), 3):
        beta = float(many.beta[node, 0])
        assert float(many.length[node, 0]) == pytest.approx(
            float(model.length(target.x[:1], prior_start(1, d), beta)[0]), rel=0.2
        )


def test_lengths_from_a_start_of_its_own():
    model = linear(3, 8, 0.2)
    x = model.sample(12)
    exact = model.posterior(x)
    start = gaussian(exact.mean + 0.3, torch.linalg.cholesky(2.5 * exact.covariance_matrix))
    target = target_for(model, x, start)
    found = run_pilot(target, 0, keys_for(target), MORE, "pilot")
    torch.testing.assert_close(found.total_length, model.length(x, start), rtol=0.15, atol=0)
    itself = target._replace(start=gaussian(exact.mean, exact.scale_tril))
    assert run_pilot(itself, 0, keys_for(target), PilotSettings(), "pilot").total_length.max() < 1e-6


def test_the_fit_is_like_the_posterior_and_a_little_wider():
    model = linear(4, 10, 0.3)
    target = target_for(model, model.sample(20))
    exact = model.posterior(target.x)
    for settings, tolerance in ((PilotSettings(), 0.5), (MORE, 0.12)):
        fitted = run_pilot(target, 0, keys_for(target), settings, "pilot").fitted
        covariance = fitted.scale @ fitted.scale.mT / pilot.WIDER**2
        off = torch.linalg.solve_triangular(exact.scale_tril, (fitted.mean - exact.mean)[..., None], upper=False)
        assert (off**2).mean().sqrt() < tolerance
        ratio = covariance.diagonal(dim1=-2, dim2=-1) / exact.covariance_matrix.diagonal(dim1=-2, dim2=-1)
        assert float(ratio.mean()) == pytest.approx(1, abs=tolerance)
        assert (torch.triu(fitted.scale, 1) == 0).all()
    correlation = covariance[:, 0, 1] / (covariance[:, 0, 0] * covariance[:, 1, 1]).sqrt()  # pyright: ignore
    truth = exact.covariance_matrix[0]
    assert float(correlation.mean()) == pytest.approx(float(truth[0, 1] / (truth[0, 0] * truth[1, 1]).sqrt()), abs=0.1)


def test_many_dimensions_get_standard_deviations_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pilot, "MOST_DENSE", 3)
    model = linear(4, 10, 0.3)
    target = target_for(model, model.sample(6))
    found = run_pilot(target, 0, keys_for(target), MORE, "pilot").fitted
    assert found.scale.shape == (6, 4)
    sd = model.posterior(target.x).stddev * pilot.WIDER
    torch.testing.assert_close(found.scale, sd, rtol=0.25, atol=0)
    again = run_pilot(target._replace(start=found), 0, keys_for(target), PilotSettings(), "second pilot")
    assert again.total_length.mean() < 3


def test_steps_are_accepted_as_often_as_wanted():
    model = linear(6, 30, 0.05)
    target = target_for(model, model.sample(16))
    found = run_pilot(target, 0, keys_for(target), PilotSettings(leapfrogs=2), "pilot")  # the longest step is out of the way
    exact = model.posterior(target.x)
    state = log_prob_and_grad(target, exact.rsample((200,)))
    move = move_at(found, torch.full((16,), 0.999).double(), 2)
    rates = []
    streams = Streams(1, "test", keys_for(target), target.x)
    for _ in range(5):
        done = hmc_step(target, state, move, streams)
        state = done.state
        rates.append(done.acceptance.mean().item())
    assert np.mean(rates) == pytest.approx(pilot.WANTED_ACCEPTANCE, abs=0.12)


def test_a_datum_is_tuned_the_same_in_any_company():
    # as many data as latents, and near as many as nodes: sizes that could be taken for one another
    model = linear(6, 12, 0.05)
    x = model.sample(6) * torch.tensor([0.2, 1.0, 3.0, 1.0, 0.5, 1.0]).double()[:, None]
    for start in (None, gaussian(torch.zeros(6, 6).double(), 1.5 * torch.eye(6).double().expand(6, 6, 6))):
        target = target_for(model, x, start)
        together = run_pilot(target, 0, keys_for(target), PilotSettings(), "pilot")
        for i in (0, 2, 5):
            own = start and Gaussian(*(part[i : i + 1] for part in start))
            alone = target._replace(x=x[i : i + 1], start=own, ids=(i,))
            found = run_pilot(alone, 0, [(i, 0)], PilotSettings(), "pilot")
            n = len(found.beta)
            torch.testing.assert_close(found.beta[:, 0], together.beta[:n, i])
            torch.testing.assert_close(found.log_step[:, 0], together.log_step[:n, i])
            torch.testing.assert_close(found.total_length, together.total_length[i : i + 1])
            torch.testing.assert_close(found.fitted.mean[0], together.fitted.mean[i])
            torch.testing.assert_close(found.fitted.scale[0], together.fitted.scale[i])
            for beta in (0.0, 1e-3, 0.1, 0.77, 0.999):
                here = move_at(found, torch.tensor([beta]).double(), 5)
                there = move_at(together, torch.full((6,), beta).double(), 5)
                torch.testing.assert_close(here.step[0], there.step[i])
                torch.testing.assert_close(here.scale[0], there.scale[i])
                assert here.scale.dim() == there.scale.dim()
            for share in (0.1, 0.5, 0.9):
                torch.testing.assert_close(beta_at_length(found, share)[0], beta_at_length(together, share)[i])


def test_a_factor_is_never_taken_for_scales_by_node():
    n = 5  # nodes, data and latents alike
    factor = torch.linalg.cholesky(torch.eye(n) + torch.ones(n, n)).double().expand(n, n, n)
    model = linear(n, 8, 0.5)
    target = target_for(model, model.sample(n), gaussian(torch.zeros(n, n).double(), factor))
    found = run_pilot(target, 0, keys_for(target), PilotSettings(), "pilot")
    beta = torch.linspace(0, 1, n).double()[:, None].expand(n, n).contiguous()
    forced = found._replace(beta=beta, length=beta, log_step=beta - 3)
    move = move_at(forced, torch.full((n,), 0.3).double(), 5)
    assert torch.equal(move.scale, factor)


def test_systematic_resampling_draws_by_weight():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 4000, generator=g, dtype=torch.float64)[:, :1].expand(7, 4000) * 2
    index = systematic(weight, torch.rand(4000, generator=g, dtype=torch.float64))
    share = torch.softmax(weight[:, 0], 0)
    counts = torch.stack([(index == i).sum(0) for i in range(7)]).double()
    assert (counts.sum(0) == 7).all()
    for i in range(7):
        assert_mean(counts[i] + 1e-9 * torch.randn(4000, generator=g), 7 * float(share[i]), 3.5)
        assert math.floor(7 * share[i]) <= counts[i].min() and counts[i].max() <= math.ceil(7 * share[i])


def test_systematic_resampling_of_data_with_other_weights():
    weight = torch.log(torch.tensor([[1.0, 0.0, 0.25], [0.0, 0.5, 0.25], [0.0, 0.5, 0.25], [0.0, 0.0, 0.25]])).double()
    index = systematic(weight, torch.tensor([0.5, 0.5, 0.5]).double())
    assert index.T.tolist() == [[0, 0, 0, 0], [1, 1, 2, 2], [0, 1, 2, 3]]
    none = systematic(torch.full((4, 1), -math.inf).double(), torch.tensor([0.3]).double())
    assert none.flatten().tolist() == [0, 1, 2, 3]
    spoilt = systematic(torch.tensor([[math.nan], [0.0]]).double(), torch.tensor([0.3]).double())
    assert spoilt.flatten().tolist() == [1, 1]
    for u in (1e-300, 1 - 1e-12):
        assert systematic(torch.zeros(4, 1).double(), torch.tensor([u], dtype=torch.float64)).flatten().tolist() == [
            0,
            1,
            2,
            3,
        ]


def test_a_path_too_long_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pilot, "MOST_NODES", 6)
    model = linear(3, 30, 1e-4)
    target = target_for(model, model.sample(2))._replace(ids=(4, 9))
    with pytest.raises(
        DensityError, match=r"datum [49]: after 6 steps the pilot is at temperature \S+ of 1: .*start from an encoder"
    ):
        run_pilot(target, 0, keys_for(target), PilotSettings(), "pilot")


def test_pilots_of_other_seeds_differ():
    model = linear(3, 8, 0.2)
    target = target_for(model, model.sample(2))
    a, b, c = (
        run_pilot(target, s, keys_for(target), PilotSettings(), p) for s, p in ((0, "pilot"), (1, "pilot"), (0, "other"))
    )
    assert len({float(t.total_length[0]) for t in (a, b, c)}) == 3
    again = run_pilot(target, 0, keys_for(target), PilotSettings(), "pilot")
    assert torch.equal(again.total_length, a.total_length)


def test_a_model_that_ignores_z_has_no_length():
    flat = Simple(standard(2), lambda z: Independent(Normal(0 * z, 1.0), 1))
    target = target_for(flat, torch.zeros(3, 2).double())
    found = run_pilot(target, 0, keys_for(target), PilotSettings(), "pilot")
    assert found.total_length.abs().max() < 1e-12
    assert torch.isfinite(found.fitted.scale).all()
    assert torch.isfinite(beta_at_length(found, 0.5)).all()


class Counting:
    """Counts decoded z."""

    def __init__(self, model: Any) -> None:
        self.model, self.prior, self.count = model, model.prior, 0

    def decode(self, z: Tensor):
        self.count += z.shape[:-1].numel()
        return self.model.decode(z)


@pytest.mark.parametrize("settings", [PilotSettings(), PilotSettings(5, 2, 3)])
def test_evaluations_are_counted(settings: PilotSettings):
    model = Counting(linear(3, 8, 0.2))
    target = target_for(model, model.model.sample(1))
    found = run_pilot(target, 0, keys_for(target), settings, "pilot")
    assert found.n_gradients == model.count
