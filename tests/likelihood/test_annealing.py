"""Annealed estimates: unbiased forward and backward, resampled or not; bounds on the right side of the truth."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from toy_densities import (
    PRIORS,
    Amortised,
    Encoded,
    assert_below,
    assert_mean,
    copies,
    linear,
    mean_and_se,
    ready_for,
    silent,
)

from lmeval.densities.spaces import log_mean_exp
from lmeval.likelihood import annealing
from lmeval.likelihood.annealing import (
    backward,
    conditional,
    effective_size,
    forward,
)
from lmeval.likelihood.hmc import hmc_step
from lmeval.likelihood.ladder import Ladder
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import State, Target, gaussian, sample_start

STARTS: dict[str, dict[str, Any]] = {"prior": {}, "encoder": {"kind": Amortised, "widen": 0.9}, "pilot": {}}


def log_weight_of(ladder: Ladder, path: list[State]) -> torch.Tensor:
    """Log-weights [k, batch] of whole paths: 1 / exp of them is an unbiased estimate of 1 / p(x) for backward paths."""
    rises = ladder.betas[1:] - ladder.betas[:-1]
    return torch.stack([rise * state.tilt for rise, state in zip(rises, path, strict=True)]).sum(0)


def ready_linear(start: str, **changes: Any):
    """Four latents, twenty temperatures, one datum: what E[Z-hat / Z] = 1 is tried on. Weights have light tails, so that the
    standard errors are honest."""
    model = linear(4, 6, 1.0, **STARTS[start])
    x = model.sample(1, seed=4)
    return model, ready_for(model, x, start=start, **changes), float(model.log_p(x)[0])


def streams_of(target: Target, keys: list[tuple[int, int]], purpose: str = "run", seed: int = 0) -> Streams:
    return Streams(seed, purpose, keys, target.x)


@pytest.mark.slow
@pytest.mark.parametrize("start", list(STARTS))
def test_chains_are_unbiased(start: str):
    model, ready, truth = ready_linear(start, leapfrogs=2)
    target, ladder, keys = copies(ready, 20)
    weight = forward(target, ladder, 10_000, streams_of(target, keys), silent).log_weight
    ratio = (weight - truth).exp().numpy()
    assert ratio.shape == (10_000, 20)
    assert_mean(ratio, 1.0, most=0.02)
    torch.manual_seed(0)
    z = model.posterior(target.x).rsample((10_000,))
    path = backward(target, ladder, z, streams_of(target, keys, "backward"), silent)
    inverse = (truth - log_weight_of(ladder, path)).exp().numpy()
    assert_mean(inverse, 1.0, most=0.02)
    assert 0.01 < np.log(ratio).std() < 3  # not because there was nothing to weigh


@pytest.mark.parametrize("start", ["prior", "pilot"])
@pytest.mark.parametrize("below", [0.0, 0.5, 1.0], ids=["never", "at half", "always"])
def test_particles_are_unbiased(start: str, below: float):
    model, ready, truth = ready_linear(start, temperatures=6, resample_below=below)
    target, ladder, keys = copies(ready, 4000)
    found = forward(target, ladder, 4, streams_of(target, keys), silent)
    assert_mean((found.log_z - truth).exp(), 1.0, most=0.03)
    assert_below(found.log_z - truth)
    torch.manual_seed(0)
    z = model.posterior(target.x).rsample((1,))
    path = backward(target, ladder, z, streams_of(target, keys, "backward"), silent)
    upper = conditional(target, ladder, 4, path, streams_of(target, keys, "conditional"), silent)
    assert_mean((truth - upper.log_z).exp(), 1.0, most=0.03)
    assert_below(truth - upper.log_z)
    if below == 0:
        assert not found.n_resampled.any() and not upper.n_resampled.any()
    elif below == 1:
        assert (found.n_resampled == 5).all()
    elif start == "prior":
        assert 0 < found.n_resampled.mean() < 5
    if start == "prior":
        assert found.log_z.std() > 0.2 and mean_and_se(upper.log_z - truth)[0] > 0.05  # there was something to weigh


@pytest.mark.parametrize("prior", list(PRIORS))
def test_a_path_drawn_backwards_bounds_from_above(prior: str):
    model = linear(3, 5, 2.0, prior=PRIORS[prior]())
    torch.manual_seed(0)
    z = model.prior.sample((500,))
    x = model.decode(z).sample()
    ready = ready_for(model, x, temperatures=10)
    keys = [(i, 0) for i in range(500)]
    path = backward(ready.target, ready.ladder, z[None], Streams(0, "backward", keys, x), silent)
    assert len(path) == 10
    assert torch.equal(path[-1].z[0], z)
    truth = model.log_p(x)
    above = log_weight_of(ready.ladder, path)[0].numpy() - truth
    assert_below(-above)
    assert_mean(np.exp(-above), 1.0, 3.5)
    below = forward(ready.target, ready.ladder, 1, Streams(0, "run", keys, x), silent).log_z.numpy() - truth
    assert_below(below)
    assert_mean(np.exp(below), 1.0, 4)


def plainly(target: Target, ladder: Ladder, k: int, streams: Streams) -> np.ndarray:
    """Annealed importance sampling as it is written down: weights [k, batch]."""
    z = sample_start(target, k, streams)
    log_w = np.zeros((k, len(target.x)))
    for t in range(1, len(ladder.betas)):
        state = annealing.log_prob_and_grad(target, z)
        log_w += ((ladder.betas[t] - ladder.betas[t - 1]) * (state.joint - state.start)).numpy()
        if t < len(ladder.betas) - 1:
            z = hmc_step(target, state, ladder.move(t), streams).state.z
    return log_w


def test_it_is_what_is_written_down():
    model = linear(3, 6)
    ready = ready_for(model, model.sample(3), temperatures=7)
    keys = [(i, 0) for i in range(3)]
    found = forward(ready.target, ready.ladder, 5, Streams(0, "run", keys, ready.target.x), silent)
    expected = plainly(ready.target, ready.ladder, 5, Streams(0, "run", keys, ready.target.x))
    np.testing.assert_allclose(found.log_weight.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(found.log_z.numpy(), np.log(np.exp(expected).mean(0)), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2])
def test_few_temperatures(n: int):
    model = linear(2, 4, 0.5)
    ready = ready_for(model, model.sample(2), temperatures=n)
    keys = [(0, 0), (1, 0)]
    found = forward(ready.target, ready.ladder, 6, Streams(0, "run", keys, ready.target.x), silent)
    expected = plainly(ready.target, ready.ladder, 6, Streams(0, "run", keys, ready.target.x))
    np.testing.assert_allclose(found.log_weight.numpy(), expected, rtol=1e-12)
    assert torch.isfinite(found.acceptance).all()
    path = backward(ready.target, ready.ladder, torch.zeros(1, 2, 2).double(), Streams(0, "b", keys, ready.target.x), silent)
    assert len(path) == n


def test_without_resampling_it_is_annealed_importance_sampling():
    model = linear(3, 6)
    x = model.sample(4)
    keys = [(i, 0) for i in range(4)]
    for k in (1, 8):
        ready = ready_for(model, x, temperatures=9, particles=k)
        runs = [
            forward(ready.target, ready.ladder._replace(resample_below=below), k, Streams(0, "run", keys, x), silent)
            for below in (0.0, 1e-9)
        ]
        if k == 1:  # no threshold up to 1 resamples a single particle
            always = ready.ladder._replace(resample_below=1.0)
            runs.append(forward(ready.target, always, 1, Streams(0, "run", keys, x), silent))
            assert not runs[-1].n_resampled.any()
        assert torch.equal(runs[0].log_z, log_mean_exp(runs[0].log_weight))
        if k == 1:
            expected = plainly(ready.target, ready.ladder, k, Streams(0, "run", keys, x))
            np.testing.assert_allclose(runs[0].log_z.numpy(), expected[0], rtol=1e-12)


def test_resampled_weights_begin_anew():
    model = linear(3, 6, 0.05)
    ready = ready_for(model, model.sample(3), temperatures=5, resample_below=1.0)
    keys = [(i, 0) for i in range(3)]
    found = forward(ready.target, ready.ladder, 8, Streams(0, "run", keys, ready.target.x), silent)
    assert (found.n_resampled == 4).all()
    last = (ready.ladder.betas[-1] - ready.ladder.betas[-2]).max()
    whole = forward(
        ready.target, ready.ladder._replace(resample_below=0.0), 8, Streams(0, "run", keys, ready.target.x), silent
    )
    assert last < 1
    assert found.log_weight.abs().max() < whole.log_weight.abs().max()  # of the last step alone
    assert (found.log_z != log_mean_exp(found.log_weight)).all()


def test_the_held_path_is_kept():
    model = linear(3, 6, 0.05)
    x = model.sample(50)
    ready = ready_for(model, x, temperatures=8, resample_below=1.0)
    keys = [(i, 0) for i in range(50)]
    z = model.posterior(x).mean[None]
    path = backward(ready.target, ready.ladder, z, Streams(0, "backward", keys, x), silent)
    seen = []
    inner = annealing._resampled

    def watched(*args: Any, **more: Any):
        seen.append(inner(*args, **more))
        return seen[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(annealing, "_resampled", watched)
        found = conditional(ready.target, ready.ladder, 6, path, Streams(0, "conditional", keys, x), silent)
    assert len(seen) == 7 and all((index[0] == 0).all() for index, _ in seen)
    # the first particle's last weight is that of the path's last step
    last = (ready.ladder.betas[-1] - ready.ladder.betas[-2]) * path[-1].tilt[0]
    torch.testing.assert_close(found.log_weight[0], last)


def test_alone_the_held_path_is_all():
    model = linear(3, 6)
    x = model.sample(3)
    ready = ready_for(model, x, temperatures=6, resample_below=0.5)
    keys = [(i, 0) for i in range(3)]
    path = backward(ready.target, ready.ladder, model.posterior(x).mean[None], Streams(0, "backward", keys, x), silent)
    found = conditional(ready.target, ready.ladder, 1, path, Streams(0, "conditional", keys, x), silent)
    torch.testing.assert_close(found.log_z, log_weight_of(ready.ladder, path)[0])


def test_the_law_of_conditional_resampling():
    weight = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4])).double()[:, None].expand(4, 20000)
    keys = [(i, 0) for i in range(20000)]
    index, wanted = annealing._resampled(weight, 1.0, Streams(0, "c", keys, weight), conditional=True)
    assert wanted.all() and (index[0] == 0).all()
    for place in (1, 2, 3):
        for i in range(4):
            assert_mean((index[place] == i).double(), (0.1, 0.2, 0.3, 0.4)[i], 3.5)
    both = (index[1] == 3) & (index[2] == 3)  # drawn independently: multinomial, not systematic
    assert_mean(both.double(), 0.16, 3.5)


def test_only_data_below_the_threshold_are_resampled():
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.0, -50.0, -0.1], [0.0, -50.0, 0.1], [0.0, -50.0, 0.0]]).double()
    keys = [(i, 0) for i in range(3)]
    index, wanted = annealing._resampled(weight, 0.5, Streams(0, "r", keys, weight), conditional=False)
    assert wanted.tolist() == [False, True, False]
    assert index.T.tolist() == [[0, 1, 2, 3], [0, 0, 0, 0], [0, 1, 2, 3]]


def test_a_datums_run_is_its_own_whoever_is_resampled():
    model = linear(3, 6, 0.1)
    x = model.sample(5) * torch.tensor([0.1, 1.0, 4.0, 1.0, 1.0]).double()[:, None]
    ready = ready_for(model, x, temperatures=6, resample_below=0.5)
    keys = [(i, 0) for i in range(5)]
    together = forward(ready.target, ready.ladder, 8, Streams(0, "run", keys, x), silent)
    assert len(together.n_resampled.unique()) > 1
    for i in (0, 2):
        alone = ready_for(model, x[i : i + 1], temperatures=6, resample_below=0.5)
        one = alone.target._replace(ids=(i,))
        ladder = alone.ladder._replace(
            betas=ready.ladder.betas[:, i : i + 1],
            tuning=ready.ladder.tuning._replace(
                **{
                    name: getattr(ready.ladder.tuning, name)[:, i : i + 1]
                    for name in ("beta", "length", "log_step", "scale")
                }
            ),
        )
        found = forward(one, ladder, 8, Streams(0, "run", [keys[i]], x), silent)
        torch.testing.assert_close(found.log_z[0], together.log_z[i], rtol=0, atol=1e-9)


def test_the_posterior_as_start_weighs_all_alike():
    model = linear(5, 20, 0.1, kind=Encoded)
    x = model.sample(6)
    ready = ready_for(model, x, temperatures=4)
    exact = model.posterior(x)
    target = ready.target._replace(start=gaussian(exact.mean, exact.scale_tril))
    keys = [(i, 0) for i in range(6)]
    found = forward(target, ready.ladder, 8, Streams(0, "run", keys, x), silent)
    assert found.log_weight.std(0).max() < 1e-9
    np.testing.assert_allclose(found.log_z.numpy(), model.log_p(x), atol=1e-9)
    np.testing.assert_allclose(effective_size(found.log_weight).numpy(), 8, rtol=1e-9)


def test_acceptance_is_the_mean_of_the_moves():
    model = linear(3, 6)
    ready = ready_for(model, model.sample(2), temperatures=6)
    tuning = ready.ladder.tuning._replace(log_step=torch.full_like(ready.ladder.tuning.log_step, -12.0))
    ladder = ready.ladder._replace(tuning=tuning)
    found = forward(ready.target, ladder, 4, Streams(0, "run", [(0, 0), (1, 0)], ready.target.x), silent)
    np.testing.assert_allclose(found.acceptance.numpy(), 1, atol=1e-3)  # steps so short that all are accepted
    assert not found.n_lost.any()


def test_effective_sizes():
    weight = torch.tensor([[0.0, 700.0, -math.inf], [0.0, 0.0, -math.inf], [-math.inf, 0.0, -math.inf]]).double()
    np.testing.assert_allclose(effective_size(weight).numpy(), [2, 1, 0])
    log_w = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    w = log_w.exp()
    torch.testing.assert_close(effective_size(log_w), w.sum(0) ** 2 / (w**2).sum(0))
    torch.testing.assert_close(effective_size(log_w + 1000), effective_size(log_w))


def test_weights_are_float64_whatever_the_chains_are():
    model = linear(3, 6, 1.0, dtype=torch.float32)
    ready = ready_for(model, model.sample(2), temperatures=20, resample_below=0.5)
    found = forward(ready.target, ready.ladder, 4, Streams(0, "run", [(0, 0), (1, 0)], ready.target.x), silent)
    assert ready.target.x.dtype == torch.float32
    for part in found:
        assert part.dtype == torch.float64
    assert ready.ladder.betas.dtype == torch.float64
    assert abs(found.log_z.numpy() - model.log_p(ready.target.x)).max() < 2


def test_ticks_count_decoded_z():
    model = linear(3, 6)
    ready = ready_for(model, model.sample(2), temperatures=6)
    ticks: list[int] = []
    keys = [(0, 0), (1, 0)]
    forward(ready.target, ready.ladder, 4, Streams(0, "run", keys, ready.target.x), ticks.append)
    assert sum(ticks) == 4 * (1 + 5 * 5)
    ticks.clear()
    path = backward(
        ready.target, ready.ladder, torch.zeros(1, 2, 3).double(), Streams(0, "b", keys, ready.target.x), ticks.append
    )
    conditional(ready.target, ready.ladder, 4, path, Streams(0, "c", keys, ready.target.x), ticks.append)
    assert sum(ticks) == 4 * (1 + 5 * 5)
