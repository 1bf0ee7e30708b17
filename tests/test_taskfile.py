import json
from pathlib import Path

import pytest

from lmeval.errors import InputNotFound, LmevalError, TaskFileError
from lmeval.prompting import read_task
from lmeval.taskfile import ROLLING, find_task, read_keys, read_rolling_task, task_corpus

GOOD = """\
task: tiny
dataset_path: json
dataset_kwargs: {data_files: {test: rows.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_target: "{{page}}"
metric_list:
  - metric: bits_per_byte
  - metric: word_perplexity
"""


def write(folder: Path, text: str, name: str = "task.yaml") -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"page": p, "title": "T"}) + "\n" for p in ("one", "two\n")))
    path = folder / name
    path.write_text(text)
    return path


def read_texts(path: Path) -> list[str]:
    return ["".join(document.pieces) for document in task_corpus(read_rolling_task(path)).documents]


def with_key(line: str, drop: str = "") -> str:
    """GOOD with one line more, and without the lines that begin with `drop`."""
    lines = [kept for kept in GOOD.splitlines() if not (drop and kept.startswith(drop))]
    return "\n".join([line, *lines]) + "\n"


def test_a_task_names_a_corpus(tmp_path: Path):
    path = write(tmp_path, GOOD)
    assert read_texts(path) == ["one", "two\n"]
    assert task_corpus(read_rolling_task(path)).sources == ("tiny",)


@pytest.mark.parametrize(
    ("target", "expected"), [("page", "one"), ('"{{title}}: {{page}}"', "T: one"), ('"{{page.upper()}}\\n"', "ONE\n")]
)
def test_a_target_is_a_column_or_a_template(tmp_path: Path, target: str, expected: str):
    path = write(tmp_path, with_key(f"doc_to_target: {target}", drop="doc_to_target"))
    assert read_texts(path)[0] == expected


def test_the_harness_order_of_splits_is_kept(tmp_path: Path):
    text = with_key("training_split: train\nvalidation_split: valid", drop="dataset_kwargs")
    assert read_rolling_task(write(tmp_path, text)).source.split == "test"
    text = with_key("training_split: train\nvalidation_split: valid", drop="test_split").replace("{test:", "{valid:")
    assert read_rolling_task(write(tmp_path, text)).source.data_files == (str(tmp_path / "rows.jsonl"),)


def test_an_unknown_key_is_named_with_its_line_and_the_nearest(tmp_path: Path):
    path = write(tmp_path, GOOD + "doc_to_tagret: x\n")
    with pytest.raises(
        TaskFileError, match=r"task\.yaml: line 10: unknown key 'doc_to_tagret' \(did you mean 'doc_to_target'\?\)"
    ):
        read_rolling_task(path)


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "Yes", "NO", "y", "n"])
def test_words_that_look_like_booleans_are_words(tmp_path: Path, word: str):
    path = write(tmp_path, with_key(f"task: {word}", drop="task"))
    assert read_rolling_task(path).name == word


def test_an_included_file_is_overridden(tmp_path: Path):
    write(tmp_path, GOOD, "base.yaml")
    assert read_rolling_task(write(tmp_path, "include: base.yaml\ntask: mine\n")).name == "mine"


def test_a_file_that_includes_itself_is_refused(tmp_path: Path):
    write(tmp_path, "include: task.yaml\n", "b.yaml")
    with pytest.raises(TaskFileError, match="includes itself"):
        read_rolling_task(write(tmp_path, "include: b.yaml\n"))


@pytest.mark.parametrize(
    ("line", "drop", "message"),
    [
        ("doc_to_text: !function utils.text", "", r"line 1: !function would run code"),
        ("metadata: {deep: [1, !function utils.x]}", "", r"line 1: !function would run code"),
        ("metadata: !!python/object/apply:os.system [true]", "", "could not determine a constructor"),
        ("output_type: generate_until", "output_type", "output_type is 'generate_until'"),
        ("", "output_type", "output_type is None"),
        ("", "dataset_path", "'dataset_path' must be given"),
        ("", "doc_to_target", "'doc_to_target' must be given"),
        ("", "test_split", "none of test_split, validation_split, training_split"),
        ("doc_to_text: '{{page}}'", "", "doc_to_text must be empty"),
        ("doc_to_target: '{{page'", "doc_to_target", "is no template"),
        (
            "dataset_kwargs: {data_files: {train: rows.jsonl}}",
            "dataset_kwargs",
            "no entry for the split 'test': it has train",
        ),
        ("metric_list: [{metric: bits_per_bite}]", "metric_list|  - ", r"did you mean 'bits_per_byte'\?"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, line: str, drop: str, message: str):
    text = "\n".join([line, *(k for k in GOOD.splitlines() if not any(d and k.startswith(d) for d in drop.split("|")))])
    with pytest.raises(TaskFileError, match=message) as caught:
        read_rolling_task(write(tmp_path, text))
    assert str(tmp_path / "task.yaml") in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a\n- b\n",
        "just words",
        "task: [unclosed",
        "task: a\n\tdataset_path: tab",
        "? [a, b]\n: value\n",
        "? {a: b}\n: value\n",
        with_key("metric_list: 5", "metric_list").replace("  - metric: bits_per_byte\n  - metric: word_perplexity\n", ""),
        with_key("dataset_kwargs: words", "dataset_kwargs"),
        with_key("dataset_kwargs: {data_files: 7}", "dataset_kwargs"),
        with_key("test_split: [test]", "test_split"),
        with_key("task: a\ntask: b", "task"),
        with_key("include: [a.yaml]"),
        with_key("include: 5"),
        with_key("metadata: {a: &x [*x]}"),
    ],
)
def test_malformed_files_are_errors_of_ours(tmp_path: Path, text: str):
    with pytest.raises(LmevalError):
        read_rolling_task(write(tmp_path, text))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "t.yaml").write_bytes(b"task: \xff")
    with pytest.raises(TaskFileError, match="not UTF-8"):
        read_rolling_task(tmp_path / "t.yaml")
    with pytest.raises(InputNotFound, match="no such task file"):
        read_rolling_task(tmp_path / "missing.yaml")


@pytest.mark.parametrize("target", ["{{absent}}", "{{page.__class__.__mro__}}", "{{1 / 0}}", "{{page + 1}}"])
def test_a_template_that_does_not_fit_a_row_names_the_row(tmp_path: Path, target: str):
    path = write(tmp_path, with_key(f'doc_to_target: "{target}"', drop="doc_to_target"))
    with pytest.raises(InputNotFound, match=r"row 0 of .*doc_to_target"):
        read_texts(path)


def test_a_file_that_names_itself_or_ships_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert find_task("x/y.yaml") == Path("x/y.yaml")
    assert find_task("text.txt") is None
    assert find_task("no-such-task") is None


def test_tasks_that_ship_can_be_read():
    from lmeval.resources import data_folder

    names = {path.stem: path for path in data_folder("tasks").glob("[!_]*.yaml")}
    rolling = {name for name, path in names.items() if read_keys(path).values["output_type"] == ROLLING}
    assert rolling >= {"sampler", "tinystories"}
    for name, path in names.items():
        assert find_task(name) == path
        read = read_rolling_task if name in rolling else read_task
        assert read(path).name == name
