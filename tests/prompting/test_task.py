"""Task files -> tasks: what is filled in, what is refused, and that nothing but an error of ours ever comes out."""

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import ROOT

from lmeval.data.rows import load_rows, with_ids
from lmeval.errors import InputNotFound, LmevalError, TaskFileError
from lmeval.prompting import RunSettings, Task, instances, read_task, task
from lmeval.specs.tasks import ROLLING, read_keys, rolling_task

BASE: dict[str, Any] = {
    "task": "tiny",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"train": "train.jsonl", "test": "test.jsonl"}},
    "training_split": "train",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_target": "label",
    "doc_to_choice": ["bad", "good"],
}
ROWS = [{"q": f"q{i}", "label": i % 2, "split": "ab"[i % 2]} for i in range(6)]


def write(folder: Path, drop: tuple[str, ...] = (), **changes: Any) -> Path:
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (BASE | changes).items() if k not in drop}, sort_keys=False))
    return path


def write_rows(path: Path, rows: list[dict[str, Any]] = ROWS) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def refusal(path: Path, folder: Path | None = None, *, allow_code: bool = False) -> str:
    with pytest.raises(LmevalError) as caught:
        read_task(path, data_folder=folder, allow_code=allow_code)
    message = str(caught.value)
    assert message.splitlines() == [message]
    return message


def test_what_a_file_leaves_out_is_as_in_the_harness(tmp_path: Path):
    found = read_task(write(tmp_path))
    assert (found.name, found.split, found.n_shots, found.metrics, found.description) == ("tiny", "test", 0, (), "")
    assert found.template[:6] == ("{{q}}", "label", ("bad", "good"), None, " ", "\n\n")
    assert (found.shots.sampler, found.shots.split, found.shots.template) == ("default", "train", found.template)
    assert found.unconditional is found.cluster is found.process is None
    assert read_task(write(tmp_path, drop=("task",))).name == "task"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"fewshot_split": "test"}, "test"),
        ({"fewshot_split": "test", "fewshot_config": {"split": "train"}}, "train"),
        ({}, "train"),
        ({"training_split": None, "validation_split": "train"}, "train"),
        ({"training_split": None}, "test"),
        ({"fewshot_config": {"samples": [{"q": "a", "label": 0}]}}, None),
        ({"fewshot_config": {"samples": [{"q": "a", "label": 0}]}, "fewshot_split": "test"}, "test"),
    ],
)
def test_examples_come_from_the_split_that_the_harness_takes(tmp_path: Path, given: dict[str, Any], expected: str | None):
    assert read_task(write(tmp_path, **given)).shots.split == expected


def test_examples_are_shown_as_the_task_unless_they_say_otherwise(tmp_path: Path):
    own = {"doc_to_text": "{{q}}!", "doc_to_choice": {"x": "no", "y": "yes"}, "target_delimiter": "", "gen_prefix": "So"}
    found = read_task(write(tmp_path, fewshot_config=own, fewshot_delimiter="\n"))
    assert found.shots.template[:6] == ("{{q}}!", "label", ("no", "yes"), "So", "", "\n")
    assert found.template[:6] == ("{{q}}", "label", ("bad", "good"), None, " ", "\n")
    assert found.shots.template.where["doc_to_text"].endswith("fewshot_config.doc_to_text")
    assert found.shots.template.where["doc_to_target"].endswith(": doc_to_target")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_type": "generate_until"}, "tasks that generate text are not"),
        ({"output_type": None}, "is None: scored here are"),
        ({"dataset_path": None}, "key 'dataset_path' must be given for multiple_choice"),
        ({"doc_to_target": None}, "key 'doc_to_target' must be given for multiple_choice"),
        ({"doc_to_choice": None}, "key 'doc_to_choice' must be given for multiple_choice"),
        ({"test_split": None, "training_split": None}, "none of test_split, validation_split, training_split is given"),
        ({"test_split": "dev"}, "no entry for the split 'dev': it has train, test"),
        ({"doc_to_text": "{{q"}, "doc_to_text is no template"),
        ({"doc_to_text": ["a"]}, "doc_to_text must be a field's name or a template"),
        ({"doc_to_text": {"a": "b"}}, "doc_to_text must be a field's name or a template"),
        ({"doc_to_target": ["a"]}, "doc_to_target must be a field's name or a template"),
        ({"doc_to_choice": []}, "doc_to_choice must list texts"),
        ({"doc_to_choice": {}}, "doc_to_choice must list texts"),
        ({"doc_to_choice": ["a", ["b"]]}, "doc_to_choice must list texts"),
        ({"doc_to_choice": ["a", None]}, "doc_to_choice must list texts"),
        ({"description": "{% if %}"}, "description is no template"),
        ({"gen_prefix": "{{"}, "gen_prefix is no template"),
        ({"num_fewshot": -1}, "num_fewshot must be a whole number of at least 0, not -1"),
        ({"metric_list": [{"metric": "accc"}]}, "unknown metric 'accc' (did you mean 'acc'?)"),
        ({"metric_list": [{"aggregation": "mean"}]}, "an entry has no metric: known are acc"),
        ({"metric_list": [{"metric": ["acc"]}]}, "a metric that is code"),
        ({"filter_list": [{"name": "x", "filter": [{"function": "regex"}]}]}, "filters work on generated text"),
        ({"filter_list": ["x"]}, "filters work on generated text"),
        ({"process_docs": "utils.f"}, "process_docs must be !function module.name"),
        ({"fewshot_config": {"process_docs": 5}}, "fewshot_config.process_docs must be !function module.name"),
        ({"fewshot_config": {"sampler": "firstn"}}, "unknown sampler 'firstn' (did you mean 'first_n'?)"),
        ({"fewshot_config": {"samples": "x"}}, "fewshot_config.samples must be a list of rows"),
        ({"fewshot_config": {"samples": [{1: "x"}]}}, "fewshot_config.samples must be a list of rows"),
        ({"fewshot_config": {"fewshot_indices": 1}}, "fewshot_config.fewshot_indices must be a list of row numbers"),
        ({"fewshot_config": {"fewshot_indices": ["a"]}}, "fewshot_config.fewshot_indices must be a list of row numbers"),
        ({"fewshot_config": {"doc_to_text": "{{"}}, "fewshot_config.doc_to_text is no template"),
        ({"metadata": {"lmeval": {"sampler": "none"}}}, "metadata.lmeval.sampler: unknown sampler 'none'"),
        ({"metadata": {"lmeval": {"cluster": "{{"}}}, "metadata.lmeval.cluster is no template"),
        ({"metadata": {"lmeval": {"unconditional": "{{"}}}, "metadata.lmeval.unconditional is no template"),
        ({"metadata": {"lmeval": {"neutral": [{}]}}}, "metadata.lmeval.neutral must list fields to replace"),
        ({"metadata": {"lmeval": {"neutral": ["q"]}}}, "metadata.lmeval.neutral must list fields to replace"),
        ({"metadata": {"lmeval": {"neutral": [{1: "x"}]}}}, "metadata.lmeval.neutral must list fields to replace"),
        ({"dataset_kwargs": {"data_files": 5}}, "data_files must be a file name, a list, or a mapping"),
    ],
)
def test_what_cannot_be_used_names_its_place(tmp_path: Path, changes: dict[str, Any], message: str):
    path = write(tmp_path, **changes)
    found = refusal(path)
    assert message in found
    assert found.startswith(f"{path}: ")


def test_filters_that_change_nothing_are_let_pass(tmp_path: Path):
    read_task(write(tmp_path, filter_list=[{"name": "x", "filter": [{"function": "take_first"}]}], repeats=1))


def test_ours_win_over_the_harness_sampler(tmp_path: Path):
    path = write(tmp_path, fewshot_config={"sampler": "first_n"}, metadata={"lmeval": {"sampler": "balanced"}})
    assert read_task(path).shots.sampler == "balanced"


LOCAL: dict[str, Any] = {"data_files": {"train": "mine.train.jsonl", "test": "mine.test.jsonl"}, "doc_to_text": "{{q}}?"}


def with_local(folder: Path, **changes: Any) -> Path:
    local = {name: value for name, value in (LOCAL | changes).items() if value is not None}
    return write(folder, dataset_path="org/set", dataset_kwargs={}, metadata={"lmeval": {"cluster": "q", "local": local}})


def test_local_files_replace_the_hub(tmp_path: Path):
    write_rows(tmp_path / "mine.test.jsonl")
    hub = read_task(with_local(tmp_path, cluster="label"))
    assert (hub.source.path, hub.template.text, hub.cluster, hub.keep) == ("org/set", "{{q}}", "q", {})
    found = read_task(with_local(tmp_path, cluster="label", filter={"test": {"split": "a"}}), data_folder=tmp_path)
    assert found.source[:4] == ("json", None, "train", (str(tmp_path / "mine.test.jsonl"),))
    assert (found.template.text, found.cluster, found.keep) == ("{{q}}?", "label", {"test": {"split": "a"}})
    assert found.shots.split == "test"  # there is no file for train: the split is as if the task did not name it
    assert [row.fields["q"] for row in load_rows(found.source, None, found.keep["test"])] == ["q0", "q2", "q4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_files": None}, "metadata.lmeval.local: data_files must map splits to file names"),
        ({"data_files": {}}, "metadata.lmeval.local: data_files must map splits to file names"),
        ({"data_files": {"test": ["a.jsonl"]}}, "metadata.lmeval.local: data_files must map splits to file names"),
        ({"data_files": {1: "a.jsonl"}}, "metadata.lmeval.local: data_files must map splits to file names"),
        ({"data_files": {"test": "a.jsonl"}}, "a.jsonl is not there: "),
        (
            {"data_files": {"train": "no.jsonl", "test": "mine.test.odd"}},
            "data_files must be .jsonl, .json, .csv or .parquet",
        ),
        (
            {"data_files": {"train": "no.csv", "test": "mine.test.jsonl"}},
            "data_files must be .jsonl, .json, .csv or .parquet",
        ),
        ({"filter": {"test": "a"}}, "metadata.lmeval.local.filter must give for each split the wanted fields"),
        ({"num_fewshot": -2}, "metadata.lmeval.local.num_fewshot must be a whole number of at least 0, not -2"),
        ({"output_type": "generate_until"}, "tasks that generate text are not"),
        ({"doc_to_text": "{{"}, "doc_to_text is no template"),
        ({"metric_list": ["accc"]}, "unknown metric 'accc'"),
        ({"neutral": [5]}, "metadata.lmeval.neutral must list"),
        ({"cluster": "{{"}, "metadata.lmeval.cluster is no template"),
    ],
)
def test_a_local_block_that_cannot_be_used_is_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    write_rows(tmp_path / "mine.test.jsonl")
    (tmp_path / "mine.test.odd").touch()
    path = with_local(tmp_path, **changes)
    assert message in refusal(path, tmp_path)
    lines = path.read_text().splitlines()
    if message.startswith(("num_", "doc_", "unknown", "metadata.lmeval.cluster")):  # the line in the local block is named
        place = lines.index("    local:") + 1
        assert int(refusal(path, tmp_path).split(": line ")[1].split(":")[0]) > place


def test_a_missing_folder_says_how_to_name_one(tmp_path: Path):
    assert "--data-dir (or LMEVAL_DATA)" in refusal(with_local(tmp_path), tmp_path / "none")
    assert "--data-dir (or LMEVAL_DATA)" in refusal(with_local(tmp_path), Path("a\0b"))


CODE = """\
def text(row):
    return row["q"] + "?"
def docs(data):
    return data.filter(lambda row: row["label"] == 1)
def generated(data):
    for row in data:
        yield {**row, "q": row["q"].upper()}
def broken(*_):
    raise RuntimeError("no\\nway")
def late(data):
    yield {"q": "a", "label": 0}
    raise RuntimeError("no\\nway")
def numbers(data):
    return [1, 2]
def keys(data):
    return [{1: "x"}]
def samples():
    return [{"q": "s", "label": 1}]
"""


@pytest.fixture
def coded(tmp_path: Path) -> Path:
    (tmp_path / "utils.py").write_text(CODE)
    for name in ("train.jsonl", "test.jsonl"):
        write_rows(tmp_path / name)
    return tmp_path


def with_code(folder: Path, lines: str, drop: tuple[str, ...] = ()) -> Path:
    path = write(folder, drop)
    path.write_text(path.read_text() + lines + "\n")
    return path


def texts_of(found: Task, n: int = 0) -> list[str]:
    asked = instances.build_instances(found, RunSettings(num_fewshot=n))
    return [asked.prompts[item.main].contexts[0] for item in asked.items]


def test_functions_of_the_task_are_run_where_they_are_allowed(coded: Path):
    path = with_code(coded, "process_docs: !function utils.docs\ndoc_to_text: !function utils.text", ("doc_to_text",))
    assert "!function would run code" in refusal(path)
    assert texts_of(read_task(path, allow_code=True)) == ["q1?", "q3?", "q5?"]
    path = with_code(coded, "process_docs: !function utils.generated")
    assert texts_of(read_task(path, allow_code=True))[:2] == ["Q0", "Q1"]
    path = with_code(coded, "fewshot_config: {samples: !function utils.samples}")
    assert texts_of(read_task(path, allow_code=True), 1)[0] == "s good\n\nq0"


@pytest.mark.parametrize(
    ("lines", "drop", "message"),
    [
        ("process_docs: !function utils.broken", "", "process_docs: its function failed: RuntimeError: no"),
        ("process_docs: !function utils.late", "", "process_docs: its function failed: RuntimeError: no"),
        ("process_docs: !function utils.numbers", "", "process_docs: its function failed: TypeError"),
        ("process_docs: !function utils.keys", "", "columns have names that are not text"),
        ("fewshot_config: {process_docs: !function utils.broken}", "", "fewshot_config.process_docs: its function failed"),
        ("fewshot_config: {samples: !function utils.broken}", "", "fewshot_config.samples: its function failed"),
        ("fewshot_config: {samples: !function utils.text}", "", "fewshot_config.samples: its function failed: TypeError"),
        ("doc_to_text: !function utils.broken", "doc_to_text", "(row 0): its function failed: RuntimeError: no"),
        ("doc_to_choice: !function utils.broken", "doc_to_choice", "(row 0): its function failed: RuntimeError: no"),
        ("doc_to_choice: !function utils.text", "doc_to_choice", "which is no list of texts"),
        ("doc_to_target: !function utils.docs", "doc_to_target", "its function failed: AttributeError"),
        ("description: !function utils.text", "", "description must be text"),
        ("metric_list: [!function utils.text]", "", "a metric that is code of the file's own"),
        ("metric_list: [{metric: !function utils.text}]", "", "a metric that is code of the file's own"),
    ],
)
def test_a_function_that_fails_names_its_place(coded: Path, lines: str, drop: str, message: str):
    path = with_code(coded, lines, (drop,))
    with pytest.raises(LmevalError) as caught:
        texts_of(read_task(path, allow_code=True), 1)
    found = str(caught.value)
    assert found.splitlines() == [found]
    assert f"{path}: line {len(path.read_text().splitlines())}: {lines.split(':')[0]}" in found
    assert message in found


# Whatever becomes of a file, it is a task or an error of ours.

SHIPPED = sorted(
    path for path in (ROOT / "tasks").glob("*.yaml") if not path.stem.startswith(("blimp_", "rt_", "sst2_", "wiki"))
)
SNIPPETS = [
    "\t",
    ":",
    " ",
    "\n",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "&a ",
    "*a",
    "!function utils.docs",
    "!!int ",
    "!!set ",
    "? ",
    "|\n",
    "''",
]
SNIPPETS += [
    "task: ",
    "include: ",
    "\n<<: ",
    "null",
    "true",
    "5",
    "-1",
    "1e400",
    "0x_",
    "\0",
    "é",
    "#",
    '"',
    "'",
    "{{",
    "%",
    "@",
    "---\n",
]
VALUES = [
    None,
    True,
    -1,
    3,
    0.5,
    float("nan"),
    "",
    "q",
    "{{q}}",
    "{{",
    "[1]",
    [],
    {},
    [1],
    ["a", None],
    {"a": 1},
    {1: "a"},
    [[{}]],
]
VALUES += ["yes", "train", {"train": 5}, {"test": ["a"]}, "multiple_choice", "x" * 300, "a\nb", {"metric": "acc"}]
FIELDS = ("sentence", "query", "question", "text", "context", "passage", "premise", "continuation", "option1", "choice1")


def is_one_line_of_ours(error: LmevalError, path: Path) -> None:
    message = str(error)
    assert message.splitlines() == [message], message
    assert str(path.parent) in message, message


def read_and_ask(path: Path, data_folder: Path | None) -> None:
    """As far as the prompts, or an error of ours."""
    try:
        keys = read_keys(path, allow_code=True)
        if keys.values.get("output_type") == ROLLING:
            rolling_task(keys)
            return
        found = task.task_of(keys, data_folder)
        assert isinstance(found, Task)
        row = dict.fromkeys(FIELDS, "Some words") | {"label": 1, "gold": 0, "choices": ["a", "b"], "answer": True}
        rows = with_ids([row, row | {"label": 0, "query": "Other words"}, row | {"text": "Third"}])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(instances, "load_rows", lambda *_: rows)
            instances.build_instances(found, RunSettings(limit=1, num_fewshot=min(found.n_shots, 2)))
    except LmevalError as error:
        is_one_line_of_ours(error, path)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "utils.py").write_text(CODE)
    for path in SHIPPED:
        for name in (
            yaml.safe_load(path.read_text()).get("metadata", {}).get("lmeval", {}).get("local", {}).get("data_files", {})
        ):
            (folder / f"{name}.jsonl").touch()
    return folder


@settings(max_examples=120)
@given(source=st.sampled_from(SHIPPED), seed=st.integers(0, 2**32), local=st.booleans())
def test_a_file_with_odd_characters_is_a_task_or_an_error_of_ours(shelf: Path, source: Path, seed: int, local: bool):
    rng = random.Random(seed)
    text = source.read_text()
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text))
        text = text[:at] + rng.choice(SNIPPETS) + text[at + rng.randrange(0, 6) :]
    path = shelf / "task.yaml"
    path.write_text(text)
    read_and_ask(path, shelf if local else None)


def mutated(value: Any, rng: random.Random, odds: float) -> Any:
    if rng.random() < odds:
        return copy.deepcopy(rng.choice(VALUES))
    if isinstance(value, dict):
        return {(rng.choice(["x", 1, None]) if rng.random() < 0.02 else k): mutated(v, rng, odds) for k, v in value.items()}
    if isinstance(value, list):
        return [mutated(v, rng, odds) for v in value]
    return value


EXTRA = {
    "fewshot_config": {"sampler": "first_n", "split": "train", "doc_to_text": "{{q}}", "samples": [{"q": "a"}]},
    "description": "Say it.",
    "gen_prefix": "So",
    "num_fewshot": 2,
    "filter_list": [{"name": "n", "filter": [{"function": "take_first"}]}],
}


@settings(max_examples=160)
@given(source=st.sampled_from(SHIPPED), seed=st.integers(0, 2**32), local=st.booleans())
def test_a_file_with_odd_values_is_a_task_or_an_error_of_ours(shelf: Path, source: Path, seed: int, local: bool):
    rng = random.Random(seed)
    values = yaml.safe_load(source.read_text())
    values |= {name: value for name, value in EXTRA.items() if rng.random() < 0.3}
    block = values.get("metadata", {}).get("lmeval", {}).get("local")
    if block:
        block["data_files"] = {name: f"{name}.jsonl" for name in block["data_files"]}
        block |= {name: value for name, value in EXTRA.items() if rng.random() < 0.2}
    path = shelf / "task.yaml"
    odds = rng.choice([0.02, 0.1])
    path.write_text(yaml.safe_dump({k: mutated(v, rng, odds) for k, v in values.items()}, sort_keys=False))
    read_and_ask(path, shelf if local else None)


def test_a_task_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputNotFound, match="no such task file"):
        read_task(tmp_path / "none.yaml")
    with pytest.raises(TaskFileError, match="not a task file"):
        (tmp_path / "empty.yaml").touch()
        read_task(tmp_path / "empty.yaml")
