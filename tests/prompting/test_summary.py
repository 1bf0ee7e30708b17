import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompted import random_records, record, report_of
from scipy import stats
from sklearn import metrics

from lmeval.errors import InputError, NonFiniteScore
from lmeval.prompting import RULES, Record
from lmeval.results import Measurement, Report, as_json, find
from lmeval.results.reduction import measure_items
from lmeval.stats import mean_estimate, wilson_interval

f1_score: Any = metrics.f1_score  # its types know no zero_division=0
RIGHT, WRONG = [-1.0, -3.0], [-3.0, -1.0]


def report(records: Sequence[Record], kind: str = "multiple_choice", names: Sequence[str] = ("acc",)) -> Report:
    """The report, which can always be written: finite, and JSON."""
    found = report_of(records, kind, names)
    assert json.loads(json.dumps(as_json(found), allow_nan=False))["schema"] == 2
    assert all(m.of["task"] == "made" and m.of["model"] == "maker" for m in found.results)
    return found


def scores(found: Report, name: str) -> list[float]:
    """One of the items' values, in their order."""
    assert found.items is not None
    return [item.values[name] for item in found.items.records]


def interval(found: Report, name: str) -> tuple[float, float]:
    ci95 = find(found, name).ci95
    assert ci95 is not None
    return ci95


def answers(right: Sequence[Sequence[float]]) -> list[Record]:
    """Records of [seeds][items] right (1) and wrong (0) answers."""
    return [
        record(f"i{i}", RIGHT if x else WRONG, seed=s)
        for i in range(len(right[0]))
        for s, x in enumerate(r[i] for r in right)
    ]


@given(
    st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.one_of(st.none(), st.integers(1, 3))
)
@settings(max_examples=25)
def test_every_report_is_finite(seed: int, n: int, n_choices: int, seeds: int, clusters: int | None):
    found = report(random_records(seed, n, n_choices, seeds, clusters), names=["acc", "exact_match"])
    for m in found.results:
        low, high = m.ci95 or (m.value, m.value)
        assert low <= m.value <= high, m.name
        assert m.n == (n if clusters is None else min(n, clusters))
    report(random_records(seed, n, 1, seeds, clusters), "loglikelihood")


def test_one_item_is_shown_without_intervals():
    found = report([record("i0", RIGHT)])
    assert (found["acc"], found["acc_norm"]) == (1.0, 1.0)
    assert found["log_loss"] == pytest.approx(math.log(1 + math.exp(-2)))
    assert all(m.stderr is None and m.ci95 is None for m in found.results)
    assert found.ledger["interval"] == {"method": "items", "n_units": 1}
    assert found.items is not None and len(found.items.records) == 1


def test_two_items_have_wilson_s_interval():
    found = report([record("i0", RIGHT), record("i1", WRONG)])
    assert find(found, "acc").value == 0.5
    assert find(found, "acc").stderr == pytest.approx(0.5)  # the sample's, over n - 1
    assert find(found, "acc").ci95 == pytest.approx(wilson_interval(0.5, 2))


def test_all_right_is_not_certain():
    found = report([record(f"i{i}", RIGHT) for i in range(20)])
    assert (find(found, "acc").value, find(found, "acc").stderr) == (1.0, 0.0)
    assert find(found, "acc").ci95 == pytest.approx((20 / (20 + 1.959964**2), 1.0), rel=1e-6)


def test_any_of_several_right_choices_counts():
    found = report([record("i0", [-3.0, -1.0, -2.0], gold=(0, 1)), record("i1", [-3.0, -1.0, -2.0], gold=(0, 2, 2))])
    total = sum(math.exp(-x) for x in (1, 2, 3))
    assert found["acc"] == 0.5
    losses = [math.log(total / (math.exp(-3) + math.exp(-x))) for x in (1, 2)]
    assert scores(found, "log_loss") == pytest.approx(losses)
    assert found["log_loss"] == pytest.approx(sum(losses) / 2)
    assert "confusion" not in found.tables
    assert "macro_f1" not in [m.name for m in found.results]


@given(st.integers(0, 10**6), st.floats(1.0, 1e5))
@settings(max_examples=20)
def test_items_add_up_to_the_results(seed: int, scale: float):
    records = [
        made._replace(choices=tuple(c._replace(nats=tuple(x * scale for x in c.nats)) for c in made.choices))
        for made in random_records(seed, 6)
    ]
    found = report(records)
    assert found.items is not None
    items = found.items.records
    for name in ("acc", "acc_norm", "acc_mutual_info", "acc_contextual", "acc_batch", "log_loss"):
        assert found[name] == pytest.approx(sum(scores(found, name)) / len(items), rel=1e-9, abs=1e-12)
    assert scores(found, "acc") == [float(item.detail["predicted"] in item.detail["gold"]) for item in items]
    assert {m.name for m in found.items.metrics} == {rule.metric for rule in RULES.values()} | {"log_loss"}
    for m in measure_items(found.items):  # what any records are reduced to
        assert m.value == pytest.approx(found[m.name], rel=1e-9, abs=1e-12)
    counts = sum(sum(value for key, value in row.items() if key != "gold") for row in found.tables["confusion"])
    assert counts == sum(row["n"] for row in found.tables["reliability"]) == len(items)


def test_clusters_widen_what_is_the_same_inside_them():
    right = [i // 5 % 2 for i in range(40)]  # eight clusters of five equal answers
    clustered = [record(f"i{i}", RIGHT if x else WRONG, cluster=f"c{i // 5}") for i, x in enumerate(right)]
    found, apart = report(clustered), report([made._replace(cluster=None) for made in clustered])
    expected = mean_estimate(np.array(right, dtype=float), [made.cluster for made in clustered])
    assert found["acc"] == apart["acc"] == 0.5
    assert find(found, "acc")[4:7] == (expected.stderr, expected.ci95, 8)
    assert find(found, "acc").stderr == pytest.approx(math.sqrt(8 / 7 * 8 * 2.5**2) / 40)
    low, high = interval(found, "acc")
    assert high - low > 1.5 * np.ptp(interval(apart, "acc"))
    assert found.ledger["interval"] == {"method": "clusters of the task", "n_units": 8}


@pytest.mark.parametrize("seed", range(5))
def test_several_seeds_have_the_interval_of_two_way_random_effects(seed: int):
    rng = np.random.default_rng(seed)
    n_seeds, n_items = int(rng.integers(2, 6)), int(rng.integers(5, 30))
    share = 0.6 + 0.3 * rng.normal(size=(n_seeds, 1)) + 0.2 * rng.normal(size=(1, n_items))
    right = (rng.random((n_seeds, n_items)) < share).astype(float)
    found = report(answers(right.tolist()))
    ms_seed = n_items * right.mean(axis=1).var(ddof=1)
    ms_item = n_seeds * right.mean(axis=0).var(ddof=1)
    rest = right.size * right.var() - (n_seeds - 1) * ms_seed - (n_items - 1) * ms_item
    ms_rest = rest / ((n_seeds - 1) * (n_items - 1))
    items = (max(0, (ms_item - ms_rest) / n_seeds) + ms_rest / n_seeds) / n_items
    seeds = max(0, (ms_seed - ms_rest) / n_items) / n_seeds
    freedom = int((items + seeds) ** 2 / (items**2 / (n_items - 1) + seeds**2 / (n_seeds - 1)) + 1e-6)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(items + seeds)
    measured = find(found, "acc")
    assert (measured.value, measured.n) == (pytest.approx(right.mean()), n_items)
    assert measured.stderr == pytest.approx(math.sqrt(items + seeds), rel=1e-9)
    assert measured.ci95 == pytest.approx((max(0, right.mean() - half), min(1, right.mean() + half)), rel=1e-9)
    [row] = [row for row in found.tables["shot_seeds"] if row["rule"] == "sum"]
    assert row["acc_by_seed"] == pytest.approx(right.mean(axis=1).tolist())
    assert row["seed_sd"] == pytest.approx(math.sqrt(seeds * n_seeds), abs=1e-9)
    assert row["total_stderr"] == pytest.approx(measured.stderr)


@pytest.mark.parametrize("n", [3, 7, 29, 30, 60])  # of the last three, rounding takes the freedom below a whole number
def test_seeds_that_change_nothing_add_nothing(n: int):
    right = [float(i % 3 == 0) for i in range(n)]
    measured = find(report(answers([right, right])), "acc")
    half = stats.t.ppf(0.975, n - 1) * np.std(right, ddof=1) / math.sqrt(n)  # of the items, to the last degree of freedom
    assert measured.stderr == pytest.approx(np.std(right, ddof=1) / math.sqrt(n))
    assert measured.ci95 == pytest.approx((max(0.0, np.mean(right) - half), min(1.0, np.mean(right) + half)), rel=1e-9)
    assert measured.n == n


def test_seeds_that_are_all_right_fall_back_on_the_items():
    measured = find(report(answers([[1.0] * 10] * 3)), "acc")
    assert (measured.value, measured.n) == (1.0, 10)
    assert measured.ci95 is not None and measured.ci95[0] < 0.8


def test_an_item_that_lacks_a_seed_is_refused():
    with pytest.raises(InputError, match="every item under every seed"):
        report(answers([[1.0, 0.0], [1.0, 0.0]])[:-1])


def test_a_target_is_right_where_it_is_greedy():
    nats = [-1.0, -2.0, -6.0, -0.5]
    made = [record(f"i{i}", [x], greedy=[x > -1.5]) for i, x in enumerate(nats)]
    found = report(made, "loglikelihood")
    assert (found["acc"], found["target_nll_nats"]) == (0.5, 9.5 / 4)
    perplexity = find(found, "perplexity")
    mean = mean_estimate(-np.array(nats))
    assert perplexity.value == pytest.approx(math.exp(9.5 / 4))
    assert mean.stderr is not None and mean.ci95 is not None
    assert perplexity.stderr == pytest.approx(math.exp(9.5 / 4) * mean.stderr)
    assert perplexity.ci95 == pytest.approx(tuple(math.exp(end) for end in mean.ci95))
    assert (perplexity.side, perplexity.higher_is_better) == ("exact", False)
    assert scores(found, "target_nll_nats") == [1.0, 2.0, 6.0, 0.5]
    assert not found.tables


@pytest.mark.parametrize("nats", [[-5000.0, -6000.0], [-10.0, -1300.0], [-700.0, -700.0], [-800.0]])
def test_targets_too_unlikely_for_a_float_have_a_bound(nats: list[float]):
    found = report([record(f"i{i}", [x]) for i, x in enumerate(nats)], "loglikelihood")
    perplexity, mean = find(found, "perplexity"), -sum(nats) / len(nats)
    assert perplexity.side == ("lower" if mean > 700 else "exact")
    assert perplexity.value == pytest.approx(math.exp(min(mean, 700)))
    assert found["target_nll_nats"] == mean
    if nats[0] != nats[-1]:  # the interval goes beyond what a float holds
        assert (perplexity.stderr, perplexity.ci95) == (None, None)


def f1_of(records: Sequence[Record]) -> Measurement:
    return find(report(records, names=["acc", "f1"]), "f1")


@given(st.integers(0, 10**6), st.integers(1, 30))
@settings(max_examples=25)
def test_f1_is_scikit_learn_s(seed: int, n: int):
    records = random_records(seed, n, 2)
    gold = [made.gold[0] for made in records]
    predicted = [int(np.argmax([c.total_nats for c in made.choices])) for made in records]
    found = report(records, names=["acc", "f1", "mcc"])
    assert found["f1"] == pytest.approx(f1_score(gold, predicted, zero_division=0))
    if len({*gold, *predicted}) > 1:  # it warns elsewhere
        assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(gold, predicted), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1_score(gold, predicted, average="macro", zero_division=0))


def test_f1_counts_what_is_independent():
    records = random_records(3, 30, 2)
    copies = [made._replace(seed=s) for made in records for s in range(4)]
    assert f1_of(copies)[:1] + f1_of(copies)[2:] == f1_of(records)[:1] + f1_of(records)[2:]
    assert f1_of(copies).value == pytest.approx(f1_of(records).value)
    clustered = [made._replace(cluster=f"c{i % 5}") for i, made in enumerate(records)]
    assert f1_of(clustered).n == 5


def test_f1_of_other_tasks_is_refused():
    for records, what in (
        (random_records(0, 3, 3), "3"),
        ([record("i0", RIGHT, texts=["a", "b"]), record("i1", RIGHT)], ""),
    ):
        with pytest.raises(InputError, match=f"the metric f1 needs two labels.*has {what}"):
            report(records, names=["f1"])


def test_exact_match_is_that_a_right_choice_is_greedy():
    made = [
        record("i0", RIGHT, greedy=[True, False]),
        record("i1", RIGHT, greedy=[False, True]),
        record("i2", RIGHT, gold=(0, 1), greedy=[False, True]),
        record("i3", WRONG, greedy=[False, False]),
    ]
    found = report(made, names=["acc", "exact_match"])
    assert (found["exact_match"], found["acc"]) == (0.5, 0.75)
    assert "exact_match" not in [m.name for m in report(made).results]


def test_scores_that_are_no_numbers_are_refused():
    for bad in (math.nan, -math.inf):
        with pytest.raises(NonFiniteScore), np.errstate(invalid="ignore"):
            report([record("i0", [bad, -1.0])])
        with pytest.raises(NonFiniteScore), np.errstate(invalid="ignore"):
            report([record("i0", [bad])], "loglikelihood")


def test_the_order_of_the_records_changes_no_figure():
    records = random_records(5, 20, seeds=2)
    turned = sorted(records, key=lambda made: (made.seed, made.number), reverse=True)
    for a, b in zip(report(records).results, report(turned).results, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-12, abs=1e-12)
        assert a.stderr == pytest.approx(b.stderr, rel=0.05)
