import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import requests, same_scores
from processes import run_workers
from samples import markov_transitions, tiny_gpt2, tiny_llama
from told import Told

from lmeval.compute.place import Place
from lmeval.errors import ContextTooLong, NonFiniteScore, OutOfMemory
from lmeval.models import CausalLM, from_pair
from lmeval.models.toys import (
    BOS_ID,
    byte_tokenizer,
    entropy_rate_nats,
    markov_model,
    stationary_distribution,
    uniform_model,
)
from lmeval.scoring import Request, engine, request, score


def plain(model: CausalLM, req: Request) -> np.ndarray:
    """One sequence through the network's own forward, log-softmax in float64."""
    ids = torch.from_numpy(np.concatenate(req[:2]))
    with torch.no_grad():
        log_probs = model.network(input_ids=ids[None, :-1]).logits[0].double().log_softmax(-1)
    targets = ids[len(req.context) :]
    return log_probs[len(req.context) - 1 :].gather(1, targets[:, None]).squeeze(1).numpy()


def test_scores_are_those_of_each_sequence_by_itself(tiny: CausalLM):
    made = requests(257, 64)
    same_scores(tiny, score(tiny, made), [plain(tiny, req) for req in made])


def test_a_score_of_one_target_is_its_log_probability():
    model = tiny_llama(dtype=torch.float64)
    (found,) = score(model, [request([256, 5], [7])])
    assert found == pytest.approx(plain(model, request([256, 5], [7])), rel=1e-12)


def test_results_are_float32_or_float64_for_float64():
    assert {s.dtype for s in score(tiny_llama(), requests(257, 64, n=3))} == {np.dtype("float32")}
    assert {s.dtype for s in score(tiny_llama(dtype=torch.float64), requests(257, 64, n=3))} == {np.dtype("float64")}
    assert {s.dtype for s in score(tiny_gpt2(dtype=torch.bfloat16), requests(257, 64, n=3))} == {np.dtype("float32")}


def test_no_requests_are_no_scores():
    assert list(score(tiny_llama(), [])) == []


def test_requests_stream():
    """Endless requests: scores come out pool by pool."""

    def endless():
        while True:
            yield request([256], [1, 2, 3])

    scores = score(tiny_llama(), endless(), batch_size=2)
    assert len([next(scores) for _ in range(5)]) == 5


def test_progress_counts_every_target_once():
    told = Told()
    made = requests(257, 64)
    list(score(tiny_llama(), made, batch_size=4, progress=told))
    assert sum(told.numbers) == sum(len(req.target) for req in made)
    assert told.stages == []  # the caller's


def test_a_request_longer_than_the_model_takes_is_refused():
    fits, too_long = request([256] * 4, [1] * 61), request([256] * 5, [1] * 61)
    assert len(list(score(tiny_llama(), [fits]))) == 1
    with pytest.raises(ContextTooLong, match="65 input tokens, but tiny-llama takes 64"):
        list(score(tiny_llama(), [fits, too_long]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch, value: float):
    inner = engine.target_log_probs

    def damaged(*arguments):
        found = inner(*arguments).clone()
        found[-1] = value
        return found

    monkeypatch.setattr(engine, "target_log_probs", damaged)
    with pytest.raises(NonFiniteScore, match=f"tiny-llama gave {value} for 1 of 2 tokens of a batch"):
        list(score(tiny_llama(), [request([100], [7, 3])]))


class Memory:
    """`_score_batch` on a device with room for `limit` input tokens; `calls` are the sizes that were tried."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.calls: list[int] = []
        inner = engine._score_batch

        def score_batch(model: CausalLM, batch: Sequence[Request], place: Place) -> list[np.ndarray]:
            size = len(batch) * max(req.n_inputs for req in batch)
            self.calls.append(size)
            if size > limit:
                raise error("CUDA out of memory. Tried to allocate 2 GiB")
            return inner(model, batch, place)

        monkeypatch.setattr(engine, "_score_batch", score_batch)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
@pytest.mark.parametrize("limit", [64, 100, 300])
def test_memory_that_runs_out_changes_nothing_but_the_batches(monkeypatch: pytest.MonkeyPatch, limit: int, error):
    model, made = tiny_llama(dtype=torch.float64), requests(257, 64, n=40)
    expected = list(score(model, made, batch_size=16))
    Memory(monkeypatch, limit, error)
    told = Told()
    same_scores(model, score(model, made, batch_size=16, progress=told), expected)
    assert sum(told.numbers) == sum(len(req.target) for req in made)


def test_a_size_that_did_not_fit_is_not_tried_again(monkeypatch: pytest.MonkeyPatch):
    memory = Memory(monkeypatch, limit=130)
    made = [request([256] * 4, [1] * 61)] * 160
    list(score(tiny_llama(), made, batch_size=8))
    assert sum(size > 130 for size in memory.calls) == 2  # 512, then 256: after that at most two sequences at once


def test_a_single_sequence_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch):
    Memory(monkeypatch, limit=50)
    with pytest.raises(OutOfMemory, match="one sequence of 64 tokens does not fit on cpu"):
        list(score(tiny_llama(), requests(257, 64), batch_size=8))


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch):
    memory = Memory(monkeypatch, limit=0, error=ValueError)
    with pytest.raises(ValueError, match="out of memory"):
        list(score(tiny_llama(), requests(257, 64), batch_size=8))
    assert len(memory.calls) == 1


def test_a_uniform_model_gives_the_log_of_its_vocabulary():
    model = from_pair(uniform_model(context_length=50), byte_tokenizer())
    for found in score(model, requests(257, 50)):
        np.testing.assert_allclose(found, -math.log(257), rtol=1e-13)


def test_a_markov_model_gives_its_closed_form():
    transitions = markov_transitions()
    model = from_pair(markov_model(transitions, context_length=40), byte_tokenizer())
    made = requests(257, 40)
    for req, found in zip(made, score(model, made), strict=True):
        before = np.concatenate([req.context, req.target])[len(req.context) - 1 : -1]
        np.testing.assert_allclose(found, np.log(transitions[before, req.target]), rtol=1e-12)


def test_a_long_sequence_of_a_markov_model_costs_its_entropy_rate():
    transitions, n = markov_transitions(seed=5), 60_000
    model = from_pair(markov_model(transitions, context_length=1000), byte_tokenizer())
    rng, cumulative = np.random.default_rng(0), np.cumsum(transitions, axis=1)
    chain = [int(np.searchsorted(np.cumsum(stationary_distribution(transitions)), rng.random()))]
    for u in rng.random(n - 1):
        chain.append(min(256, int(np.searchsorted(cumulative[chain[-1]], u))))
    ids = np.array(chain)
    made = [Request(ids[i : i + 1], ids[i + 1 : i + 1001]) for i in range(0, n - 1, 1000)]
    nats = -np.concatenate(list(score(model, made)))
    assert len(nats) == n - 1
    batches = nats[: n // 1000 * 1000 - 1000].reshape(-1, 1000).mean(axis=1)  # means of long stretches are independent
    stderr = batches.std(ddof=1) / math.sqrt(len(batches))
    assert stderr < 0.02
    assert abs(nats.mean() - entropy_rate_nats(transitions)) < 4 * stderr


def test_bfloat16_sums_differ_by_the_rounding_of_logits_alone():
    """The same logits, taken in float64, give the same sums: nothing else is computed in the network's dtype."""
    model = tiny_gpt2(dtype=torch.bfloat16)
    made = requests(257, 64)
    for found, req in zip(score(model, made, batch_size=1), made, strict=True):
        assert found.sum(dtype=np.float64) == pytest.approx(plain(model, req).sum(), abs=1e-5 * len(req.target))


def test_bos_is_no_different_from_any_other_context_token():
    model = tiny_llama(dtype=torch.float64)
    (found,) = score(model, [request([BOS_ID], [BOS_ID, 5])])
    np.testing.assert_allclose(found, plain(model, request([BOS_ID], [BOS_ID, 5])), rtol=1e-12)


WORKER = """
import os, sys
import numpy as np
from laws import requests
from samples import tiny_llama
from lmeval.compute import gather
from lmeval.errors import LmevalError
from lmeval.scoring import engine, score

group = gather.connect("cpu")
model, made = tiny_llama(), requests(257, 64, n=50)
alone = list(score(model, made, batch_size=3))
together = list(score(model, made, group, batch_size=3))
equal = all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))
inner = engine._score_batch
def fail(*arguments):
    if group.rank == 1:
        raise ZeroDivisionError("rank 1 broke")
    return inner(*arguments)
engine._score_batch = fail
try:
    list(score(model, made, group, batch_size=3))
    failure = "none"
except Exception as error:
    failure = f"{type(error).__name__}: {error}"
with open(f"{sys.argv[1]}/{group.rank}", "w") as out:
    out.write(f"{group.size} {len(together)} {equal} {failure}")
gather.disconnect(group)
"""


@pytest.mark.slow
def test_two_real_processes_agree_and_a_failing_one_stops_both(tmp_path: Path):
    first, second = run_workers(WORKER, tmp_path)
    assert first == "2 50 True WorkerError: process 1 of 2 failed: rank 1 broke"
    assert second == "2 50 True ZeroDivisionError: rank 1 broke"
