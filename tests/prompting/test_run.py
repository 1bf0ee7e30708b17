import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prompted import CHOICES, LABELS, ROWS, TARGETS, chain, records_in, task_file, uniform
from samples import ROOT, SHARED, fast, gpt2_config, llama_config, network, shared
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from told import Told

from lmeval.data.resources import reference_folder
from lmeval.errors import ContextTooLong, EmptyInput, InputError, InputNotFound, NoCache
from lmeval.models import CausalLM, from_pair
from lmeval.models.byte_table import byte_alphabet
from lmeval.models.toys import byte_tokenizer, markov_model
from lmeval.prompting import Record, RunSettings, read_task, run_task
from lmeval.prompting.records import ids_sha256
from lmeval.results import Report, find

SHOTS: dict[str, Any] = CHOICES | {
    "description": "Choose.\n",
    "fewshot_split": "test",
    "target_delimiter": " ",
    "num_fewshot": 2,
    "lmeval": {"neutral": [{"q": "N/A"}], "unconditional": "so", "cluster": "topic"},
}


def random_model(dtype: torch.dtype = torch.float32, context: int = 256, kind: str = "llama") -> CausalLM:
    config = llama_config(context) if kind == "llama" else gpt2_config(context)
    return from_pair(network(config, dtype=dtype), byte_tokenizer(), name="random")


def by_item(run: Report) -> dict[tuple[str, int], Record]:
    return {(made.item, made.seed): made for made in records_in(run)}


def numbers(made: Record) -> list[float]:
    free = [c.unconditional_nats for c in made.choices if c.unconditional_nats is not None]
    return [x for c in made.choices for x in c.nats] + free + [x for row in made.neutral_nats for x in row]


def assert_same(a: Record, b: Record, tolerance: float = 0.0) -> None:
    """Equal in everything, numbers up to a tolerance; where the row stands may differ."""
    assert numbers(a) == pytest.approx(numbers(b), rel=0, abs=tolerance)
    bare = [
        made._replace(
            number=0, neutral_nats=(), choices=tuple(c._replace(nats=(), unconditional_nats=None) for c in made.choices)
        )
        for made in (a, b)
    ]
    assert bare[0] == bare[1]


def test_every_token_of_every_choice_has_the_chain_s_probability(tmp_path: Path):
    model, logs = chain()
    run = run_task(task_file(tmp_path, SHOTS, fewshot_config={"sampler": "first_n"}), model)
    for row, made in zip(ROWS, records_in(run), strict=True):
        shots = [other for other in ROWS if other is not row][:2]
        texts = [f"{other['q']} {other['options'][other['label']]}\n\n" for other in shots]
        context = ("Choose.\n" + "".join(texts) + row["q"]).rstrip().encode()
        assert made.context_sha256 == hashlib.sha256(np.frombuffer(context, np.uint8).astype("<i8").tobytes()).hexdigest()
        assert made.n_context_tokens == len(context)
        for option, choice in zip(row["options"], made.choices, strict=True):
            moved = ("Choose.\n" + "".join(texts) + row["q"])[len(context.decode()) :]
            ids = list((moved + " " + option).encode())
            assert (choice.text, choice.ids) == (option, tuple(ids))
            expected = [logs[a, b] for a, b in zip([context[-1], *ids], ids, strict=False)]
            assert choice.nats == pytest.approx(expected, rel=1e-12)
            best = [logs[a].argmax() == b for a, b in zip([context[-1], *ids], ids, strict=False)]
            assert choice.greedy == all(best)
            assert (choice.n_characters, choice.n_bytes) == (len(option), len(option.encode()))
        assert (made.gold, made.cluster, made.number) == ((row["label"],), row["topic"], ROWS.index(row))


def test_the_answer_that_the_chain_prefers_is_greedy(tmp_path: Path):
    transitions = np.full((257, 257), 0.5 / 256)
    transitions[np.arange(257), (np.arange(257) + 1) % 257] = 0.5  # each byte is most often followed by the next
    model = from_pair(markov_model(transitions), byte_tokenizer(), name="alphabet")
    rows = [{"q": "ab", "options": ["cdef", "cdeg", "bdef", "c"], "label": 0}]
    [made] = records_in(run_task(task_file(tmp_path, CHOICES, rows), model))
    assert [choice.greedy for choice in made.choices] == [True, False, False, True]


@pytest.mark.parametrize("keys", [CHOICES, LABELS], ids=["own choices", "labels"])
def test_a_uniform_model_ties_and_the_first_choice_wins(tmp_path: Path, keys: dict[str, Any]):
    rows = [{**row, "options": ["aa", "bb", "cc"]} for row in ROWS]
    keys = keys | {"doc_to_choice": ["aa", "bb", "cc"]} if keys is LABELS else keys
    run = run_task(task_file(tmp_path, keys, rows), uniform())
    for made in records_in(run):
        for choice in made.choices:
            assert choice.total_nats == pytest.approx(-len(choice.ids) * math.log(257))
        assert all(choice.greedy for choice in made.choices)  # no token has a larger logit
    first = sum(row["label"] == 0 for row in rows) / len(rows)
    assert run["acc"] == run["acc_norm"] == first
    assert run.ledger["n_ties"] == len(rows)
    assert run["log_loss"] == pytest.approx(math.log(3))
    assert run["ece"] == pytest.approx(abs(first - 1 / 3))
    assert run_task(task_file(tmp_path, CHOICES), chain()[0]).ledger["n_ties"] == 0


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_paths_and_batch_sizes_change_nothing(tmp_path: Path, kind: str, dtype: torch.dtype, tolerance: float):
    model, path = random_model(dtype, kind=kind), task_file(tmp_path, SHOTS)
    runs = [
        run_task(path, model, RunSettings(strategy=way, batch_size=size))
        for way, size in [("plain", None), ("tree", None), ("auto", 1), ("plain", 3), ("tree", 7)]
    ]
    for other in runs[1:]:
        assert other.provenance["inputs"]["data_sha256"] == runs[0].provenance["inputs"]["data_sha256"]
        for a, b in zip(records_in(runs[0]), records_in(other), strict=True):
            assert_same(a, b, tolerance)
    costs = [run.ledger["cost"] for run in runs]
    assert (costs[0]["path"], costs[1]["path"]) == ("plain", "tree")
    assert costs[1]["n_tokens"] < costs[0]["n_tokens"] <= costs[0]["n_tokens_plain"] == costs[1]["n_tokens_plain"]


@pytest.mark.parametrize("sampler", ["default", "fixed", "balanced"])
def test_the_order_of_the_rows_changes_nothing_but_their_numbers(tmp_path: Path, sampler: str):
    model, settings = chain()[0], RunSettings(num_fewshot=2, sampler=sampler)
    one = run_task(task_file(tmp_path / "a", SHOTS), model, settings)
    turned = [*ROWS[3:], *ROWS[:3][::-1]]
    other = run_task(task_file(tmp_path / "b", SHOTS, turned), model, settings)
    assert by_item(one).keys() == by_item(other).keys()
    for key, made in by_item(one).items():
        assert_same(made, by_item(other)[key], 1e-12)
        assert turned[by_item(other)[key].number] == ROWS[made.number]
    assert one["acc"] == other["acc"]
    assert one["log_loss"] == pytest.approx(other["log_loss"], rel=1e-12)


@pytest.mark.parametrize("n", [1, 3, len(ROWS), 100])
def test_a_limit_scores_the_first_rows_as_they_are_scored_in_all(tmp_path: Path, n: int):
    model, path = chain()[0], task_file(tmp_path, SHOTS)
    everything, limited = run_task(path, model), run_task(path, model, RunSettings(limit=n))
    assert len(records_in(limited)) == min(n, len(ROWS))
    for a, b in zip(records_in(everything), records_in(limited), strict=False):
        assert_same(a, b, 1e-12)
    assert (limited.ledger["n_rows"], limited.ledger["n_items"]) == (len(ROWS), min(n, len(ROWS)))


def test_several_seeds_are_the_runs_of_each(tmp_path: Path):
    model, path = chain()[0], task_file(tmp_path, SHOTS)
    both = by_item(run_task(path, model, RunSettings(seed=2, shot_seeds=2)))
    alone = [by_item(run_task(path, model, RunSettings(seed=seed))) for seed in (2, 3)]
    assert both.keys() == alone[0].keys() | alone[1].keys()
    for key, made in both.items():
        assert_same(made, alone[key[1] - 2][key], 1e-12)
    assert {made.shots for made in alone[0].values()} != {made.shots for made in alone[1].values()}
    for made in both.values():
        assert made.item not in made.shots and len(set(made.shots)) == 2


def test_data_have_one_hash_however_often_they_are_scored(tmp_path: Path):
    model, path = chain()[0], task_file(tmp_path, SHOTS)
    hashes = {
        run_task(path, model, settings).provenance["inputs"]["data_sha256"]
        for settings in (RunSettings(), RunSettings(shot_seeds=3), RunSettings(num_fewshot=0))
    }
    assert len(hashes) == 1
    shorter = run_task(path, model, RunSettings(limit=3)).provenance["inputs"]["data_sha256"]
    assert shorter not in hashes


def test_equal_prompts_are_scored_once(tmp_path: Path):
    rows = [*ROWS, *ROWS[:2]]
    run = run_task(task_file(tmp_path, CHOICES, rows), chain()[0], RunSettings(strategy="plain"))
    items = [made.item for made in records_in(run)]
    assert items[-2:] == [f"{items[0]}#2", f"{items[1]}#2"]
    for first, again in zip(records_in(run)[:2], records_in(run)[-2:], strict=True):
        assert numbers(first) == numbers(again)
    assert run.ledger["n_requests"] == 3 * len(ROWS)


def n_inputs(row: dict[str, Any]) -> int:
    return max(len((row["q"] + option).encode()) for option in row["options"]) - 1


def test_items_that_do_not_fit_are_left_out_and_named(tmp_path: Path):
    model, _ = chain(context=15)
    lengths = [n_inputs(row) for row in ROWS]
    assert 15 in lengths  # one fits to the token
    long = [i for i, n in enumerate(lengths) if n > 15]
    assert 0 < len(long) < len(ROWS)
    run = run_task(task_file(tmp_path, CHOICES), model)
    whole = run_task(task_file(tmp_path, CHOICES), chain()[0])
    ledger, ids = run.ledger, [made.item for made in records_in(whole)]
    assert ledger["n_items_too_long"] == len(long)
    assert ledger["n_items_scored"] + ledger["n_items_too_long"] == ledger["n_items"] == len(ROWS)
    assert ledger["too_long"] == [{"item": ids[i], "row": i, "seed": 0, "n_tokens": lengths[i]} for i in long]
    assert [made.item for made in records_in(run)] == [item for i, item in enumerate(ids) if i not in long]
    for made in records_in(run):
        assert_same(made, by_item(whole)[made.item, 0], 1e-12)
    assert find(run, "acc").n == len(ROWS) - len(long)


def test_what_belongs_to_an_item_must_fit_as_well(tmp_path: Path):
    rows = [{"q": "short", "options": ["a", "b"], "label": 0}, {"q": "s", "options": ["a", "b" * 12], "label": 1}]
    neutral = {"neutral": [{"q": "a neutral text"}]}  # 14 bytes, before a choice of 1 or 12
    run = run_task(task_file(tmp_path, CHOICES, rows, lmeval=neutral), chain(context=20)[0])
    assert [made.number for made in records_in(run)] == [0]
    assert run.ledger["too_long"][0]["n_tokens"] == 25


def test_an_item_that_is_too_long_under_one_seed_is_left_out_under_all(tmp_path: Path):
    rows = [{"q": f"{i} " + "long " * (6 * (i == 0)), "options": ["no", "yes"], "label": i % 2} for i in range(8)]
    path = task_file(tmp_path, SHOTS, rows, num_fewshot=1, lmeval=None)
    run = run_task(path, chain(context=45)[0], RunSettings(shot_seeds=3))
    ledger = run.ledger
    assert 0 < ledger["n_items_scored"] < 7  # some have the long row before them under one seed
    assert ledger["n_items_scored"] + ledger["n_items_too_long"] == 8
    assert len({made.item for made in records_in(run)}) * 3 == len(records_in(run))
    assert len(run.tables["shot_seeds"][0]["acc_by_seed"]) == 3


def test_where_nothing_fits_the_limit_is_named(tmp_path: Path):
    message = r"none of the 7 items of odd_ones fits the 2 tokens of chain \(the longest has 20\): use a model with a longer"
    with pytest.raises(ContextTooLong, match=message):
        run_task(task_file(tmp_path, CHOICES), chain(context=2)[0])
    with pytest.raises(ContextTooLong, match=r"none of the 7 items.*lower --num-fewshot"):  # counted once for all seeds
        run_task(task_file(tmp_path, SHOTS), chain(context=2)[0], RunSettings(shot_seeds=3))


def test_a_token_across_context_and_choice_is_counted_and_scored_whole(tmp_path: Path):
    alphabet = byte_alphabet()
    vocabulary = {alphabet[byte]: byte for byte in range(256)} | {"<s>": 256, "ab": 257}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("a", "b")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    transitions = np.random.default_rng(0).dirichlet(np.full(258, 0.5), size=258) + 1e-4
    transitions /= transitions.sum(axis=1, keepdims=True)
    model = from_pair(markov_model(transitions), fast(core, bos_token="<s>"), name="merges")
    rows = [{"q": "xa", "options": ["bc", "d"], "label": 0}, {"q": "xy", "options": ["bc", "d"], "label": 1}]
    run = run_task(task_file(tmp_path, CHOICES, rows, target_delimiter=""), model)
    across, apart = records_in(run)
    logs = np.log(transitions)
    assert (across.n_moved, apart.n_moved, run.ledger["n_items_boundary_moved"]) == (1, 0, 1)
    assert [choice.ids for choice in across.choices] == [(257, ord("c")), (ord("a"), ord("d"))]
    assert across.choices[0].nats == pytest.approx([logs[ord("x"), 257], logs[257, ord("c")]], rel=1e-12)
    assert across.choices[1].nats == pytest.approx([logs[ord("x"), ord("a")], logs[ord("a"), ord("d")]], rel=1e-12)
    assert across.context_sha256 == ids_sha256(np.array([ord("x")]))
    assert [choice.ids for choice in apart.choices] == [(ord("b"), ord("c")), (ord("d"),)]


def test_progress_ends_at_all_requests(tmp_path: Path):
    told = Told()
    run = run_task(task_file(tmp_path, CHOICES), random_model(), progress=told)
    assert told.stages == [("odd_ones", run.ledger["n_requests"], "requests")]
    assert sum(told.numbers) == run.ledger["n_requests"] and min(told.numbers) >= 0


def test_a_model_may_be_two_objects_and_a_task_one(tmp_path: Path):
    path = task_file(tmp_path, TARGETS)
    model = random_model()
    pair = run_task(read_task(path), (model.network, byte_tokenizer()))
    for a, b in zip(records_in(pair), records_in(run_task(str(path), model)), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (RunSettings(limit=0), InputError, "limit must be a whole number of at least 1"),
        (RunSettings(num_fewshot=-1), InputError, "num_fewshot must be a whole number of at least 0"),
        (RunSettings(num_fewshot=7), InputError, "7 few-shot examples are wanted, but the pool has 7 rows"),
        (RunSettings(sampler="fixt"), InputError, "unknown sampler 'fixt' .did you mean 'fixed'"),
        (RunSettings(num_fewshot=0, shot_seeds=2), InputError, "would score the same prompts again"),
        (RunSettings(strategy="tree"), NoCache, "use path 'plain'"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path: Path, settings: RunSettings, error: type, message: str):
    with pytest.raises(error, match=message) as caught:
        run_task(task_file(tmp_path, SHOTS), chain()[0], settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keys", [CHOICES, LABELS], ids=["own choices", "three labels"])
def test_f1_of_other_than_two_labels_is_refused_before_the_work(tmp_path: Path, keys: dict[str, Any]):
    with pytest.raises(InputError, match=f"{keys['task']}.yaml: the metric f1 needs two labels"):
        run_task(task_file(tmp_path, keys, metric_list=["f1"]), "no such model")
    two = task_file(tmp_path, LABELS, ROWS[:2], doc_to_choice=["no", "yes"], metric_list=["f1"])
    assert find(run_task(two, chain()[0]), "f1").n == 2


def test_an_empty_split_has_nothing_to_score(tmp_path: Path):
    with pytest.raises((EmptyInput, InputNotFound)):
        run_task(task_file(tmp_path, CHOICES, []), chain()[0])


def test_the_report_says_what_was_scored(tmp_path: Path):
    run = run_task(task_file(tmp_path, SHOTS, lmeval={"cluster": "topic"}), chain()[0], RunSettings(limit=5, seed=4))
    ledger, provenance = run.ledger, run.provenance
    assert (ledger["split"], ledger["n_shots"], ledger["sampler"], ledger["seeds"]) == ("test", 2, "default", [4])
    assert ledger["interval"] == {"method": "clusters of the task", "n_units": 3}
    inputs = provenance["inputs"]
    assert (provenance["kind"], inputs["task"], provenance["settings"]["limit"]) == ("run", "odd_ones", 5)
    assert inputs["task_sha256"] == hashlib.sha256((tmp_path / "odd_ones.yaml").read_bytes()).hexdigest()
    assert provenance["models"][0]["name"] == "chain"
    lengths = [made.n_context_tokens + max(len(c.ids) for c in made.choices) - 1 for made in records_in(run)]
    assert ledger["prompt_tokens"] == {"mean": pytest.approx(sum(lengths) / 5), "longest": max(lengths)}


@pytest.mark.slow
def test_the_bundled_model_reads_plain_reviews():
    found = run_task("sentiment", "bundled", RunSettings(limit=200), place="cpu")
    kinds = [json.loads(line)["kind"] for line in (ROOT / "tasks/data/sentiment.test.jsonl").read_text().splitlines()]
    assert found.items is not None
    plain = [item.values["acc"] for item in found.items.records if kinds[item.detail["row"]] == "plain"]
    assert len(plain) > 80 and sum(plain) / len(plain) > 0.9


@pytest.mark.slow
def test_the_bundled_model_does_what_its_card_says():
    shared("tasks/sst2.test.jsonl")
    report = run_task("sst2", "bundled", place="cpu", data_folder=SHARED / "data/tasks")
    assert report.ledger["n_items_scored"] == 1821
    assert report["acc"] == pytest.approx(0.8094, abs=0.003)  # another machine may decide a near tie otherwise
    card = (reference_folder("lmeval-reviews-4m-v1") / "README.md").read_text()
    assert "| sst2 | 0 | 0.8094 |" in card
