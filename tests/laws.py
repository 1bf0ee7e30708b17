"""Laws: what must hold of every model that is scored and of every way to cut a text, whatever the numbers are.

Each is a function that raises AssertionError where its law is broken. `test_laws.py` applies them to everything there is.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest

from lmeval.compute import gather
from lmeval.compute.place import Place
from lmeval.models import CausalLM
from lmeval.scoring import Request, Window, Windowing, engine, score, windows

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}  # nats a sequence


def requests(vocab_size: int, context_length: int, n: int = 23, seed: int = 0, bos: int | None = None) -> list[Request]:
    """Requests of all sizes, from one context token and one target to as many as the model takes."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        n_inputs = (1, context_length)[i] if i < 2 else int(rng.integers(1, context_length + 1))
        n_context = 1 if i == 1 else int(rng.integers(1, n_inputs + 1))
        ids = rng.integers(0, vocab_size, size=n_inputs + 1)
        if bos is not None:
            ids[0] = bos
        made.append(Request(ids[:n_context], ids[n_context:]))
    return made


def same_scores(model: CausalLM, found: Iterable[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    found, tolerance = list(found), TOLERANCE[str(model.dtype).removeprefix("torch.")]
    assert [len(f) for f in found] == [len(e) for e in expected]
    for f, e in zip(found, expected, strict=True):
        assert abs(f.sum(dtype=np.float64) - e.sum(dtype=np.float64)) < tolerance


def batch_size_does_not_matter(model: CausalLM, made: list[Request]) -> None:
    alone = list(score(model, made, batch_size=1))
    for batch_size in (2, 3, 7, len(made), None):
        same_scores(model, score(model, made, batch_size=batch_size), alone)


def order_does_not_matter(model: CausalLM, made: list[Request]) -> None:
    expected = list(score(model, made))
    order = np.random.default_rng(1).permutation(len(made))
    same_scores(model, score(model, [made[i] for i in order]), [expected[i] for i in order])


def neighbours_do_not_matter(model: CausalLM, made: list[Request]) -> None:
    expected = list(score(model, made))
    for i in range(0, len(made), 5):
        same_scores(model, score(model, [made[i]]), [expected[i]])


def padding_side_does_not_matter(model: CausalLM, made: list[Request]) -> None:
    tokenizer, results = model.encoder.tokenizer, []
    before = tokenizer.padding_side
    for side in ("left", "right"):
        tokenizer.padding_side = side
        results.append(list(score(model, made)))
    tokenizer.padding_side = before
    for a, b in zip(*results, strict=True):
        assert np.array_equal(a, b)


def pool_size_does_not_matter(model: CausalLM, made: list[Request]) -> None:
    expected = list(score(model, made, batch_size=3))
    for batches in (1, 2, 5):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine, "POOL_BATCHES", batches)
            same_scores(model, score(model, made, batch_size=3), expected)


def processes_do_not_matter(model: CausalLM, made: list[Request], size: int) -> None:
    """Each rank is run in turn with the collective put in its place; `test_engine.py` runs real processes too."""
    expected = list(score(model, made, batch_size=3))
    parts: list[dict[int, np.ndarray]] = []

    def take_part(mine: dict[int, np.ndarray], n: int, place: Place, failure: BaseException | None = None) -> list:
        assert failure is None
        parts.append(dict(mine))
        return [mine.get(i) for i in range(n)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gather, "gather_by_id", take_part)
        patch.setattr(gather, "agree", lambda value, place: value)
        patch.setattr(engine, "POOL_BATCHES", 1 << 20)  # one pool
        for rank in range(size):
            list(score(model, made, Place(rank, size, model.device), batch_size=3))
    assert sorted(i for part in parts for i in part) == list(range(len(made)))  # each item once
    together = {i: value for part in parts for i, value in part.items()}
    for i, value in enumerate(expected):
        assert np.array_equal(together[i], value)  # the same batches, so the same numbers to the last bit


ENGINE_LAWS: dict[str, Callable[[CausalLM, list[Request]], None]] = {
    "batch size": batch_size_does_not_matter,
    "order": order_does_not_matter,
    "neighbours": neighbours_do_not_matter,
    "padding side": padding_side_does_not_matter,
    "pool size": pool_size_does_not_matter,
    "one process": lambda model, made: processes_do_not_matter(model, made, 1),
    "two processes": lambda model, made: processes_do_not_matter(model, made, 2),
    "more processes than batches": lambda model, made: processes_do_not_matter(model, made, 31),
}


def windows_cover_a_document(n_tokens: int, windowing: Windowing) -> list[Window]:
    """Every token is a target exactly once and in order, and no window is longer than the context."""
    found = list(windows(n_tokens, windowing))
    targets = [t for window in found for t in range(window.first, window.stop)]
    assert targets == list(range(1 if windowing.bos == "none" else 0, n_tokens))
    for window in found:
        n_inputs = window.stop - 1 - window.start + window.bos
        assert 1 <= n_inputs <= windowing.context
        assert window.first - window.start + window.bos >= 1  # each target has something before it
        if windowing.bos == "document":  # a BOS in the middle of a text would be a lie
            assert window.bos == (window.start == 0 and window.stop <= windowing.context)
        else:
            assert window.bos == (windowing.bos == "window")
    return found


def later_targets_have_context(n_tokens: int, windowing: Windowing) -> None:
    """A target that is not in the first window is predicted from at least context - stride tokens (BOS counts as one)."""
    for window in list(windows(n_tokens, windowing))[1:]:
        before = window.first - window.start + window.bos
        assert before >= windowing.context - windowing.stride
        assert window.stop - window.first <= windowing.stride
        full = window.stop - 1 - window.start + window.bos
        assert full == windowing.context or (windowing.bos != "window" and window.start == 0)


def uniform_is_exact(bits_per_token: float, vocab_size: int) -> None:
    assert math.isclose(bits_per_token, math.log2(vocab_size), rel_tol=1e-12)
