import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from items import ACC, LOSS, RATE, item, report_with, two_models, two_rates
from scipy import stats

from lmeval.errors import InputError
from lmeval.results import ItemMetric, Items, Measurement, Report, as_json, find, together
from lmeval.results.compare import compare_reports
from lmeval.stats import holm, minimum_detectable_effect, paired_difference

RIGHT = st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=30)
WEIGHT = ItemMetric("weight", "kg", "weight")


def row_of(compared: Report) -> Mapping[str, Any]:
    [row] = compared.tables["differences"]
    return row


def compared_pair(pair: Iterable[Report]) -> Report:
    a, b = pair
    return compare_reports(a, b)


def compared_values(a: np.ndarray, b: np.ndarray, clusters: list[str] | None = None) -> Report:
    made = [report_with({"weight": values}, [WEIGHT], clusters, kind="benchmark") for values in (a, b)]
    return compare_reports(made[0], made[1])


def compared_answers(a: Any, b: Any, clusters: list[str] | None = None) -> Report:
    return compare_reports(report_with({"acc": a}, clusters=clusters), report_with({"acc": b}, clusters=clusters))


def test_a_comparison_is_the_paired_t_test():
    a, b = two_models(np.random.default_rng(0), 40, 0.2)
    compared, expected = compared_values(a, b), stats.ttest_rel(a, b)
    [m], row = compared.results, row_of(compared)
    assert (m.name, m.unit, m.n) == ("weight_difference", "kg", 40)
    assert m.value == pytest.approx(a.mean() - b.mean(), rel=1e-12)
    assert m.ci95 == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-9)
    assert m.stderr is not None
    assert row["minimum_detectable_effect"] == minimum_detectable_effect(m.stderr)
    assert (row["test"], row["p_value"]) == ("t", pytest.approx(expected.pvalue, rel=1e-9))
    assert row["correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert row["right_in_a_only"] is None


def test_right_and_wrong_are_compared_by_mcnemar():
    row = row_of(compared_answers([1, 1, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 1, 1, 0]))
    assert (row["a"], row["b"], row["difference"]) == (0.75, 0.25, 0.5)
    assert (row["right_in_a_only"], row["right_in_b_only"]) == (5, 1)
    assert (row["test"], row["p_value"], row["p_holm"]) == ("mcnemar", pytest.approx(14 / 64), pytest.approx(14 / 64))


@given(RIGHT)
def test_a_result_does_not_differ_from_itself(right: list[float]):
    row = row_of(compared_answers(right, right))
    assert (row["difference"], row["p_value"], row["right_in_a_only"], row["verdict"]) == (0.0, 1.0, 0, "no difference seen")
    assert row["ci95"] == [0.0, 0.0] and row["correlation"] in (None, pytest.approx(1.0))


@given(
    st.integers(0, 10**6), st.integers(2, 40), st.sampled_from(["answers", "values", "rates"]), st.booleans(), st.booleans()
)
@settings(max_examples=60)
def test_results_change_places(seed: int, n: int, kind: str, clustered: bool, ordered: bool):
    rng = np.random.default_rng(seed)
    clusters = [f"c{i % 3}" for i in range(n)] if clustered else None
    if kind == "rates":
        made = [report_with(v, [RATE], clusters, "perplexity", ordered=ordered) for v in two_rates(rng, n, 0.1)]
    else:
        values = two_models(rng, n, 0.5)
        metric = ACC if kind == "answers" else WEIGHT
        named = [{metric.numerator: v > 0 if kind == "answers" else v} for v in values]
        made = [report_with(v, [metric], clusters) for v in named]
    there, back = (compared_pair(pair) for pair in (made, made[::-1]))
    a, b = there.results[0], back.results[0]
    assert a.value == pytest.approx(-b.value, abs=1e-15)
    assert a.stderr == pytest.approx(b.stderr, rel=1e-9)
    assert a.ci95 and b.ci95 and a.ci95 == pytest.approx((-b.ci95[1], -b.ci95[0]), rel=1e-6, abs=1e-12)
    first, second = row_of(there), row_of(back)
    for key, other in [("a", "b"), ("right_in_a_only", "right_in_b_only"), ("p_value", "p_value"), ("correlation",) * 2]:
        assert first[key] == (None if second[other] is None else pytest.approx(second[other], rel=1e-9)), key
    assert (first["test"], first["n_clusters"], first["method"]) == (second["test"], second["n_clusters"], second["method"])
    better = {"A is better": "B is better", "B is better": "A is better"}
    assert first["verdict"] == better.get(second["verdict"], second["verdict"])


@given(st.sets(st.integers(0, 20), min_size=1), st.sets(st.integers(0, 20), min_size=1))
def test_items_of_one_result_alone_are_counted_and_left_out(a: set[int], b: set[int]):
    rng = np.random.default_rng(0)
    right = rng.integers(0, 2, (2, 21)).astype(float)

    def kept(items: set[int], values: np.ndarray) -> Report:
        return Report("run", items=Items((ACC,), tuple(item(f"i{i}", {"acc": values[i]}) for i in sorted(items))))

    if not a & b:
        with pytest.raises(InputError, match="no item is in both results"):
            compare_reports(kept(a, right[0]), kept(b, right[1]))
        return
    row = row_of(compare_reports(kept(a, right[0]), kept(b, right[1])))
    assert (row["n"], row["n_only_a"], row["n_only_b"]) == (len(a & b), len(a - b), len(b - a))
    alone = row_of(compare_reports(kept(a & b, right[0]), kept(a & b, right[1])))
    assert row == {**alone, "n_only_a": row["n_only_a"], "n_only_b": row["n_only_b"]}


def test_items_are_paired_by_name_and_not_by_place():
    a, b = two_models(np.random.default_rng(1), 30, 0.3)
    turned = report_with({"weight": b}, [WEIGHT])
    assert turned.items is not None
    turned = Report("run", items=turned.items._replace(records=turned.items.records[::-1]))
    straight, other = (
        compare_reports(report_with({"weight": a}, [WEIGHT]), made, ["weight"])
        for made in (report_with({"weight": b}, [WEIGHT]), turned)
    )
    assert row_of(straight) == row_of(other)


def test_a_ratio_s_difference_is_that_of_the_ratios():
    a, b = two_rates(np.random.default_rng(2), 60, 0.1)
    compared = compared_pair(report_with(v, [RATE], kind="perplexity") for v in (a, b))
    rates = [v["nll_nats"].sum() / v["n_bytes"].sum() / np.log(2) for v in (a, b)]
    row = row_of(compared)
    assert (row["a"], row["b"]) == (pytest.approx(rates[0], rel=1e-12), pytest.approx(rates[1], rel=1e-12))
    assert compared["bits_per_byte_difference"] == pytest.approx(rates[0] - rates[1], rel=1e-9)
    assert (row["right_in_a_only"], row["test"], row["verdict"]) == (None, "t", "B is better")


def test_pairing_sees_what_two_separate_errors_do_not():
    a, b = two_models(np.random.default_rng(4), 200, 0.2)
    [m] = compared_values(a, b).results
    assert m.stderr is not None
    assert m.stderr < np.hypot(a.std(ddof=1), b.std(ddof=1)) / np.sqrt(200) / 3
    assert abs(m.value) > 2.5 * m.stderr


def test_clusters_reach_the_difference_and_choose_the_test():
    a, b = (v > 0 for v in two_models(np.random.default_rng(2), 60, 0.5))
    codes = np.arange(60) ** 2 // 170
    compared, expected = compared_answers(a, b, [str(c) for c in codes]), paired_difference(1.0 * a, 1.0 * b, codes)
    [m], row = compared.results, row_of(compared)
    assert (m.value, m.stderr, m.ci95) == (expected.value, expected.stderr, expected.ci95)
    assert (row["n"], row["n_clusters"], row["method"]) == (60, 21, "paired items, by clusters")
    assert expected.stderr is not None
    assert (row["test"], row["p_value"]) == ("t", pytest.approx(2 * stats.t.sf(abs(expected.value / expected.stderr), 20)))
    single = row_of(compared_answers(a, b, [f"c{i}" for i in range(60)]))
    assert {**single, "method": "paired items"} == row_of(compared_answers(a, b)) and single["test"] == "mcnemar"


@pytest.mark.parametrize("turned", [False, True])
def test_clusters_of_either_result_count(turned: bool):
    right = np.arange(12) % 2
    made = [report_with({"acc": right}, clusters=[f"c{i % 4}" for i in range(12)]), report_with({"acc": 1 - right})]
    row = row_of(compared_pair(made[::-1] if turned else made))
    assert (row["n_clusters"], row["test"]) == (4, "t")


def test_seeds_are_averaged_before_results_are_compared():
    several = [item(f"i{i}", {"acc": float(s < i)}, seed=s) for i in range(4) for s in range(2)]
    once = [item(f"i{i}", {"acc": 1.0}, seed=0) for i in range(4)]
    row = row_of(compared_pair(Report("run", items=Items((ACC,), tuple(made))) for made in (several, once)))
    assert (row["n"], row["a"], row["b"], row["test"], row["right_in_a_only"]) == (4, 0.625, 1.0, "t", None)


def test_p_values_are_adjusted_over_the_rows_that_have_one():
    rng = np.random.default_rng(3)
    values = [two_models(rng, 60, gain) for gain in (0.0, 0.3, 0.6, 0.2)]
    parts: list[list[Report]] = [[], []]
    for i, pair in enumerate(values):
        for side, v in enumerate(pair):
            parts[side].append(report_with({"acc": v > 0, "log_loss": v}, [ACC, LOSS], of={"task": f"task {i}"}))
    for side in range(2):
        parts[side].append(report_with({"acc": [1.0], "log_loss": [1.0 + side]}, [ACC, LOSS], of={"task": "tiny"}))
    wholes = [together("run", tuple(made), {}) for made in parts]
    rows = compare_reports(wholes[0], wholes[1], ["acc", "log_loss"]).tables["differences"].rows
    assert [(row["of"]["task"], row["metric"]) for row in rows] == [
        (f"task {i}" if i < 4 else "tiny", name) for i in range(5) for name in ("acc", "log_loss")
    ]
    assert [row["p_holm"] for row in rows[:-2]] == holm([row["p_value"] for row in rows[:-2]])
    assert {row["test"] for row in rows[:-2]} == {"t", "mcnemar"}
    for row in rows[-2:]:
        assert (row["test"], row["p_value"], row["p_holm"], row["verdict"]) == (None, None, None, "too few items to tell")


def test_findings_are_false_no_more_often_than_they_say():
    rng, by_t, by_mcnemar = np.random.default_rng(5), 0, 0
    for _ in range(400):
        a, b = two_models(rng, 40, 0.0)
        by_t += row_of(compared_values(a, b))["p_value"] < 0.05
        by_mcnemar += row_of(compared_answers(a > 0, b > 0))["p_value"] < 0.05
    assert 0.02 <= by_t / 400 <= 0.08
    assert by_mcnemar / 400 <= 0.05  # exact: never above, mostly below


SIDED = ItemMetric("log_likelihood_nats", "nats/datum", "nats", higher_is_better=True)


def bound(side: str, value: float, model: str) -> Report:
    noise = np.linspace(-0.1, 0.1, 9)
    of = {"model": model, "bound": side, "side": side}
    return report_with({"nats": value + noise * len(model)}, [SIDED], kind="likelihood", of=of)


@pytest.mark.parametrize(
    ("a", "b", "side", "verdicts"),
    [
        ("exact", "exact", "exact", ("A is better", "B is better")),
        ("lower", "exact", "lower", ("A is better", "does not order them")),
        ("exact", "lower", "upper", ("does not order them", "B is better")),
        ("lower", "lower", "estimate", ("does not order them", "does not order them")),
        ("estimate", "exact", "estimate", ("does not order them", "does not order them")),
    ],
)
def test_a_bound_orders_two_models_in_one_direction_only(a: str, b: str, side: str, verdicts: tuple[str, str]):
    for gain, verdict in zip((5.0, -5.0), verdicts, strict=True):
        compared = compare_reports(bound(a, gain, "vae"), bound(b, 0.0, "flow"))
        [m], row = compared.results, row_of(compared)
        assert (m.name, m.side, row["verdict"]) == ("log_likelihood_nats_difference", side, verdict)
        expected = {"model_a": "vae", "model_b": "flow"}
        if a != b:
            expected |= {"bound_a": a, "bound_b": b, "side_a": a, "side_b": b}
        assert expected.items() <= dict(m.of).items()


def test_a_bound_on_a_negative_lies_on_the_other_side():
    made = []
    for side, model in (("lower", "vae"), ("exact", "flow")):
        report = bound(side, 1.0, model)
        assert report.items is not None
        metric = ItemMetric("bits_per_dim", "bits/dim", "nats", scale=-0.02)
        made.append(Report("likelihood", items=report.items._replace(metrics=(metric,))))
    [m] = compared_pair(made).results
    assert (m.name, m.side) == ("bits_per_dim_difference", "upper")


def test_what_two_results_have_of_the_same_is_paired_with_itself():
    def made(shift: float) -> Report:
        parts = [
            report_with({"weight": np.arange(5.0) ** k + shift * k}, [WEIGHT], of={"compressor": f"c{k}"}) for k in (1, 2)
        ]
        records = tuple(record for part in parts if part.items for record in part.items.records)
        return Report("benchmark", items=Items((WEIGHT,), records))

    rows = compare_reports(made(0.0), made(1.0)).tables["differences"].rows
    assert [(row["of"], row["difference"]) for row in rows] == [({"compressor": "c1"}, -1.0), ({"compressor": "c2"}, -2.0)]


def test_models_of_different_names_are_compared():
    made = [report_with({"acc": [1, 0, 1]}, of={"model": name, "task": "t"}) for name in ("a", "b")]
    compared = compared_pair(made)
    assert row_of(compared)["of"] == {"task": "t"}
    assert dict(compared.results[0].of) == {"task": "t", "model_a": "a", "model_b": "b"}


def test_the_json_is_the_contract_s():
    a, b = two_models(np.random.default_rng(0), 20, 0.2)
    made = [report_with({"acc": v > 0}, of={"model": "m", "task": "t"}) for v in (a, b)]
    data = json.loads(json.dumps(as_json(compare_reports(made[0], made[1], names=("a.json", "b.json"))), allow_nan=False))
    assert (data["schema"], data["kind"]) == (2, "compare")
    [result] = data["results"]
    assert result["name"] == "acc_difference" and len(result["ci95"]) == 2 and result["of"] == {"model": "m", "task": "t"}
    assert (data["ledger"]["a"], data["ledger"]["b"], data["ledger"]["compared"]) == ("a.json", "b.json", "run")
    assert data["provenance"]["inputs"]["a"]["name"] == "a.json" and "versions" in data["provenance"]
    [row] = data["tables"]["differences"]["rows"]
    assert row.keys() == row_of(compare_reports(made[0], made[1])).keys()  # every value has a column


def test_the_main_metric_is_compared_where_none_is_named():
    values = {"acc": [1, 0, 1], "log_loss": [0.1, 2.0, 0.3]}
    made = report_with(values, [ACC, LOSS])
    assert [m.name for m in compare_reports(made, made).results] == ["acc_difference"]
    both = compare_reports(made, made, ["log_loss", "acc"])
    assert [m.name for m in both.results] == ["log_loss_difference", "acc_difference"]
    other = report_with(values, [ACC, LOSS], kind="benchmark")
    assert [m.name for m in compare_reports(other, other).results] == ["acc_difference", "log_loss_difference"]


def of_task(name: str) -> Report:
    return report_with({"acc": [1.0, 0.0]}, of={"task": name})


def with_value(value: float) -> Report:
    return report_with({"acc": [1.0, value]}, [ACC._replace(share=False)])


REFUSED: dict[str, tuple[Report, Report, str]] = {
    "another kind": (
        of_task("t"),
        report_with({"acc": [1.0]}, kind="benchmark"),
        "a is of kind run and b of kind benchmark",
    ),
    "no items": (of_task("t"), Report("run"), "b holds no items to compare (it is of kind run)"),
    "another task": (of_task("t"), of_task("u"), "a has the tasks t and b has u: no task is in both"),
    "one task twice": (
        together("run", (of_task("t"), of_task("t")), {}),
        of_task("t"),
        "a holds run t twice: keep different runs in different files",
    ),
    "no metric": (of_task("t"), report_with({"weight": [1.0]}, [WEIGHT]), "have no metric over the same items in common"),
    "not a number": (with_value(1.0), with_value(float("nan")), "item i1 has the acc nan: it must be a finite number"),
    "too large": (
        report_with({"weight": [1e308, 1e308, 0.0]}, [WEIGHT]),
        report_with({"weight": [1.0, 2.0, 3.0]}, [WEIGHT]),
        "the values of weight are too large to add up",
    ),
    "nothing to divide by": (
        report_with({"nll_nats": [0.0, 1.0], "n_bytes": [0.0, 5.0]}, [RATE], kind="perplexity"),
        report_with({"nll_nats": [0.0], "n_bytes": [0.0]}, [RATE], kind="perplexity"),
        "have no metric over the same items in common",
    ),
    "nothing to divide by in common": (
        report_with({"nll_nats": [0.0, 1.0], "n_bytes": [0.0, 5.0]}, [RATE], kind="perplexity"),
        Report(
            "perplexity",
            items=Items(
                (RATE,), tuple(item(name, {"nll_nats": 1.0, "n_bytes": float(n)}) for n, name in ((0, "i0"), (1, "x")))
            ),
        ),
        "bits_per_byte needs n_bytes, and the items in both results have none",
    ),
    "other data of that name": (
        Report("benchmark", items=Items((ACC,), (item("f", {"acc": 1.0})._replace(detail={"sha256": "0"}),))),
        Report("benchmark", items=Items((ACC,), (item("f", {"acc": 1.0})._replace(detail={"sha256": "1"}),))),
        "f is not the same data in both results: its SHA-256 differs",
    ),
    "some clusters": (
        report_with({"acc": [1.0]}),
        Report("run", items=Items((ACC,), (item("i0", {"acc": 1.0}), item("i1", {"acc": 1.0}, "c")))),
        "item i0 has no cluster",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_compared_is_said_in_one_line(why: str):
    a, b, message = REFUSED[why]
    with pytest.raises(InputError) as caught:
        compare_reports(a, b)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_metric_that_one_result_lacks_is_named():
    both = report_with({"acc": [1.0], "log_loss": [0.5]}, [ACC, LOSS])
    with pytest.raises(InputError, match=r"task t has no los_loss in both results .did you mean 'log_loss'"):
        compare_reports(both, both, ["los_loss"])
    with pytest.raises(InputError, match=r"^task t has no log_loss in both results: known are acc$"):
        compare_reports(both, report_with({"acc": [1.0]}), ["log_loss"])


def test_a_measurement_of_the_difference_is_found_by_what_it_is_of():
    made = together("run", (of_task("t"), of_task("u")), {})
    found = find(compare_reports(made, made), "acc_difference", task="u")
    assert isinstance(found, Measurement) and found.value == 0.0


def test_a_negative_scale_turns_the_sides_of_bounds_round():
    bits = ItemMetric("bits_per_dim", "bits/dim", "nats", scale=-0.5)
    a, b = (
        report_with({"nats": [-3.0, -4.0, -6.0 + shift]}, [bits], kind="likelihood", of={"model": model, "side": side})
        for shift, model, side in ((0.5, "VAE", "lower"), (0.0, "MADE", "exact"))
    )
    m = find(compare_reports(a, b, ["bits_per_dim"]), "bits_per_dim_difference")
    assert m.side == "upper" and m.value == pytest.approx(-0.25 / 3)  # log p of a is at least this: its bits are at most
