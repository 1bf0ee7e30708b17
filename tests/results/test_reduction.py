import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from items import ACC, LOSS, RATE, item, report_with, two_rates

from lmeval import stats
from lmeval.results import Items, Measurement
from lmeval.results.records import records_of
from lmeval.results.reduction import measure_items, rescore_items


def measured(made: Items | None) -> Measurement:
    assert made is not None
    [m] = measure_items(made)
    return m


def test_a_mean_has_the_interval_of_its_items():
    right = np.arange(30) % 3 == 0
    m = measured(report_with({"acc": right}).items)
    expected = stats.mean_estimate(1.0 * right, share=True)
    assert m[:2] + m[4:] == ("acc", 1 / 3, expected.stderr, expected.ci95, 30, True, {"task": "t"})
    all_right = measured(report_with({"acc": [1.0] * 20}).items)
    assert all_right.ci95 is not None and all_right.ci95[0] < 0.9  # Wilson's: all right is not certain


def test_a_scaled_mean_is_scaled_whole():
    values = np.array([1.0, 2.0, 4.0])
    plain, bits = (
        measured(report_with({"log_loss": values}, [LOSS._replace(scale=scale)]).items) for scale in (1.0, 1 / np.log(2))
    )
    assert bits.value == pytest.approx(plain.value / np.log(2)) and plain.stderr is not None
    assert bits.stderr == pytest.approx(plain.stderr / np.log(2))


@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([None, 2, 5]), st.booleans())
@settings(max_examples=40)
def test_a_ratio_is_that_of_the_sums(seed: int, n: int, clusters: int | None, ordered: bool):
    values, _ = two_rates(np.random.default_rng(seed), n, 0.0)
    names = None if clusters is None else [f"c{i % clusters}" for i in range(n)]
    m = measured(report_with(values, [RATE], names, ordered=ordered).items)
    assert m.value == pytest.approx(values["nll_nats"].sum() / values["n_bytes"].sum() / np.log(2), rel=1e-12)
    assert m.ci95 is not None and m.ci95[0] < m.value < m.ci95[1]


def test_a_ratio_s_error_is_that_of_drawing_items_anew():
    rng = np.random.default_rng(0)
    values, _ = two_rates(rng, 300, 0.0)
    m = measured(report_with(values, [RATE]).items)
    draws = rng.integers(300, size=(4000, 300))
    rates = values["nll_nats"][draws].sum(axis=1) / values["n_bytes"][draws].sum(axis=1) / np.log(2)
    assert m.stderr == pytest.approx(rates.std(), rel=0.06)


def test_clusters_of_equal_items_count_once():
    values, _ = two_rates(np.random.default_rng(1), 20, 0.0)
    copied = {name: np.repeat(v, 4) for name, v in values.items()}
    once = measured(report_with(values, [RATE]).items)
    again = measured(report_with(copied, [RATE], [f"c{i // 4}" for i in range(80)]).items)
    assert again.n == once.n == 20
    assert (again.value, again.stderr) == (pytest.approx(once.value), pytest.approx(once.stderr))


def test_neighbours_of_one_text_are_taken_together():
    n_bytes = np.full(200, 100.0)
    nats = np.repeat(np.random.default_rng(2).normal(2.0, 0.5, 20), 10) * n_bytes  # runs of ten alike
    apart, ordered = (
        measured(report_with({"nll_nats": nats, "n_bytes": n_bytes}, [RATE], ordered=ordered).items)
        for ordered in (False, True)
    )
    assert apart.stderr is not None and ordered.stderr is not None
    assert ordered.stderr > 1.8 * apart.stderr
    assert ordered.value == pytest.approx(apart.value)


def test_seeds_of_an_item_are_no_new_items():
    records = [item(f"i{i}", {"acc": float(i % 2)}, seed=s) for i in range(10) for s in range(3)]
    m = measured(Items((ACC,), tuple(records)))
    assert (m.value, m.n) == (0.5, 10)


def test_groups_are_measured_apart_and_a_bound_keeps_its_side():
    records = [
        item(f"i{i}", {"log_loss": float(i + k)}, of={"model": "m", "side": side})
        for k, side in enumerate(("lower", "exact"))
        for i in range(3)
    ]
    results = measure_items(Items((LOSS, ACC), tuple(records)))
    assert [(m.name, m.value, m.side, m.of["side"]) for m in results] == [
        ("log_loss", 1.0, "lower", "lower"),
        ("log_loss", 2.0, "exact", "exact"),
    ]


def test_a_bound_from_below_is_one_from_above_of_its_negative():
    bits = LOSS._replace(name="bits_per_dim", scale=-0.5)
    records = [item(f"i{i}", {"log_loss": float(i)}, of={"side": "lower"}) for i in range(3)]
    lower, upper = measure_items(Items((LOSS, bits), tuple(records)))
    assert [(m.value, m.side) for m in (lower, upper)] == [(1.0, "lower"), (-0.5, "upper")]


def test_records_of_any_kind_are_rescored():
    values, _ = two_rates(np.random.default_rng(3), 40, 0.0)
    made = report_with(values, [RATE], kind="perplexity")
    [records] = records_of(made)
    again = rescore_items(records)
    assert (again.kind, again.ledger["rescored"], again.items) == ("rescore", "perplexity", made.items)
    assert again.results == measure_items(records.items)
