"""What becomes of a datum's number: order, processes, failures, certificates."""

import math
import threading
import time
from typing import Any

import accelerate.utils
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from toy_densities import settings_for

from lmeval.compute.place import Place
from lmeval.errors import InputError, NonFiniteScore, WorkerError
from lmeval.likelihood import rows as rows_module
from lmeval.likelihood.annealing import Annealed, effective_size
from lmeval.likelihood.diagnostics import log_estimate_stderr
from lmeval.likelihood.noise import Key
from lmeval.likelihood.rows import (
    DatumResult,
    LogLikelihood,
    Tick,
    as_columns,
    quiet_distributions,
    results_of_run,
    score_all,
    ticking,
)
from lmeval.likelihood.runs import FrozenRun
from lmeval.stats import mean_estimate

ALONE = Place(0, 1, torch.device("cpu"))
X = torch.arange(11.0)[:, None] ** 2


def made(nats: np.ndarray, side: Any) -> LogLikelihood:
    return as_columns([DatumResult(float(v)) for v in nats], side, "iwae", settings_for(), 1.0)


def first_value(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
    assert len(x) == len(ids) == len(keys)
    tick(3)
    return [(DatumResult(float(row[0])), DatumResult(-float(row[0]))) for row in x]


@pytest.mark.parametrize("at_once", [1, 2, 4, 11, 100])
def test_rows_come_in_order(at_once: int):
    seen = []

    def score(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        assert len(ids) <= at_once
        seen.extend(ids)
        return first_value(x, ids, keys, tick)

    ticks: list[int] = []
    found = score_all(score, X, at_once, ALONE, ticks.append)
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
                score_all(score, X, 2, Place(rank, size, torch.device("cpu")), lambda _: None)
    got = []
    for rank in range(size):
        with monkeypatch.context() as patch:
            patch.setattr(accelerate.utils, "gather_object", lambda _: sent)
            try:
                got.append(score_all(score, X, 2, Place(rank, size, torch.device("cpu")), lambda _: None))
            except Exception as error:
                got.append(error)
    return got


@pytest.mark.parametrize("size", [2, 3, 16])
def test_processes_share_the_data(monkeypatch: pytest.MonkeyPatch, size: int):
    for found in as_group(monkeypatch, size, first_value):
        assert [row[0].nats for row in found] == X[:, 0].tolist()


def test_keys_do_not_depend_on_the_processes(monkeypatch: pytest.MonkeyPatch):
    x = torch.cat([X, X])

    def score(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        return [(DatumResult(float(key[0] % 1000 + key[1] * 1e6)),) for key in keys]

    expected = [row[0].nats for row in score_all(score, x, 4, ALONE, lambda _: None)]
    assert expected[11] == expected[0] + 1e6
    sent = []

    def gather(mine: Any) -> Any:
        sent.append(mine[0])
        return sent if len(sent) == 2 else [(None, {i: (DatumResult(0.0),) for i in range(0, 22, 2)}), mine[0]]

    monkeypatch.setattr(accelerate.utils, "gather_object", gather)
    score_all(score, x, 4, Place(1, 2, torch.device("cpu")), lambda _: None)
    assert {i: rows[0].nats for i, rows in sent[0][1].items()} == {i: expected[i] for i in range(1, 22, 2)}


def test_a_failure_is_everybodys(monkeypatch: pytest.MonkeyPatch):
    def score(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        if 3 in ids:
            raise NonFiniteScore("datum 3: no weight")
        return first_value(x, ids, keys, tick)

    with pytest.raises(NonFiniteScore, match="datum 3"):
        score_all(score, X, 2, ALONE, lambda _: None)
    found = as_group(monkeypatch, 2, score)
    assert isinstance(found[0], WorkerError) and "process 1 of 2 failed: datum 3: no weight" in str(found[0])
    assert isinstance(found[1], NonFiniteScore)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_number_that_is_none_never_enters_a_mean(bad: float, which: int):
    def score(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        rows = [(DatumResult(1.0), DatumResult(2.0)) for _ in ids]
        return [
            tuple(DatumResult(bad) if i in (5, 8) and j == which else r for j, r in enumerate(row))
            for i, row in zip(ids, rows, strict=True)
        ]

    with pytest.raises(NonFiniteScore, match=rf"2 of 11 data have log p\(x\) = {bad} \(the first is datum 5\)"):
        score_all(score, X, 3, ALONE, lambda _: None)


def test_distributions_are_checked_again_afterwards():
    def score(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        Normal(torch.tensor(math.nan), 1.0)
        return first_value(x, ids, keys, tick)

    score_all(score, X, 3, ALONE, lambda _: None)
    with pytest.raises(ValueError, match="loc"):
        Normal(torch.tensor(math.nan), 1.0)
    with pytest.raises(ZeroDivisionError), quiet_distributions():
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="loc"):
        Normal(torch.tensor(math.nan), 1.0)
    with quiet_distributions():
        Distribution.set_default_validate_args(False)
        with quiet_distributions():
            pass
        Normal(torch.tensor(math.nan), 1.0)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rows_module, "NUMBERS", 1)  # that little data is shared out, too
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_threads_share_the_data(n: int, threads: Any):
    threads(n)
    within = set()

    def score(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        within.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.02)
        return first_value(x, ids, keys, tick)

    ticks: list[int] = []
    found = score_all(score, X, 2, ALONE, ticks.append)
    assert [row[0].nats for row in found] == X[:, 0].tolist() and sum(ticks) == 33
    assert {size for _, size in within} == {1} and len(within) <= n
    assert n == 1 or len(within) > 1
    assert torch.get_num_threads() == n


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_failure_in_a_thread_stops_all(n: int, threads: Any):
    threads(n)
    begun = []

    def score(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        begun.append(ids)
        if 0 in ids:
            raise NonFiniteScore("datum 0: no weight")
        for _ in range(20):
            time.sleep(0.005)
            tick(1)
        return first_value(x, ids, keys, tick)

    with pytest.raises(NonFiniteScore, match="datum 0: no weight"):
        score_all(score, X, 1, ALONE, lambda _: None)
    assert len(begun) < 11
    assert torch.get_num_threads() == n
    with pytest.raises(ValueError, match="loc"):
        Normal(torch.tensor(math.nan), 1.0)


def test_the_user_can_stop_it(threads: Any):
    threads(2)

    def score(x: Tensor, ids: tuple[int, ...], keys: list[Key], tick: Tick) -> list[tuple[DatumResult, ...]]:
        for _ in range(4000):
            time.sleep(0.005)
            tick(1)
        return first_value(x, ids, keys, tick)

    told = []

    def tick(n: int) -> None:
        told.append(n)
        if len(told) == 3:
            raise KeyboardInterrupt

    began = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        score_all(score, X, 1, ALONE, tick)
    assert time.perf_counter() - began < 10
    assert torch.get_num_threads() == 2


def test_progress_is_of_the_whole():
    told: list[tuple[int, int]] = []
    tick = ticking(lambda done, total: told.append((done, total)), 10)
    for n in (3, 4, 5):
        tick(n)
    assert told == [(3, 10), (7, 10), (10, 10)]
    ticking(None, 10)(3)


def test_means():
    nats = np.array([-3.0, -5.0, -4.5])
    found = made(nats, "lower")
    assert found.mean == mean_estimate(nats, share=False)
    assert found.mean.value == pytest.approx(nats.mean())
    assert found.nats.dtype == np.float64


def test_certificates():
    nats = np.array([-3.0, -5.0, -4.0])
    slack = math.log(1 / 0.01) / 3
    assert made(nats, "lower").certificate() == pytest.approx(-4 - slack)
    assert made(nats, "upper").certificate() == pytest.approx(-4 + slack)
    assert made(nats, "exact").certificate() == pytest.approx(-4)
    assert math.isnan(made(nats, "estimate").certificate())
    assert made(nats, "lower").certificate(0.2) == pytest.approx(-4 - math.log(5) / 3)
    assert math.log(100) / 1000 == pytest.approx(4.6e-3, rel=0.01)


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 2.0, math.nan])
def test_a_certificate_is_for_a_probability(delta: float):
    with pytest.raises(InputError, match="a probability between 0 and 1"):
        made(np.zeros(3), "lower").certificate(delta)


def test_certificates_hold_as_often_as_they_say():
    # Heavy weights of mean 1: log Z-hat - log Z is -s^2/2 + s e, far from normal once it is exponentiated
    rng = np.random.default_rng(0)
    for sigma, n in ((1.5, 1), (1.0, 5), (2.5, 20)):
        over = sigma * rng.normal(size=(20000, n)) - sigma**2 / 2
        for delta in (0.3, 0.05):
            broken = np.mean(over.mean(1) - math.log(1 / delta) / n > 0)
            assert broken <= delta
            assert made(over[0], "lower").certificate(delta) == pytest.approx(over[0].mean() - math.log(1 / delta) / n)


def run_of(resampled: list[int], k: int = 40) -> Annealed:
    weight = torch.randn(k, len(resampled), generator=torch.Generator().manual_seed(0)).double() * 0.3
    some = torch.tensor([0.5, 0.625, 0.75]).double()[: len(resampled)]
    return Annealed(
        some - 9, weight, some, torch.tensor(resampled).double(), torch.tensor([0, 1, 2])[: len(resampled)].double()
    )


def ready_of(run: Annealed) -> FrozenRun:
    return FrozenRun(None, None, run.acceptance * 10, 77)  # type: ignore[arg-type]


def test_rows_of_a_run():
    run, settings = run_of([0, 2, 0]), settings_for(particles=40, temperatures=6, leapfrogs=3)
    rows = results_of_run(run, ready_of(run), settings)
    assert [row.nats for row in rows] == run.log_z.tolist()
    assert [row.length for row in rows] == [5, 6.25, 7.5] and [row.acceptance for row in rows] == [0.5, 0.625, 0.75]
    assert [row.n_lost for row in rows] == [0, 1, 2]
    ess = effective_size(run.log_weight).numpy()
    assert [row.ess for row in rows] == ess.tolist()
    assert rows[0].stderr == log_estimate_stderr(ess, 40)[0] > 0
    assert math.isnan(rows[1].stderr)  # kin say nothing of the error
    assert {(row.n_gradients, row.n_evaluations, row.n_pilot) for row in rows} == {(40 * (1 + 5 * 3) + 77,) * 2 + (77,)}
    assert all(math.isfinite(row.pareto_k) for row in rows)


def test_columns():
    run, settings = run_of([0, 2, 0]), settings_for(particles=40, temperatures=6, leapfrogs=3)
    rows = results_of_run(run, ready_of(run), settings)
    found = as_columns(rows, "upper", "conditional smc", settings, 2.5)
    assert found.side == "upper" and found.method == "conditional smc" and found.seconds == 2.5
    assert found.n_lost == 3 and found.n_pilot == 77
    assert found.lengths is not None and found.lengths.tolist() == [5, 6.25, 7.5]
    assert found.settings == settings._asdict()
    other = as_columns([DatumResult(-1.0, 0.1, 3.0, 0.2, 50)], "lower", "iwae", settings, 1.0)
    assert other.settings == {"particles": 40, "seed": 0}
    assert other.lengths is None and other.acceptance is None and other.n_lost is None
    assert (other.n_evaluations, other.n_gradients) == (50, 0)
    assert (other.stderr[0], other.ess[0], other.pareto_k[0]) == (0.1, 3.0, 0.2)
    assert as_columns([DatumResult(-1.0)], "exact", "exact", settings, 1.0).settings == {}


def test_overlapping_calls_leave_torchs_checks_as_they_were():
    first, second = quiet_distributions(), quiet_distributions()
    with first:
        second.__enter__()
    assert not Normal._validate_args  # the second still needs it quiet
    second.__exit__(None, None, None)
    with pytest.raises(ValueError, match="loc"):
        Normal(torch.tensor(math.nan), 1.0)
