import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.api.metrics import brier_score
from scipy import special
from sklearn import metrics as oracle

from lmeval.errors import EmptyInput, InputError, NonFiniteScore
from lmeval.prompting.measures import confusion, measure, predictions, probabilities, reliability, ties
from lmeval.results import Measurement
from lmeval.stats import mean_estimate, wilson_interval

CLASSWISE = ("balanced_acc", "macro_f1", "mcc")
Task = tuple[list[np.ndarray], list[tuple[int, ...]]]


def task(rng: np.random.Generator, n: int, classes: int, sharpness: float = 1.5) -> Task:
    """Items whose gold is drawn from a softmax, and whose scores are that softmax's, made sharper: overconfident."""
    truth = rng.standard_normal((n, classes)) + np.linspace(0, 1, classes)
    gold = special.softmax(truth, axis=1).cumsum(axis=1) < rng.random((n, 1))
    return list(sharpness * truth), [(int(g),) for g in gold.sum(axis=1).clip(max=classes - 1)]


def ragged(rng: np.random.Generator, n: int) -> Task:
    """Items with 1 to 6 choices, some of which have several right ones."""
    scores = [rng.normal(-20, 5, rng.integers(1, 7)) for _ in range(n)]
    return scores, [tuple(rng.permutation(len(s))[: rng.integers(1, min(len(s), 2) + 1)].tolist()) for s in scores]


def by_name(found: tuple[Measurement, ...]) -> dict[str, Measurement]:
    assert len({m.name for m in found}) == len(found)
    return {m.name: m for m in found}


def values(found: tuple[Measurement, ...]) -> dict[str, float]:
    return {m.name: m.value for m in found}


@pytest.mark.parametrize(("n", "classes"), [(1, 2), (7, 2), (40, 3), (40, 12), (500, 5)])
@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, for classes that gold lacks
def test_classwise_measures_are_scikit_learns(n: int, classes: int):
    for seed in range(4):
        scores, gold = task(np.random.default_rng(seed), n, classes)
        right, predicted = [g for (g,) in gold], predictions(scores)
        found = values(measure(scores, gold, labels=classes, seed=seed))
        assert found["acc"] == pytest.approx(oracle.accuracy_score(right, predicted), rel=1e-14)
        assert found["balanced_acc"] == pytest.approx(oracle.balanced_accuracy_score(right, predicted), rel=1e-12)
        assert found["macro_f1"] == pytest.approx(oracle.f1_score(right, predicted, average="macro"), rel=1e-12)
        assert found["mcc"] == pytest.approx(oracle.matthews_corrcoef(right, predicted), rel=1e-12, abs=1e-15)
        assert confusion(scores, gold, classes).tolist() == (
            oracle.confusion_matrix(right, predicted, labels=range(classes)).tolist()
        )


@pytest.mark.parametrize("classes", [2, 4])
def test_losses_are_scikit_learns_and_the_harness_ones(classes: int):
    scores, gold = task(np.random.default_rng(classes), 60, classes)
    shares, right = np.stack(probabilities(scores)), [g for (g,) in gold]
    found = values(measure(scores, gold))
    assert shares == pytest.approx(special.softmax(np.stack(scores), axis=1), rel=1e-13)
    assert found["log_loss"] == pytest.approx(oracle.log_loss(right, shares, labels=range(classes)), rel=1e-12)
    assert found["brier"] == pytest.approx(brier_score(list(zip(right, shares, strict=True))), rel=1e-12)
    if classes == 2:
        assert found["brier"] == pytest.approx(2 * oracle.brier_score_loss(right, shares[:, 1]), rel=1e-12)


def test_several_right_answers_count_as_one_that_may_be_told_in_several_ways():
    scores, gold = [np.log([0.5, 0.2, 0.2, 0.1]), np.log([0.25, 0.75])], [(1, 2), (0,)]
    found = by_name(measure(scores, gold))
    assert found["acc"].value == 0.0
    assert found["log_loss"].value == pytest.approx(-(math.log(0.4) + math.log(0.25)) / 2)
    assert found["brier"].value == pytest.approx((0.6**2 + 0.5**2 + 0.1**2 + 2 * 0.75**2) / 2)
    assert values(measure(scores, [(0, 2), (1,)]))["acc"] == 1.0
    assert values(measure(scores, [(0, 1, 2, 3), (0, 1)]))["log_loss"] == pytest.approx(0.0, abs=1e-15)


def test_calibration_error_by_hand():
    # Confidence .9 with 1 of 2 right, and .6 with 1 of 1: 2/3 * |.5 - .9| + 1/3 * |1 - .6|.
    scores = [np.log([0.9, 0.1]), np.log([0.1, 0.9]), np.log([0.6, 0.4])]
    assert values(measure(scores, [(0,), (0,), (0,)]))["ece"] == pytest.approx(0.4)
    assert values(measure(scores, [(0,), (0,), (1,)]))["ece"] == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.6)


def test_calibration_error_is_that_of_its_bins():
    scores, gold = task(np.random.default_rng(1), 300, 4)
    rows = reliability(scores, gold, bins=15)
    expected = sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in rows) / 300
    assert values(measure(scores, gold))["ece"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("bins", [1, 4, 10])
def test_reliability_rows_hold_every_item_once(bins: int):
    scores, gold = ragged(np.random.default_rng(2), 80)
    confidence = np.array([own.max() for own in probabilities(scores)])
    right = np.array([p in g for p, g in zip(predictions(scores), gold, strict=True)])
    rows = reliability(scores, gold, bins)
    assert sum(row["n"] for row in rows) == 80
    for row in rows:
        inside = (confidence > row["first"]) & (confidence <= row["stop"])
        assert row["n"] == inside.sum() > 0
        assert row["confidence"] == pytest.approx(confidence[inside].mean())
        assert row["accuracy"] == pytest.approx(right[inside].mean())
        assert row["ci95"] == pytest.approx(wilson_interval(right[inside].mean(), int(inside.sum())))
        assert row["stop"] - row["first"] == pytest.approx(1 / bins)


def test_reliability_does_not_take_answers_of_a_cluster_as_independent():
    scores, gold = ragged(np.random.default_rng(4), 60)
    once = reliability(scores, gold, 4)
    twice = reliability(scores * 2, gold * 2, 4, clusters=[*range(60), *range(60)])
    for a, b in zip(once, twice, strict=True):
        assert (b["n"], b["accuracy"]) == (2 * a["n"], a["accuracy"])
        assert b["ci95"] is None or b["ci95"][1] - b["ci95"][0] > 0.95 * (a["ci95"][1] - a["ci95"][0])


def test_bins_are_closed_above():
    assert [row["stop"] for row in reliability([np.zeros(2), np.zeros(5)], [(0,), (0,)])] == [0.2, 0.5]
    assert [row["stop"] for row in reliability([np.zeros(1)], [(0,)])] == [1.0]


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_order_of_items_changes_no_value(seed: int, n: int):
    rng = np.random.default_rng(seed)
    scores, gold = task(rng, n, 3)
    order = rng.permutation(n)
    found = values(measure(scores, gold, labels=3))
    again = values(measure([scores[i] for i in order], [gold[i] for i in order], labels=3))
    assert again == pytest.approx(found, rel=1e-12, abs=1e-15)


@given(st.integers(0, 10**6), st.integers(1, 20), st.floats(-1e4, 1e4))
def test_a_constant_for_all_choices_of_an_item_changes_nothing(seed: int, n: int, constant: float):
    scores, gold = ragged(np.random.default_rng(seed), n)
    moved = values(measure([own + constant for own in scores], gold))
    assert moved == pytest.approx(values(measure(scores, gold)), rel=1e-7, abs=1e-7)


@given(st.integers(0, 10**6), st.integers(1, 20))
def test_values_stay_in_their_ranges(seed: int, n: int):
    scores, gold = ragged(np.random.default_rng(seed), n)
    for m in measure(scores, gold, clusters=np.arange(n) // 3):
        assert 0 <= m.value <= {"log_loss": math.inf, "brier": 2.0}.get(m.name, 1.0)
        assert m.ci95 is None or 0 <= m.ci95[0] <= m.value <= m.ci95[1]
        assert (m.stderr is None) == (m.ci95 is None)
        assert m.n == -(-n // 3)


def test_means_carry_the_intervals_of_means():
    scores, gold = task(np.random.default_rng(3), 90, 3)
    groups = np.arange(90) // 2
    found = by_name(measure(scores, gold, clusters=groups))
    right = np.array([float(p == g) for p, (g,) in zip(predictions(scores), gold, strict=True)])
    losses = np.array([-math.log(own[g]) for own, (g,) in zip(probabilities(scores), gold, strict=True)])
    for m, expected in [(found["acc"], mean_estimate(right, groups)), (found["log_loss"], mean_estimate(losses, groups))]:
        assert (m.value, m.stderr, m.ci95) == (
            pytest.approx(expected.value),
            pytest.approx(expected.stderr),
            pytest.approx(expected.ci95),
        )
        assert m.n == 45
    assert by_name(measure(scores, gold))["acc"].ci95 == pytest.approx(wilson_interval(right.mean(), 90))


def test_names_units_and_directions():
    scores, gold = task(np.random.default_rng(4), 20, 3)
    found = measure(scores, gold, labels=3)
    assert [m.name for m in found] == ["acc", *CLASSWISE, "log_loss", "brier", "ece"]
    assert {m.name: m.unit for m in found} == {m.name: "nats" if m.name == "log_loss" else "1" for m in found}
    assert {m.name for m in found if not m.higher_is_better} == {"log_loss", "brier", "ece"}
    assert {m.side for m in found} == {"exact"}


def test_classwise_measures_are_left_out_where_classes_mean_nothing():
    scores, gold = task(np.random.default_rng(5), 20, 3)
    assert not set(values(measure(scores, gold))) & set(CLASSWISE)
    assert not set(values(measure(scores, [(0, 1), *gold[1:]], labels=3))) & set(CLASSWISE)
    assert set(values(measure(scores, [(1, 1), *gold[1:]], labels=3))) >= set(CLASSWISE)


def test_a_perfect_model():
    gold = [(i % 3,) for i in range(30)]
    found = by_name(measure([100.0 * np.eye(3)[g] for (g,) in gold], gold, labels=3))
    assert all(found[name].value == 1.0 for name in ("acc", *CLASSWISE))
    assert all(found[name].value == pytest.approx(0.0, abs=1e-12) for name in ("log_loss", "brier", "ece"))
    assert all(found[name].stderr is found[name].ci95 is None for name in (*CLASSWISE, "ece"))
    assert found["acc"].ci95 == wilson_interval(1.0, 30)


def test_a_model_that_always_says_the_same():
    gold = [(0,)] * 6 + [(1,)] * 3 + [(2,)] * 3
    found = by_name(measure([np.array([1.0, 0.0, 0.0])] * 12, gold, labels=3))
    assert found["acc"].value == 0.5
    assert found["balanced_acc"].value == pytest.approx(1 / 3)
    assert found["macro_f1"].value == pytest.approx(2 / 3 / 3)  # classes 1 and 2 have F1 0
    assert found["mcc"].value == 0.0
    assert found["mcc"].ci95 is None  # 0 in every replicate


def test_a_class_that_nobody_mentions_does_not_count():
    scores = [np.array([1.0, 0.0, -5.0]), np.array([0.0, 1.0, -5.0])] * 5
    found = values(measure(scores, [(0,), (1,)] * 5, labels=3))
    assert found["balanced_acc"] == found["macro_f1"] == 1.0


def test_a_model_that_knows_nothing():
    found = values(measure([np.full(4, -7.0)] * 8, [(i % 4,) for i in range(8)], labels=4))
    assert found["log_loss"] == pytest.approx(math.log(4))
    assert found["brier"] == pytest.approx(0.75)
    assert found["acc"] == 0.25
    assert found["ece"] == pytest.approx(0.0, abs=1e-15)


def test_one_item_has_values_and_no_intervals():
    for m in measure([np.array([0.0, 1.0])], [(1,)], labels=2):
        assert (m.stderr, m.ci95, m.n) == (None, None, 1)
        assert math.isfinite(m.value)
    assert all(m.ci95 is None for m in measure(*task(np.random.default_rng(6), 9, 3), clusters=np.zeros(9, int), labels=3))


def test_scores_of_any_size_are_safe():
    scores = [np.array([-1e5, 0.0]), np.array([1e300, 0.0]), np.array([-1e5, -1e5])]
    found = values(measure(scores, [(0,), (0,), (0,)]))
    assert found["log_loss"] == pytest.approx((1e5 + 0 + math.log(2)) / 3)
    assert all(math.isfinite(v) for v in found.values())


def test_the_first_of_equal_choices_is_predicted_and_ties_are_counted():
    scores = [np.array([1.0, 3.0, 3.0]), np.array([2.0, 2.0]), np.array([1.0, 1.0, 5.0]), np.array([0.0])]
    assert predictions(scores).tolist() == [1, 0, 2, 0]
    assert ties(scores) == 2


def test_bootstrap_of_a_mean_finds_the_error_of_a_mean():
    # With two equally frequent classes balanced accuracy is nearly accuracy: so are their errors, also over clusters.
    rng = np.random.default_rng(7)
    right = rng.random(100) < np.where(np.arange(100) % 2, 0.95, 0.35)
    gold = [(i % 2,) for i in range(400)]
    groups = np.repeat(np.arange(100), 4)  # clusters of four that are all right or all wrong
    scores = [np.eye(2)[g if right[c] else 1 - g] for (g,), c in zip(gold, groups, strict=True)]
    for clusters in (None, groups):
        found = by_name(measure(scores, gold, clusters=clusters, labels=2))
        assert found["balanced_acc"].stderr == pytest.approx(found["acc"].stderr, rel=0.06)
        assert found["balanced_acc"].n == found["acc"].n == (400 if clusters is None else 100)


def test_bootstrapped_errors_are_the_spread_between_samples():
    rng = np.random.default_rng(8)
    drawn = [values(measure(*task(rng, 150, 3), labels=3)) for _ in range(150)]
    found = by_name(measure(*task(rng, 150, 3), labels=3))
    for name in (*CLASSWISE, "ece"):
        assert found[name].stderr == pytest.approx(np.std([d[name] for d in drawn]), rel=0.3)


def test_bootstrapped_intervals_are_the_middle_95_per_cent():
    found = by_name(measure(*task(np.random.default_rng(12), 400, 3), labels=3))
    for name in CLASSWISE:
        m = found[name]
        assert m.ci95 is not None and m.stderr is not None
        assert m.ci95 == pytest.approx((m.value - 1.96 * m.stderr, m.value + 1.96 * m.stderr), abs=0.2 * m.stderr)


def test_repeating_items_within_clusters_leaves_intervals_as_they_are():
    scores, gold = task(np.random.default_rng(9), 50, 3)
    once = by_name(measure(scores, gold, labels=3))
    often = by_name(measure(scores * 3, gold * 3, clusters=np.tile(np.arange(50), 3), labels=3))
    for name in (*CLASSWISE, "ece"):
        assert (often[name].value, often[name].stderr) == pytest.approx((once[name].value, once[name].stderr))
        assert often[name].ci95 == pytest.approx(once[name].ci95)


def test_equal_seeds_give_equal_intervals_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch):
    scores, gold = task(np.random.default_rng(10), 70, 3)
    found = measure(scores, gold, labels=3, seed=1)
    monkeypatch.setattr("lmeval.prompting.measures._CHUNK", 70 * 33)
    assert measure(scores, gold, labels=3, seed=1) == found
    assert by_name(measure(scores, gold, labels=3, seed=2))["mcc"].ci95 != by_name(found)["mcc"].ci95


# Of endless items of `task` with 3 classes, by sharpness: from 4 million items and their true probabilities.
CLASSES = {"acc": 0.6205, "balanced_acc": 0.573, "macro_f1": 0.5807, "mcc": 0.3873}
TRUTHS = [
    (1.0, CLASSES | {"log_loss": 0.8335, "brier": 0.4944, "ece": 0.0}),
    (1.4, CLASSES | {"log_loss": 0.8572, "brier": 0.5036, "ece": 0.0718}),
    (2.5, CLASSES | {"log_loss": 1.0628, "brier": 0.5551, "ece": 0.1846}),
]


@pytest.mark.parametrize(("sharpness", "truth"), TRUTHS)
def test_intervals_hold_the_truth_as_often_as_they_say(
    monkeypatch: pytest.MonkeyPatch, sharpness: float, truth: dict[str, float]
):
    monkeypatch.setattr("lmeval.prompting.measures.REPLICATES", 400)
    rng, held = np.random.default_rng(11), dict.fromkeys(truth, 0)
    errors, found_wrong = [], 0
    for _ in range(150):
        found = by_name(measure(*task(rng, 300, 3, sharpness), labels=3))
        for name, (low, high) in ((m.name, m.ci95) for m in found.values() if m.ci95 is not None):
            held[name] += low <= truth[name] <= high
        errors.append(found["ece"].value - truth["ece"])
        found_wrong += (found["ece"].ci95 or (0.0,))[0] > 0
    for name in truth:
        assert (0.85 if name == "ece" else 0.9) <= held[name] / 150, name
    assert np.mean(errors) > (0.04 if sharpness == 1.0 else 0.0)  # the bias that the docstring tells of
    if sharpness == 1.0:
        assert found_wrong <= 15
    if sharpness == 2.5:
        assert found_wrong == 150


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_no_numbers_are_refused_by_item(bad: float):
    with pytest.raises(NonFiniteScore, match="item 1 has scores"):
        measure([np.zeros(2), np.array([0.0, bad, 1.0])], [(0,), (0,)])
    with pytest.raises(NonFiniteScore, match="item 0"):
        predictions([np.array([bad, 0.0])])


@pytest.mark.parametrize(
    ("scores", "gold", "labels", "message"),
    [
        ([np.zeros(2), np.zeros(2)], [(0,), (2,)], None, r"item 1 has right choices \(2,\) of 2"),
        ([np.zeros(2), np.zeros(3)], [(0,), (-1,)], None, r"item 1 has right choices \(-1,\) of 3"),
        ([np.zeros(2)], [()], None, r"item 0 has right choices \(\)"),
        ([np.zeros(2), np.zeros(0)], [(0,), (0,)], None, "item 1 has no choices"),
        ([np.zeros(2)], [(0,), (0,)], None, "1 items have scores and 2 have gold"),
        ([np.zeros(2), np.zeros(3)], [(0,), (0,)], 2, "item 1 has 3 choices, not the 2 labels"),
    ],
)
def test_what_does_not_fit_is_refused(
    scores: list[np.ndarray], gold: list[tuple[int, ...]], labels: int | None, message: str
):
    with pytest.raises(InputError, match=message) as caught:
        measure(scores, gold, labels=labels)
    assert "\n" not in str(caught.value)


def test_nothing_and_several_right_answers_are_refused():
    with pytest.raises(EmptyInput):
        measure([], [])
    with pytest.raises(InputError, match="2 clusters for 1 items"):
        measure([np.zeros(2)], [(0,)], clusters=np.zeros(2, int))
    with pytest.raises(InputError, match="item 0 has right choices"):
        confusion([np.zeros(2)], [(0, 1)], 2)
