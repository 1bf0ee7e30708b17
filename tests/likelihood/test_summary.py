"""Rows, sides and differences: arithmetic on numbers made by hand."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmeval.errors import NonFiniteScore
from lmeval.likelihood.summary import (
    FLAG,
    BoundResult,
    Comparison,
    SandwichResult,
    as_json,
    best_of,
    comparison_report,
    difference_side,
    flipped,
    paired_rows,
    records,
    scaled,
)
from lmeval.results import Side
from lmeval.stats import mean_estimate

RNG = np.random.default_rng(0)
EASY = RNG.normal(-100, 10, 50)


def found(model: str, nats: Any, side: Side = "exact", bound: str = "log p", **changes: Any) -> BoundResult:
    nats = np.asarray(nats, dtype=np.float64)
    certificate = float(nats.mean()) - 0.1 if side == "lower" else None
    made = BoundResult(model, "made", bound, side, nats, None, None, 1.0, 0.5, certificate, {"made": "by hand"})
    return made._replace(**changes)


def compared(*all_found: BoundResult, sandwiches: tuple[SandwichResult, ...] = (), paired: str | None = None) -> Comparison:
    return comparison_report(all_found, sandwiches, 64, paired, {"n": 50}, {"seed": 0})


def test_nats_and_bits_per_dim_are_the_same_number():
    report = compared(found("a", EASY)).report
    nats, bits = report.results
    expected = stats.t.interval(0.95, 49, EASY.mean(), EASY.std(ddof=1) / 50**0.5)
    assert (nats.name, nats.unit, nats.side, nats.n) == ("log_likelihood_nats", "nats/datum", "exact", 50)
    assert nats.value == pytest.approx(EASY.mean()) and nats.ci95 == pytest.approx(expected)
    assert (bits.name, bits.unit, bits.side, bits.higher_is_better) == ("bits_per_dim", "bits/dim", "exact", False)
    factor = -64 * math.log(2)
    assert bits.value * factor == pytest.approx(nats.value)
    assert bits.ci95 and nats.ci95 and bits.stderr and nats.stderr
    assert [end * factor for end in bits.ci95[::-1]] == pytest.approx(list(nats.ci95))
    assert bits.ci95[0] < bits.value < bits.ci95[1] and bits.stderr == pytest.approx(nats.stderr / -factor)
    [row] = report.tables["bounds"]
    assert (row["nats"], row["bits_per_dim"], row["side"]) == (nats.value, bits.value, "exact")


def test_a_uniform_model_of_256_levels_has_8_bits_a_dimension():
    uniform = found("u", np.full(9, -12 * math.log(256)))
    report = comparison_report([uniform], [], 12, None, {}, {}).report
    assert report["bits_per_dim"] == pytest.approx(8, abs=1e-14)


def test_a_lower_bound_of_log_p_is_an_upper_bound_of_bits():
    report = compared(found("a", EASY, "lower")).report
    assert [(m.name, m.side) for m in report.results] == [
        ("log_likelihood_nats", "lower"),
        ("bits_per_dim", "upper"),
        ("certificate_nats", "lower"),
    ]
    assert report["certificate_nats"] == pytest.approx(EASY.mean() - 0.1)
    assert report.tables["bounds"][0]["certificate_nats"] == report["certificate_nats"]


def test_what_is_not_certified_shows_no_certificate():
    report = compared(found("flow", EASY, "lower", certificate_nats=None), found("kde", EASY, "estimate")).report
    assert {m.name for m in report.results} == {"log_likelihood_nats", "bits_per_dim"}
    assert {row["certificate_nats"] for row in report.tables["bounds"]} == {None}


@pytest.mark.parametrize(
    ("k", "share", "flag"),
    [
        ([0.2] * 20, 0.0, None),
        ([0.2] * 19 + [0.71], 0.05, FLAG),
        ([0.2] * 19 + [0.70], 0.0, None),
        ([math.nan] * 10 + [0.9] * 10, 1.0, FLAG),
        ([-math.inf] * 19 + [math.inf], 0.05, FLAG),
        ([math.nan] * 20, None, None),
    ],
)
def test_heavy_tails_are_flagged(k: list[float], share: float | None, flag: str | None):
    [row] = compared(found("a", EASY[:20], "lower", pareto_k=np.array(k))).report.tables["bounds"]
    assert (row["share_pareto_k_high"], row["flag"]) == (share, flag)


def test_ess_is_a_median_over_data():
    ess = np.array([1.0, 2.0, 9.0, math.nan])
    [row] = compared(found("a", EASY[:4], "lower", ess=ess)).report.tables["bounds"]
    assert row["median_ess"] == 2.0
    [row] = compared(found("a", EASY[:4], "lower", ess=np.full(4, math.nan))).report.tables["bounds"]
    assert row["median_ess"] is None


def test_the_best_number_of_a_model_is_the_tightest():
    low, high, exact = found("a", EASY - 3, "lower"), found("a", EASY - 1, "lower"), found("b", EASY)
    best = best_of([low, high, exact, found("a", EASY - 2, "lower")])
    assert best == {"a": high, "b": exact}
    rows = compared(low, high, exact).report.tables["bounds"]
    assert [row["best"] for row in rows] == [False, True, True]


SIDES: list[tuple[Side, Side, Side]] = [
    ("exact", "exact", "exact"),
    ("lower", "exact", "lower"),
    ("exact", "lower", "upper"),
    ("exact", "upper", "lower"),
    ("upper", "exact", "upper"),
    ("lower", "upper", "lower"),
    ("upper", "lower", "upper"),
    ("lower", "lower", "estimate"),
    ("upper", "upper", "estimate"),
    ("exact", "estimate", "estimate"),
    ("estimate", "lower", "estimate"),
]


@pytest.mark.parametrize(("a", "b", "side"), SIDES)
def test_sides_of_differences_hold_whatever_the_bounds_lack(a: Side, b: Side, side: Side):
    assert difference_side(a, b)[0] == side
    shift = {"exact": 0.0, "lower": -1.0, "upper": 1.0}
    if side == "estimate":
        return
    for slack in (0.1, 10.0):  # truths 0 and 0; what is shown lies beyond them by any slack
        shown = shift[a] * slack - shift[b] * slack
        assert {"exact": shown == 0, "lower": shown <= 0, "upper": shown >= 0}[side]


def test_flipped_twice_is_itself():
    for side in ("exact", "lower", "upper", "estimate"):
        assert flipped(flipped(side)) == side
    assert flipped("lower") == "upper"


def test_differences_are_paired_and_say_their_side():
    vae, made = found("VAE", EASY - 3 + RNG.normal(0, 0.1, 50), "lower", "SMC"), found("MADE", EASY)
    report = compared(vae, made).report
    [row] = report.tables["differences"]
    expected = stats.ttest_rel(vae.nats, made.nats).confidence_interval(0.95)
    assert row["value"] == pytest.approx((vae.nats - made.nats).mean())
    assert row["ci95"] == pytest.approx([expected.low, expected.high])
    assert (row["model"], row["reference"], row["side"], row["words"]) == ("VAE", "MADE", "lower", "at least")
    assert row["verdict"] == "does not order them"  # a bound 3 nats below may belong to the better model
    assert row["stderr"] < EASY.std() / 50**0.5 / 10  # hard data are hard for both


def test_verdicts_speak_for_one_direction_only():
    def verdict(shift: float, a: Side, b: Side) -> str:
        noise = RNG.normal(0, 0.1, 50)
        best = {"a": found("a", EASY + shift + noise, a), "b": found("b", EASY, b)}
        return paired_rows(best, "b")[0]["verdict"]

    assert verdict(3, "exact", "exact") == "a is better"
    assert verdict(-3, "exact", "exact") == "b is better"
    assert verdict(0, "exact", "exact") == "no difference seen"
    assert verdict(3, "lower", "exact") == "a is better"
    assert verdict(-3, "lower", "exact") == "does not order them"
    assert verdict(3, "exact", "lower") == "does not order them"
    assert verdict(-3, "exact", "lower") == "b is better"
    for shift in (-3, 3):
        assert verdict(shift, "lower", "lower") == "does not order them"
        assert verdict(shift, "estimate", "exact") == "does not order them"
    one = {"a": found("a", [-1.0]), "b": found("b", [-2.0])}
    assert paired_rows(one, None)[0]["verdict"] == "one datum says nothing of spread"


def test_the_reference_is_the_one_named_else_the_first_that_is_exact():
    models = [found("v", EASY, "lower"), found("m", EASY), found("n", EASY)]
    assert {row["reference"] for row in compared(*models).report.tables["differences"]} == {"m"}
    assert {row["reference"] for row in compared(*models, paired="v").report.tables["differences"]} == {"v"}
    assert {row["reference"] for row in compared(models[0], found("w", EASY, "lower")).report.tables["differences"]} == {"v"}
    assert compared(models[0]).report.tables["differences"] == []


def test_sandwiches_are_paired():
    lower = RNG.normal(-116, 20, 40)
    gap = RNG.normal(0.1, 0.02, 40)
    one = SandwichResult("a", "SMC", lower, lower + gap, 99.0, 1.0, {})
    [row] = compared(found("a", EASY, "lower"), sandwiches=(one,)).report.tables["sandwiches"]
    assert row["gap_nats"] == pytest.approx(gap.mean()) and row["gap_stderr"] == pytest.approx(gap.std(ddof=1) / 40**0.5)
    assert row["upper_nats"] - row["lower_nats"] == pytest.approx(row["gap_nats"])
    bad = one._replace(upper=np.where(np.arange(40) == 7, np.inf, one.upper))
    with pytest.raises(NonFiniteScore, match="simulated datum 7"):
        compared(found("a", EASY, "lower"), sandwiches=(bad,))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_never_gets_into_a_mean(value: float):
    nats = np.where(np.arange(50) == 3, value, EASY)
    with pytest.raises(NonFiniteScore) as caught:
        compared(found("VAE", nats, "lower", "SMC"))
    assert "VAE, SMC: log p of datum 3" in str(caught.value) and "1 of 50" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_names_model_and_bound_and_is_finite():
    ess = np.array([3.0, math.nan] * 25)
    k = np.array([0.5, math.inf] * 25)
    both = compared(found("a", EASY, "lower", "SMC", ess=ess, pareto_k=k), found("b", EASY))
    data = as_json(both)
    assert list(data) == ["schema", "results", "ledger", "provenance", "bounds", "sandwiches", "differences"]
    assert [(r["model"], r["bound"], r["name"]) for r in data["results"]] == [
        ("a", "SMC", "log_likelihood_nats"),
        ("a", "SMC", "bits_per_dim"),
        ("a", "SMC", "certificate_nats"),
        ("b", "log p", "log_likelihood_nats"),
        ("b", "log p", "bits_per_dim"),
    ]
    for result in data["results"]:
        assert list(result)[:4] == ["model", "bound", "name", "value"]
        assert {"unit", "side", "stderr", "ci95", "n", "higher_is_better"} < result.keys()
    assert json.loads(json.dumps(data, allow_nan=False))["bounds"][0]["share_pareto_k_high"] == 0.5
    rows = records(both)
    assert len(rows) == 100 and json.dumps(rows, allow_nan=False)
    assert rows[1] == {
        "datum": 1,
        "model": "a",
        "bound": "SMC",
        "side": "lower",
        "nats": EASY[1],
        "ess": None,
        "pareto_k": None,
    }
    assert rows[50] == {"datum": 0, "model": "b", "bound": "log p", "side": "exact", "nats": EASY[0]}


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9), st.floats(-100, 100).filter(lambda x: abs(x) > 1e-3))
def test_scaling_an_estimate_is_scaling_the_values(values: list[float], factor: float):
    array = np.array(values)
    ours, direct = scaled(mean_estimate(array, share=False), factor), mean_estimate(array * factor, share=False)
    assert ours.value == pytest.approx(direct.value, rel=1e-9, abs=1e-6)
    assert ours.ci95 == pytest.approx(direct.ci95, rel=1e-9, abs=1e-4)
    assert scaled(mean_estimate(array[:1], share=False), factor).ci95 is None


@pytest.mark.parametrize(("gap", "flag"), [(0.01, None), (0.5, "bound, not converged"), (None, None)])
def test_annealed_bounds_with_a_gap_to_be_expected_are_flagged(gap: float | None, flag: str | None):
    lower = found("a", EASY, "lower", "SMC", details={"expected_gap_nats": gap})
    assert compared(lower).report.tables["bounds"][0]["flag"] == flag
    exact = found("a", EASY, details={"expected_gap_nats": gap})
    assert compared(exact).report.tables["bounds"][0]["flag"] is None
