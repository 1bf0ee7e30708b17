"""What becomes of the numbers of all data: means, certificates, columns."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from toy_densities import settings_for

from lmeval.errors import InputError
from lmeval.likelihood.annealed_run import FrozenRun, results_of_run
from lmeval.likelihood.annealing import Annealed, effective_size
from lmeval.likelihood.diagnostics import log_estimate_stderr
from lmeval.likelihood.result import DatumResult, LogLikelihood, as_columns
from lmeval.stats import mean_estimate


def made(nats: np.ndarray, side: Any) -> LogLikelihood:
    return as_columns([DatumResult(float(v)) for v in nats], side, "iwae", {}, 1.0)


def test_means():
    nats = np.array([-3.0, -5.0, -4.5])
    found = made(nats, "lower")
    assert found.mean == mean_estimate(nats, share=False)
    assert found.mean.value == pytest.approx(nats.mean())
    assert found.nats.dtype == np.float64


def test_certificates():
    nats = np.array([-3.0, -5.0, -4.0])
    slack = math.log(1 / 0.01) / 3
    assert made(nats, "lower").certificate() == pytest.approx(-4 - slack)
    assert made(nats, "upper").certificate() == pytest.approx(-4 + slack)
    assert made(nats, "exact").certificate() == pytest.approx(-4)
    assert math.isnan(made(nats, "estimate").certificate())
    assert made(nats, "lower").certificate(0.2) == pytest.approx(-4 - math.log(5) / 3)
    assert math.log(100) / 1000 == pytest.approx(4.6e-3, rel=0.01)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_certificate_is_for_a_probability(delta: float):
    with pytest.raises(InputError, match="a probability between 0 and 1"):
        made(np.zeros(3), "lower").certificate(delta)


def test_certificates_hold_as_often_as_they_say():
    # Heavy weights of mean 1: log Z-hat - log Z is -s^2/2 + s e, far from normal once it is exponentiated
    rng = np.random.default_rng(0)
    for sigma, n in ((1.5, 1), (1.0, 5), (2.5, 20)):
        over = sigma * rng.normal(size=(20000, n)) - sigma**2 / 2
        for delta in (0.3, 0.05):
            broken = np.mean(over.mean(1) - math.log(1 / delta) / n > 0)
            assert broken <= delta
            assert made(over[0], "lower").certificate(delta) == pytest.approx(over[0].mean() - math.log(1 / delta) / n)


def run_of(resampled: list[int], k: int = 40) -> Annealed:
    weight = torch.randn(k, len(resampled), generator=torch.Generator().manual_seed(0)).double() * 0.3
    some = torch.tensor([0.5, 0.625, 0.75]).double()[: len(resampled)]
    return Annealed(
        some - 9, weight, some, torch.tensor(resampled).double(), torch.tensor([0, 1, 2])[: len(resampled)].double()
    )


def ready_of(run: Annealed) -> FrozenRun:
    return FrozenRun(None, None, run.acceptance * 10, 77)  # type: ignore[arg-type]


def test_rows_of_a_run():
    run, settings = run_of([0, 2, 0]), settings_for(particles=40, temperatures=6, leapfrogs=3)
    rows = results_of_run(run, ready_of(run), settings)
    assert [row.nats for row in rows] == run.log_z.tolist()
    assert [row.length for row in rows] == [5, 6.25, 7.5] and [row.acceptance for row in rows] == [0.5, 0.625, 0.75]
    assert [row.n_lost for row in rows] == [0, 1, 2]
    ess = effective_size(run.log_weight).numpy()
    assert [row.ess for row in rows] == ess.tolist()
    assert rows[0].stderr == log_estimate_stderr(ess, 40)[0] > 0
    assert math.isnan(rows[1].stderr)  # kin say nothing of the error
    assert {(row.n_gradients, row.n_evaluations, row.n_pilot) for row in rows} == {(40 * (1 + 5 * 3) + 77,) * 2 + (77,)}
    assert all(math.isfinite(row.pareto_k) for row in rows)


def test_columns():
    run, settings = run_of([0, 2, 0]), settings_for(particles=40, temperatures=6, leapfrogs=3)
    rows = results_of_run(run, ready_of(run), settings)
    found = as_columns(rows, "upper", "conditional smc", settings._asdict(), 2.5)
    assert found.side == "upper" and found.method == "conditional smc" and found.seconds == 2.5
    assert found.n_lost == 3 and found.n_pilot == 77
    assert found.lengths is not None and found.lengths.tolist() == [5, 6.25, 7.5]
    assert found.settings == settings._asdict()
    other = as_columns([DatumResult(-1.0, 0.1, 3.0, 0.2, 50)], "lower", "iwae", {"particles": 40, "seed": 0}, 1.0)
    assert other.settings == {"particles": 40, "seed": 0}
    assert other.lengths is None and other.acceptance is None and other.n_lost is None
    assert (other.n_evaluations, other.n_gradients) == (50, 0)
    assert (other.stderr[0], other.ess[0], other.pareto_k[0]) == (0.1, 3.0, 0.2)
