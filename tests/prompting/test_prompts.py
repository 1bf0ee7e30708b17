"""Prompts are lm-evaluation-harness's, character for character; what it would let pass wrongly is an error of ours."""

import copy
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lm_eval.api.task import ConfigurableTask
from samples import ROOT

from lmeval.data.rows import with_ids
from lmeval.errors import InputError, LmevalError
from lmeval.prompting import RunSettings, Task, instances, read_task
from lmeval.prompting.instances import TaskInstances, build_instances
from lmeval.prompting.task import task_of
from lmeval.specs.tasks import TASK_FILE, TaskKeys, read_keys

logging.getLogger("lm_eval").setLevel(logging.CRITICAL)
Config = dict[str, Any]
Pairs = list[tuple[str, str]]
BASE: Config = {
    "task": "tiny",
    "dataset_path": "json",
    "test_split": "test",
    "fewshot_split": "test",
    "fewshot_config": {"sampler": "first_n"},
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_target": "label",
    "doc_to_choice": "opts",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ROW = {"q": "Is it?", "opts": ["no", "yes"], "label": 1, "word": "yes"}


def asked(task: Task, rows: list[Config], n: int = 0, **changes: Any) -> TaskInstances:
    """Our prompts of rows that are at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instances, "load_rows", lambda *_: with_ids(rows))
        return build_instances(task, RunSettings(num_fewshot=n, **changes))


def task_from(config: Mapping[str, Any], path: Path = Path("folder/tiny.yaml")) -> Task:
    return task_of(TaskKeys(path, TASK_FILE, config, {}))


def ours(task: Task, rows: list[Config], n: int) -> list[Pairs]:
    found = asked(task, rows, n)
    prompts = [found.prompts[item.main] for item in found.items]
    return [list(zip(prompt.contexts, prompt.continuations, strict=True)) for prompt in prompts]


def their_task(config: Mapping[str, Any], rows: list[Config]) -> ConfigurableTask:
    """The harness's task over rows that are at hand."""

    class Theirs(ConfigurableTask):
        def download(self, dataset_kwargs: Any = None, **_: Any) -> None:
            self.dataset = {"test": Dataset.from_list(rows)}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about their own dependencies
        return Theirs(config=copy.deepcopy(dict(config)))


def theirs(task: ConfigurableTask, n: int) -> list[Pairs]:
    found = []
    documents: Any = task.eval_docs
    for doc in documents:
        context = task.fewshot_context(doc, n, gen_prefix=task.doc_to_prefix(doc))
        instances: Any = task.construct_requests(doc, context, metadata=("tiny", 0, 1))
        found.append([instance.args for instance in (instances if isinstance(instances, list) else [instances])])
    return found


def assert_same(config: Mapping[str, Any], rows: list[Config], n: int = 0) -> None:
    task = task_from(
        {name: str(value) if name == "doc_to_target" and value == 0 else value for name, value in config.items()}
    )
    assert ours(task, rows, n) == theirs(their_task(config, rows), n)


# Random rows, every form of every key.

TEXT = st.text(st.sampled_from("abC é🙂,.?'\"\\{}%#[]\n\t 日12\u00a0\u0301"), max_size=12).filter(lambda t: not t.isdigit())
WORD = TEXT.map(lambda t: f"w{t}")
FIXED = ["no", "yes"]


@st.composite
def row_lists(draw: st.DrawFn) -> list[Config]:
    def row() -> Config:
        opts = draw(st.lists(WORD, min_size=2, max_size=3, unique=True))
        label = draw(st.integers(0, 1))
        words = {"word": opts[label], "fixed": FIXED[label], "flag": bool(label), "label": label, "opts": opts}
        return words | {"q": draw(TEXT), "full": draw(WORD), "n": draw(st.integers(-2, 99)), "x": draw(st.floats(-2, 2))}

    return [row() for _ in range(draw(st.integers(3, 5)))]


TEXTS = ["q", "full", "{{q}}", "Q: {{q}}\nA:", "", "{{q|trim}} ({{n}})", "{{flag}} {{q}}", "{{x}}", "two words ", "{{opts}}"]
TEXTS += ["{% if flag %}{{q}}{% else %}no{% endif %}", "{{q|regex_replace('a', 'b')}}", "{{q}}\n", " {{word}}"]
OF_OPTS = [
    "label",
    "{{label}}",
    "word",
    "{{word}}",
    0,
    "flag",
    "{{flag|int}}",
    "{{1 - label}}",
    "{{opts[1]}}",
    "{{opts.index(word)}}",
]
OF_FIXED = ["label", "{{label}}", "fixed", "{{fixed}}", 0, "flag", "{{'yes' if flag else 'no'}}"]
DELIMITERS = [" ", "", "\n", ": ", "\n\n", "###\n", "\t"]
PREFIXES = ["So:", "{{word}}", " lead ", "q", "", "\n", "because {{q}}"]
DESCRIPTIONS = ["", "Do it.\n", "About {{word}}: ", "q", "full", "two words", "{{n}}"]


def some(draw: st.DrawFn, values: Mapping[str, list[Any]], odds: int = 3) -> Config:
    """Some of the keys, each with one of its values."""
    return {name: draw(st.sampled_from(listed)) for name, listed in values.items() if draw(st.integers(0, odds)) == 0}


@st.composite
def choice_configs(draw: st.DrawFn) -> Config:
    both = [("opts", OF_OPTS), ("{{opts}}", OF_OPTS), (FIXED, OF_FIXED), ({"a": "no", "b": "yes"}, OF_FIXED)]
    choices, targets = draw(st.sampled_from([*both, ("{{['no', 'yes']}}", OF_FIXED)]))
    around = {"target_delimiter": DELIMITERS, "fewshot_delimiter": DELIMITERS, "gen_prefix": PREFIXES}
    config = BASE | {"doc_to_choice": choices, "doc_to_target": draw(st.sampled_from(targets))}
    config |= {"doc_to_text": draw(st.sampled_from(TEXTS))} | some(draw, around | {"description": DESCRIPTIONS}, 1)
    shown = some(draw, around | {"doc_to_text": TEXTS, "doc_to_target": [t for t in targets if t != 0]})
    return config | {"fewshot_config": {"sampler": "first_n"} | shown}


@settings(max_examples=70)
@given(config=choice_configs(), rows=row_lists(), n=st.integers(0, 2))
def test_choices_behind_a_text_are_asked_as_by_the_harness(config: Config, rows: list[Config], n: int):
    assume(len({json.dumps(row) for row in rows}) == len(rows))
    assert_same(config, rows, n)


@st.composite
def inside_configs(draw: st.DrawFn) -> Config:
    around = {"target_delimiter": DELIMITERS, "fewshot_delimiter": DELIMITERS, "gen_prefix": PREFIXES}
    texts = ["label", "{{label}}", "flag", "{{flag|int}}"]
    targets = ["full", "{{full}}", "{{word}}!", "{{x}} of it"]
    config = BASE | {
        "doc_to_text": draw(st.sampled_from(texts)),
        "doc_to_choice": draw(st.sampled_from(["opts", "{{opts}}"])),
    }
    config |= {"doc_to_target": draw(st.sampled_from(targets))} | some(draw, around | {"description": DESCRIPTIONS}, 1)
    shown = some(draw, around | {"doc_to_text": texts, "doc_to_target": targets, "doc_to_choice": ["{{[full, word]}}"]})
    return config | {"fewshot_config": {"sampler": "first_n"} | shown}


@settings(max_examples=40)
@given(config=inside_configs(), rows=row_lists(), n=st.integers(0, 2))
def test_choices_inside_the_context_are_asked_as_by_the_harness(config: Config, rows: list[Config], n: int):
    assume(len({json.dumps(row) for row in rows}) == len(rows))
    assert_same(config, rows, n)


@st.composite
def target_configs(draw: st.DrawFn) -> Config:
    targets = ["full", " {{full}}", "{{full}}", "{{opts[0]}} and {{x}}", "plain words"]
    around = {"target_delimiter": DELIMITERS, "fewshot_delimiter": DELIMITERS, "gen_prefix": PREFIXES}
    config = {name: value for name, value in BASE.items() if name != "doc_to_choice"} | {"output_type": "loglikelihood"}
    config |= {"doc_to_text": draw(st.sampled_from(TEXTS)), "doc_to_target": draw(st.sampled_from(targets))}
    config |= some(draw, around | {"description": DESCRIPTIONS}, 1)
    shown = some(draw, around | {"doc_to_text": TEXTS, "doc_to_target": targets})
    return config | {"fewshot_config": {"sampler": "first_n"} | shown}


@settings(max_examples=40)
@given(config=target_configs(), rows=row_lists(), n=st.integers(0, 2))
def test_targets_are_asked_as_by_the_harness(config: Config, rows: list[Config], n: int):
    assume(len({json.dumps(row) for row in rows}) == len(rows))
    assert_same(config, rows, n)


def test_a_file_with_all_keys_is_asked_as_by_the_harness(tmp_path: Path):
    """Through YAML and a data file, as users have it."""
    rows = [ROW | {"q": f"Is it {i}?", "label": i % 2, "word": ["no", "yes"][i % 2]} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = BASE | {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}, "gen_prefix": "A:"}
    config |= {"description": "Yes or no?\n\n", "doc_to_target": 0, "doc_to_choice": ["1", "true"], "target_delimiter": "\t"}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(config))
    found = build_instances(read_task(tmp_path / "task.yaml"), RunSettings(num_fewshot=2))
    pairs = [list(zip(found.prompts[i].contexts, found.prompts[i].continuations, strict=True)) for i in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pairs == theirs(ConfigurableTask(config=yaml.safe_load((tmp_path / "task.yaml").read_text())), 2)
    assert pairs[2][1] == ("Yes or no?\n\nIs it 0?\tA: 1\n\nIs it 1?\tA: 1\n\nIs it 2?\tA:", "\ttrue")


def test_functions_are_asked_as_by_the_harness():
    functions = {
        "doc_to_text": lambda row: f"{row['q']} Say:",
        "doc_to_choice": lambda row: [option.upper() for option in row["opts"]],
        "doc_to_target": lambda row: row["label"],
    }
    rows = [ROW, ROW | {"q": "Was it?", "label": 0}, ROW | {"q": "So"}]
    for n in (0, 1):
        assert_same(BASE | functions, rows, n)
    assert_same(BASE | functions | {"doc_to_text": lambda row: 1, "doc_to_target": lambda row: row["q"]}, rows)


def test_the_unconditional_prompts_are_the_harness_ones():
    metrics = [{"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}]
    config = BASE | {"metric_list": metrics, "target_delimiter": ": ", "description": "Do it. "}
    found = asked(task_from(config), [ROW, ROW | {"q": "Was it?"}], 1)
    pairs = theirs(their_task(config, [ROW, ROW | {"q": "Was it?"}]), 1)
    for item, expected in zip(found.items, pairs, strict=True):
        assert item.unconditional is not None
        parts = [found.prompts[i] for i in (item.main, item.unconditional)]
        assert [p for part in parts for p in zip(part.contexts, part.continuations, strict=True)] == expected


def test_prompts_of_tasks_that_ship_are_as_they_were():
    """One of each kind, written out: what a change of the code must not change."""
    task = read_task(ROOT / "tasks" / "winogrande.yaml")
    row = {"sentence": "Ann met Sue, and _ smiled.", "option1": "Ann", "option2": "Sue", "answer": "2"}
    prompt = asked(task, [row]).prompts[0]
    assert prompt.contexts == ("Ann met Sue, and Ann", "Ann met Sue, and Sue")
    assert prompt.continuations == (" smiled.", " smiled.")
    assert (prompt.gold, prompt.choices) == ((1,), prompt.contexts)
    row = {"passage": "P.", "question": "is it", "answer": True}
    prompt = asked(read_task(ROOT / "tasks" / "boolq.yaml"), [row]).prompts[0]
    assert prompt == (("P.\nQuestion: is it?\nAnswer:",) * 2, (" no", " yes"), ("no", "yes"), (1,))
    row = {"sentence_good": "Good one.", "sentence_bad": "Bad one."}
    prompt = asked(read_task(ROOT / "tasks" / "blimp_transitive.yaml"), [row]).prompts[0]
    assert prompt == (("", ""), (" Good one.", " Bad one."), ("Good one.", "Bad one."), (0,))
    prompt = asked(read_task(ROOT / "tasks" / "lambada.yaml"), [{"text": "one two three"}]).prompts[0]
    assert prompt == (("one two",), (" three",), (" three",), (0,))


@pytest.mark.parametrize(
    ("changes", "row", "gold"),
    [
        ({"doc_to_target": "{{[label]}}"}, {}, (1,)),
        ({"doc_to_target": "{{[0, 1]}}"}, {}, (0, 1)),
        ({"doc_to_target": "many"}, {"many": [1, 0]}, (1, 0)),
        ({"doc_to_target": "{{['yes']}}"}, {}, (1,)),
        ({"doc_to_target": "label"}, {"label": 1.0}, (1,)),
        ({"doc_to_target": "label"}, {"label": True}, (1,)),
        ({"doc_to_target": "label"}, {"label": "yes"}, (1,)),
        ({"doc_to_target": "label"}, {"label": "1", "opts": ["0", "1"]}, (1,)),
        ({"doc_to_target": "label"}, {"label": 0, "opts": [7, 8]}, (0,)),
        ({"doc_to_choice": "opts"}, {"opts": "['no', 'yes']"}, (1,)),  # a list as text, as CSV files have it
        ({"doc_to_choice": "opts"}, {"opts": {"a": "no", "b": "yes"}}, (1,)),
    ],
)
def test_right_choices_in_all_their_forms(changes: Config, row: Config, gold: tuple[int, ...]):
    assert asked(task_from(BASE | changes), [ROW | row]).prompts[0].gold == gold


@pytest.mark.parametrize(
    "text", ["", " ", "\u00a0", "e\u0301", "日本 🙂", "{{q}}", "{% raw %}", "a\r\nb", "\u2028", "<s>", "\x00"]
)
def test_texts_of_a_row_come_through_unchanged(text: str):
    found = asked(task_from(BASE | {"doc_to_text": "[{{q}}]"}), [ROW | {"q": text, "opts": [f"a{text}", "yes"]}]).prompts[0]
    assert found.contexts[0] == f"[{text}]"
    assert found.continuations[0] == f" a{text}"


WRONG: list[tuple[Config, Config, str]] = [
    ({}, {"label": 2}, "doc_to_target.*label 2 is none of the 2 choices \\(no, yes\\)$"),
    ({}, {"label": -1}, "label -1 is none of .*: the labels of this split may be hidden"),
    ({}, {"label": None}, "label None is none of .*choices"),
    ({"doc_to_target": "{{label}}"}, {"label": -1}, "label '-1' is none of .*: the labels of this split may be hidden"),
    ({}, {"label": 0.5}, "label 0.5 is none of"),
    ({}, {"label": float("nan")}, "label nan is none of"),
    ({}, {"label": "1"}, "label '1' is none of"),
    ({}, {"label": "Yes"}, "label 'Yes' is none of"),
    ({}, {"label": []}, "doc_to_target.*no right choice is given"),
    ({}, {"label": [0, 5]}, "label 5 is none of"),
    ({}, {"label": {"a": 1}}, "label .* is none of"),
    ({"doc_to_target": "{{label}}"}, {"label": "9" * 5000}, "label '9999.* is none of"),
    ({"doc_to_target": "lable"}, {}, r"doc_to_target.*no column 'lable' \(did you mean 'label'\?\)"),
    ({"doc_to_text": "question"}, {}, "doc_to_text.*no column 'question'"),
    ({"doc_to_text": "{{question}}"}, {}, "doc_to_text.*'question' is undefined: the row has q, opts, label, word"),
    ({"doc_to_choice": "choices"}, {}, "doc_to_choice.*no column 'choices'"),
    ({"description": "{{topic}}"}, {}, "description.*'topic' is undefined"),
    ({"description": "word"}, {"word": ["a"]}, "description.*gives list, not text"),
    ({"gen_prefix": "{{topic}}"}, {}, "gen_prefix.*'topic' is undefined"),
    ({"gen_prefix": "word"}, {"word": None}, "gen_prefix.*gives NoneType, not text"),
    ({"doc_to_text": "q"}, {"q": None}, "doc_to_text.*gives NoneType, not text"),
    ({"doc_to_text": "q"}, {"q": ["a"]}, "doc_to_text.*gives list, not text"),
    ({"doc_to_text": "label"}, {"label": 2}, "doc_to_text.*label 2 is none of"),
    ({"doc_to_text": "{{label}}", "doc_to_target": "word"}, {"word": ""}, "doc_to_target.*the target is empty"),
    ({"doc_to_text": "{{label}}", "doc_to_target": "word"}, {"word": None}, "doc_to_target.*gives NoneType, not text"),
    ({}, {"opts": []}, "doc_to_choice.*gives \\[\\], which is no list of texts"),
    ({}, {"opts": None}, "doc_to_choice.*gives None, which is no list of texts"),
    ({}, {"opts": 5}, "doc_to_choice.*gives 5, which is no list of texts"),
    ({}, {"opts": "no, yes"}, "doc_to_choice.*gives 'no, yes', which is no list of texts"),
    ({}, {"opts": "{[1]: 2}"}, "doc_to_choice.*which is no list of texts"),
    ({}, {"opts": "-" * 9000 + "1"}, "doc_to_choice.*which is no list of texts"),
    ({}, {"opts": "[" * 9000}, "doc_to_choice.*which is no list of texts"),
    ({}, {"opts": ["no", ""]}, "doc_to_choice.*choice 1 is empty"),
    ({}, {"opts": ["no", None]}, "doc_to_choice.*choice 1 is NoneType, not text"),
    ({}, {"opts": [["no"], "yes"]}, "doc_to_choice.*choice 0 is list, not text"),
    ({}, {"opts": ["a\nb", "yes"], "label": 7}, r"label 7 is none of the 2 choices \('a\\nb', yes\)"),
    ({"output_type": "loglikelihood"}, {"label": ""}, "doc_to_target.*the target is empty"),
    ({"output_type": "loglikelihood"}, {"label": None}, "doc_to_target.*gives NoneType, not text"),
    ({"output_type": "loglikelihood", "doc_to_target": "{{word}}"}, {"word": ""}, "doc_to_target.*the target is empty"),
]


@pytest.mark.parametrize(("changes", "row", "message"), WRONG)
def test_a_row_that_does_not_fit_names_file_key_and_item(changes: Config, row: Config, message: str):
    rows, config = [ROW, ROW | row], BASE | changes
    if config["output_type"] == "loglikelihood":
        del config["doc_to_choice"]
    with pytest.raises(InputError, match=message) as caught:
        asked(
            task_from({k: v for k, v in (BASE | changes).items() if k != "doc_to_choice" or "loglik" not in str(changes)}),
            rows,
        )
    found = str(caught.value)
    assert found.splitlines() == [found]
    assert found.startswith("folder/tiny.yaml: ")
    number = 1 if row else 0  # the first row that does not fit
    assert f"for item {with_ids(rows)[number].id} (row {number})" in found


def test_an_example_that_does_not_fit_names_its_own_row():
    with pytest.raises(InputError, match=r"doc_to_target for item \w+ \(row 1\): label 9 is none"):
        asked(task_from(BASE), [ROW, ROW | {"label": 9}], 1, limit=1)


def test_a_description_without_value_is_none():
    found = asked(task_from(BASE | {"description": "word"}), [ROW | {"word": None}]).prompts[0]
    assert found.contexts[0] == "Is it?"


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats()
    | TEXT
    | st.sampled_from(["0", "1", "[0]", "['a']", "a_b", " "]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["label", "text", "a\nb"]), inner, max_size=2)
    ),
    max_leaves=4,
)
SHIPPED = {
    "arc_easy": {"question": "Why?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
    "boolq": {"passage": "P", "question": "q", "answer": True},
    "copa": {"premise": "It rained.", "question": "cause", "choice1": "A", "choice2": "B", "label": 0},
    "lambada": {"text": "one two three"},
    "sentiment": {"sentence": "Good.", "label": 1},
    "winogrande": {"sentence": "Ann met Sue, and _ smiled.", "option1": "Ann", "option2": "Sue", "answer": "2"},
    "blimp_transitive": {"sentence_good": "Good one.", "sentence_bad": "Bad one."},
}


@settings(max_examples=150)
@given(name=st.sampled_from(sorted(SHIPPED)), data=st.data(), n=st.integers(0, 1))
def test_any_row_gives_prompts_or_an_error_of_ours(name: str, data: st.DataObject, n: int):
    task, row = read_shipped(name), dict(SHIPPED[name])
    for field in data.draw(st.lists(st.sampled_from(sorted(row)), min_size=1, max_size=2)):
        if data.draw(st.integers(0, 5)):
            row[field] = data.draw(ODD)
        else:
            row.pop(field, None)
    try:
        found = asked(task, [row, SHIPPED[name]], n, limit=1)
        for prompt in found.prompts:
            assert all(isinstance(text, str) for text in (*prompt.contexts, *prompt.choices))
            assert all(isinstance(text, str) and text for text in prompt.continuations)
            assert len(prompt.contexts) == len(prompt.continuations) == len(prompt.choices)
            assert all(0 <= gold < len(prompt.choices) for gold in prompt.gold)
    except LmevalError as error:
        assert str(error).splitlines() == [str(error)]
        assert f"{name}.yaml" in str(error) or "_blimp.yaml" in str(error)


READ: dict[str, Task] = {}


def read_shipped(name: str) -> Task:
    if name not in READ:
        READ[name] = task_of(read_keys(ROOT / "tasks" / f"{name}.yaml"))
    return READ[name]
