"""Ours beside lm-evaluation-harness 0.4.13: one task file, the same models, every log-likelihood and every figure.

And the places where the two differ, each with the reason why ours is right.
"""

import functools
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval import evaluator
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from prompted import records_in
from samples import gpt2_config, gpt2_tokenizer, network, shared, stories_folder

from lmeval.errors import InputError
from lmeval.models import CausalLM, from_pair, load_model
from lmeval.prompting import RunSettings, read_task, run_task
from lmeval.prompting.instances import build_instances
from lmeval.results import Report

TASKS: dict[str, dict[str, Any]] = {
    "arc_easy": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": ["acc", "acc_norm"],
    },
    "boolq": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}\nAnswer:",
        "doc_to_choice": ["no", "yes"],
        "doc_to_target": "{{choices[gold]}}",
        "metric_list": ["acc", "acc_norm", "mcc", "f1", "brier_score"],
    },
    "copa": {
        "output_type": "multiple_choice",
        "doc_to_text": "query",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"],
        "description": "Which is likelier?\n\n",
    },
    "winogrande": {
        "output_type": "multiple_choice",
        "doc_to_text": "gold",
        "doc_to_choice": "context_options",
        "doc_to_target": "continuation",
        "metric_list": ["acc", "acc_norm"],
    },
    "blimp/adjunct_island": {
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": 0,
        "metric_list": ["acc", "acc_norm", "exact_match"],
    },
    "lambada_openai": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{context}}",
        "doc_to_target": "{{' '+continuation}}",
        "metric_list": ["perplexity", "acc"],
    },
}


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about their own dependencies
        yield


@functools.cache
def stories() -> CausalLM:
    return load_model(str(stories_folder()))


@functools.cache
def random_gpt2() -> CausalLM:
    config = gpt2_config(2048, 50257, n_embd=48, bos_token_id=50256, eos_token_id=50256)
    return from_pair(network(config), gpt2_tokenizer(), name="random-gpt2")


def config_of(name: str, rows: Path, **changes: Any) -> dict[str, Any]:
    """One task file for both, with the first n examples of the scored split itself."""
    config = {
        "task": name.replace("/", "_"),
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "fewshot_split": "test",
        "fewshot_config": {"sampler": "first_n"},
    } | TASKS[name]
    metrics = config.pop("metric_list")
    lower = ("perplexity", "brier_score")
    config["metric_list"] = [{"metric": m, "aggregation": AGGREGATIONS.get(m, "mean"), "higher_is_better": m not in lower}
                             for m in metrics]  # fmt: skip
    return config | changes


AGGREGATIONS = {"mcc": "matthews_corrcoef", "f1": "f1", "brier_score": "brier_score", "perplexity": "perplexity"}


def theirs(model: CausalLM, path: Path, n_shots: int, limit: int | None) -> dict[str, Any]:
    backend: Any = HFLM  # its decorators hide its signature
    lm = backend(pretrained=model.network, tokenizer=model.encoder.tokenizer, batch_size=8, device="cpu")
    task = ConfigurableTask(config=yaml.safe_load(path.read_text()))
    task.set_config("num_fewshot", n_shots)
    run: Any = evaluator.evaluate  # `simple_evaluate` would describe the machine in the results, which takes seconds
    return run(lm, task_dict={task.task_name: task}, limit=limit, bootstrap_iters=100, log_samples=True)


def both(
    tmp_path: Path, model: CausalLM, name: str, n_shots: int, limit: int | None, **changes: Any
) -> tuple[Report, dict[str, Any]]:
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump(config_of(name, shared(f"tasks/{name}.jsonl"), **changes)))
    ours = run_task(path, model, RunSettings(num_fewshot=n_shots, limit=limit))
    return ours, theirs(model, path, n_shots, limit)


def assert_parity(ours: Report, theirs: dict[str, Any]) -> None:
    ((name, samples),) = theirs["samples"].items()
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    fits = {record.number for record in records_in(ours)}
    assert len(fits) + ours.ledger["n_items_too_long"] == len(samples)  # theirs cuts what ours leaves out
    for record, sample in zip(records_in(ours), [s for s in samples if s["doc_id"] in fits], strict=True):
        assert record.number == sample["doc_id"]
        pairs = [response[0] for response in sample["resps"]]
        for choice, (nats, greedy) in zip(record.choices, pairs[: len(record.choices)], strict=True):
            assert choice.total_nats == pytest.approx(nats, abs=1e-3)
            assert choice.greedy == greedy
    if len(fits) < len(samples):
        return
    figures = {key.removesuffix(",none"): value for key, value in theirs["results"][name].items()}
    for metric in (
        "acc",
        "acc_norm",
        "acc_bytes",
        "acc_mutual_info",
        "exact_match",
        "mcc",
        "f1",
        "brier_score",
        "perplexity",
    ):
        if metric in figures:
            assert ours[metric] == pytest.approx(float(figures[metric]), rel=1e-4, abs=1e-6), metric
    for metric in ("acc", "acc_norm", "acc_bytes", "exact_match"):
        if f"{metric}_stderr" in figures:
            measured = next(m for m in ours.results if m.name == metric)
            assert f"{measured.stderr:.4f}" == f"{float(figures[f'{metric}_stderr']):.4f}", metric


CASES = [(name, n) for name in TASKS for n in (0, 5)]
LONG = {("boolq", 5), ("lambada_openai", 5)}  # for a context of 512


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_shots"), CASES)
def test_random_gpt2_agrees(tmp_path: Path, name: str, n_shots: int):
    assert_parity(*both(tmp_path, random_gpt2(), name, n_shots, limit=5 if (name, n_shots) in LONG else 16))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_shots"), [case for case in CASES if case not in LONG])
def test_stories_agrees(tmp_path: Path, name: str, n_shots: int):
    assert_parity(*both(tmp_path, stories(), name, n_shots, limit=30))


# Where the two differ


def write_task(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "task": "own",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": ["ld", "rm"],
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(config | changes))
    return path


def test_a_token_across_the_boundary(tmp_path: Path):
    """GPT-2 writes "hello world" with " world", so the context's "hello wor" is no beginning of it: theirs cuts the whole at
    the number of the context's tokens, has nothing left to score, and gives log p = 0: certainty. Ours moves the boundary
    back, for both choices."""
    path = write_task(tmp_path, [{"q": "hello wor", "gold": 0}], target_delimiter="")
    (sample,) = theirs(random_gpt2(), path, 0, None)["samples"]["own"]
    assert sample["resps"][0][0][0] == 0.0
    (record,) = records_in(run_task(path, random_gpt2()))
    tokenizer = random_gpt2().encoder.tokenizer
    assert record.n_moved == len(tokenizer("hello wor").input_ids) - 1
    assert [tokenizer.decode(list(choice.ids)) for choice in record.choices] == [" world", " worrm"]
    assert run_task(path, random_gpt2()).ledger["n_items_boundary_moved"] == 1


def shots_of(path: Path, rank: int, world_size: int) -> dict[int, str]:
    """The prompts that theirs writes in one of several processes, by item."""
    task: Any = ConfigurableTask(config=yaml.safe_load(path.read_text()))
    task.set_config("num_fewshot", 2)
    task.set_fewshot_seed(1234)
    task.build_all_requests(rank=rank, world_size=world_size)
    return {instance.doc_id: instance.args[0] for instance in task.instances}


def test_examples_do_not_depend_on_the_processes_and_are_never_the_item(tmp_path: Path):
    rows = [{"q": f"row {i} hello", "gold": i % 2} for i in range(12)]
    path = write_task(tmp_path, rows)
    alone, second_of_two = shots_of(path, 0, 1), shots_of(path, 1, 2)
    assert any(alone[i] != prompt for i, prompt in second_of_two.items())  # theirs
    assert any(prompt.count(f"row {i} hello") > 1 for i, prompt in alone.items())
    task = read_task(path)
    whole = build_instances(task, RunSettings(num_fewshot=2))
    part = build_instances(task, RunSettings(num_fewshot=2, limit=5))
    assert [item.shots for item in whole.items[:5]] == [item.shots for item in part.items]
    for item in whole.items:
        assert whole.prompts[item.main].contexts[0].count(item.row.fields["q"]) == 1


@pytest.mark.slow
def test_what_is_too_long_is_left_out_and_not_cut(tmp_path: Path):
    rows = [{"q": "short", "gold": 0}, {"q": "long " * 3000, "gold": 1}]
    path = write_task(tmp_path, rows)
    assert theirs(random_gpt2(), path, 0, None)["n-samples"]["own"]["effective"] == 2  # its prompt lost its beginning
    ledger = run_task(path, random_gpt2()).ledger
    assert (ledger["n_items"], ledger["n_items_scored"], ledger["n_items_too_long"]) == (2, 1, 1)
    assert ledger["too_long"][0]["row"] == 1


def test_words_that_yaml_takes_for_booleans_stay_words(tmp_path: Path):
    path = write_task(tmp_path, [{"q": "Is it?", "gold": 0}])
    path.write_text(path.read_text().replace("doc_to_choice:\n- ld\n- rm\n", "doc_to_choice: [no, yes]\n"))
    assert yaml.safe_load(path.read_text())["doc_to_choice"] == [False, True]  # as theirs reads it
    (record,) = records_in(run_task(path, random_gpt2()))
    assert [choice.text for choice in record.choices] == ["no", "yes"]


def test_a_label_outside_the_choices_is_an_error(tmp_path: Path):
    path = write_task(tmp_path, [{"q": "fine", "gold": 0}, {"q": "not fine", "gold": 7}])
    assert theirs(random_gpt2(), path, 0, None)["results"]["own"]["acc,none"] <= 0.5  # counted as wrong
    with pytest.raises(InputError, match=r"item \w+ \(row 1\): label 7 is none of the 2 choices"):
        run_task(path, random_gpt2())
