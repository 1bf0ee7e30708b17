"""From data to a ladder that is frozen."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Laplace, Normal, Uniform
from toy_densities import Amortised, Encoded, Simple, linear, ready_for, settings_for, standard

from lmeval.densities.protocols import CheckedLatent, LatentShape, check_latent
from lmeval.errors import DensityError
from lmeval.likelihood import BoundSettings, log_likelihood, sandwich
from lmeval.likelihood.annealed_run import ENCODER_WIDER, prepare_run
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import target_of
from lmeval.likelihood.result import Batch


def test_starts():
    model = linear(3, 6, 0.3, kind=Amortised, widen=1.0)
    x = model.sample(4)
    prior = ready_for(model, x, start="prior")
    assert prior.target.start is None
    encoder = ready_for(model, x, start="encoder")
    assert encoder.target.start is not None
    torch.testing.assert_close(encoder.target.start.mean, model.encode(x).mean)
    torch.testing.assert_close(encoder.target.start.scale, model.encode(x).stddev * ENCODER_WIDER)
    for start in ("auto", "pilot"):
        pilot = ready_for(model, x, start=start)
        assert pilot.target.start is not None and pilot.target.start.scale.shape == (4, 3, 3)
        assert pilot.length.mean() < encoder.length.mean() < prior.length.mean()
        assert pilot.n_pilot > encoder.n_pilot  # it walked twice
    without = ready_for(linear(3, 6, 0.3), x, start="auto")
    assert without.target.start is not None


def test_a_pilots_start_is_near_the_posterior():
    model = linear(6, 20, 0.1)
    x = model.sample(10)
    ready = ready_for(model, x, start="pilot")
    assert ready.target.start is not None
    assert float(ready.length.mean()) < 0.35 * float(ready_for(model, x).length.mean())
    exact = model.length(x, ready.target.start)
    assert float(ready.length.mean()) == pytest.approx(float(exact.mean()), rel=0.2)


def test_the_ladder_has_what_was_asked_for():
    model = linear(3, 6)
    for schedule in ("linear", "sigmoid", "thermodynamic"):
        ready = ready_for(model, model.sample(2), temperatures=7, leapfrogs=3, schedule=schedule, resample_below=0.4)
        assert ready.ladder.betas.shape == (8, 2)
        assert ready.ladder.leapfrogs == ready.ladder.move(3).leapfrogs == 3
        assert ready.ladder.resample_below == 0.4
        assert torch.equal(ready.ladder.move(3).beta, ready.ladder.betas[3])
        assert torch.equal(ready.length, ready.ladder.tuning.total_length)
    assert not torch.equal(ready.ladder.betas[3], torch.full((2,), 3 / 7).double())  # pyright: ignore


def test_every_purpose_has_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch):
    made: list[tuple[int, str, str]] = []
    inner = Streams.__init__

    def watched(self: Streams, seed: int, purpose: str, keys: Any, like: Tensor) -> None:
        made.append((seed, purpose, str(keys)))
        inner(self, seed, purpose, keys, like)

    monkeypatch.setattr(Streams, "__init__", watched)
    model = linear(2, 4, 0.5, kind=Amortised)
    for start in ("auto", "prior", "encoder"):
        made.clear()
        sandwich(model, 3, BoundSettings(temperatures=4, start=start, seed=5))
        assert len(set(made)) == len(made) and {seed for seed, _, _ in made} == {5}
        assert {"run", "backward", "conditional", "simulation", "pilot"} <= {purpose for _, purpose, _ in made}
    made.clear()
    log_likelihood(model, model.sample(3), "smc", BoundSettings(gap=0.5, seed=5))
    planned = [purpose for _, purpose, _ in made if purpose.startswith("plan")]
    assert planned and "run" not in planned
    assert "run" in [purpose for _, purpose, _ in made]
    assert {seed for seed, _, _ in made} == {5}
    for method in ("elbo", "iwae", "ais"):
        made.clear()
        log_likelihood(model, model.sample(3), method, BoundSettings(temperatures=3, seed=6))
        assert made and {seed for seed, _, _ in made} == {6}


@pytest.mark.parametrize(
    ("name", "model", "start", "words"),
    [
        ("no encoder", linear(2, 4), "encoder", r"encode\(x\) is not there: use start 'pilot' or 'prior'"),
        (
            "no normal encoder",
            type("Heavy", (Encoded,), {"encode": lambda self, x: Independent(Laplace(x[:, :2], 1.0), 1)})(
                torch.ones(4, 2).double(), torch.zeros(4).double(), 0.5, standard(2)
            ),
            "encoder",
            r"encode\(x\) gives no normal distribution",
        ),
    ],
)
def test_an_encoder_that_cannot_start(name: str, model: Any, start: str, words: str):
    with pytest.raises(DensityError, match=words):
        ready_for(model, torch.zeros(2, 4).double(), start=start)


def test_gradients_are_needed():
    model = linear(2, 4)
    density = CheckedLatent(model, LatentShape(2, True, False, False))
    with pytest.raises(DensityError, match="no finite gradient"):
        prepare_run(density, Batch(torch.zeros(2, 4).double(), (0, 1), [(0, 0), (1, 0)], 32), settings_for())


def test_bounded_priors_are_refused():
    model = Simple(Independent(Uniform(torch.zeros(2).double(), 1.0), 1), lambda z: Independent(Normal(z, 1.0), 1))
    density = CheckedLatent(model, LatentShape(2, True, False, True))
    with pytest.raises(DensityError, match="not on all of space"):
        prepare_run(density, Batch(torch.zeros(2, 2).double(), (0, 1), [(0, 0), (1, 0)], 32), settings_for())


def test_encoders_are_widened():
    model = linear(3, 6, kind=Encoded)
    x = model.sample(2)
    start = target_of(check_latent(model, x), x, (0, 1), "encoder", 2.0).start
    assert start is not None
    torch.testing.assert_close(start.scale, 2 * model.posterior(x).scale_tril)
