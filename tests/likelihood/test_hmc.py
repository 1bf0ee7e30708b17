"""The kernel: invariant, reversible, and not to be broken by numbers that are none."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from toy_densities import ASYMMETRIC, Simple, assert_mean, linear, standard, target_for

from lmeval.likelihood import hmc
from lmeval.likelihood.hmc import Move, hmc_step
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import State, Target, gaussian, log_prob_and_grad
from lmeval.likelihood.quiet import quiet_distributions


@pytest.fixture(autouse=True)
def _quiet():
    with quiet_distributions():
        yield


def move(batch: int, d: int, step: float, beta: float = 1.0, leapfrogs: int = 5) -> Move:
    ones = torch.ones(batch, dtype=torch.float64)
    return Move(beta * ones, step * ones, torch.ones(batch, d, dtype=torch.float64), leapfrogs)


def streams_for(target: Target, seed: int = 0) -> Streams:
    return Streams(seed, "test", [(i, 0) for i in range(len(target.x))], target.x)


@pytest.mark.parametrize("scale", ["unit", "diagonal", "dense"])
@pytest.mark.parametrize(("start", "beta", "step"), [(False, 0.3, 0.35), (True, 0.6, 0.5), (False, 1.0, 0.3)])
def test_a_gaussian_is_left_as_it_is(scale: str, start: bool, beta: float, step: float):
    model = linear(3, 5, 0.6)
    x = model.sample(1)
    q = gaussian(torch.full((1, 3), 0.7).double(), torch.full((1, 3), 0.8).double())
    target = target_for(model, x, q if start else None)
    inverse, first = (torch.eye(3).double(), torch.zeros(1, 3).double())
    if start:
        inverse, first = torch.diag_embed(q.scale[0] ** -2), q.mean / q.scale**2
    joint = torch.eye(3).double() + model.weight.T @ model.weight / model.s2
    covariance = torch.linalg.inv((1 - beta) * inverse + beta * joint)
    mean = ((1 - beta) * first + beta * (x - model.bias) @ model.weight / model.s2) @ covariance
    law = torch.distributions.MultivariateNormal(mean, covariance)
    torch.manual_seed(1)
    before = law.sample((30000,))
    how = move(1, 3, step, beta)
    root = torch.linalg.cholesky(covariance)[None]
    if scale == "dense":
        how = how._replace(scale=root, step=how.step * 3)
    elif scale == "diagonal":
        how = how._replace(scale=torch.tensor([[0.9, 1.1, 0.8]]).double())
    state, streams, accepted = log_prob_and_grad(target, before), streams_for(target), []
    for _ in range(8):
        done = hmc_step(target, state, how, streams)
        state = done.state
        accepted.append(done.acceptance.mean().item())
    assert 0.3 < np.mean(accepted) < 0.97  # steps so long that without the test of acceptance moments would change
    white = torch.linalg.solve_triangular(root, (state.z[:, 0] - mean)[..., None], upper=False)[..., 0]
    for i in range(3):
        assert_mean(white[:, i], 0.0, 4)
        assert_mean(white[:, i] ** 2, 1.0, 4)
        assert_mean(white[:, i] ** 4, 3.0, 4)
        assert_mean(white[:, i] * white[:, i - 1], 0.0, 4)
    assert (state.z != before).any(-1).float().mean() > 0.9


@pytest.mark.parametrize("name", ["poisson", "exponential"])
@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_an_asymmetric_target_is_left_as_it_is(name: str, beta: float):
    model, x = ASYMMETRIC[name]
    grid = torch.linspace(-7, 7, 20001, dtype=torch.float64)[:, None]
    log_f = torch.stack(
        [model.prior.log_prob(grid) + beta * model.decode(grid).log_prob(row.expand(len(grid), 1)) for row in x]
    )
    mass = torch.softmax(log_f, 1)
    generator = torch.Generator().manual_seed(0)
    places = torch.multinomial(mass, 15000, replacement=True, generator=generator)
    target = target_for(model, x)
    state, streams = log_prob_and_grad(target, grid[places].movedim(0, 1)), streams_for(target)
    for _ in range(6):
        state = hmc_step(target, state, move(3, 1, 0.55, beta, 3), streams).state
    for i in range(3):
        for power in (1, 2, 3):
            assert_mean(state.z[:, i, 0] ** power, float((mass[i] * grid[:, 0] ** power).sum()), 4)


def test_energy_errors_fall_with_the_square_of_the_step():
    model, x = ASYMMETRIC["banana"]
    target = target_for(model, x)
    torch.manual_seed(0)
    state = log_prob_and_grad(target, torch.randn(200, 3, 2).double() * 0.5 + 0.5)
    momentum = torch.randn(200, 3, 2).double()
    errors = []
    for step, n in ((0.02, 10), (0.01, 20), (0.005, 40)):
        how = move(3, 2, step, 0.7, n)
        wide = how.step[:, None].expand(200, 3, 1)
        end, last = hmc._trajectory(target, state, momentum, how.beta, wide, how)
        rise = hmc._log_density(end, how.beta) - hmc._log_density(state, how.beta)
        rise = rise - 0.5 * ((last**2).sum(-1) - (momentum**2).sum(-1))
        errors.append(rise.abs().mean().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("dense", [False, True])
def test_a_trajectory_can_be_turned_round(dense: bool):
    model, x = ASYMMETRIC["banana"]
    target = target_for(model, x)
    torch.manual_seed(0)
    state, momentum = log_prob_and_grad(target, 0.5 * torch.randn(50, 3, 2).double()), torch.randn(50, 3, 2).double()
    how = move(3, 2, 0.1, 0.7, 7)
    if dense:
        how = how._replace(scale=torch.tensor([[0.8, 0.0], [0.5, 0.6]]).double().expand(3, 2, 2))
    step = 0.03 + 0.02 * torch.rand(50, 3, 1).double()
    end, last = hmc._trajectory(target, state, momentum, how.beta, step, how)
    back, again = hmc._trajectory(target, end, -last, how.beta, step, how)
    torch.testing.assert_close(back.z, state.z, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(again, -momentum, rtol=1e-7, atol=1e-7)
    assert (end.z - state.z).abs().mean() > 0.1


def test_acceptance_is_that_of_metropolis():
    model, x = ASYMMETRIC["banana"]
    target = target_for(model, x)
    state = log_prob_and_grad(target, torch.randn(4000, 3, 2, generator=torch.Generator().manual_seed(0)).double())
    tiny = hmc_step(target, state, move(3, 2, 1e-4), streams_for(target))
    assert tiny.acceptance.min() > 0.999 and (tiny.state.z != state.z).any(-1).float().mean() > 0.999
    long = hmc_step(target, state, move(3, 2, 0.2), streams_for(target))
    assert long.acceptance.min() >= 0 and long.acceptance.max() <= 1
    happened = (long.state.z != state.z).any(-1).double()
    assert_mean(happened - long.acceptance, 0.0)
    assert 0.05 < happened.mean() < 0.95
    assert happened[long.acceptance > 1 - 1e-12].mean() == 1


def test_a_state_and_its_numbers_stay_together():
    model, x = ASYMMETRIC["banana"]
    target = target_for(model, x)
    state = log_prob_and_grad(target, torch.randn(300, 3, 2, generator=torch.Generator().manual_seed(0)).double())
    done = hmc_step(target, state, move(3, 2, 0.4, 0.5), streams_for(target)).state
    for part, expected in zip(done, log_prob_and_grad(target, done.z), strict=True):
        torch.testing.assert_close(part, expected)
    index = torch.randint(300, (300, 3), generator=torch.Generator().manual_seed(1))
    kept = hmc.gather_states(done, index)
    for b in range(3):
        assert torch.equal(kept.z[:, b], done.z[index[:, b], b])
    for part, expected in zip(kept, log_prob_and_grad(target, kept.z), strict=True):
        torch.testing.assert_close(part, expected)


class Cliff:
    """Not a number beyond a radius."""

    prior = standard(2)

    def __init__(self, worst: float) -> None:
        self.worst = worst

    def decode(self, z: Tensor) -> Independent:
        far = (z**2).sum(-1, keepdim=True) > 4
        return Independent(Normal(torch.where(far, self.worst, z), 0.5, validate_args=False), 1)


@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_rejected_and_stick_nowhere(worst: float):
    model = Cliff(worst)
    target = target_for(model, torch.tensor([[1.2, 0.9]]).double())
    grid = torch.cartesian_prod(*[torch.linspace(-2, 2, 801, dtype=torch.float64)] * 2)
    grid = grid[(grid**2).sum(-1) <= 4]
    mass = torch.softmax(model.prior.log_prob(grid) + model.decode(grid).log_prob(target.x), 0)
    places = torch.multinomial(mass, 5000, replacement=True, generator=torch.Generator().manual_seed(0))
    state = log_prob_and_grad(target, grid[places][:, None])
    streams, lost, first = streams_for(target), 0, state.z
    for _ in range(10):
        done = hmc_step(target, state, move(1, 2, 0.4, leapfrogs=4), streams)
        assert all(torch.isfinite(part).all() for part in done.state)
        assert torch.equal(done.state.z[done.lost], state.z[done.lost])
        assert (done.acceptance[done.lost] == 0).all()
        lost += int(done.lost.sum())
        state = done.state
    assert lost > 1000
    assert (state.z**2).sum(-1).max() <= 4
    assert (state.z != first).any(-1).float().mean() > 0.9
    # the law is the one that is cut off at the radius
    for i in range(2):
        for power in (1, 2):
            assert_mean(state.z[:, 0, i] ** power, float(mass @ grid[:, i] ** power), 4)


def test_a_chain_without_probability_moves_nowhere_and_poisons_no_other():
    target = target_for(Cliff(math.nan), torch.tensor([[1.0, 0.5]]).double())
    state = log_prob_and_grad(target, torch.tensor([[[5.0, 0.0]], [[0.5, 0.0]]]).double())
    done = hmc_step(target, state, move(1, 2, 0.2), streams_for(target))
    assert torch.equal(done.state.z[0], state.z[0]) and torch.isnan(done.state.joint[0]).all()
    assert torch.isfinite(done.state.joint[1]).all() and bool((done.state.z[1] != state.z[1]).all())


def test_steps_are_jittered_by_chance_alone():
    flat = Simple(standard(1), lambda z: Independent(Normal(0 * z, 1.0), 1))
    target = target_for(
        flat, torch.zeros(1, 1).double(), gaussian(torch.zeros(1, 1).double(), torch.full((1, 1), 1e6).double())
    )
    how = move(1, 1, 0.001, beta=0.0, leapfrogs=3)  # nearly flat, so that z moves by 3 * step * momentum

    def shares(z: Tensor) -> Tensor:
        end = hmc_step(target, log_prob_and_grad(target, z), how, streams_for(target)).state.z
        return ((end - z) / (3 * 0.001 * streams_for(target).normal(2000, 1)))[..., 0]

    here, there = shares(torch.zeros(2000, 1, 1).double()), shares(torch.full((2000, 1, 1), 9.0).double())
    torch.testing.assert_close(here, there, rtol=1e-6, atol=1e-6)
    assert here.min() == pytest.approx(1 - hmc.JITTER, abs=0.001)
    assert here.max() == pytest.approx(1 + hmc.JITTER, abs=0.001)
    assert_mean(here, 1.0, 4)


def test_particles_and_data_move_on_their_own():
    model = linear(3, 6)
    target = target_for(model, model.sample(3))
    state = log_prob_and_grad(target, torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0)).double())
    how = Move(torch.tensor([0.2, 0.5, 0.9]).double(), torch.tensor([0.1, 0.2, 0.05]).double(), torch.ones(3, 3).double(), 4)
    together = hmc_step(target, state, how, streams_for(target))
    for i in range(3):
        one = target._replace(x=target.x[i : i + 1], ids=(i,))
        alone_state = State(*(part[:, i : i + 1] for part in state))
        alone_how = Move(how.beta[i : i + 1], how.step[i : i + 1], how.scale[i : i + 1], 4)
        alone = hmc_step(one, alone_state, alone_how, Streams(0, "test", [(i, 0)], target.x))
        torch.testing.assert_close(alone.state.z[:, 0], together.state.z[:, i])
    assert (together.state.z[0] != together.state.z[1]).all()


def test_energies_are_added_in_float64():
    # log p about 1e5 and a change of it below float32's spacing there: float32 sums would accept or refuse at random
    big, flat = torch.full((1, 1), 2.0**24), torch.zeros(1, 1, 2)
    state = State(flat, big, torch.full((1, 1), 2.0), flat, flat)
    assert hmc._log_density(state, torch.tensor([0.5])).item() == 2**23 + 1
    assert hmc._log_density(state, torch.tensor([1.0 - 2**-24])).item() == 2**24 - 1 + 2**-23
    assert hmc._log_density(state._replace(start=64 * big), torch.tensor([2.0**-30])).item() == 2**30 - 1 + 2**-6
