import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from items import ACC, LOSS, report_with
from prompted import LEDGER, random_records, record, report_of
from schema1 import old_provenance, old_records, old_results, old_together

from lmeval.errors import InputError, InputNotFound, LmevalError
from lmeval.prompting import Record, read_old_records
from lmeval.results import Report, together, write_json
from lmeval.results.compare import compare_reports
from lmeval.results.reading import read_results
from lmeval.results.records import records_of, write_records

A, B = random_records(1, 12), random_records(2, 12)


def results(path: Path, *tasks: tuple[str, Sequence[Record]]) -> Path:
    write_json(together("run", tuple(report_of(made, task=name) for name, made in tasks), {}), path)
    return path


def records(path: Path, *tasks: tuple[str, Sequence[Record]]) -> Path:
    write_records([made for name, own in tasks for made in records_of(report_of(own, task=name))], path)
    return path


def results_1(path: Path, *tasks: tuple[str, Sequence[Record]]) -> Path:
    parts = {name: old_results(report_of(made, task=name), name) for name, made in tasks}
    path.write_text(json.dumps(next(iter(parts.values())) if len(parts) == 1 else old_together(parts)))
    return path


def records_1(path: Path, *tasks: tuple[str, Sequence[Record]]) -> Path:
    path.write_text("\n".join(line for name, made in tasks for line in old_records(made, LEDGER, name)))
    return path


FORMS: dict[str, Callable[..., Path]] = {f.__name__: f for f in (results, records, results_1, records_1)}


def compared(a: Path, b: Path, *metrics: str) -> list[dict[str, Any]]:
    made = [read_results(path, read_old_records) for path in (a, b)]
    return [dict(row) for row in compare_reports(made[0], made[1], metrics, ("a", "b")).tables["differences"]]


@pytest.mark.parametrize("form_a", FORMS)
@pytest.mark.parametrize("form_b", FORMS)
def test_results_and_records_of_both_schemas_compare_alike(tmp_path: Path, form_a: str, form_b: str):
    rows = compared(
        FORMS[form_a](tmp_path / "a", ("t", A), ("u", B)), FORMS[form_b](tmp_path / "b", ("t", B)), "acc", "log_loss"
    )
    expected = compare_reports(report_of(A, task="t"), report_of(B, task="t"), ["acc", "log_loss"]).tables["differences"]
    assert rows == [dict(row) for row in expected]
    assert [(row["metric"], row["test"]) for row in rows] == [("acc", "mcnemar"), ("log_loss", "t")]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_beside_itself_does_not_differ(tmp_path: Path, form: str):
    path = FORMS[form](tmp_path / "a", ("t", A), ("u", B))
    rows = compared(path, path)
    assert [(row["of"]["task"], row["difference"], row["p_value"]) for row in rows] == [("t", 0.0, 1.0), ("u", 0.0, 1.0)]


def test_a_report_reads_back_whole(tmp_path: Path):
    made = report_of(A)
    write_json(made, tmp_path / "a")
    read = read_results(tmp_path / "a")
    assert (read.kind, read.results, read.ledger, read.provenance) == (made.kind, made.results, made.ledger, made.provenance)
    assert made.items is not None and read.items is not None
    assert [r.values for r in read.items.records] == [r.values for r in made.items.records]


def test_old_targets_and_clusters_are_read(tmp_path: Path):
    made = [record(f"i{i}", [-x], cluster=f"c{i % 3}") for i, x in enumerate((1.0, 2.5, 0.5, 3.0, 1.5, 2.0))]
    report = report_of(made, "loglikelihood")
    (tmp_path / "a").write_text(json.dumps(old_results(report)))
    [row] = compared(tmp_path / "a", tmp_path / "a", "target_nll_nats")
    assert (row["a"], row["n_clusters"], row["metric"]) == (pytest.approx(10.5 / 6), 3, "target_nll_nats")


DOCUMENTS = [
    {"name": name, "nll_nats": nats, "n_bytes": 100 * (i + 1), "n_tokens": 10 * (i + 1), "bits_per_byte": None}
    for i, (name, nats) in enumerate([("a.txt", 100.0), ("b.txt", 150.0), ("a.txt", 500.0)])
]


def test_old_perplexity_is_read_by_document(tmp_path: Path):
    old = {"schema": 1, "results": [], "ledger": {}, "provenance": old_provenance("perplexity"), "documents": DOCUMENTS}
    (tmp_path / "a").write_text(json.dumps(old))
    read = read_results(tmp_path / "a")
    assert read.kind == "perplexity" and read.items is not None
    assert [(r.item, dict(r.of)) for r in read.items.records] == [
        (name, {"model": "maker"}) for name in ("a.txt", "b.txt", "a.txt #2")
    ]
    [row] = compared(tmp_path / "a", tmp_path / "a")
    assert (row["metric"], row["a"]) == ("bits_per_byte", pytest.approx(750 / 600 * 1.4426950408889634))


def test_an_old_benchmark_is_read_by_file_and_compressor(tmp_path: Path):
    rows = [
        {"corpus": c, "compressor": k, "n_bytes": 1000, "archive_bytes": 100 * (1 + i), "published": k == "paper"}
        for i, c in enumerate(("x", "y", "z"))
        for k in ("xz", "ours", "paper")
    ]
    old = {"schema": 1, "results": [], "provenance": {"task": "benchmark", "models": []}, "benchmark": rows}
    old["ledger"] = {"sha256": dict.fromkeys("xyz", "0" * 64)}
    (tmp_path / "a").write_text(json.dumps(old))
    assert [(row["of"], row["n"], row["a"]) for row in compared(tmp_path / "a", tmp_path / "a")] == [
        ({"compressor": name}, 3, pytest.approx(1.6)) for name in ("xz", "ours")
    ]


def test_an_old_likelihood_has_measurements_and_no_items(tmp_path: Path):
    row = {"model": "VAE", "bound": "ELBO", "name": "log_likelihood_nats", "value": -9.5, "unit": "nats/datum"}
    row |= {"side": "lower", "stderr": 0.5, "ci95": [-10.0, -9.0], "n": 20, "higher_is_better": True}
    old = {"schema": 1, "results": [row], "ledger": {}, "provenance": {"spec": "digits"}, "bounds": [{}], "sandwiches": []}
    (tmp_path / "a").write_text(json.dumps(old))
    read = read_results(tmp_path / "a")
    assert (read.kind, dict(read.results[0].of), read.results[0].ci95) == (
        "likelihood", {"model": "VAE", "bound": "ELBO"}, (-10.0, -9.0)
    )  # fmt: skip
    with pytest.raises(InputError, match=r"a holds no items to compare \(it is of kind likelihood\)"):
        compared(tmp_path / "a", tmp_path / "a")


def test_old_records_of_likelihoods_are_read_by_datum(tmp_path: Path):
    header = {
        "kind": "lmeval.likelihood",
        "schema": 1,
        "ledger": {"data": "digits test", "space": "17 levels"},
        "provenance": {},
    }
    rows = [
        {"datum": i, "model": model, "bound": "b", "side": side, "nats": -10.0 - i - k}
        for k, (model, side) in enumerate((("VAE", "lower"), ("MADE", "exact")))
        for i in range(3)
    ]
    (tmp_path / "a").write_text("\n".join(json.dumps(row) for row in [header, *rows]) + "\n")
    assert [(dict(row["of"]), row["n"], row["a"], row["side"]) for row in compared(tmp_path / "a", tmp_path / "a")] == [
        ({"model": "VAE", "bound": "b", "side": "lower", "data": "digits test, 17 levels"}, 3, -11.0, "estimate"),
        ({"model": "MADE", "bound": "b", "side": "exact", "data": "digits test, 17 levels"}, 3, -12.0, "exact"),
    ]
    (tmp_path / "a").write_text(json.dumps(header) + "\n" + json.dumps(rows[0])[:-9])
    with pytest.raises(InputError, match="neither results JSON nor records"):
        read_results(tmp_path / "a")


def old(**changes: Any) -> str:
    return json.dumps({**old_results(report_of(A)), **changes})


def new(**changes: Any) -> str:
    from lmeval.results import as_json

    data = json.loads(json.dumps(as_json(report_with({"acc": [1.0, 0.0], "log_loss": [0.5, 2.0]}, [ACC, LOSS]))))
    return json.dumps({**data, **changes})


ITEM = {"item": "i0", "row": 0, "seed": 0, "cluster": None, "gold": [0], "predicted": 0, "acc": 1}
VALUES = {"log_loss": 0.125}
NOTHING_OF_OURS: dict[str, str] = {
    "empty": "",
    "text": "Once upon a time",
    "cut JSON": old()[:-100],
    "a list": "[1, 2]",
    "a number": "5",
    "a string": '"tasks"',
    "nested": "[" * 100_000,
    "JSON of something else": '{"a": 1}',
    "no provenance": old(provenance=None),
    "items of another kind": old(items={"a": 1}),
    "an item without a name": old(items=[{"acc": 1}]),
    "an item whose name is a list": old(items=[ITEM | {"item": [1]}]),
    "a value that is none": old(items=[ITEM | {"acc": None}]),
    "a value that is text": old(items=[ITEM | {"acc": "high"}]),
    "an accuracy of 7": old(items=[ITEM | {"acc": 7}]),
    "a rule's accuracy of 7": old(items=[ITEM | {"correct": 7}]),
    "an item without its accuracy": old(items=[ITEM, {k: v for k, v in ITEM.items() if k != "acc"} | {"item": "other"}]),
    "an item with an accuracy more": old(items=[ITEM, ITEM | {"item": "other", "acc_norm": 1}]),
    "tasks of another kind": old(tasks=["t"]),
    "a task of another kind": old(tasks={"t": 5}),
    "no results": new(results=None),
    "a result that is none": new(results=[{"name": "acc"}]),
    "no tables": new(tables=None),
    "no provenance of today": new(provenance=5),
    "a ledger that is a list": new(ledger=[1]),
    "items that are none": new(items=[]),
    "no metrics": new(items={"rows": [], "ordered": False}),
    "a share of 7": new(
        items={"ordered": False, "metrics": [ACC._asdict()], "rows": [{"item": "a", "of": {}, "values": {"acc": 7}}]}
    ),
    **{
        f"a value of {value:.5}": new(
            items={"ordered": False, "metrics": [LOSS._asdict()], "rows": [{"item": "a", "of": {}, "values": VALUES}]}
        ).replace("0.125", value)
        for value in ("NaN", "1e999", "1" + "0" * 400)
    },
}


@pytest.mark.parametrize("kind", NOTHING_OF_OURS)
def test_what_is_neither_results_nor_records_is_said_in_one_line(tmp_path: Path, kind: str):
    assert read_results(results_1(tmp_path / "good", ("t", A))).items is not None
    (tmp_path / "bad").write_text(NOTHING_OF_OURS[kind])
    with pytest.raises(InputError) as caught:
        read_results(tmp_path / "bad")
    assert "bad is neither results JSON nor records of lmeval" in str(caught.value) and "\n" not in str(caught.value)


def test_a_later_schema_is_named(tmp_path: Path):
    (tmp_path / "later").write_text(new(schema=3))
    with pytest.raises(InputError, match="results of schema 3; this reads 1 and 2"):
        read_results(tmp_path / "later")


@given(st.integers(0, 10**9), st.integers(0, 255), st.sampled_from(list(FORMS)))
def test_a_changed_file_never_fails_otherwise(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, form: str):
    folder = tmp_path_factory.getbasetemp()
    original = folder / f"original {form}"
    if not original.exists():
        FORMS[form](original, ("t", A[:3]))
    data = bytearray(original.read_bytes())
    data[place % len(data)] = byte
    (folder / "changed").write_bytes(data)
    try:
        compared(folder / "changed", original)
    except LmevalError as error:
        assert "\n" not in str(error).replace(chr(byte), "")


def test_files_that_cannot_be_read_are_named(tmp_path: Path):
    for path, message in ((tmp_path / "absent", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputNotFound, match=message):
            read_results(path)
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(InputError, match="neither results JSON nor records"):
        read_results(tmp_path / "bytes")


def test_a_report_without_items_reads_back(tmp_path: Path):
    write_json(Report("demo"), tmp_path / "a")
    assert read_results(tmp_path / "a") == Report("demo")
