"""`lmeval run`, `rescore` and `compare` as a user meets them."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Ran, Run, assert_one_line
from processes import LAUNCH
from prompted import CHOICES, LABELS, ROWS, TARGETS, record, records_in, report_of, task_file
from samples import ROOT, command, llama_config, save_pair

from lmeval.models import load_model
from lmeval.perplexity import perplexity
from lmeval.prompting import RULES, RunSettings, records_of_items, run_task
from lmeval.results import as_json
from lmeval.results.records import read_records, records_of, write_records
from lmeval.specs.tasks import read_rolling_task, task_corpus

OURS = {"neutral": [{"q": "N/A"}], "unconditional": "so"}
CORPUS = {"task": "corpus", "dataset_path": "json", "test_split": "test", "output_type": "loglikelihood_rolling"} | {
    "doc_to_target": "q",
    "metric_list": ["bits_per_byte"],
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("models") / "tiny", llama_config(256))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, beside the one with the task files."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loads a model fails."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    for name in ("lmeval.models.causal.load_model", "lmeval.models.as_model", "lmeval.prompting.run.as_model"):
        monkeypatch.setattr(name, refused)


def read(path: Path) -> dict[str, Any]:
    """A results file less what may differ between two equal runs."""
    found = json.loads(path.read_text())
    for part in [found, *found.get("parts", [])]:
        for key in ("date", "seconds"):
            part["provenance"].pop(key, None)
    return found


def without_task(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results without the task that they are of."""
    return [{**row, "of": {key: value for key, value in row["of"].items() if key != "task"}} for row in results]


def succeeded(ran: Ran) -> str:
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[0] and lines[-1]
    return ran.out


def test_the_command_writes_what_the_function_returns(run: Run, model: Path, here: Path, tmp_path: Path):
    path = task_file(tmp_path, LABELS, lmeval=OURS, fewshot_split="test", metric_list=["acc", "exact_match"])
    options = ["-k2", "--sampler=fixed", "--seed=5", "--shot-seeds=2", "--limit=6", "--batch-size=4", "--strategy=plain"]
    succeeded(
        run("run", path, "-m", model, *options, "--dtype=float64", "--device=cpu", "--json=o.json", "--records=r.jsonl")
    )
    settings = RunSettings(2, "fixed", 6, 5, 2, 4, strategy="plain")
    found = run_task(path, load_model(str(model), dtype="float64"), settings, place="cpu")
    expected = json.loads(json.dumps(as_json(found)))
    ours = read(here / "o.json")
    assert list(ours) == ["schema", "kind", "results", "ledger", "provenance", "tables", "items"]
    assert (ours["schema"], ours["kind"]) == (2, "run")
    assert list(ours["tables"]) == ["rules", "reliability", "confusion", "shot_seeds"]
    for key in ours.keys() - {"provenance"}:
        assert ours[key] == expected[key], key
    assert ours["provenance"]["settings"] == expected["provenance"]["settings"]
    assert ours["provenance"]["models"][0]["dtype"] == "float64"
    [records] = read_records(here / "r.jsonl")
    assert records_of_items(records.records) == records_in(found)


def test_results_keep_to_the_contract(run: Run, model: Path, here: Path):
    succeeded(run("run", "sentiment", "-m", model, "--limit", "12", "--json", "o.json"))
    found = json.loads((here / "o.json").read_text())
    assert (found["schema"], found["kind"]) == (2, "run")
    for result in found["results"]:
        assert list(result) == ["name", "value", "unit", "side", "stderr", "ci95", "n", "higher_is_better", "of"]
        assert (result["of"]["task"], result["of"]["model"]) == ("sentiment", str(model))
        assert result["of"]["rule"] in RULES
        assert result["side"] == "exact" and result["n"] == 12
        assert result["ci95"] is None or result["ci95"][0] <= result["value"] <= result["ci95"][1]
    names = [result["name"] for result in found["results"]]
    assert names[:7] == [rule.metric for rule in RULES.values()]
    assert {"log_loss", "brier_score", "ece", "balanced_acc", "macro_f1", "mcc", "f1"} <= set(names)
    assert len(names) == len(set(names))
    assert found["ledger"]["n_items"] == 12 and found["ledger"]["n_rows"] == 380
    assert found["provenance"]["inputs"]["task"] == "sentiment" and "data_sha256" in found["provenance"]["inputs"]
    assert {"versions", "models", "device", "date", "settings"} <= found["provenance"].keys()
    item = found["items"]["rows"][0]
    assert list(item["detail"]) == ["row", "gold", "predicted"]
    assert {"acc", "acc_batch", "log_loss"} <= item["values"].keys() == {m["name"] for m in found["items"]["metrics"]}


def test_the_table_shows_what_was_found(run: Run, model: Path, here: Path):
    out = succeeded(
        run("run", "sentiment", "-m", model, "--limit", "20", "-k", "1", "--shot-seeds", "2", "--json", "o.json")
    )
    found = read(here / "o.json")
    results = {result["name"]: result for result in found["results"]}
    for name, rule in RULES.items():
        acc = results[rule.metric]
        shown = re.search(rf"^{name} +(\S+)  (\S+) to (\S+) ", out, re.MULTILINE)
        assert shown and shown.groups() == tuple(f"{x:.4f}" for x in (acc["value"], *acc["ci95"])), name
    for name in ("log_loss", "brier_score", "ece", "balanced_acc", "macro_f1", "mcc", "f1"):
        assert f"{results[name]['value']:.4f}" in out, name
    ledger, cost = found["ledger"], found["ledger"]["cost"]
    assert f"{ledger['n_items_scored']} scored, from the first 20 of 380 in the split" in out
    assert "1 example from train, drawn for each item, seeds 0 to 1" in out
    assert f"{cost['n_tokens']:,} tokens through the model" in out
    assert f"95%, from {ledger['interval']['n_units']} items, and seeds of few-shot examples" in out
    assert "sentiment, version 1.0, test split of" in out
    [seeds] = [row for row in found["tables"]["shot_seeds"]["rows"] if row["rule"] == "sum"]
    assert "".join(f"  {x:.4f}" for x in seeds["acc_by_seed"]) in out
    assert (
        ledger["n_items_too_long"] and f"{ledger['n_items_too_long']} LEFT OUT, longer than the context (first: row" in out
    )


def test_numbers_stand_below_each_other(run: Run, model: Path, here: Path, monkeypatch: pytest.MonkeyPatch):
    wide = succeeded(run("run", "sentiment", "-m", model, "--limit", "30"))
    lines = wide.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("rule "))
    for title in ("accuracy", "log loss", "Brier", "ECE", "MCC"):
        end = lines[start].index(title) + len(title)
        assert all(line[end - 1].isdigit() and line[end] == " " for line in lines[start + 1 : start + 8]), title
    monkeypatch.setenv("COLUMNS", "20")
    narrow = succeeded(run("run", "sentiment", "-m", model, "--limit", "30"))
    assert re.sub(r", [\d.]+ s$", "", narrow, flags=re.M) == re.sub(r", [\d.]+ s$", "", wide, flags=re.M)


def test_rescoring_gives_the_report_of_the_run(
    run: Run, model: Path, here: Path, tmp_path: Path, request: pytest.FixtureRequest
):
    path = task_file(tmp_path, LABELS, lmeval=OURS | {"cluster": "topic"})
    first = succeeded(run("run", path, "-m", model, "--json", "a.json", "--records", "r.jsonl"))
    request.getfixturevalue("no_model")
    again = succeeded(run("rescore", "r.jsonl", "--json", "b.json"))
    assert first == again
    assert (here / "a.json").read_bytes() == (here / "b.json").read_bytes()


def test_several_tasks_are_scored_at_once(run: Run, model: Path, here: Path, tmp_path: Path, request: pytest.FixtureRequest):
    rows = [{"q": "Once upon a time there was a byte."}, {"q": "And another one."}]
    paths = [task_file(tmp_path, keys) for keys in (CHOICES, TARGETS)] + [task_file(tmp_path, CORPUS, rows)]
    out = succeeded(run("run", *paths, "-m", model, "--json", "o.json", "--records", "r.jsonl"))
    found = read(here / "o.json")
    assert [part["kind"] for part in found["parts"]] == ["run", "run", "perplexity"]
    assert [row for part in found["parts"] for row in part["results"]] == found["results"]
    parts = {part["results"][0]["of"]["task"]: part for part in found["parts"]}
    assert list(parts) == ["odd_ones", "targets", "corpus"]
    assert all(row["of"]["task"] == name for name, part in parts.items() for row in part["results"])
    loaded = load_model(str(model))
    for path in paths[:2]:
        expected = json.loads(json.dumps(as_json(run_task(path, loaded))))
        assert parts[path.stem]["results"] == expected["results"]
    expected = as_json(perplexity(loaded, task_corpus(read_rolling_task(paths[2]))))
    assert without_task(parts["corpus"]["results"]) == json.loads(json.dumps(expected))["results"]
    for words in ("odd_ones, test split", "per_character", "target_nll_nats", "bits_per_byte"):
        assert words in out
    sets = read_records(here / "r.jsonl")
    assert [one.header.of["task"] for one in sets] == ["odd_ones", "targets", "corpus"]
    assert [one.header.report for one in sets] == ["run", "run", "perplexity"]
    request.getfixturevalue("no_model")
    rescored = succeeded(run("rescore", "r.jsonl", "--json", "again.json"))
    assert rescored.startswith(out[: out.index("\ntext  ")]) and "records of  perplexity" in rescored
    again = read(here / "again.json")
    assert again["parts"][:2] == [parts[name] for name in ("odd_ones", "targets")]
    bits = [
        [r["value"] for r in part["results"] if r["name"] == "bits_per_byte"]
        for part in (again["parts"][2], found["parts"][2])
    ]
    assert bits[0] == pytest.approx(bits[1], rel=1e-12)
    shown = succeeded(run("compare", "o.json", "r.jsonl"))
    for name, metric in (("odd_ones", "acc"), ("targets", "acc"), ("corpus", "bits_per_byte")):
        assert re.search(rf"^{name} +{metric} .*(no difference seen|too few items to tell)$", shown, re.M), shown


def test_a_corpus_can_be_run_alone(run: Run, model: Path, here: Path, tmp_path: Path):
    path = task_file(tmp_path, CORPUS, [{"q": "one document"}, {"q": "two documents"}, {"q": "three"}])
    succeeded(run("run", path, "-m", model, "--json", "a.json"))
    succeeded(run("perplexity", path, "-m", model, "--json", "b.json"))
    ours, theirs = read(here / "a.json"), read(here / "b.json")
    assert {row["of"]["task"] for row in ours["results"]} == {"corpus"}
    assert without_task(ours["results"]) == without_task(theirs["results"])
    assert {**ours, "results": [], "items": None} == {**theirs, "results": [], "items": None}
    windows = ("--context", "8", "--stride", "4")
    for name, word in (("d", "run"), ("e", "perplexity")):
        succeeded(run(word, path, "-m", model, "--json", f"{name}.json", *windows))
    assert read(here / "d.json")["ledger"]["windows"]["stride"] == 4
    assert without_task(read(here / "d.json")["results"]) == without_task(read(here / "e.json")["results"])
    succeeded(run("run", path, "-m", model, "--json", "c.json", "--limit", "2"))
    assert read(here / "c.json")["ledger"]["n_documents"] == 2
    succeeded(run("run", path, "-m", model, "--records", "r.jsonl"))
    shown = succeeded(run("compare", "a.json", "r.jsonl"))
    assert re.search(r"^corpus +bits_per_byte ", shown, re.M)


def test_two_runs_are_compared(run: Run, model: Path, here: Path, tmp_path: Path):
    other = save_pair(tmp_path / "other", llama_config(256, hidden_size=16))
    path = task_file(tmp_path, LABELS)
    for name, folder in (("a", model), ("b", other)):
        succeeded(run("run", path, "-m", folder, "--json", f"{name}.json", "--records", f"{name}.jsonl"))
    shown = succeeded(run("compare", "a.json", "b.jsonl", "--json", "c.json"))
    found = json.loads((here / "c.json").read_text())
    ledger = found["ledger"]
    assert (found["schema"], found["kind"], ledger["a"], ledger["b"]) == (2, "compare", "a.json", "b.jsonl")
    [row] = found["tables"]["differences"]["rows"]
    [result] = found["results"]
    assert (result["name"], result["value"], result["ci95"]) == ("acc_difference", row["difference"], row["ci95"])
    accs = [next(r["value"] for r in read(here / f"{name}.json")["results"] if r["name"] == "acc") for name in "ab"]
    assert [row["a"], row["b"]] == pytest.approx(accs)
    assert f"{row['a']:.4f}  {row['b']:.4f}  {row['difference']:+.4f}" in shown
    assert re.search(r"^A +a.json", shown, re.M) and "only A right" in shown and "Holm): adjusted" not in shown
    both = succeeded(run("compare", "b.json", "a.json", "--metric", "log_loss", "--metric", "acc"))
    assert "log_loss: lower is better" in both and "p (Holm): adjusted for 2 comparisons" in both
    assert_one_line(run("compare", "a.json", path), "neither results JSON nor records")
    assert_one_line(run("compare", "a.json", "none"), "cannot read none")
    assert_one_line(run("compare", "a.json", "b.json", "--metric", "accc"), "no accc in both results")
    assert_one_line(run("compare", "a.json", "b.json", "--json", "a.json"), "it is an input")
    assert sorted(p.name for p in here.iterdir()) == ["a.json", "a.jsonl", "b.json", "b.jsonl", "c.json"]


def test_names_are_shown_as_they_are(run: Run, model: Path, here: Path, tmp_path: Path):
    choices = ["[red]no", "[/b]", "[x"]
    path = task_file(tmp_path, LABELS, task="[bold] task", doc_to_choice=choices)
    out = succeeded(run("run", path, "-m", model, "--json", "[b].json"))
    for name in ("[bold] task", *choices):
        assert name in out
    shown = succeeded(run("compare", "[b].json", "[b].json"))
    assert re.search(r"^A +\[b\].json", shown, re.M) and "[bold] task  acc" in shown


def test_ties_and_the_boundary_are_said(run: Run, model: Path, here: Path, tmp_path: Path):
    rows = [{**row, "options": ["same", "same", "other"]} for row in ROWS]
    found = run_task(task_file(tmp_path, CHOICES, rows, output_type="multiple_choice"), load_model(str(model)))
    n_ties = found.ledger["n_ties"]
    assert n_ties
    assert f"{n_ties} tie" in succeeded(run("run", tmp_path / "odd_ones.yaml", "-m", model))


def changed(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: task_file(folder, CHOICES, **changes)


def with_text(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "odd_ones.yaml").write_text(text)


BAD_TASKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda folder: None, "no such task file"),
    "no YAML": (with_text("task: [a, b\nx: y"), "odd_ones.yaml: line 2"),
    "a list": (with_text("- a\n- b\n"), "not a task file"),
    "empty": (with_text(""), "not a task file"),
    "no UTF-8": (lambda folder: (folder / "odd_ones.yaml").write_bytes(b"task: \xff"), "not UTF-8"),
    "a misspelt key": (changed(doc_to_txt="q"), "unknown key 'doc_to_txt' (did you mean 'doc_to_text'?)"),
    "generated text": (changed(output_type="generate_until"), "tasks that generate text are not"),
    "no choices": (changed(doc_to_choice=None), "key 'doc_to_choice' must be given"),
    "no split": (changed(test_split=None), "say which split to score"),
    "another split": (changed(test_split="dev"), "data_files has no entry for the split 'dev'"),
    "an unknown metric": (changed(metric_list=["accc"]), "unknown metric 'accc' (did you mean 'acc'?)"),
    "f1 of three": (
        changed(metric_list=["f1"], doc_to_choice=["a", "b", "c"], doc_to_target="label"),
        "odd_ones.yaml: the metric f1 needs two labels, the same for every item",
    ),
    "a missing column": (changed(doc_to_text="question"), "no column 'question'"),
    "a missing column in a template": (changed(doc_to_text="{{question}}"), "question"),
    "a template that is none": (changed(doc_to_text="{{q"), "line 5: doc_to_text"),
    "a template that fails": (changed(doc_to_text="{{ 1 // label }}"), "doc_to_text for item"),
    "a label outside the choices": (changed(doc_to_target="{{label + 5}}"), "label 5 is none of the 3 choices"),
    "a hidden label": (changed(doc_to_target="{{ -1 }}"), "none of the 3 choices"),
    "a label that is text": (changed(doc_to_target="q"), "label 'one and one' is none of the 3 choices"),
    "an empty choice": (changed(doc_to_choice="{{['a', '']}}"), "choice 1 is empty"),
    "choices that are none": (changed(doc_to_choice="q"), "no list of texts"),
    "a neutral column": (changed(lmeval={"neutral": [{"qq": ""}]}), "no column 'qq' (did you mean 'q'?)"),
    "a cluster column": (changed(lmeval={"cluster": "subject"}), "no column 'subject'"),
    "no examples": (changed(num_fewshot=9), "9 few-shot examples are wanted, but the pool has 7 rows"),
    "code": (with_text("task: t\ndoc_to_text: !function evil.run\n"), "--allow-code"),
    "no data": (changed(dataset_kwargs={"data_files": {"test": "gone.jsonl"}}), "gone.jsonl"),
    "empty data": (lambda folder: task_file(folder, CHOICES, []), "odd_ones.jsonl"),
    "broken data": (
        lambda folder: [task_file(folder, CHOICES), (folder / "odd_ones.jsonl").write_text('{"q": 1\n{{')],
        "odd_ones.jsonl",
    ),
    "a prompt that is too long": (changed(doc_to_text="{{q * 999 + 'x' * 300}}"), "none of the 7 items of odd_ones fits"),
}


@pytest.mark.parametrize("kind", BAD_TASKS)
def test_a_bad_task_is_one_line_and_leaves_no_file(run: Run, model: Path, here: Path, tmp_path: Path, kind: str):
    make, message = BAD_TASKS[kind]
    make(tmp_path)
    ran = run("run", tmp_path / "odd_ones.yaml", "-m", model, "--json", "o.json", "--records", "r.jsonl")
    assert_one_line(ran, message)
    assert ran.status == 1
    assert list(here.iterdir()) == []


BAD_OPTIONS: dict[str, tuple[list[str], int, str]] = {
    "no task": ([], 2, "TASK"),
    "a misspelt task": (["sentment"], 1, "no task sentment"),
    "its nearest": (["sentment"], 1, "did you mean 'sentiment'?"),
    "one task twice": (["TASK", "TASK"], 1, "two of the tasks are called odd_ones"),
    "a bad task behind a good one": (["TASK", "sentment"], 1, "no task sentment"),
    "no examples to draw": (["TASK", "--shot-seeds", "2"], 1, "would score the same prompts again"),
    "no such sampler": (["TASK", "--sampler", "fixt"], 2, "--sampler"),
    "no such strategy": (["TASK", "--strategy", "bush"], 2, "--strategy"),
    "a stride beyond the context": (["corpus", "--context", "8", "--stride", "9"], 1, "must lie between 1 and the context"),
    "no items": (["TASK", "--limit", "0"], 2, "--limit"),
    "no number": (["TASK", "-k", "few"], 2, "--num-fewshot"),
    "a negative number": (["TASK", "-k", "-1"], 2, "--num-fewshot"),
    "no such option": (["TASK", "--num-few", "1"], 2, "--num-few"),
    "no such model": (["TASK", "-m", "./absent"], 1, "no model folder"),
    "no such device": (["TASK", "--device", "toaster"], 1, "unknown device"),
    "a device that is not here": (["TASK", "--device", f"cuda:{torch.cuda.device_count()}"], 1, "is not here"),
    "results into no folder": (["TASK", "--json", "nowhere/o.json"], 1, "there is no folder nowhere"),
    "records into no folder": (["TASK", "--records", "nowhere/r.jsonl"], 1, "there is no folder nowhere"),
    "results into a folder": (["TASK", "--json", "."], 1, "not an ordinary file"),
    "one file for both": (["TASK", "--json", "o", "--records", "o"], 1, "another output of this run"),
    "results over the task": (["TASK", "--json", "TASK"], 1, "it is an input"),
    "no folder of data": (["sst2", "--data-dir", "nowhere"], 1, "no folder nowhere"),
    "data that are not there": (["sst2", "--data-dir", "."], 1, "is not there"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_a_bad_option_is_one_line(run: Run, model: Path, here: Path, tmp_path: Path, kind: str):
    options, status, message = BAD_OPTIONS[kind]
    path = task_file(tmp_path, CHOICES)
    before = path.read_bytes()
    files = {"TASK": path, "corpus": task_file(tmp_path, CORPUS)}
    named = [str(files.get(option, option)) for option in options]
    ran = run("run", *named, *([] if "-m" in options else ["-m", model]))
    assert_one_line(ran, message)
    assert ran.status == status
    assert list(here.iterdir()) == [] and path.read_bytes() == before


def test_a_task_that_a_folder_hides_is_said(run: Run, model: Path, here: Path):
    (here / "sentiment").mkdir()
    assert_one_line(run("run", "sentiment", "-m", model), "task sentiment is hidden by a file or folder of that name")


def test_a_failure_leaves_the_files_of_an_earlier_run(run: Run, model: Path, here: Path, tmp_path: Path):
    good, bad = task_file(tmp_path, CHOICES), task_file(tmp_path, TARGETS, doc_to_text="{{ 1 // label }}")
    for name in ("o.json", "r.jsonl"):
        (here / name).write_text("old")
    ran = run("run", good, bad, "-m", model, "--json", "o.json", "--records", "r.jsonl")
    assert (ran.status, len(ran.err.splitlines())) == (1, 1)
    assert [path.read_text() for path in here.iterdir()] == ["old", "old"]


def test_records_that_cannot_be_rescored_are_one_line(run: Run, here: Path):
    (here / "text").write_text("Once upon a time")
    (here / "cut").write_text('{"kind": "lmeval.records", "schema": 1, "task": "t", "n_records": 3}\n')
    for name, message in (("absent", "No such file"), (".", "Is a directory"), ("text", "line 1"), ("cut", "file was cut")):
        assert_one_line(run("rescore", name, "--json", "o.json"), message)
    assert_one_line(run("rescore", "text", "--json", "text"), "it is an input")
    foreign = replace(report_of([record("i0", [-1.0, -2.0])]), ledger={"output_type": "multiple_choice"})
    write_records(records_of(foreign), here / "foreign")
    assert_one_line(run("rescore", "foreign", "--json", "o.json"), "foreign lacks what lmeval writes into the header")
    assert sorted(path.name for path in here.iterdir()) == ["cut", "foreign", "text"]


@pytest.mark.parametrize("name", ["run", "rescore", "compare"])
def test_help_is_help(run: Run, name: str):
    ran = run(name, "--help")
    assert ran.status == 0 and "--json" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 110


@pytest.mark.slow
def test_two_processes_write_what_one_writes(model: Path, here: Path, tmp_path: Path):
    task = task_file(tmp_path, LABELS, lmeval=OURS, fewshot_split="test")
    arguments = [
        "run",
        str(task),
        "sentiment",
        "-m",
        str(model),
        "--device",
        "cpu",
        "-k",
        "1",
        "--limit",
        "9",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    shown = []
    for name, launch in (("one", command()), ("two", [*LAUNCH, *command()[1:]])):
        ran = subprocess.run(
            [*launch, *arguments, "--json", f"{name}.json", "--records", f"{name}.jsonl"],
            cwd=here,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert ran.returncode == 0, ran.stderr
        shown.append(re.sub(r"[\d.]+ s$", "", ran.stdout, flags=re.M))
    one, two = read(here / "one.json"), read(here / "two.json")
    for found, size in ((one, 1), (two, 2)):
        for part in [found, *found["parts"]]:
            assert part["provenance"].pop("n_processes") == size
    assert one == two
    assert shown[0] == shown[1]
    for a, b in zip(read_records(here / "one.jsonl"), read_records(here / "two.jsonl"), strict=True):
        assert a.records == b.records


@pytest.mark.parametrize("option", ["--json", "--records"])
@pytest.mark.parametrize("name", ["rows", "shots", "task", "base", "link"])
def test_no_output_takes_the_place_of_what_a_task_is_read_from(
    run: Run, model: Path, here: Path, tmp_path: Path, option: str, name: str
):
    rows, shots = tmp_path / "mine.jsonl", tmp_path / "examples.jsonl"
    for file in (rows, shots):
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    files = {"data_files": {"test": rows.name, "train": shots.name}}
    path = task_file(tmp_path, LABELS, dataset_kwargs=files, fewshot_split="train")
    own = tmp_path / "own.yaml"
    own.write_text(f"include: {path.name}\ntask: own\n")
    (here / "link").symlink_to(rows)
    target = {"rows": rows, "shots": shots, "task": own, "base": path, "link": here / "link"}[name]
    before = target.read_bytes()
    ran = run("run", own, "-m", model, option, target)
    assert_one_line(ran, "is an input")
    assert target.read_bytes() == before


def test_perplexity_does_not_overwrite_the_rows_of_its_task(run: Run, model: Path, here: Path, tmp_path: Path):
    path = task_file(tmp_path, CORPUS)
    rows = next(file for file in tmp_path.iterdir() if file.suffix == ".jsonl")
    before = rows.read_bytes()
    for option in ("--json", "--records"):
        assert_one_line(run("perplexity", path, "-m", model, option, rows), "is an input")
    assert rows.read_bytes() == before


def test_json_on_standard_output_is_all_that_stands_there(run: Run, tmp_path: Path):
    records = tmp_path / "records.jsonl"
    ran = run("run", "sentiment", "--limit", 4, "--json", "-", "--records", records)
    assert json.loads(ran.out)["kind"] == "run"
    for arguments in (["rescore", records], ["compare", records, records]):
        ran = run(*arguments, "--json", "-")
        assert json.loads(ran.out)["schema"] == 2
        assert "acc" in ran.err
