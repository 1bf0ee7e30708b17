import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmeval.errors import InputError
from lmeval.prompting.compare import PairedComparison, compare_items, compare_tasks
from lmeval.stats import holm, minimum_detectable_effect, paired_difference

RIGHT = st.dictionaries(st.integers(0, 20).map(str), st.sampled_from([0.0, 1.0]), min_size=1)


def run(values: np.ndarray) -> dict[str, float]:
    return {f"item {i}": float(v) for i, v in enumerate(values)}


def two_models(rng: np.random.Generator, n: int, gain: float, binary: bool = False) -> tuple[dict, dict]:
    """Items of very different difficulty for two models of which a is better by `gain`."""
    difficulty = rng.normal(0, 2, n)
    a, b = difficulty + gain + 0.5 * rng.standard_normal(n), difficulty + 0.5 * rng.standard_normal(n)
    return (run(a > 0), run(b > 0)) if binary else (run(a), run(b))


def test_comparison_is_the_paired_one():
    a, b = two_models(np.random.default_rng(0), 40, 0.2)
    found = compare_items(a, b, None, binary=False)
    expected = stats.ttest_rel(list(a.values()), list(b.values()))
    assert found.n == found.difference.n == 40
    assert found.difference.value == pytest.approx(found.value_a - found.value_b, rel=1e-9)
    assert found.difference.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    assert found.mcnemar is None
    assert found.difference.stderr is not None
    assert found.minimum_detectable_effect == minimum_detectable_effect(found.difference.stderr)
    [row] = compare_tasks({"t": found})
    assert (row["test"], row["p_value"]) == ("t", pytest.approx(expected.pvalue, rel=1e-9))


def test_right_and_wrong_are_compared_by_mcnemar():
    a, b = run(np.array([1, 1, 1, 1, 1, 0, 1, 0])), run(np.array([0, 0, 0, 0, 0, 1, 1, 0]))
    found = compare_items(a, b, None, binary=True)
    assert found.mcnemar == (5, 1, pytest.approx(14 / 64))
    assert (found.value_a, found.value_b, found.difference.value) == (0.75, 0.25, 0.5)
    [row] = compare_tasks({"t": found})
    assert (row["test"], row["p_value"], row["p_holm"]) == ("mcnemar", pytest.approx(14 / 64), pytest.approx(14 / 64))
    assert (row["right_in_a_only"], row["right_in_b_only"]) == (5, 1)


@given(RIGHT, RIGHT)
def test_items_of_one_run_alone_are_counted_and_left_out(a: dict[str, float], b: dict[str, float]):
    common = a.keys() & b.keys()
    if not common:
        with pytest.raises(InputError, match="no item is in both runs") as caught:
            compare_items(a, b, None, binary=True)
        assert "\n" not in str(caught.value)
        return
    found = compare_items(a, b, None, binary=True)
    assert (found.n, found.n_only_a, found.n_only_b) == (len(common), len(a.keys() - b), len(b.keys() - a))
    alone = compare_items({i: a[i] for i in common}, {i: b[i] for i in common}, None, binary=True)
    assert found == alone._replace(n_only_a=found.n_only_a, n_only_b=found.n_only_b)


@given(RIGHT)
def test_a_run_is_no_better_than_itself(a: dict[str, float]):
    found = compare_items(a, dict(reversed(a.items())), None, binary=True)
    assert found.difference.value == 0.0
    assert found.mcnemar == (0, 0, 1.0)


def test_runs_change_places():
    a, b = two_models(np.random.default_rng(1), 50, 0.5, binary=True)
    there, back = compare_items(a, b, None, binary=True), compare_items(b, a, None, binary=True)
    assert there.difference.value == -back.difference.value
    assert (there.value_a, there.minimum_detectable_effect) == (back.value_b, back.minimum_detectable_effect)
    assert there.mcnemar is not None and back.mcnemar is not None
    assert there.mcnemar.p_value == back.mcnemar.p_value


def test_clusters_reach_the_difference_and_choose_the_test():
    a, b = two_models(np.random.default_rng(2), 60, 0.5, binary=True)
    clusters = {item: int(item.split()[1]) ** 2 // 170 for item in a} | {"elsewhere": 99}
    found = compare_items(a, b, clusters, binary=True)
    expected = paired_difference(np.array(list(a.values())), np.array(list(b.values())), np.arange(60) ** 2 // 170)
    assert found.difference.value == pytest.approx(expected.value, rel=1e-12)
    assert found.difference.stderr == pytest.approx(expected.stderr, rel=1e-12)
    assert found.difference.ci95 == pytest.approx(expected.ci95, rel=1e-12)
    assert found.difference.n_clusters == 21
    [row] = compare_tasks({"t": found})
    assert expected.stderr is not None
    assert (row["test"], row["p_value"]) == ("t", pytest.approx(2 * stats.t.sf(abs(expected.value / expected.stderr), 20)))
    single = compare_items(a, b, {item: item for item in a}, binary=True)
    assert single == compare_items(a, b, None, binary=True)
    assert compare_tasks({"t": single})[0]["test"] == "mcnemar"


def test_p_values_are_adjusted_over_the_tasks_that_have_one():
    rng = np.random.default_rng(3)
    pairs = {f"task {i}": two_models(rng, 60, gain, binary=i % 2 == 0) for i, gain in enumerate([0.0, 0.3, 0.6, 0.2])}
    comparisons = {name: compare_items(*pair, None, binary=i % 2 == 0) for i, (name, pair) in enumerate(pairs.items())}
    comparisons["tiny"] = compare_items({"x": 0.5}, {"x": 0.25}, None, binary=False)
    rows = compare_tasks(comparisons)
    assert [row["task"] for row in rows] == list(comparisons)
    assert [row["p_holm"] for row in rows[:-1]] == holm([row["p_value"] for row in rows[:-1]])
    assert (rows[-1]["test"], rows[-1]["p_value"], rows[-1]["p_holm"]) == (None, None, None)
    assert {row["test"] for row in rows[:-1]} == {"t", "mcnemar"}
    assert json.loads(json.dumps(rows, allow_nan=False))[0]["difference"] == rows[0]["difference"]
    assert compare_tasks({}) == []


def test_one_item_is_compared_without_an_interval():
    found = compare_items({"x": 1.0}, {"x": 0.0, "y": 1.0}, None, binary=True)
    assert found == PairedComparison(1, 1.0, 0.0, found.difference, found.mcnemar, None, 0, 1)
    assert found.difference == (1.0, None, None, 1, 1)
    assert compare_tasks({"t": found})[0]["test"] is None


def test_pairing_sees_what_two_separate_errors_do_not():
    a, b = two_models(np.random.default_rng(4), 200, 0.2)
    found = compare_items(a, b, None, binary=False)
    unpaired = np.hypot(np.std(list(a.values()), ddof=1), np.std(list(b.values()), ddof=1)) / np.sqrt(200)
    assert found.difference.stderr is not None
    assert found.difference.stderr < unpaired / 3
    assert abs(found.difference.value) > 2.5 * found.difference.stderr


def test_findings_are_false_no_more_often_than_they_say():
    rng, found_t, found_mcnemar = np.random.default_rng(5), 0, 0
    for _ in range(400):
        for binary in (False, True):
            [row] = compare_tasks({"t": compare_items(*two_models(rng, 40, 0.0, binary), None, binary)})
            if binary:
                found_mcnemar += row["p_value"] < 0.05
            else:
                found_t += row["p_value"] < 0.05
    assert 0.02 <= found_t / 400 <= 0.08
    assert found_mcnemar / 400 <= 0.05  # exact: never above, mostly below


@pytest.mark.parametrize(
    ("a", "b", "clusters", "binary", "message"),
    [
        ({"x": 0.5}, {"x": 1.0}, None, True, "item x has the value 0.5: it must be 0 or 1"),
        ({"x": 0.5}, {"x": float("nan")}, None, False, "item x has the value nan: it must be a finite number"),
        ({"x": 0.5, "y": 1.0}, {"x": 0.5, "y": 1.0}, {"x": 1}, False, "item y has no cluster"),
    ],
)
def test_what_does_not_fit_is_refused(a: dict, b: dict, clusters: dict | None, binary: bool, message: str):
    with pytest.raises(InputError, match=message):
        compare_items(a, b, clusters, binary)


def test_a_wrong_value_of_an_item_that_is_left_out_does_no_harm():
    assert compare_items({"x": 1.0, "y": 0.5}, {"x": 1.0}, None, binary=True).n == 1
