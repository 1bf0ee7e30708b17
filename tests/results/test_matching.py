import pytest
from items import ACC, item, report_with

from lmeval.results import Items, Report, together
from lmeval.results.compare import compare_reports
from lmeval.results.matching import different_inputs, match_groups


def of_several(*ofs: dict[str, str]) -> Report:
    return Report("likelihood", items=Items((ACC,), tuple(item("i", {"acc": 1.0}, of=of) for of in ofs)))


def bounds_of(*models: str, bounds: tuple[str, ...] = ("elbo", "iwae")) -> Report:
    return of_several(*({"model": model, "bound": bound, "data": "digits"} for model in models for bound in bounds))


def paired(a: Report, b: Report) -> list[tuple[str, ...]]:
    """Models and bounds of the groups that are paired."""
    matches = match_groups(a, b)
    return [(x[0].of["model"], x[0].of["bound"], y[0].of["model"], y[0].of["bound"]) for x, y in matches.pairs]


def test_what_is_of_the_same_is_paired_first():
    a, b = bounds_of("vae", "flow"), bounds_of("flow", "vae")
    assert paired(a, b) == [(m, bound, m, bound) for m in ("vae", "flow") for bound in ("elbo", "iwae")]
    assert match_groups(a, b).alone == ([], [])


def test_two_models_are_paired_bound_by_bound():
    assert paired(bounds_of("vae"), bounds_of("flow")) == [("vae", b, "flow", b) for b in ("elbo", "iwae")]


def test_single_bounds_are_paired_whatever_they_are():
    assert paired(bounds_of("vae", bounds=("elbo",)), bounds_of("made", bounds=("exact",))) == [
        ("vae", "elbo", "made", "exact")
    ]


def test_what_has_several_counterparts_is_left_alone():
    matches = match_groups(bounds_of("vae", "flow"), bounds_of("made"))
    assert matches.pairs == []
    assert [len(alone) for alone in matches.alone] == [4, 2]


def test_other_data_are_never_paired():
    a, b = (of_several({"model": "vae", "data": data}) for data in ("digits", "letters"))
    assert match_groups(a, b).pairs == []


def test_what_only_one_result_has_is_told():
    tasks = [report_with({"acc": [1.0, 0.0]}, of={"task": name, "model": "m"}) for name in "abc"]
    compared = compare_reports(together("run", tuple(tasks[:2]), {}), together("run", tuple(tasks[1:]), {}))
    assert [row["of"]["task"] for row in compared.tables["differences"]] == ["b"]
    assert compared.ledger["left_out"] == {"a": ["task a, model m"], "b": ["task c, model m"]}
    more = compare_reports(bounds_of("vae"), bounds_of("vae", bounds=("elbo",)))
    assert more.ledger["left_out"] == {"a": ["model vae, bound iwae, data digits"], "b": []}


@pytest.mark.parametrize(
    ("a", "b", "names"),
    [
        ({"corpus": {"sources": ["x"], "sha256": "1"}}, {"corpus": {"sources": ["y"], "sha256": "2"}}, ["corpus"]),
        ({"corpus": {"sources": ["x"], "sha256": "1"}}, {"corpus": {"sources": ["y"], "sha256": "1"}}, []),
        ({"task_sha256": "1", "data_sha256": "1"}, {"task_sha256": "2", "data_sha256": "1"}, ["task"]),
        ({"task_sha256": "1"}, {"data_sha256": "1"}, []),
        ({"task_sha256": "1"}, None, []),
        ([], {"task_sha256": "1"}, []),
    ],
)
def test_inputs_of_other_content_are_named(a: object, b: object, names: list[str]):
    reports = [
        Report("run", provenance={"inputs": inputs}, items=Items((ACC,), (item("i", {"acc": 1.0}),))) for inputs in (a, b)
    ]
    assert different_inputs(reports[0], reports[1]) == names
    assert compare_reports(reports[0], reports[1]).ledger["different_inputs"] == names
