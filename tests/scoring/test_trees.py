import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import TOLERANCE
from processes import run_workers
from samples import llama_config, markov_transitions, network, tiny_gpt2, tiny_llama
from sharing import (
    NO_TREES,
    TREES,
    Memory,
    Passes,
    greedy_of,
    make_prefixes_small,
    questions,
    random_model,
    related_requests,
    toy,
    trie_size,
)
from told import Told

from lmeval.compute import gather
from lmeval.compute.memory import Most
from lmeval.compute.place import Place
from lmeval.errors import ContextTooLong, NoCache, NonFiniteScore, OutOfMemory
from lmeval.models import CausalLM, from_pair
from lmeval.models.toys import byte_tokenizer, markov_model, uniform_model
from lmeval.scoring import Request, Scored, SharedScores, prefixes, request, score, score_shared, trees


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_prefixes_small(monkeypatch)


def agree(model: CausalLM, found: Sequence[Scored], expected: Sequence[Scored]) -> None:
    tolerance = TOLERANCE[str(model.dtype).removeprefix("torch.")]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.log_probs.shape == b.log_probs.shape and a.log_probs.dtype == b.log_probs.dtype
        np.testing.assert_allclose(a.log_probs, b.log_probs, rtol=0, atol=tolerance)


def by_engine(model: CausalLM, made: Sequence[Request]) -> list[Scored]:
    return [Scored(found, False) for found in score(model, made)]


@given(st.integers(0, 1 << 20), st.sampled_from([1, 2, 7, None]), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_a_tree_gives_what_each_request_gives_by_itself(seed: int, batch_size: int | None, limits: bool, llama: bool):
    model = (tiny_llama if llama else tiny_gpt2)(dtype=torch.float64)
    made = related_requests(seed)
    with pytest.MonkeyPatch.context() as patch:
        if limits:
            make_prefixes_small(patch)
        found = score_shared(model, made, path="tree", batch_size=batch_size)
        plain = score_shared(model, made, path="plain", batch_size=batch_size)
    assert (found.cost.path, plain.cost.path) == ("tree", "plain")
    agree(model, found.scores, plain.scores)
    agree(model, found.scores, by_engine(model, made))
    assert [s.greedy for s in found.scores] == [s.greedy for s in plain.scores]


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
@pytest.mark.parametrize("name", TREES)
def test_architectures_that_read_trees_give_the_same(small: None, name: str, kind: str):
    model, made = random_model(TREES[name], kind=kind), related_requests(5)
    found = score_shared(model, made, path="tree")
    agree(model, found.scores, by_engine(model, made))
    agree(model, found.scores, score_shared(model, made, path="plain").scores)
    assert found.cost.n_tokens < 0.5 * found.cost.n_tokens_plain


@pytest.mark.parametrize("name", NO_TREES)
def test_architectures_that_do_not_are_scored_plainly(small: None, name: str):
    model, made = random_model(NO_TREES[name]), related_requests(5)
    found = score_shared(model, made)
    assert found.cost.path == "plain"
    agree(model, found.scores, by_engine(model, made))
    with pytest.raises(NoCache, match="random cannot read several sequences as one tree"):
        score_shared(model, made, path="tree")


def test_requests_that_continue_each_other_share_a_row_even_without_trees(small: None):
    model = random_model(NO_TREES["bloom"])
    made = questions(n=9, few_shot=0, question=20, choices=4, answer=1)
    found = score_shared(model, made)
    assert found.cost[:4] == (180, 180, 9, 720)
    agree(model, found.scores, by_engine(model, made))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_that_of_the_engine(small: None, dtype: torch.dtype):
    model, made = tiny_llama(dtype=dtype), related_requests(8)
    found = score_shared(model, made, path="tree")
    agree(model, found.scores, by_engine(model, made))
    assert {s.log_probs.dtype for s in found.scores} == {np.dtype(str(dtype).removeprefix("torch."))}


@pytest.mark.parametrize("path", ["tree", "plain"])
def test_batch_size_and_order_do_not_matter(small: None, path: str):
    model, made = tiny_gpt2(dtype=torch.float64), related_requests(2)
    expected = score_shared(model, made, path=path).scores
    for batch_size in (1, 2, 7, len(made)):
        agree(model, score_shared(model, made, path=path, batch_size=batch_size).scores, expected)
    order = np.random.default_rng(1).permutation(len(made))
    agree(model, score_shared(model, [made[i] for i in order], path=path).scores, [expected[i] for i in order])


def test_pools_do_not_matter(monkeypatch: pytest.MonkeyPatch, small: None):
    model, made = tiny_gpt2(dtype=torch.float64), related_requests(2)
    expected = score_shared(model, made)
    monkeypatch.setattr(trees, "POOL_TOKENS", 100)
    found = score_shared(model, made)
    agree(model, found.scores, expected.scores)
    assert found.cost.n_tokens > expected.cost.n_tokens
    assert found.cost.n_tokens_plain == expected.cost.n_tokens_plain


@pytest.mark.parametrize("path", ["tree", "plain"])
def test_greedy_is_the_arg_max_of_the_logits(small: None, path: str):
    model = tiny_llama()
    with torch.inference_mode():  # answers that the model would give itself, beside others
        made = related_requests(3)
        for req in made[:30]:
            ids = torch.from_numpy(req.context)[None, :60]
            best = model.network(input_ids=ids).logits[0, -1].topk(2).indices.numpy()
            made += [Request(ids[0].numpy(), best[i : i + 1].copy()) for i in (0, 1)]
            made.append(Request(ids[0].numpy(), np.append(best[:1], 5)))
    expected = [greedy_of(model, req) for req in made]
    assert 30 <= sum(expected) < len(made)
    assert [s.greedy for s in score_shared(model, made, path=path).scores] == expected


def test_a_markov_chain_gives_its_closed_form(small: None):
    transitions = markov_transitions()
    model, made = toy(markov_model(transitions, context_length=64)), related_requests(4)
    found = score_shared(model, made, path="tree")
    for req, scored in zip(made, found.scores, strict=True):
        before = np.concatenate(req[:2])[len(req.context) - 1 : -1]
        np.testing.assert_allclose(scored.log_probs, np.log(transitions[before, req.target]), rtol=1e-12)
        assert scored.greedy == bool((transitions[before].argmax(axis=1) == req.target).all())


@pytest.mark.parametrize("path", ["tree", "plain"])
def test_ties_are_greedy(path: str):
    model = toy(uniform_model(context_length=64))
    for scored in score_shared(model, related_requests(4), path=path).scores:
        np.testing.assert_allclose(scored.log_probs, -math.log(257), rtol=1e-13)
        assert scored.greedy


@pytest.mark.parametrize("path", ["tree", "plain"])
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_the_cost_is_what_went_through_the_network(small: None, path: str, batch_size: int | None):
    model, made = tiny_llama(), related_requests(6)
    score_shared(model, made)  # what the network supports has been found out
    counted = Passes(model)
    cost = score_shared(model, made, path=path, batch_size=batch_size).cost
    counted.handle.remove()
    assert counted.tokens == cost.n_padded >= cost.n_tokens
    assert batch_size is None or counted.largest <= batch_size
    assert cost.n_tokens_plain == sum(req.n_inputs for req in made)
    if batch_size == 1:
        assert cost.n_padded == cost.n_tokens
    if path == "tree":
        assert trie_size(made) <= cost.n_tokens <= 1.5 * trie_size(made)
    else:
        texts = {(tuple(r.context.tolist()), tuple(r.target.tolist())) for r in made}
        assert cost.n_tokens == sum(len(context) + len(target) - 1 for context, target in texts)
        assert cost.n_positions == sum(len(target) for _, target in texts)


def test_what_is_shared_is_computed_once():
    model = tiny_llama(context=512)
    made = questions(n=40, few_shot=200, question=30, choices=4, answer=5)
    found = score_shared(model, made, path="tree")
    assert found.cost.n_tokens <= 1.02 * trie_size(made)
    assert found.cost.n_positions == 40 * (1 + 4 * 4)  # the four first tokens of the answers are read at one place
    agree(model, found.scores, score_shared(model, made, path="plain").scores)


def test_equal_requests_are_scored_once_and_returned_each(small: None):
    model, (a, b) = tiny_llama(), (request([256, 5, 7], [3, 1]), request([256, 5], [7]))
    found = score_shared(model, [a, b, a, a])
    assert found.cost.n_tokens_plain == 14
    assert found.cost.n_tokens == 4
    agree(model, found.scores, by_engine(model, [a, b, a, a]))


@pytest.mark.parametrize("path", ["tree", "plain", "auto"])
def test_requests_of_different_media_never_merge(small: None, path: str):
    """Whatever else conditions them is no token: one prompt below two images is two requests, and shares no prefix."""
    model, made = tiny_llama(), related_requests(6)
    alone = score_shared(model, made, path=path).cost
    other = [req._replace(media="another") for req in made]
    found = score_shared(model, [*made, *other, *made], path=path)
    assert found.cost[:3] == tuple(2 * n for n in alone[:3]) or path != "plain"
    assert found.cost.n_tokens == 2 * alone.n_tokens
    assert found.cost.n_positions == 2 * alone.n_positions
    agree(model, found.scores[len(made) : 2 * len(made)], found.scores[: len(made)])


def test_no_requests_are_no_scores():
    assert score_shared(tiny_llama(), []) == SharedScores([], trees.Cost(0, 0, 0, 0, "tree"))


@pytest.mark.parametrize("path", ["tree", "plain"])
def test_progress_counts_every_request_once(small: None, path: str):
    told = Told()
    made = related_requests(7)
    score_shared(tiny_llama(), made, path=path, batch_size=3, progress=told)
    assert sum(told.numbers) == len(made)
    assert len(told.numbers) > 3


def test_a_request_that_is_too_long_is_refused_before_any_work():
    counted = Passes(tiny_llama())
    with pytest.raises(ContextTooLong, match="65 input tokens, but tiny-llama takes 64"):
        score_shared(tiny_llama(), [request([256], [5]), request([256] * 5, [1] * 61)])
    counted.handle.remove()
    assert counted.passes == 0
    assert len(score_shared(tiny_llama(), [request([256] * 4, [1] * 61)]).scores) == 1


def test_an_unknown_path_is_named():
    with pytest.raises(ValueError, match="unknown path 'fast'"):
        score_shared(tiny_llama(), [], path="fast")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch, value: float):
    inner = trees.read_targets

    def damaged(*arguments):
        log_probs, greedy = inner(*arguments)
        log_probs = log_probs.clone()
        log_probs[-1] = value
        return log_probs, greedy

    monkeypatch.setattr(trees, "read_targets", damaged)
    with pytest.raises(NonFiniteScore, match=f"tiny-llama gave {value} for 1 of 2 tokens of a batch"):
        score_shared(tiny_llama(), [request([100], [7, 3])])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
@pytest.mark.parametrize("limit", [60, 150, 400])
def test_memory_that_runs_out_changes_nothing_but_the_batches(monkeypatch: pytest.MonkeyPatch, limit: int, error):
    model, made = tiny_llama(dtype=torch.float64), related_requests(9, n=150)
    expected = score_shared(model, made)
    memory = Memory(monkeypatch, limit, error)
    told = Told()
    found = score_shared(model, made, progress=told)
    agree(model, found.scores, expected.scores)
    assert [s.greedy for s in found.scores] == [s.greedy for s in expected.scores]
    assert sum(told.numbers) == len(made)
    assert any(size > limit for size, _, _ in memory.tried)
    if limit == 60:  # a packed row was taken apart
        assert any(size > limit and rows == 1 and sequences > 1 for size, rows, sequences in memory.tried)


def test_a_size_that_did_not_fit_is_not_tried_again(monkeypatch: pytest.MonkeyPatch):
    memory = Memory(monkeypatch, limit=130)
    made = questions(n=160, few_shot=0, question=60, choices=1, answer=1)
    score_shared(tiny_llama(), made, batch_size=8)
    assert sum(size > 130 for size, _, _ in memory.tried) == 2  # 480, then 240


def test_a_single_sequence_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch, small: None):
    Memory(monkeypatch, limit=5)
    with pytest.raises(OutOfMemory, match=r"one sequence of \d+ tokens does not fit on cpu"):
        score_shared(tiny_llama(), related_requests(9))


def test_a_prefix_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch):
    model, made = tiny_llama(), questions(n=40, few_shot=40, question=20, choices=1, answer=1)
    score_shared(model, made)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trees, "read_prefix", fail)
    monkeypatch.setattr(trees, "PASS_OVERHEAD_TOKENS", Most(10, 10))
    with pytest.raises(OutOfMemory, match="one sequence of 40 tokens does not fit"):
        score_shared(model, made)


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch):
    memory = Memory(monkeypatch, limit=0, error=ValueError)
    with pytest.raises(ValueError, match="out of memory"):
        score_shared(tiny_llama(), related_requests(1))
    assert len(memory.tried) == 1


def test_prefixes_are_read_once_and_freed_when_they_are_done(monkeypatch: pytest.MonkeyPatch, small: None):
    """At no time are there more prefixes than nest in each other."""
    hold, read, depths, plans, lengths = trees._hold, trees.read_prefix, list[int](), list[prefixes.Plan](), list[int]()

    def watched(work, held, index):
        hold(work, held, index)
        plans.append(work.plan)
        path = []
        while index >= 0:
            path.append(index)
            index = work.plan.prefixes[index].parent
        assert [i for i, _ in held] == path[::-1]
        assert [p.length for _, p in held] == [work.plan.prefixes[i].length for i in path[::-1]]
        depths.append(len(held))

    def counted(*arguments):
        lengths.append((found := read(*arguments)).length)
        return found

    monkeypatch.setattr(trees, "_hold", watched)
    monkeypatch.setattr(trees, "read_prefix", counted)
    score_shared(tiny_llama(), related_requests(10, n=150), batch_size=1)
    assert {0, 1, 2} <= set(depths)
    assert lengths == [prefix.length for prefix in plans[0].prefixes]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_processes_do_not_matter(monkeypatch: pytest.MonkeyPatch, small: None, size: int):
    """Each rank is run in turn, with the collective put in its place."""
    model, made = tiny_llama(), related_requests(11)
    expected = score_shared(model, made, batch_size=2)
    parts: list[dict] = []

    def take_part(mine: dict, n: int, place: Place, failure: BaseException | None = None) -> list:
        assert failure is None
        parts.append(dict(mine))
        return [mine.get(i, (0, 0, 0) if n == size else Scored(np.zeros(0), False)) for i in range(n)]

    monkeypatch.setattr(gather, "gather_by_id", take_part)
    monkeypatch.setattr(gather, "agree", lambda value, place: value)
    for rank in range(size):
        score_shared(model, made, Place(rank, size, model.device), batch_size=2)
    scored = [part for part in parts if any(isinstance(value, Scored) for value in part.values())]
    assert len(scored) == size
    ids = sorted(i for part in scored for i in part)
    assert ids == list(range(len(ids)))  # each distinct request once
    together = {i: value for part in scored for i, value in part.items()}
    kept, _ = trees.distinct(made)
    for of, value in zip(kept.of, expected.scores, strict=True):
        assert np.array_equal(together[of].log_probs, value.log_probs)  # the same batches: the same to the last bit


WORKER = """
import sys
import numpy as np
import pytest
from samples import tiny_llama
from sharing import make_prefixes_small, related_requests
from lmeval.compute import gather
from lmeval.scoring import score_shared, trees

place = gather.connect("cpu")
model, made = tiny_llama(), related_requests(12, n=120)
with pytest.MonkeyPatch.context() as patch:
    make_prefixes_small(patch)
    alone = score_shared(model, made, batch_size=3)
    together = score_shared(model, made, place, batch_size=3)
    equal = all(np.array_equal(a.log_probs, b.log_probs) and a.greedy == b.greedy
                for a, b in zip(alone.scores, together.scores, strict=True))
    same_cost = alone.cost.n_positions == together.cost.n_positions and alone.cost.n_tokens <= together.cost.n_tokens
    inner = trees._score_rows
    def fail(*arguments):
        if place.rank == 1:
            raise ZeroDivisionError("rank 1 broke")
        return inner(*arguments)
    trees._score_rows = fail
    try:
        score_shared(model, made, place, batch_size=3)
        failure = "none"
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
with open(f"{sys.argv[1]}/{place.rank}", "w") as out:
    out.write(f"{place.size} {len(together.scores)} {equal} {same_cost} {failure}")
gather.disconnect(place)
"""


@pytest.mark.slow
def test_two_real_processes_agree_and_a_failing_one_stops_both(tmp_path: Path):
    first, second = run_workers(WORKER, tmp_path)
    assert first == "2 120 True True WorkerError: process 1 of 2 failed: rank 1 broke"
    assert second == "2 120 True True ZeroDivisionError: rank 1 broke"


def test_the_engine_and_this_say_the_same_of_a_damaged_model(monkeypatch: pytest.MonkeyPatch):
    model = random_model(llama_config())
    model.network.lm_head.weight.data[3] = math.nan
    messages = []
    for run in (lambda: list(score(model, [request([1], [3])])), lambda: score_shared(model, [request([1], [3])])):
        with pytest.raises(NonFiniteScore) as caught:
            run()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_positions_that_depend_on_the_batch_go_one_by_one():
    """Phi-3's long rotary positions take other frequencies for a whole batch as soon as one sequence of it is long."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = transformers.Phi3Config(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        original_max_position_embeddings=64,
        rope_parameters=rope,
        pad_token_id=0,
        bos_token_id=256,
        eos_token_id=256,
    )
    model, rng = from_pair(network(config), byte_tokenizer(), name="phi3"), np.random.default_rng(0)
    stem = rng.integers(257, size=30)
    made = [request([*stem, *rng.integers(257, size=n)], [1, 2, 3]) for n in (5, 5, 90, 5, 90, 90, 5)]
    alone = [next(iter(score(model, [one]))) for one in made]
    for found in ([s.log_probs for s in score_shared(model, made).scores], list(score(model, made))):
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
    assert score_shared(model, made).cost.path == "plain"
    short = [one for one in made if one.n_inputs < 64]
    assert score_shared(model, short).cost.path == "tree"
