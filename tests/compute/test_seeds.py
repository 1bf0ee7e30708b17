"""Random numbers seeded for a moment leave no trace, in any thread."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lmeval.compute.seeds import seeded


def test_a_seed_of_ones_own_leaves_no_trace():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with seeded(7):
            drawn.append(torch.rand(3))
    assert torch.equal(*drawn) and torch.equal(torch.get_rng_state(), before)
    with seeded(8):
        assert not torch.equal(torch.rand(3), drawn[0])
    with pytest.raises(ZeroDivisionError), seeded(7):
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)
    with seeded(7):  # the lock is open again
        pass


def test_threads_do_not_mix_their_seeds():
    def draw(seed: int) -> list[float]:
        with seeded(seed):
            return [float(torch.rand(())) for _ in range(5) if not time.sleep(0.001)]

    expected = [draw(seed) for seed in range(20)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(draw, range(20))) == expected


def test_blocks_may_stand_in_each_other_and_have_no_seed():
    with seeded(7):
        first = torch.rand(3)
        with seeded(8), seeded(None):
            inner = torch.rand(3)
        second = torch.rand(3)
    with seeded(7):
        assert torch.equal(torch.rand(6), torch.cat([first, second]))
    with seeded(8):
        assert torch.equal(torch.rand(3), inner)
