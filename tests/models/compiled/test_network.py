import numpy as np
import pytest
import torch
from networks import CONFIGS, model_of, parallel_log_probs, some_ids

from lmeval.models.compiled.choice import compiled_network
from lmeval.models.compiled.lanes import CompiledLanes, advance_compiled, open_compiled, restart_compiled
from lmeval.models.compiled.network import Network, cache_bytes, open_cache

CAPACITY = 64


def network_of(name: str) -> Network:
    built = compiled_network(model_of(name), CAPACITY)
    assert isinstance(built, Network), built
    return built


def by_steps(lanes: CompiledLanes, ids: np.ndarray, first: int) -> np.ndarray:
    """Logits after the first `first` tokens, read at once, and after every one of the others: [lanes, time, ids]."""
    logits = [restart_compiled(lanes, ids[:, :first]).copy()]
    logits += [advance_compiled(lanes, ids[:, i]).copy() for i in range(first, ids.shape[1])]
    return np.stack(logits, axis=1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().log_softmax(-1).numpy()


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probabilities_are_those_of_the_networks_own_pass(name: str):
    """Over a whole context, so that panels of positions are full, and one is begun."""
    model, ids = model_of(name), some_ids(3, CAPACITY)
    built = compiled_network(model, CAPACITY)
    assert isinstance(built, Network), built
    found = log_softmax(by_steps(open_compiled(built, 3, CAPACITY), ids, 5))
    assert np.abs(found - parallel_log_probs(model, ids)[:, 4:]).max() < 5e-5


@pytest.mark.parametrize("name", ["llama", "gpt2, untied, odd"])
def test_what_lanes_read_before_a_restart_is_forgotten(name: str):
    built, ids = network_of(name), some_ids(2, 40)
    lanes = open_compiled(built, 2, CAPACITY)
    expected = by_steps(lanes, ids, 3)
    by_steps(lanes, some_ids(2, 50, seed=1), 1)
    assert np.array_equal(by_steps(lanes, ids, 3), expected)
    assert np.array_equal(by_steps(lanes, ids, 30), expected[:, 27:])


def test_a_cache_takes_what_it_is_said_to_take():
    for name in ("llama", "qwen3, tied", "gpt2, untied, odd"):
        built = network_of(name)
        for n_lanes, capacity in ((1, 5), (3, 33), (2, 64)):
            cache = open_cache(built, n_lanes, capacity)
            assert cache.keys.nbytes + cache.values.nbytes == n_lanes * cache_bytes(built, capacity)
