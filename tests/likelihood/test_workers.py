"""Data over processes and threads: order, failures, and the user's interrupt."""

import math
import threading
import time
from typing import Any

import accelerate.utils
import pytest
import torch
from torch.distributions import Normal

from lmeval.compute.memory import PARTICLES
from lmeval.compute.place import Place
from lmeval.errors import NonFiniteScore, WorkerError
from lmeval.likelihood import workers
from lmeval.likelihood.result import Advance, Batch, DatumResult
from lmeval.likelihood.workers import score_all

ALONE = Place(0, 1, torch.device("cpu"))
X = torch.arange(11.0)[:, None] ** 2


def at(at_once: int, rank: int = 0, size: int = 1) -> Place:
    """A place with the memory for so many data of one number at once."""
    return Place(rank, size, torch.device("cpu"), int(4 * at_once / PARTICLES.share) + 1)


def first_value(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
    assert len(batch.x) == len(batch.ids) == len(batch.keys)
    advance(3)
    return [(DatumResult(float(row[0])), DatumResult(-float(row[0]))) for row in batch.x]


@pytest.mark.parametrize("at_once", [1, 2, 4, 11, 100])
def test_rows_come_in_order(at_once: int):
    seen = []

    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
        assert len(batch.ids) <= at_once
        seen.extend(batch.ids)
        return first_value(batch, advance)

    ticks: list[int] = []
    found = score_all(score, X, at(at_once), ticks.append)
    assert [row[0].nats for row in found] == X[:, 0].tolist()
    assert [row[1].nats for row in found] == (-X[:, 0]).tolist()
    assert sorted(seen) == list(range(11)) and sum(ticks) == 33


def as_group(monkeypatch: pytest.MonkeyPatch, size: int, score: Any) -> list[Any]:
    """What each rank would get."""
    sent: list[Any] = []

    def catch(mine: Any) -> Any:
        sent.append(mine[0])
        raise InterruptedError

    for rank in range(size):
        with monkeypatch.context() as patch:
            patch.setattr(accelerate.utils, "gather_object", catch)
            with pytest.raises(InterruptedError):
                score_all(score, X, at(2, rank, size), lambda _: None)
    got = []
    for rank in range(size):
        with monkeypatch.context() as patch:
            patch.setattr(accelerate.utils, "gather_object", lambda _: sent)
            try:
                got.append(score_all(score, X, at(2, rank, size), lambda _: None))
            except Exception as error:
                got.append(error)
    return got


@pytest.mark.parametrize("size", [2, 3, 16])
def test_processes_share_the_data(monkeypatch: pytest.MonkeyPatch, size: int):
    for found in as_group(monkeypatch, size, first_value):
        assert [row[0].nats for row in found] == X[:, 0].tolist()


def test_keys_do_not_depend_on_the_processes(monkeypatch: pytest.MonkeyPatch):
    x = torch.cat([X, X])

    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
        return [(DatumResult(float(key[0] % 1000 + key[1] * 1e6)),) for key in batch.keys]

    expected = [row[0].nats for row in score_all(score, x, at(4), lambda _: None)]
    assert expected[11] == expected[0] + 1e6
    sent = []

    def gather(mine: Any) -> Any:
        sent.append(mine[0])
        return sent if len(sent) == 2 else [(None, {i: (DatumResult(0.0),) for i in range(0, 22, 2)}), mine[0]]

    monkeypatch.setattr(accelerate.utils, "gather_object", gather)
    score_all(score, x, at(4, 1, 2), lambda _: None)
    assert {i: rows[0].nats for i, rows in sent[0][1].items()} == {i: expected[i] for i in range(1, 22, 2)}


def test_a_failure_is_everybodys(monkeypatch: pytest.MonkeyPatch):
    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
        if 3 in batch.ids:
            raise NonFiniteScore("datum 3: no weight")
        return first_value(batch, advance)

    with pytest.raises(NonFiniteScore, match="datum 3"):
        score_all(score, X, at(2), lambda _: None)
    found = as_group(monkeypatch, 2, score)
    assert isinstance(found[0], WorkerError) and "process 1 of 2 failed: datum 3: no weight" in str(found[0])
    assert isinstance(found[1], NonFiniteScore)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_number_that_is_none_never_enters_a_mean(bad: float, which: int):
    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
        rows = [(DatumResult(1.0), DatumResult(2.0)) for _ in batch.ids]
        return [
            tuple(DatumResult(bad) if i in (5, 8) and j == which else r for j, r in enumerate(row))
            for i, row in zip(batch.ids, rows, strict=True)
        ]

    with pytest.raises(NonFiniteScore, match=rf"2 of 11 data have log p\(x\) = {bad} \(the first is datum 5\)"):
        score_all(score, X, at(3), lambda _: None)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "NUMBERS", 1)  # that little data is shared out, too
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_threads_share_the_data(n: int, threads: Any):
    threads(n)
    within = set()

    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
        within.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.02)
        return first_value(batch, advance)

    ticks: list[int] = []
    found = score_all(score, X, at(2), ticks.append)
    assert [row[0].nats for row in found] == X[:, 0].tolist() and sum(ticks) == 33
    assert {size for _, size in within} == {1} and len(within) <= n
    assert n == 1 or len(within) > 1
    assert torch.get_num_threads() == n


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_failure_in_a_thread_stops_all(n: int, threads: Any):
    threads(n)
    begun = []

    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
        begun.append(batch.ids)
        if 0 in batch.ids:
            raise NonFiniteScore("datum 0: no weight")
        for _ in range(20):
            time.sleep(0.005)
            advance(1)
        return first_value(batch, advance)

    with pytest.raises(NonFiniteScore, match="datum 0: no weight"):
        score_all(score, X, at(1), lambda _: None)
    assert len(begun) < 11
    assert torch.get_num_threads() == n
    with pytest.raises(ValueError, match="loc"):
        Normal(torch.tensor(math.nan), 1.0)


def test_the_user_can_stop_it(threads: Any):
    threads(2)

    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
        for _ in range(4000):
            time.sleep(0.005)
            advance(1)
        return first_value(batch, advance)

    told = []

    def tick(n: int) -> None:
        told.append(n)
        if len(told) == 3:
            raise KeyboardInterrupt

    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        score_all(score, X, at(1), tick)
    assert time.perf_counter() - began < 10
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("n", [2, 4])
def test_a_failure_in_a_later_part_is_not_waited_for(n: int, threads: Any):
    threads(n)

    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
        if 1 in batch.ids:
            time.sleep(0.05)
            raise NonFiniteScore("datum 1: no weight")
        for _ in range(4000):  # 20 s, for a result that is taken first
            time.sleep(0.005)
            advance(1)
        return first_value(batch, advance)

    began = time.perf_counter()
    with pytest.raises(NonFiniteScore, match="datum 1: no weight"):
        score_all(score, X, at(1), lambda _: None)
    assert time.perf_counter() - began < 10


def test_threads_share_a_memory_budget(threads: Any):
    threads(4)
    sizes: list[int] = []

    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, ...]]:
        sizes.append(len(batch.ids))
        return first_value(batch, advance)

    score_all(score, X, at(9), lambda _: None)
    assert max(sizes) == 2
