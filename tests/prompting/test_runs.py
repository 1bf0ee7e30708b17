import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prompted import random_records, record, record_set

from lmeval.errors import InputError, InputNotFound, LmevalError
from lmeval.prompting import Record, compare_runs, summarise, write_records
from lmeval.prompting.compare import compare_items
from lmeval.prompting.records import RecordSet
from lmeval.prompting.runs import read_run
from lmeval.results import as_json, several_as_json, write_json, write_text


def named(name: str, records: list[Record], kind: str = "multiple_choice") -> RecordSet:
    made = record_set(records, kind)
    return made._replace(header={**made.header, "task": name, "provenance": {"task": name}})


def as_results(path: Path, *sets: RecordSet) -> Path:
    """A results JSON, as `lmeval run --json` writes it."""
    if len(sets) == 1:
        write_json(summarise(sets[0]), path)
    else:
        reports = {made.header["task"]: summarise(made) for made in sets}
        write_text(json.dumps(several_as_json(reports)), path)
    return path


def as_records(path: Path, *sets: RecordSet) -> Path:
    write_records(sets, path)
    return path


FORMS = {"results": as_results, "records": as_records}
A, B = (named("t", random_records(seed, 12)) for seed in (1, 2))
TARGETS = [named("u", [record(f"i{i}", [-x]) for i in range(9)], "loglikelihood") for x in (1.0, 2.5)]


@pytest.mark.parametrize("form_a", FORMS)
@pytest.mark.parametrize("form_b", FORMS)
def test_results_and_records_compare_alike(tmp_path: Path, form_a: str, form_b: str):
    rows = compare_runs(FORMS[form_a](tmp_path / "a", A), FORMS[form_b](tmp_path / "b", B), ("acc", "log_loss"))
    reports = [summarise(made) for made in (A, B)]
    items = [{row["item"]: float(row["acc"]) for row in found.tables["items"]} for found in reports]
    pair = compare_items(items[0], items[1], None, binary=True)
    assert [(row["task"], row["metric"]) for row in rows] == [("t", "acc"), ("t", "log_loss")]
    for row in rows:
        assert (row["a"], row["b"]) == tuple(pytest.approx(found[row["metric"]]) for found in reports)
        assert row["difference"] == pytest.approx(row["a"] - row["b"])
    assert (rows[0]["ci95"], rows[0]["test"]) == (pair.difference.ci95, "mcnemar")
    assert pair.mcnemar is not None
    assert (rows[0]["right_in_a_only"], rows[0]["p_value"]) == (pair.mcnemar.only_a, pair.mcnemar.p_value)
    assert rows[1]["test"] == "t"
    assert rows[0]["p_holm"] >= rows[0]["p_value"]  # two comparisons
    json.dumps(rows, allow_nan=False)


@given(st.integers(0, 10**6), st.integers(1, 10), st.integers(1, 3), st.sampled_from([None, 2, 5]), st.booleans())
@settings(max_examples=25)
def test_runs_change_places(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, seeds: int, clusters: int | None, one_sided: bool
):
    folder = tmp_path_factory.getbasetemp()
    first = named("t", random_records(seed, n, seeds=seeds, clusters=clusters))
    second = named("t", random_records(seed + 1, n + 2, clusters=None if one_sided else clusters))
    a, b = as_records(folder / "a", first), as_records(folder / "b", second)
    for there, back in zip(compare_runs(a, b, ("acc", "log_loss")), compare_runs(b, a, ("acc", "log_loss")), strict=True):
        assert there["difference"] == pytest.approx(-back["difference"], abs=1e-15)
        for key, other in [("a", "b"), ("n_only_a", "n_only_b"), ("right_in_a_only", "right_in_b_only")]:
            assert (there[key], there[other]) == (back[other], back[key])
        assert (there["n"], there["n_clusters"], there["test"]) == (back["n"], back["n_clusters"], back["test"])
        for key in ("p_value", "p_holm", "stderr", "minimum_detectable_effect"):
            assert [there[key] or 0.0] == pytest.approx([back[key] or 0.0], rel=1e-9), key
        if there["ci95"] is not None:
            assert there["ci95"] == pytest.approx((-back["ci95"][1], -back["ci95"][0]), rel=1e-9, abs=1e-15)


def test_a_run_beside_itself_does_not_differ(tmp_path: Path):
    path = as_results(tmp_path / "a", A)
    [row] = compare_runs(path, path)
    assert (row["difference"], row["p_value"], row["right_in_a_only"], row["n_only_a"]) == (0.0, 1.0, 0, 0)


@pytest.mark.parametrize("form", FORMS)
def test_several_tasks_are_compared_where_both_runs_have_them(tmp_path: Path, form: str):
    a = FORMS[form](tmp_path / "a", A, TARGETS[0], named("only here", random_records(3, 4)))
    b = FORMS[form](tmp_path / "b", TARGETS[1], B)
    rows = compare_runs(a, b)
    assert [row["task"] for row in rows] == ["t", "u"]
    with pytest.raises(InputError, match="task t has no target_nll_nats in both runs: there are acc, acc_batch"):
        compare_runs(a, b, ("target_nll_nats",))
    [row] = compare_runs(as_results(tmp_path / "c", TARGETS[0]), b, ("target_nll_nats",))
    assert (row["task"], row["a"], row["b"], row["difference"]) == ("u", 1.0, 2.5, -1.5)


def test_a_rule_that_one_run_lacks_is_named(tmp_path: Path):
    bare = named("t", [made._replace(neutral_nats=()) for made in A.records])
    with pytest.raises(InputError, match="task t has no acc_contextual in both runs: there are acc, acc_batch, acc_bytes"):
        compare_runs(as_results(tmp_path / "a", A), as_results(tmp_path / "b", bare), ("acc_contextual",))


def test_items_of_one_run_alone_are_counted(tmp_path: Path):
    a, b = as_results(tmp_path / "a", A._replace(records=A.records[:7])), as_results(tmp_path / "b", B)
    [row] = compare_runs(a, b)
    assert (row["n"], row["n_only_a"], row["n_only_b"]) == (7, 0, 5)
    other = named("t", [made._replace(item=f"other {made.item}") for made in B.records])
    with pytest.raises(InputError, match="no item is in both runs"):
        compare_runs(a, as_results(tmp_path / "c", other))


def test_seeds_are_averaged_before_runs_are_compared(tmp_path: Path):
    right, wrong = [-1.0, -2.0], [-2.0, -1.0]
    several = [record(f"i{i}", right if s < i else wrong, seed=s) for i in range(4) for s in range(2)]
    once = [record(f"i{i}", right) for i in range(4)]
    paths = as_results(tmp_path / "a", named("t", several)), as_results(tmp_path / "b", named("t", once))
    assert dict(read_run(paths[0])["t"].values["acc"]) == {"i0": 0.0, "i1": 0.5, "i2": 1.0, "i3": 1.0}
    [row] = compare_runs(*paths)
    assert (row["n"], row["a"], row["b"], row["test"], row["right_in_a_only"]) == (4, 0.625, 1.0, "t", None)


def test_clusters_of_either_run_count(tmp_path: Path):
    clustered = named("t", [made._replace(cluster=f"c{i % 3}") for i, made in enumerate(A.records)])
    a, b = as_results(tmp_path / "a", clustered), as_results(tmp_path / "b", B)
    for first, second in ((a, b), (b, a)):
        [row] = compare_runs(first, second)
        assert (row["n_clusters"], row["test"]) == (3, "t")


def results(**changes: Any) -> str:
    return json.dumps({**json.loads(json.dumps(as_json(summarise(A)))), **changes})


ITEM = {"item": "i0", "row": 0, "seed": 0, "cluster": None, "gold": [0], "predicted": 0, "acc": 1}
NO_RUNS: dict[str, tuple[str, str]] = {
    "empty": ("", "neither results JSON nor records"),
    "text": ("Once upon a time", "neither results JSON nor records"),
    "cut JSON": (results()[:-100], "neither results JSON nor records of lmeval run, or was cut"),
    "a list": ("[1, 2]", "neither results JSON nor records"),
    "a number": ("5", "neither results JSON nor records"),
    "a string": ('"tasks"', "neither results JSON nor records"),
    "nested": ("[" * 100_000, "neither results JSON nor records"),
    "JSON of something else": ('{"a": 1}', "neither results JSON nor records"),
    "no provenance": (results(provenance=None), "neither results JSON nor records"),
    "a perplexity": (results(items=None, documents=[]), "holds no items to compare"),
    "no items": (results(items=[]), "holds no items to compare"),
    "items of another kind": (results(items={"a": 1}), "neither results JSON nor records"),
    "an item without a name": (results(items=[{"acc": 1}]), "neither results JSON nor records"),
    "an item whose name is a list": (results(items=[ITEM | {"item": [1]}]), "neither results JSON nor records"),
    "a value that is none": (results(items=[ITEM | {"acc": None}]), "neither results JSON nor records"),
    "a value that is text": (results(items=[ITEM | {"acc": "high"}]), "neither results JSON nor records"),
    "a value that is NaN": (results(items=[ITEM | {"acc": float("nan")}]), "neither results JSON nor records"),
    "an accuracy of 7": (results(items=[ITEM | {"acc": 7}]), "neither results JSON nor records"),
    "an item without its accuracy": (
        results(items=[ITEM, {k: v for k, v in ITEM.items() if k != "acc"} | {"item": "other"}]),
        "neither results JSON nor records",
    ),
    "tasks of another kind": (results(tasks=["t"]), "neither results JSON nor records"),
    "a task of another kind": (results(tasks={"t": 5}), "neither results JSON nor records"),
    "another task": (results(provenance={"task": "other"}), "no task is in both"),
    "a header alone": ('{"kind": "lmeval.records", "schema": 1, "task": "t", "n_records": 3}', "the file was cut"),
}


@pytest.mark.parametrize("kind", NO_RUNS)
def test_what_is_no_run_is_said_in_one_line(tmp_path: Path, kind: str):
    text, message = NO_RUNS[kind]
    (tmp_path / "bad").write_text(text)
    good = as_results(tmp_path / "good", A)
    for pair in ((tmp_path / "bad", good), (good, tmp_path / "bad")):
        with pytest.raises(InputError) as caught:
            compare_runs(*pair)
        assert message in str(caught.value) and "\n" not in str(caught.value)


@given(st.integers(0, 10**9), st.integers(0, 255), st.booleans())
def test_a_changed_file_never_fails_otherwise(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, in_results: bool
):
    folder = tmp_path_factory.getbasetemp()
    original = folder / f"original {in_results}"
    if not original.exists():
        FORMS["results" if in_results else "records"](original, A)
    data = bytearray(original.read_bytes())
    data[place % len(data)] = byte
    (folder / "changed").write_bytes(data)
    try:
        compare_runs(folder / "changed", original)
    except LmevalError as error:
        assert "\n" not in str(error).replace(chr(byte), "")


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    for path, message in ((tmp_path / "absent", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputNotFound, match=message):
            read_run(path)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(InputError, match="neither results JSON nor records"):
        read_run(tmp_path / "bytes")
