"""Streams of random numbers: a datum's own, whatever else there is."""

import numpy as np
import pytest
import torch
from scipy import stats

from lmeval.likelihood.noise import Streams, keys_of

LIKE = torch.zeros(1, dtype=torch.float64)
KEYS = [(11, 0), (11, 1), (12, 0), (2**63 + 5, 0)]


def test_keys_are_of_content():
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0], [0.0, 1.0], [0.0, 1.0]])
    keys = keys_of(x)
    assert [count for _, count in keys] == [0, 0, 1, 2]
    assert keys[0][0] == keys[2][0] == keys[3][0] != keys[1][0]
    assert keys_of(x[1:2]) == keys[1:2]
    assert keys_of(x.flip(0)) == [keys[0], keys[2], keys[1], keys[3]]
    assert keys_of(x.double()) == keys_of(x.reshape(4, 1, 2)) == keys


def test_keys_of_many_data_differ():
    x = torch.cartesian_prod(*[torch.arange(2.0)] * 12)
    assert len(set(keys_of(x))) == 4096


def test_a_datum_draws_the_same_in_any_company():
    together = Streams(3, "run", KEYS, LIKE)
    normal, uniform, seeds = together.normal(5, 2), together.uniform(4), together.torch_seeds()
    for i, key in enumerate(KEYS):
        alone = Streams(3, "run", [key], LIKE)
        assert torch.equal(alone.normal(5, 2)[:, 0], normal[:, i])
        assert torch.equal(alone.uniform(4)[:, 0], uniform[:, i])
        assert alone.torch_seeds() == [seeds[i]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_go_on_where_the_last_ended(dtype: torch.dtype):
    like = LIKE.to(dtype)
    whole, parts = Streams(0, "run", KEYS, like), Streams(0, "run", KEYS, like)
    assert torch.equal(whole.normal(7, 3), torch.cat([parts.normal(n, 3) for n in (1, 4, 2)]))
    assert torch.equal(whole.uniform(6), torch.cat([parts.uniform(n) for n in (5, 1)]))
    assert whole.normal(1, 1).dtype == whole.uniform(1).dtype == dtype


def test_seeds_purposes_and_counts_keep_streams_apart():
    made = [
        Streams(seed, purpose, KEYS, LIKE)
        for seed in (0, 1)
        for purpose in ("run", "pilot", "pilot end", "plan 0", "plan 1")
    ]
    drawn = torch.cat([streams.normal(1, 1).flatten() for streams in made])
    assert len(set(drawn.tolist())) == len(drawn) == 40
    many = Streams(0, "run", [(7, i) for i in range(4000)], LIKE).normal(2, 1)[..., 0]
    assert abs(np.corrcoef(many[0][:-1], many[0][1:])[0, 1]) < 0.06  # neighbouring counts
    assert abs(np.corrcoef(many[0], many[1])[0, 1]) < 0.06


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_laws_of_the_numbers(dtype: torch.dtype):
    streams = Streams(0, "run", [(i, 0) for i in range(2000)], LIKE.to(dtype))
    normal, uniform = streams.normal(4, 3), streams.uniform(10)
    assert normal.shape == (4, 2000, 3) and uniform.shape == (10, 2000)
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > 0.01
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > 0.01
    assert uniform.min() > 0 and uniform.max() < 1


def test_a_uniform_number_is_never_zero(monkeypatch: pytest.MonkeyPatch):
    streams = Streams(0, "run", KEYS, LIKE)
    monkeypatch.setattr(streams, "_filled", lambda shape, fill: torch.zeros(*shape, len(KEYS), dtype=torch.float64))
    assert torch.isfinite(streams.uniform(3).log()).all()


def test_nobody_elses_random_state_is_touched():
    before, numpy_before = torch.get_rng_state(), np.random.get_state(legacy=False)  # noqa: NPY002
    streams = Streams(0, "run", KEYS, LIKE)
    streams.normal(3, 3)
    streams.uniform(3)
    streams.torch_seeds()
    assert torch.equal(torch.get_rng_state(), before)
    now = np.random.get_state(legacy=False)  # noqa: NPY002
    assert str(now) == str(numpy_before)
