import numpy as np
import pytest
from networks import model_of, some_ids

from lmeval.models.compiled import lanes as module
from lmeval.models.compiled.choice import compiled_network
from lmeval.models.compiled.lanes import advance_compiled, open_compiled, restart_compiled
from lmeval.models.compiled.network import Network

N_LANES, CAPACITY = 37, 40


def read(network: Network, ids: np.ndarray, n_threads: int) -> np.ndarray:
    lanes = open_compiled(network, len(ids), CAPACITY, n_threads)
    logits = [restart_compiled(lanes, ids[:, :2]).copy()]
    logits += [advance_compiled(lanes, ids[:, i]).copy() for i in range(2, ids.shape[1])]
    return np.stack(logits, axis=1)


@pytest.fixture(params=["qwen3", "gpt2, heads of 8"])
def network(request: pytest.FixtureRequest) -> Network:
    built = compiled_network(model_of(request.param), CAPACITY)
    assert isinstance(built, Network), built
    return built


def test_threads_and_shares_of_lanes_change_no_bit(network: Network, monkeypatch: pytest.MonkeyPatch):
    ids = some_ids(N_LANES, 12)
    expected = read(network, ids, 1)
    for n_threads in (2, 3):
        assert np.array_equal(read(network, ids, n_threads), expected)
    for lanes_of_a_task in (1, 5, 36, 1000):
        monkeypatch.setattr(module, "LANES_OF_A_TASK", lanes_of_a_task)
        assert np.array_equal(read(network, ids, 2), expected)


def test_a_lane_does_not_depend_on_the_others(network: Network):
    ids = some_ids(N_LANES, 12)
    expected = read(network, ids, 1)
    for first, stop in ((0, 1), (5, 7), (9, 18), (20, 36)):
        assert np.array_equal(read(network, ids[first:stop], 1), expected[first:stop])


@pytest.mark.parametrize("n_lanes", [1, 15, 16, 31, 32, 33, 100])
def test_tasks_share_out_all_lanes(n_lanes: int):
    parts = list(module._parts(n_lanes))
    assert [lane for first, stop in parts for lane in range(first, stop)] == list(range(n_lanes))
    assert max(stop - first for first, stop in parts) <= 2 * module.LANES_OF_A_TASK
    assert len(parts) == 1 or min(stop - first for first, stop in parts) >= module.LANES_OF_A_TASK


def test_what_goes_wrong_in_a_thread_is_raised(network: Network, monkeypatch: pytest.MonkeyPatch):
    def failing(*arguments: object) -> None:
        raise RuntimeError("in a thread")

    monkeypatch.setattr(module, "read_tokens", failing)
    with pytest.raises(RuntimeError, match="in a thread"):
        read(network, some_ids(N_LANES, 3), 2)
