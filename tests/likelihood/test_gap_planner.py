"""Temperatures for a wanted gap."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_densities import ASYMMETRIC, linear, settings_for

from lmeval.densities.protocols import check_latent
from lmeval.errors import InputError
from lmeval.likelihood import BoundSettings, gap_planner, log_likelihood
from lmeval.likelihood.annealed_run import FrozenRun
from lmeval.likelihood.gap_planner import plan_temperatures
from lmeval.likelihood.result import Batch


def plan_of(model: Any, x: Tensor, gap: float, **changes: Any) -> gap_planner.Plan:
    settings = settings_for(particles=16, resample_below=0.5, **changes)
    return plan_temperatures(check_latent(model, x), x, settings, gap)


@pytest.mark.parametrize("start", ["prior", "pilot"])
def test_the_gap_is_about_as_planned(start: str):
    model = linear(10, 50, 0.1)
    x = model.sample(60)
    plan = plan_of(model, x[:16], 0.3, start=start)
    assert plan.gap_nats <= 0.3
    found = log_likelihood(model, x, "smc", BoundSettings(temperatures=plan.settings.temperatures, start=start, seed=1))
    gap = float((model.log_p(x) - found.nats).mean())
    assert plan.gap_nats / 3 < gap < plan.gap_nats * 3
    assert plan.length == pytest.approx(found.lengths.mean(), rel=0.2)  # pyright: ignore[reportOptionalMemberAccess]


def test_temperatures_are_as_one_over_the_gap():
    model = linear(4, 10)
    x = model.sample(20)
    plans = [plan_of(model, x, gap) for gap in (0.2, 0.1, 0.002)]
    for a, b, factor in zip(plans, plans[1:], (2, 50), strict=False):
        assert b.settings.temperatures / a.settings.temperatures == pytest.approx(factor, rel=0.1)
    for plan, gap in zip(plans, (0.2, 0.1, 0.002), strict=True):
        assert plan.gap_nats <= gap
        assert plan.gap_nats == pytest.approx(gap, rel=0.2)
        assert plan.settings._replace(temperatures=20) == settings_for(resample_below=0.5)
        assert plan.n_data == gap_planner.MOST_DATA
    assert plans[-1].seconds > plans[0].seconds > 0


def test_the_cost_is_that_of_the_run():
    model = linear(4, 10)
    x = model.sample(30)
    plan = plan_of(model, x, 0.2, start="pilot")
    found = log_likelihood(model, x, "smc", BoundSettings(gap=0.2, start="pilot"))
    assert found.settings["temperatures"] == plan.settings.temperatures
    assert plan.n_gradients == pytest.approx(found.n_gradients * 30, rel=0.1)  # a pilot's length is the data's
    assert plan.n_gradients >= plan.settings.n_gradients * 30


def test_harder_paths_take_more_temperatures():
    easy, hard = linear(2, 4, 1.0), linear(5, 20, 0.1)
    few = plan_of(easy, easy.sample(16), 0.1)
    many = plan_of(hard, hard.sample(16), 0.1)
    assert many.length > 2 * few.length
    assert many.settings.temperatures > 3 * few.settings.temperatures


def test_other_schedules_take_more():
    model = linear(3, 8, 0.1)
    x = model.sample(4)
    found = [plan_of(model, x, 0.2, schedule=schedule).settings.temperatures for schedule in ("thermodynamic", "linear")]
    assert found[1] > 2 * found[0]


def test_plans_are_made_of_a_few_data_from_all_places(monkeypatch: pytest.MonkeyPatch):
    model = linear(2, 4, 0.5)
    x = model.sample(50)
    seen: list[tuple[int, ...]] = []
    inner = gap_planner.prepare_run

    def watched(density: Any, batch: Batch, settings: Any) -> FrozenRun:
        seen.append(batch.ids)
        return inner(density, batch, settings)

    monkeypatch.setattr(gap_planner, "prepare_run", watched)
    plan_of(model, x, 0.5)
    plan_of(model, x[:3], 0.5)
    assert seen[0][0] == 0 and seen[0][-1] == 49 and len(set(seen[0])) == 16
    assert seen[1] == (0, 1, 2)


@pytest.mark.parametrize("gap", [0.0, -1.0, math.nan])
def test_a_gap_is_a_positive_number(gap: float):
    model = linear(2, 4)
    with pytest.raises(InputError, match=r"gap is .*: give nats above 0, such as 0\.1"):
        plan_of(model, model.sample(3), gap)


def test_a_plan_survives_what_the_run_survives():
    model, x = ASYMMETRIC["banana"]  # its long trajectories overflow
    assert plan_of(model, x, 0.2).settings.temperatures >= 2
    assert math.isfinite(plan_of(model, torch.cat([x, x]), 0.2, start="pilot").gap_nats)
