"""The registry of methods: what is registered there is everywhere."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_densities import write_density, write_images, write_spec
from toy_densities import Amortised, linear

from lmeval.densities.protocols import CheckedLatent
from lmeval.likelihood import BoundSettings, log_likelihood
from lmeval.likelihood.compare import compare
from lmeval.likelihood.cost import cost_lines
from lmeval.likelihood.methods import BOUNDS, METHODS, Method
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import log_weights, sample_start, target_of
from lmeval.likelihood.prepare import prepare
from lmeval.likelihood.result import Advance, Batch, DatumResult
from lmeval.likelihood.settings import FixedSettings
from lmeval.likelihood.spec import BoundSpec, read_spec, settings_key


def score_median(density: CheckedLatent, settings: FixedSettings, batch: Batch, advance: Advance) -> list[DatumResult]:
    """The median log-weight: a toy."""
    target = target_of(density, batch.x, batch.ids, settings.start)
    streams = Streams(settings.seed, "median", batch.keys, batch.x)
    weights = log_weights(target, sample_start(target, settings.particles, streams))
    advance(settings.particles)
    return [DatumResult(nats, n_evaluations=settings.particles) for nats in weights.median(dim=0).values.tolist()]


@pytest.fixture
def median(monkeypatch: pytest.MonkeyPatch) -> Method:
    """A bound more, by one registration."""
    method = Method("median", score_median, particles=9, weighted=False)
    monkeypatch.setitem(METHODS, "median", method)  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(BOUNDS, "median", method)  # pyright: ignore[reportArgumentType]
    return method


def test_a_registered_bound_is_a_method_of_log_likelihood(median: Method):
    model = linear(3, 6, 0.2, kind=Amortised)
    x = model.sample(4)
    bound = log_likelihood(model, x, "median", BoundSettings(seed=2))
    assert (bound.method, bound.side, bound.settings) == ("median", "lower", {"particles": 9, "seed": 2})
    assert bound.n_evaluations == 9 and np.isfinite(bound.nats).all()
    torch.testing.assert_close(
        torch.from_numpy(log_likelihood(model, x, "median").nats), torch.from_numpy(bound.nats), atol=9, rtol=0
    )


def test_every_bound_is_a_key_of_specs(tmp_path: Path):
    bounds = [entry for name in BOUNDS for entry in (name, {name: 20})]
    spec = read_spec(write_spec(tmp_path / "spec.yaml", [{"model": "latent", "bounds": bounds}]))
    assert [bound.method for bound in spec.models[0].bounds or ()] == [name for name in BOUNDS for _ in range(2)]


def test_a_registered_bound_is_a_row_of_tables(median: Method, tmp_path: Path):
    write_density(tmp_path / "latent", "latent", 2)
    write_images(tmp_path / "images.npy")
    spec = read_spec(write_spec(tmp_path / "spec.yaml", [{"model": "latent"}]))
    bounds = (BoundSpec("median", {"particles": 9}), BoundSpec("median", {"particles": 20}))
    prepared = prepare(spec._replace(models=(spec.models[0]._replace(bounds=bounds),)))
    assert cost_lines(prepared)[0] == "latent: MEDIAN-9: 12 data x 9 draws = 108 decoder evaluations"
    report = compare(prepared)
    assert report.tables["bounds"].column("bound") == ["MEDIAN-9", "MEDIAN-20"]
    assert report.tables["bounds"].column("n_evaluations") == [9, 20]


def test_methods_say_what_they_take():
    assert METHODS["iwae"].settings == ("particles",)
    assert METHODS["smc"].settings == ("particles", "temperatures", "gap", "schedule", "start", "leapfrogs")
    assert list(BOUNDS) == ["elbo", "iwae", "ais", "smc"] and "exact" in METHODS


def test_methods_are_read_without_pytorch_and_all_their_functions_are_there():
    code = (
        "import sys, lmeval.cli.likelihood; assert 'torch' not in sys.modules, 'PyTorch'; assert 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    model = linear(2, 3, 0.2, kind=Amortised)
    x = model.sample(1)
    for name in BOUNDS:
        assert np.isfinite(log_likelihood(model, x, name, BoundSettings(particles=2)).nats).all()


def test_a_bound_says_its_own_settings_and_label(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    closed = Method("closed", score_median, settings=(), label=lambda name, settings: f"a {name} form {dict(settings)}")
    monkeypatch.setitem(METHODS, "closed", closed)  # pyright: ignore[reportArgumentType]
    monkeypatch.setitem(BOUNDS, "closed", closed)  # pyright: ignore[reportArgumentType]
    assert BoundSpec("closed", {}).label == "a closed form {}"
    settings = FixedSettings(7, 3, "linear", "auto", 5, 0.5, 0)
    assert closed.n_evaluations(settings) == 1 and closed.describe(settings) == {}
    key = settings_key(closed)
    assert key.fits({}) and not key.fits(20)  # no particles that a number could stand for
    assert settings_key(METHODS["iwae"]).fits(20)
    assert BoundSpec("exact", {}).label == "log p"
