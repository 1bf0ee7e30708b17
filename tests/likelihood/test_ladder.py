"""Temperatures: closed forms, and steps of equal thermodynamic length on a path whose length is known."""

import math

import pytest
import torch
from toy_densities import linear

from lmeval.errors import InputError
from lmeval.likelihood.ladder import LONGEST_ORBIT, Tuning, beta_at_length, move_at, sigmoid_at, temperatures_of
from lmeval.likelihood.paths import Gaussian, gaussian

NONE = gaussian(torch.zeros(2, 1).double(), torch.ones(2, 1).double())


def tuning_of(beta: torch.Tensor, length: torch.Tensor) -> Tuning:
    return Tuning(beta, length, torch.zeros_like(beta), torch.ones(*beta.shape, 1), False, NONE, 0)


def simple() -> Tuning:
    beta = torch.linspace(0, 1, 5).double()[:, None].expand(5, 2)
    return tuning_of(beta, torch.stack([beta[:, 0], beta[:, 1].sqrt()], 1))


@pytest.mark.parametrize("schedule", ["linear", "sigmoid", "thermodynamic"])
@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_from_zero_to_one(schedule: str, n: int):
    betas = temperatures_of(schedule, n, simple())
    assert betas.shape == (n + 1, 2) and betas.dtype == torch.float64
    assert (betas[0] == 0).all() and (betas[-1] == 1).all()
    assert (betas.diff(dim=0) > 0).all()


def test_closed_forms():
    assert temperatures_of("linear", 4, simple())[:, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    found = temperatures_of("sigmoid", 10, simple())[:, 1]
    raw = torch.sigmoid(torch.linspace(-4, 4, 11, dtype=torch.float64))
    torch.testing.assert_close(found, (raw - raw[0]) / (raw[-1] - raw[0]))
    assert sigmoid_at(0.5) == 0.5
    assert sigmoid_at(0.25) == pytest.approx((1 / (1 + math.exp(2)) - 1 / (1 + math.exp(4))) / (math.tanh(2)), rel=1e-12)


def test_equal_lengths_where_the_length_is_known():
    model = linear(3, 8, 0.2)
    x = model.sample(2)
    start = gaussian(torch.zeros(2, 3).double(), torch.eye(3).double().expand(2, 3, 3))
    grid = torch.linspace(0, 1, 401, dtype=torch.float64) ** 3
    sds = torch.stack([model.tilt_sd(x, start, b) for b in grid.tolist()])
    lengths = torch.cat([torch.zeros(1, 2), torch.cumulative_trapezoid(sds, grid, dim=0)])
    betas = temperatures_of("thermodynamic", 6, tuning_of(grid[:, None].expand(-1, 2), lengths))
    for i in range(2):
        one = Gaussian(*(part[i : i + 1] for part in start))
        upto = [float(model.length(x[i : i + 1], one, b, 200)[0]) for b in betas[:, i].tolist()]
        steps = torch.tensor(upto).diff()
        torch.testing.assert_close(steps, torch.full_like(steps, float(lengths[-1, i]) / 6), rtol=0.02, atol=0)
    assert betas[1, 0] != betas[1, 1]  # each datum at its own pace


def test_a_path_without_length_has_temperatures_still():
    beta = torch.tensor([0.0, 1.0]).double()[:, None].expand(2, 2)
    betas = temperatures_of("thermodynamic", 5, tuning_of(beta, torch.zeros(2, 2).double()))
    assert torch.isfinite(betas).all() and (betas.diff(dim=0) >= 0).all() and (betas[-1] == 1).all()


@pytest.mark.parametrize("name", ["", "Linear", "geometric"])
def test_unknown_schedules(name: str):
    with pytest.raises(InputError, match=f"unknown schedule '{name}': use one of thermodynamic, sigmoid, linear"):
        temperatures_of(name, 5, simple())


@pytest.mark.parametrize("n", [0, -1])
def test_no_temperatures(n: int):
    with pytest.raises(InputError, match="needs at least 1"):
        temperatures_of("linear", n, simple())


def tuning_with(scale: torch.Tensor, nodes: int, batch: int) -> Tuning:
    beta = torch.linspace(0, 1, nodes).double()[:, None].expand(nodes, batch) ** 2
    fitted = gaussian(torch.zeros(batch, 2).double(), torch.ones(batch, 2).double())
    return Tuning(beta, 3 * beta, -3 + beta, scale, False, fitted, 0)


def test_moves_between_nodes():
    scale = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    tuning = tuning_with(scale, 4, 3)
    for node in range(4):
        move = move_at(tuning, tuning.beta[node], 5)
        torch.testing.assert_close(move.step, tuning.log_step[node].exp())
        torch.testing.assert_close(move.scale, scale[node])
        assert torch.equal(move.beta, tuning.beta[node]) and move.leapfrogs == 5
    middle = (tuning.beta[1] + tuning.beta[2]) / 2
    move = move_at(tuning, middle, 5)
    torch.testing.assert_close(move.step, ((tuning.log_step[1] + tuning.log_step[2]) / 2).exp())
    torch.testing.assert_close(move.scale, (scale[1] + scale[2]) / 2)
    mixed = move_at(tuning, torch.stack([tuning.beta[0, 0], middle[1], tuning.beta[3, 2]]), 5)
    torch.testing.assert_close(mixed.scale, torch.stack([scale[0, 0], (scale[1, 1] + scale[2, 1]) / 2, scale[3, 2]]))
    for share in (0.2, 0.5, 0.83):  # length is 3 beta here
        torch.testing.assert_close(beta_at_length(tuning, share), torch.full((3,), share).double())


def test_an_orbit_has_a_longest_length():
    scale = torch.ones(4, 3, 2).double()
    tuning = tuning_with(scale, 4, 3)._replace(log_step=torch.full((4, 3), 2.0).double())
    for leapfrogs in (1, 5, 20):
        move = move_at(tuning, torch.full((3,), 0.4).double(), leapfrogs)
        torch.testing.assert_close(move.step * leapfrogs, torch.full((3,), LONGEST_ORBIT).double())
