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
from lmeval.likelihood.summary import comparison_report
from lmeval.likelihood.tables import FLAG, BoundResult, SandwichResult, best_of, difference_table, in_bits_per_dim
from lmeval.results import Report, Side, as_json
from lmeval.stats import mean_estimate

RNG = np.random.default_rng(0)
EASY = RNG.normal(-100, 10, 50)
LEDGER = {"n": 50, "n_dims": 64, "data": "digits", "space": "17 levels"}


def found(model: str, nats: Any, side: Side = "exact", bound: str = "log p", **changes: Any) -> BoundResult:
    nats = np.asarray(nats, dtype=np.float64)
    certificate = float(nats.mean()) - 0.1 if side == "lower" else None
    made = BoundResult(model, "made", bound, side, nats, None, None, 1.0, 0.5, certificate, {"made": "by hand"})
    return made._replace(**changes)


def compared(*all_found: BoundResult, sandwiches: tuple[SandwichResult, ...] = (), paired: str | None = None) -> Report:
    return comparison_report(all_found, sandwiches, paired, LEDGER, {"seed": 0})


def test_nats_and_bits_per_dim_are_the_same_number():
    report = compared(found("a", EASY))
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
    report = comparison_report([uniform], [], None, LEDGER | {"n_dims": 12}, {})
    assert report["bits_per_dim"] == pytest.approx(8, abs=1e-14)


def test_a_lower_bound_of_log_p_is_an_upper_bound_of_bits():
    report = compared(found("a", EASY, "lower"))
    assert [(m.name, m.side) for m in report.results] == [
        ("log_likelihood_nats", "lower"),
        ("bits_per_dim", "upper"),
        ("certificate_nats", "lower"),
    ]
    assert report["certificate_nats"] == pytest.approx(EASY.mean() - 0.1)
    assert report.tables["bounds"][0]["certificate_nats"] == report["certificate_nats"]


def test_what_is_not_certified_shows_no_certificate():
    report = compared(found("flow", EASY, "lower", certificate_nats=None), found("kde", EASY, "estimate"))
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
    [row] = compared(found("a", EASY[:20], "lower", pareto_k=np.array(k))).tables["bounds"]
    assert (row["share_pareto_k_high"], row["flag"]) == (share, flag)


def test_ess_is_a_median_over_data():
    ess = np.array([1.0, 2.0, 9.0, math.nan])
    [row] = compared(found("a", EASY[:4], "lower", ess=ess)).tables["bounds"]
    assert row["median_ess"] == 2.0
    [row] = compared(found("a", EASY[:4], "lower", ess=np.full(4, math.nan))).tables["bounds"]
    assert row["median_ess"] is None


def test_the_best_number_of_a_model_is_the_tightest():
    low, high, exact = found("a", EASY - 3, "lower"), found("a", EASY - 1, "lower"), found("b", EASY)
    best = best_of([low, high, exact, found("a", EASY - 2, "lower")])
    assert best == {"a": high, "b": exact}
    rows = compared(low, high, exact).tables["bounds"]
    assert [row["best"] for row in rows] == [False, True, True]


def test_differences_are_paired_and_say_their_side():
    vae, made = found("VAE", EASY - 3 + RNG.normal(0, 0.1, 50), "lower", "SMC"), found("MADE", EASY)
    report = compared(vae, made)
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
        return difference_table(best, "b")[0]["verdict"]

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
    assert difference_table(one, None)[0]["verdict"] == "one datum says nothing of spread"


def test_the_reference_is_the_one_named_else_the_first_that_is_exact():
    models = [found("v", EASY, "lower"), found("m", EASY), found("n", EASY)]
    assert {row["reference"] for row in compared(*models).tables["differences"]} == {"m"}
    assert {row["reference"] for row in compared(*models, paired="v").tables["differences"]} == {"v"}
    assert {row["reference"] for row in compared(models[0], found("w", EASY, "lower")).tables["differences"]} == {"v"}
    assert compared(models[0]).tables["differences"].rows == ()


def test_sandwiches_are_paired():
    lower = RNG.normal(-116, 20, 40)
    gap = RNG.normal(0.1, 0.02, 40)
    one = SandwichResult("a", "SMC", lower, lower + gap, 99.0, 1.0, {})
    [row] = compared(found("a", EASY, "lower"), sandwiches=(one,)).tables["sandwiches"]
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


def test_the_words_of_a_difference_say_its_side():
    def words(a: Side, b: Side) -> str:
        return difference_table({"a": found("a", EASY, a), "b": found("b", EASY, b)}, "b")[0]["words"]

    assert words("exact", "exact") == "equal to"
    assert (words("lower", "exact"), words("exact", "lower")) == ("at least", "at most")
    assert words("lower", "lower") == "about (a difference of two bounds has no side)"
    assert words("exact", "estimate") == "about (an estimate, of no side)"


def test_json_says_what_every_number_is_of():
    ess = np.array([3.0, math.nan] * 25)
    k = np.array([0.5, math.inf] * 25)
    both = compared(found("a", EASY, "lower", "SMC", ess=ess, pareto_k=k), found("b", EASY))
    data = as_json(both)
    assert (data["schema"], data["kind"]) == (2, "likelihood")
    assert list(data["tables"]) == ["bounds", "sandwiches", "differences"]
    assert [(r["of"]["model"], r["of"]["bound"], r["name"]) for r in data["results"]] == [
        ("a", "SMC", "log_likelihood_nats"),
        ("a", "SMC", "bits_per_dim"),
        ("a", "SMC", "certificate_nats"),
        ("b", "log p", "log_likelihood_nats"),
        ("b", "log p", "bits_per_dim"),
    ]
    assert json.loads(json.dumps(data, allow_nan=False))["tables"]["bounds"]["rows"][0]["share_pareto_k_high"] == 0.5


def test_items_are_the_numbers_of_the_data():
    ess, k = np.array([3.0, math.nan] * 25), np.array([0.5, math.inf] * 25)
    report = compared(found("a", EASY, "lower", "SMC", ess=ess, pareto_k=k), found("b", EASY))
    assert report.items is not None
    rows = report.items.records
    of = {"model": "a", "bound": "SMC", "side": "lower", "data": "digits, 17 levels"}
    assert len(rows) == 100 and (rows[0].item, rows[0].of) == ("0", of)
    assert rows[0].values == {"log_likelihood_nats": EASY[0], "ess": 3.0, "pareto_k": 0.5}
    assert rows[1].values == {"log_likelihood_nats": EASY[1]}  # what is not finite is left out
    assert (rows[50].item, rows[50].of["side"]) == ("0", "exact")
    nats, bits = report.items.metrics
    assert np.mean([r.values[nats.numerator] for r in rows[:50]]) == pytest.approx(report["log_likelihood_nats"])
    assert bits.scale * EASY.mean() == pytest.approx(report["bits_per_dim"]) and nats.higher_is_better


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9), st.integers(1, 1000))
def test_bits_of_an_estimate_are_an_estimate_of_bits(values: list[float], n_dims: int):
    array = np.array(values)
    ours = in_bits_per_dim(mean_estimate(array, share=False), n_dims)
    direct = mean_estimate(-array / (n_dims * math.log(2)), share=False)
    assert ours.value == pytest.approx(direct.value, rel=1e-9, abs=1e-6)
    assert ours.ci95 == pytest.approx(direct.ci95, rel=1e-9, abs=1e-4)
    assert in_bits_per_dim(mean_estimate(array[:1], share=False), n_dims).ci95 is None


@pytest.mark.parametrize(("gap", "flag"), [(0.01, None), (0.5, "bound, not converged"), (None, None)])
def test_annealed_bounds_with_a_gap_to_be_expected_are_flagged(gap: float | None, flag: str | None):
    lower = found("a", EASY, "lower", "SMC", details={"expected_gap_nats": gap})
    assert compared(lower).tables["bounds"][0]["flag"] == flag
    exact = found("a", EASY, details={"expected_gap_nats": gap})
    assert compared(exact).tables["bounds"][0]["flag"] is None
