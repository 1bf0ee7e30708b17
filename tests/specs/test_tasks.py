import json
import re
from pathlib import Path

import pytest

from lmeval.data.locate import find_spec
from lmeval.errors import InputNotFound, LmevalError, TaskFileError
from lmeval.prompting import read_task
from lmeval.specs.tasks import ROLLING, read_keys, read_rolling_task, rolling_task, task_corpus

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
    assert find_spec("x/y.yaml") == Path("x/y.yaml")
    assert find_spec("text.txt") is None
    assert find_spec("no-such-task") is None


def test_tasks_that_ship_can_be_read():
    from lmeval.data.resources import data_folder
    from lmeval.likelihood.spec import is_spec

    shipped = (path for path in data_folder("tasks").glob("[!_]*.yaml") if not is_spec(path))
    names = {path.stem: path for path in shipped}
    rolling = {name for name, path in names.items() if read_keys(path).values["output_type"] == ROLLING}
    assert rolling >= {"sampler", "tinystories"}
    for name, path in names.items():
        assert find_spec(name) == path
        read = read_rolling_task if name in rolling else read_task
        assert read(path).name == name


def refusal(folder: Path, text: str | bytes, *, allow_code: bool = False) -> str:
    """The one line with which a file is refused."""
    path = folder / "task.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LmevalError) as caught:
        read_keys(path, allow_code=allow_code)
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("line", "where", "near"),
    [
        ("doc_to_txt: a", "", "doc_to_text"),
        ("fewshot_config: {samler: first_n}", "fewshot_config", "sampler"),
        ("metric_list: [{metric: acc, agregation: mean}]", r"metric_list\[0\]", "aggregation"),
        ("metadata: {lmeval: {clusters: a}}", r"metadata\.lmeval", "cluster"),
        ("metadata: {lmeval: {local: {data_file: a}}}", r"metadata\.lmeval\.local", "data_files"),
        ("metadata: {lmeval: {local: {fewshot_config: {splt: a}}}}", r"metadata\.lmeval\.local\.fewshot_config", "split"),
        ("metadata: {lmeval: {local: {metric_list: [{metrc: a}]}}}", r"metadata\.lmeval\.local\.metric_list\[0\]", "metric"),
    ],
)
def test_an_unknown_key_is_named_at_every_level(tmp_path: Path, line: str, where: str, near: str):
    message = refusal(tmp_path, f"task: a\n\n{line}\n")
    inside = f" in {where}" if where else ""
    assert re.search(rf"task\.yaml: line 3: unknown key '\w+'{inside} \(did you mean '{near}'\?\)$", message), message


def test_a_key_that_is_like_no_other_has_all_of_them_named(tmp_path: Path):
    message = refusal(tmp_path, "qqqqqqqq: 1\n")
    assert all(key in message for key in ("doc_to_text", "include", "task"))
    assert "unknown key 'a\\nb'" in refusal(tmp_path, '"a\\nb": 1\n')


def test_what_metadata_hold_beside_ours_is_free(tmp_path: Path):
    text = "metadata: {version: 1, anything: {goes: [1, {here: 2}]}, repeats: 7}\ndataset_kwargs: {any: {thing: 1}}\n"
    assert read_keys(write(tmp_path, text)).values["metadata"]["anything"] == {"goes": [1, {"here": 2}]}


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("process_results", "are not run here"),
        ("use_prompt", "write its template out as doc_to_text"),
        ("custom_dataset", "write a JSON or parquet file"),
        ("doc_to_image", "only text"),
        ("doc_to_audio", "only text"),
        ("group", "name its tasks one by one"),
    ],
)
def test_a_refused_key_says_why(tmp_path: Path, key: str, why: str):
    message = refusal(tmp_path, f"task: a\n{key}: x\n")
    assert f"line 2: key '{key}'" in message
    assert why in message


TEXTS = ["task", "dataset_path", "dataset_name", "test_split", "validation_split", "training_split", "fewshot_split"]
TEXTS += ["description", "target_delimiter", "fewshot_delimiter", "gen_prefix"]
WRONG = {
    "a whole number": {"num_fewshot": ["words", "1.5", "true", "[1]"]},
    "a list": {"metric_list": ["acc", "5", "{metric: acc}"], "filter_list": ["5", "words", "{a: b}"]},
    "a mapping": {"dataset_kwargs": ["5", "[1]"], "fewshot_config": ["x", "[a]"], "metadata": ["1.0", "[a]"]},
    "text": {key: ["[a]", "{a: b}"] for key in TEXTS},
    "1, not": {"repeats": ["2", "words", "[1]"]},
}
CASES = [(key, value, kind) for kind, keys in WRONG.items() for key, values in keys.items() for value in values]


@pytest.mark.parametrize("above", ["", "metadata.lmeval.local"])
@pytest.mark.parametrize(("key", "value", "kind"), CASES)
def test_a_value_of_the_wrong_kind_is_named(tmp_path: Path, key: str, value: str, kind: str, above: str):
    if above and key == "metadata":
        return
    line = f"metadata: {{lmeval: {{local: {{{key}: {value}}}}}}}" if above else f"{key}: {value}"
    assert f"line 2: {above}{'.' * bool(above)}{key} must be {kind}" in refusal(tmp_path, f"\n{line}\n")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("fewshot_config: {sampler: [a]}", "fewshot_config.sampler must be text"),
        ("fewshot_config: {split: {a: b}}", "fewshot_config.split must be text"),
        ("fewshot_config: {target_delimiter: [a]}", "fewshot_config.target_delimiter must be text"),
        ("fewshot_config: {gen_prefix: [a]}", "fewshot_config.gen_prefix must be text"),
        ("metadata: {lmeval: 5}", "metadata.lmeval must be a mapping"),
        ("metadata: {lmeval: {local: []}}", "metadata.lmeval.local must be a mapping"),
        ("metadata: {lmeval: {cluster: [a]}}", "metadata.lmeval.cluster must be text"),
        ("metadata: {lmeval: {sampler: [a]}}", "metadata.lmeval.sampler must be text"),
        ("metadata: {lmeval: {neutral: {a: b}}}", "metadata.lmeval.neutral must be a list"),
        ("metadata: {lmeval: {local: {filter: [a]}}}", "metadata.lmeval.local.filter must be a mapping"),
        ("metadata: {lmeval: {local: {data_files: a}}}", "metadata.lmeval.local.data_files must be a mapping"),
        ("unsafe_code: true", "unsafe_code must be false, not true: tasks that run a model's code"),
    ],
)
def test_a_nested_value_of_the_wrong_kind_is_named(tmp_path: Path, text: str, place: str):
    assert f"line 1: {place}" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a task file"),
        (b"# nothing but a remark\n", "not a task file"),
        (b"\xef\xbb\xbf", "not a task file"),
        (b"- task\n", "not a task file"),
        (b"task: \xff", "not UTF-8 text: invalid start byte at offset 6"),
        (b"task: a\x00b", "special characters are not allowed"),
        (b"task: a\n\tdescription: b", "line 2: found character '\\t'"),
        (b"task: [a", "line 1"),
        (b"task: 'a", "line 1"),
        (b"a: b: c", "mapping values are not allowed"),
        (b"task: *nowhere", "undefined alias"),
        (b"task: a\n---\ntask: b", "line 2"),
        (b"task: a\n\ntask: b", "line 3: key 'task' is given twice"),
        (b"dataset_kwargs:\n  a: 1\n  a: 2", "line 3: key 'a' is given twice"),
        (b"metadata: {lmeval: {local: {data_files: {test: a, test: b}}}}", "key 'test' is given twice"),
        (b"metadata: {a: {b: 1, b: 2}}", "key 'b' is given twice"),
        (b"num_fewshot: !!int words", "line 1: invalid literal"),
        (b"\nmetadata: {date: 2024-02-31}", "line 2: day is out of range"),
        (b"metadata: {date: !!timestamp words}", "line 1"),
        (b"metadata: {size: 0x_}", "line 1"),
        (b"metadata: {size: " + b"9" * 5000 + b"}", "line 1"),
        (b"metadata: &m {a: *m}", "line 1: an alias refers to the value that holds it"),
        (b"doc_to_choice: &c [a, *c]", "line 1: an alias refers to the value that holds it"),
        (b"metadata: {? [a] : b}", "a key must be a word"),
        (b"dataset_kwargs: {? [a] : b}", "a key must be a word"),
        (b"metadata: {a: !x b}", "!x is a tag: only plain values are read here"),
        (b"metadata: !!python/object/new:os.system [true]", "could not determine a constructor"),
        (b"metadata: {a: " + b"[" * 600 + b"]" * 600 + b"}", "nested too deeply"),
        (b"include: [[a.yaml]]", "include must name a task file"),
        (b"include: null", "include must name a task file"),
        (b"include: {a: b}", "include must name a task file"),
        (b'include: "a\\0b.yaml"', "include: no such task file"),
        (b"\ninclude: " + b"a" * 300 + b".yaml", "line 2: include: no such task file"),
        (b"\n\ninclude: [missing.yaml]", "line 3: include: no such task file"),
        (b"include: ''", "include: no such task file"),
    ],
)
def test_what_is_no_task_file_says_so_and_where(tmp_path: Path, text: bytes, message: str):
    assert message in refusal(tmp_path, text)


@pytest.mark.parametrize("key", ["metadata", "doc_to_choice", "test_split", "dataset_kwargs"])
def test_aliases_of_aliases_do_not_explode(tmp_path: Path, key: str):
    layers = ["metadata:\n  a: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"  b{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 30)]
    text = "\n".join(layers) + ("" if key == "metadata" else f"\n{key}: {{a: *l29}}")
    assert "holds more than 100,000 values, its aliases written out" in refusal(tmp_path, text)


def test_an_alias_is_what_it_names(tmp_path: Path):
    text = "description: &d 'a b'\nmetadata: {x: *d, y: &y [1, 2], z: [*y, *y]}\n"
    assert read_keys(write(tmp_path, text)).values["metadata"] == {"x": "a b", "y": [1, 2], "z": [[1, 2], [1, 2]]}


@pytest.mark.parametrize(
    "word", ["yes", "no", "on", "off", "true", "False", "y", "1", "1.0", "0x10", "2024-01-01", "1_000", ".5"]
)
def test_choices_stay_as_they_are_written(tmp_path: Path, word: str):
    text = f"doc_to_choice: [{word}, {{{word}: x}}]\nfewshot_config: {{doc_to_choice: {{{word}: {word}}}}}\n"
    text += f"description: {word}\nmetadata: {{lmeval: {{cluster: {word}, local: {{doc_to_choice: [{word}]}}}}}}"
    values = read_keys(write(tmp_path, text)).values
    assert values["doc_to_choice"] == [word, {word: "x"}]
    assert values["fewshot_config"]["doc_to_choice"] == {word: word}
    assert values["description"] == word
    assert values["metadata"]["lmeval"] == {"cluster": word, "local": {"doc_to_choice": [word]}}


def test_only_true_and_false_are_booleans(tmp_path: Path):
    text = "metadata: {a: [true, True, FALSE], b: [yes, no, on, off, y, n, 'true']}"
    metadata = read_keys(write(tmp_path, text)).values["metadata"]
    assert metadata == {"a": [True, True, False], "b": ["yes", "no", "on", "off", "y", "n", "true"]}


def test_includes_are_overridden_key_by_key(tmp_path: Path):
    write(tmp_path, "task: base\ndescription: base\nmetadata: {a: 1}\n", "base.yaml")
    write(tmp_path, "include: base.yaml\ndescription: middle\n", "middle.yaml")
    write(tmp_path, "task: other\ngen_prefix: other\n", "other.yaml")
    keys = read_keys(write(tmp_path, "include: [middle.yaml, other.yaml]\nmetadata: {b: 2}\n"))
    assert keys.values == {"task": "base", "description": "middle", "metadata": {"b": 2}, "gen_prefix": "other"}
    assert keys.where("task") == f"{tmp_path / 'base.yaml'}: line 1: task"
    assert keys.where("description") == f"{tmp_path / 'middle.yaml'}: line 2: description"
    assert keys.where("metadata") == f"{tmp_path / 'task.yaml'}: line 2: metadata"


def test_an_include_is_read_from_beside_the_file_that_names_it(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", "include: second.yaml\n", "first.yaml")
    write(tmp_path / "deep", "task: found\n", "second.yaml")
    assert read_keys(write(tmp_path, "include: deep/first.yaml\n")).values == {"task": "found"}


def test_cycles_of_includes_are_refused(tmp_path: Path):
    for one, other in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, f"include: {other}.yaml\n", f"{one}.yaml")
    with pytest.raises(TaskFileError, match=r"includes itself"):
        read_keys(tmp_path / "a.yaml")
    assert "includes itself" in refusal(tmp_path, "include: [task.yaml]\n")
    write(tmp_path, "task: base\n", "base.yaml")  # twice the same file is no cycle
    assert read_keys(write(tmp_path, "include: [base.yaml, base.yaml]\n")).values["task"] == "base"


def test_an_error_in_an_included_file_names_that_file(tmp_path: Path):
    write(tmp_path, "task: a\nnonsense: b\n", "base.yaml")
    with pytest.raises(TaskFileError, match=r"base\.yaml: line 2: unknown key 'nonsense'"):
        read_keys(write(tmp_path, "include: base.yaml\n"))


CODE = """\
import sys
WORDS = ["a", "b"]
def upper(row):
    return row["page"].upper()
def broken(row):
    raise RuntimeError("no\\nway")
"""


def test_functions_come_from_beside_the_file_where_they_are_allowed(tmp_path: Path):
    (tmp_path / "utils.py").write_text(CODE)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "more.py").write_text("def lower(row):\n    return row['page'].lower()\n")
    text = "doc_to_text: !function utils.upper\ndoc_to_target: !function deep.more.lower\n"
    path = write(tmp_path, text + "doc_to_choice: !function utils.WORDS\n")
    with pytest.raises(TaskFileError, match=r"line 1: !function would run code .*--allow-code"):
        read_keys(path)
    values = read_keys(path, allow_code=True).values
    assert values["doc_to_text"]({"page": "aB"}) == "AB"
    assert values["doc_to_target"]({"page": "aB"}) == "ab"
    assert values["doc_to_choice"] == ["a", "b"]


def test_a_file_that_is_read_without_the_flag_runs_nothing(tmp_path: Path):
    (tmp_path / "utils.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nx = 1\n")
    write(tmp_path, "doc_to_text: !function utils.x\n", "base.yaml")
    for text in ("doc_to_text: !function utils.x", "include: base.yaml", "metadata: [!function utils.x]"):
        with pytest.raises(TaskFileError, match="!function would run code"):
            read_keys(write(tmp_path, text + "\ntask: a\n"))
        assert not (tmp_path / "ran").exists()
    read_keys(tmp_path / "base.yaml", allow_code=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.f", "there is no file"),
        ("utils.nothing", "AttributeError: module 'lmeval_task_utils' has no attribute 'nothing'"),
        ("utils", "give it as module.name"),
        (".f", "give it as module.name"),
        ("utils.", "AttributeError"),
        ("wrong.f", "SyntaxError"),
        ("stops.f", "SystemExit: 3"),
        ("raises.f", "ValueError: one"),
        ("imports.f", "ModuleNotFoundError"),
        ("[utils.f]", "!function takes module.name"),
        ("{a: b}", "!function takes module.name"),
        ('"a\\0b.f"', "there is no file"),
    ],
)
def test_a_function_that_cannot_be_had_names_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
):
    (tmp_path / "utils.py").write_text(CODE)
    (tmp_path / "wrong.py").write_text("def f(:\n")
    (tmp_path / "stops.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "raises.py").write_text("raise ValueError('one\\ntwo')\n")
    (tmp_path / "imports.py").write_text("import no_such_module_at_all\n")
    found = refusal(tmp_path, f"\ndoc_to_text: !function {name}\n", allow_code=True)
    assert re.search(rf"task\.yaml: line 2: .*{re.escape(message)}", found), found
    monkeypatch.chdir(tmp_path)  # a bare name has no folder before it
    with pytest.raises(TaskFileError, match=r"^task\.yaml: line 2: "):
        read_keys(Path("task.yaml"), allow_code=True)


def test_a_metric_of_the_wrong_kind_is_refused(tmp_path: Path):
    for entry in ("[a]", "{metric: [a]}", "{aggregation: mean}", "5"):
        text = with_key(f"metric_list: [{entry}]", "metric_list").replace("  - metric: bits_per_byte\n", "")
        with pytest.raises(TaskFileError, match="unknown metric"):
            read_rolling_task(write(tmp_path, text.replace("  - metric: word_perplexity\n", "")))


def test_a_corpus_that_code_would_change_is_not_scored_as_it_is(tmp_path: Path):
    (tmp_path / "utils.py").write_text(CODE)
    path = write(tmp_path, with_key("process_docs: !function utils.upper"))
    with pytest.raises(TaskFileError, match=r"line 1: process_docs is not run on a corpus"):
        rolling_task(read_keys(path, allow_code=True))


def test_data_files_name_the_splits_that_there_are(tmp_path: Path):
    text = with_key("dataset_kwargs: {data_files: {1: a, train: b}}", "dataset_kwargs")
    with pytest.raises(TaskFileError, match="no entry for the split 'test': it has 1, train"):
        read_rolling_task(write(tmp_path, text))


@pytest.mark.parametrize("name", ["a\0b", "n" * 5000])
def test_a_name_that_no_file_can_have_is_no_task(name: str):
    assert find_spec(name) is None
    with pytest.raises(InputNotFound):
        read_keys(Path(name + ".yaml"))
