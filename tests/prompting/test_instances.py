"""All prompts of a task: each once, the same for any limit and order of rows, and traced back to their items."""

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmeval.errors import InputError, InputNotFound
from lmeval.prompting import RunSettings, Task, read_task
from lmeval.prompting.instances import Instance, TaskInstances, build_instances
from lmeval.prompting.task import SAMPLERS

Config = dict[str, Any]
ROWS: list[Config] = [{"q": f"Question {i}?", "label": i % 3, "topic": "ab"[i % 2]} for i in range(18)]
BASE: Config = {
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_target": "label",
    "doc_to_choice": ["no", "yes", "maybe"],
}


def task_in(folder: Path, test: Sequence[Config] = ROWS, train: Sequence[Config] | None = None, **changes: Any) -> Task:
    files = {}
    for name, rows in (("test", test), ("train", train)):
        if rows is not None:
            files[name] = f"{name}.jsonl"
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = BASE | {"dataset_kwargs": {"data_files": files}} | ({"fewshot_split": "train"} if train is not None else {})
    (folder / "task.yaml").write_text(yaml.safe_dump(config | changes))
    return read_task(folder / "task.yaml")


def texts(instances: TaskInstances, item: Instance) -> list[tuple[str, str]]:
    prompt = instances.prompts[item.main]
    return list(zip(prompt.contexts, prompt.continuations, strict=True))


def by_item(instances: TaskInstances) -> dict[tuple[str, int], tuple[list[tuple[str, str]], tuple[str, ...]]]:
    return {(item.row.id, item.seed): (texts(instances, item), item.shots) for item in instances.items}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_items_of_a_limit_are_the_first_of_all(tmp_path: Path, sampler: str):
    task = task_in(tmp_path)
    whole = build_instances(task, RunSettings(num_fewshot=3, sampler=sampler))
    assert (len(whole.items), whole.n_rows, whole.n_shots, whole.sampler) == (18, 18, 3, sampler)
    part = build_instances(task, RunSettings(num_fewshot=3, sampler=sampler, limit=5))
    assert part.n_rows == 18
    assert [by_item(part)[key] for key in by_item(part)] == [by_item(whole)[key] for key in list(by_item(whole))[:5]]
    assert len(build_instances(task, RunSettings(limit=1000)).items) == 18


@pytest.mark.parametrize("sampler", ["default", "fixed", "balanced"])
def test_the_order_of_rows_and_other_items_do_not_matter(tmp_path: Path, sampler: str):
    settings = RunSettings(num_fewshot=3, sampler=sampler)
    train = [{"q": f"Example {i}?", "label": i % 3, "topic": "a"} for i in range(12)]
    expected = by_item(build_instances(task_in(tmp_path, ROWS, train), settings))
    shuffled, other = random.Random(1).sample(ROWS, 18), random.Random(2).sample(train, 12)
    assert by_item(build_instances(task_in(tmp_path, shuffled, other), settings)) == expected
    assert by_item(build_instances(task_in(tmp_path, ROWS[4:9], train), settings)).items() <= expected.items()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_item_is_never_among_its_examples(tmp_path: Path, sampler: str):
    instances = build_instances(task_in(tmp_path, ROWS[:5] * 3), RunSettings(num_fewshot=4, sampler=sampler, seed=3))
    assert len({item.row.id for item in instances.items}) == 15
    for item in instances.items:
        context = instances.prompts[item.main].contexts[0]
        assert context.count(item.row.fields["q"]) == 1
        assert context.endswith(f"\n\n{item.row.fields['q']}")
        assert len(item.shots) == 4
        assert item.row.content not in {shot.split("#")[0] for shot in item.shots}


def test_examples_are_those_that_are_named(tmp_path: Path):
    train = [{"q": f"Example {i}?", "label": i % 3, "topic": "a"} for i in range(12)]
    instances = build_instances(task_in(tmp_path, ROWS, train), RunSettings(num_fewshot=2, sampler="first_n"))
    words = BASE["doc_to_choice"]
    head = "".join(f"Example {i}? {words[i]}\n\n" for i in range(2))
    assert texts(instances, instances.items[0]) == [(head + "Question 0?", f" {word}") for word in words]
    chosen = task_in(tmp_path, ROWS, train, fewshot_config={"sampler": "first_n", "fewshot_indices": [7, 3]})
    assert texts(instances := build_instances(chosen, RunSettings(num_fewshot=2)), instances.items[0])[0][0].startswith(
        "Example 7? yes\n\nExample 3?"
    )


def test_seeds_are_scored_side_by_side(tmp_path: Path):
    task = task_in(tmp_path)
    instances = build_instances(task, RunSettings(num_fewshot=2, seed=5, shot_seeds=3, limit=4))
    assert [(item.row.number, item.seed) for item in instances.items] == [(i, s) for i in range(4) for s in (5, 6, 7)]
    for seed in (5, 6, 7):
        alone = by_item(build_instances(task, RunSettings(num_fewshot=2, seed=seed, limit=4)))
        assert alone == {key: value for key, value in by_item(instances).items() if key[1] == seed}
    assert len({item.shots for item in instances.items}) > 4


def test_equal_prompts_stand_once(tmp_path: Path):
    ours = {"neutral": [{"q": "N/A"}, {"q": ""}], "unconditional": "Answer:", "cluster": "{{topic}}!"}
    task = task_in(tmp_path, ROWS[:3] * 2, metadata={"lmeval": ours})
    instances = build_instances(task, RunSettings())
    assert len(set(instances.prompts)) == len(instances.prompts)
    assert [item.main for item in instances.items[:3]] == [item.main for item in instances.items[3:]]
    assert len({item.unconditional for item in instances.items}) == 1
    assert len({item.neutral for item in instances.items}) == 1
    assert [item.cluster for item in instances.items] == ["a!", "b!", "a!"] * 2
    free = instances.prompts[instances.items[0].unconditional or 0]
    assert (free.contexts, free.continuations, free.gold) == (("Answer:",) * 3, (" no", " yes", " maybe"), ())
    assert [instances.prompts[i].contexts[0] for i in instances.items[0].neutral] == ["N/A", ""]
    assert all(instances.prompts[i].gold == () for i in instances.items[0].neutral)
    assert build_instances(task, RunSettings(unconditional=False)).items[0].unconditional is None


def test_content_free_items_stand_behind_the_examples_of_their_item(tmp_path: Path):
    task = task_in(tmp_path, metadata={"lmeval": {"neutral": [{"q": "N/A"}]}})
    instances = build_instances(task, RunSettings(num_fewshot=2))
    for item in instances.items:
        main, neutral = (instances.prompts[i].contexts[0] for i in (item.main, *item.neutral))
        assert neutral == main.removesuffix(item.row.fields["q"]) + "N/A"


def test_the_unconditional_score_is_asked_for_where_it_is_wanted(tmp_path: Path):
    plain = task_in(tmp_path)
    assert build_instances(plain, RunSettings()).items[0].unconditional is None
    instances = build_instances(plain, RunSettings(unconditional=True))
    assert instances.prompts[instances.items[0].unconditional or 0].contexts == ("",) * 3
    assert (
        build_instances(task_in(tmp_path, metric_list=["acc_mutual_info"]), RunSettings()).items[0].unconditional is not None
    )
    inside = task_in(tmp_path, doc_to_text="label", doc_to_target="q")
    assert build_instances(inside, RunSettings(unconditional=True)).items[0].unconditional is None


def test_examples_given_in_the_file_need_no_split(tmp_path: Path):
    samples = [{"q": "Given?", "label": 1}]
    instances = build_instances(task_in(tmp_path, fewshot_config={"samples": samples}), RunSettings(num_fewshot=1))
    assert all(instances.prompts[item.main].contexts[0].startswith("Given? yes\n\n") for item in instances.items)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "first"}, r"unknown sampler 'first' \(did you mean '\w+'\?\)"),
        ({"limit": 0}, "limit must be a whole number of at least 1, not 0"),
        ({"limit": 1.5}, "limit must be a whole number of at least 1, not 1.5"),
        ({"num_fewshot": -1}, "num_fewshot must be a whole number of at least 0, not -1"),
        ({"shot_seeds": 0}, "shot_seeds must be a whole number of at least 1"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"shot_seeds": 2}, "would score the same prompts again: there are no few-shot examples"),
        ({"shot_seeds": 2, "num_fewshot": 1, "sampler": "first_n"}, "the sampler first_n does not draw"),
        ({"num_fewshot": 18}, r"task\.yaml: item \w+ \(row 0\): 18 few-shot examples are wanted, but the pool has 18 rows"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, settings: Config, message: str):
    with pytest.raises(InputError, match=message):
        build_instances(task_in(tmp_path), RunSettings(**settings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata": {"lmeval": {"neutral": [{"p": "N/A"}]}}}, r"metadata\.lmeval\.neutral: no column 'p'.*known are lab"),
        ({"metadata": {"lmeval": {"neutral": [{"label": 7}]}}}, r"doc_to_target for item \w+ \(row 0\): label 7"),
        ({"metadata": {"lmeval": {"cluster": "tpic"}}}, r"cluster for item \w+ .*'tpic' \(did you mean 'topic'"),
        ({"fewshot_config": {"fewshot_indices": [99]}}, "fewshot_indices go beyond the 18 rows of test"),
        ({"fewshot_config": {"fewshot_indices": [-1]}}, "fewshot_indices go beyond the 18 rows of test"),
        ({"fewshot_config": {"fewshot_indices": [0, 1, 2]}}, "4 few-shot examples are wanted, but the pool has 3 rows"),
        ({"fewshot_config": {"samples": [{"q": "a"}]}}, r"doc_to_target for item \w+ \(row 0\): no column 'label'"),
        ({"fewshot_config": {"samples": []}}, "4 few-shot examples are wanted, but the pool has 0 rows"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_rows_names_its_place(tmp_path: Path, changes: Config, message: str):
    n = 1 if "samples" in str(changes) and "'q'" in str(changes) else 4
    with pytest.raises(InputError) as caught:
        build_instances(task_in(tmp_path, **changes), RunSettings(num_fewshot=n, sampler="first_n"))
    assert re.search(message, str(caught.value)), str(caught.value)
    assert str(caught.value).splitlines() == [str(caught.value)]


def test_a_split_that_is_not_there_is_named(tmp_path: Path):
    task = task_in(tmp_path, train=ROWS)
    (tmp_path / "train.jsonl").unlink()
    assert len(build_instances(task, RunSettings()).items) == 18  # it is not needed
    with pytest.raises(InputNotFound, match=r"train\.jsonl"):
        build_instances(task, RunSettings(num_fewshot=1))
