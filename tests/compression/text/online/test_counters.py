import numpy as np
import page_online
import pytest

from lmeval.compression.text.online.counters import SURE, Counters, learn_counters, look_up, open_counters
from lmeval.compression.text.online.tables import NAT, ONE, tables

N_CONTEXTS = 2  # the first has a map, and a second average of what the second had not seen
N_INPUTS = 4


def _counters(n_lanes: int = 1, limits: tuple[int, int] = (250, 120)) -> Counters:
    return open_counters(12, list(limits), [1, -1], [True, False], n_lanes)


def _asked(counters: Counters, base: list[list[int]], node: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The inputs, and the bits of what was seen."""
    n = len(base)
    inputs, seen = np.zeros((n, N_INPUTS), dtype=np.int32), np.zeros((n, 2), dtype=np.int64)
    look_up(counters, tables(), np.array(base, dtype=np.uint64), np.full(n, node), n, inputs, seen)
    return inputs, seen


def _taught(counters: Counters, base: list[list[int]], bits: list[int], node: int = 1) -> None:
    _asked(counters, base, node)
    learn_counters(counters, tables(), np.array(bits, dtype=np.int64), len(bits))


def test_what_was_never_seen_says_nothing():
    inputs, seen = _asked(_counters(), [[123, 456]])
    assert inputs.tolist() == [[0, 0, 0, 0]]
    assert seen.tolist() == [[0, 0]]


@pytest.mark.parametrize("bit", [0, 1])
def test_what_was_seen_is_expected_again(bit: int):
    counters, sign = _counters(), 2 * bit - 1
    said = []
    for _ in range(200):
        _taught(counters, [[123, 456]], [bit])
        said.append(sign * _asked(counters, [[123, 456]])[0][0])
    assert (np.array(said)[:, :3] > 0).all()
    assert (np.diff(np.array(said)[:, 1]) >= 0).all()
    assert said[-1][1] > 4 * NAT


def test_contexts_nodes_and_their_bits_are_told_apart():
    counters = _counters()
    _taught(counters, [[123, 456]], [1])
    _taught(counters, [[123, 789]], [0])
    _taught(counters, [[123, 456]], [0], node=2)
    assert _asked(counters, [[123, 456]])[1].tolist() == [[0b11, 0b10]]
    assert _asked(counters, [[77, 456]])[1].tolist() == [[0b10, 0b10]]
    assert _asked(counters, [[123, 456]], node=2)[1].tolist() == [[0b11, 0b11]]
    assert _asked(counters, [[123, 456]], node=3)[1].tolist() == [[0, 0]]


def test_the_second_average_learns_what_the_longer_context_had_not_seen():
    counters = _counters()
    for _ in range(30):
        _taught(counters, [[123, 456]], [1])
    _taught(counters, [[123, 999]], [0])
    average, _, _, second = _asked(counters, [[123, 456]])[0][0]
    assert average > 0 > second  # one 1 and one 0 were news, the 0 the later one


def test_averages_go_back_only_so_far():
    zero = []
    for limit in (4, 250):
        counters = _counters(limits=(limit, limit))
        for bit in [0] * 60 + [1] * 4:
            _taught(counters, [[1, 2]], [bit])
        zero.append(1 / (1 + np.exp(_asked(counters, [[1, 2]])[0][0, 0] / NAT)))
    assert zero[0] < 0.5
    assert zero[1] > 0.9


def test_a_cell_is_taken_from_whom_has_seen_less():
    counters, rng = _counters(), np.random.default_rng(2)
    for _ in range(40):
        _taught(counters, [[5, 6]], [1])
    for _ in range(30_000):  # more contexts than cells
        _taught(counters, [rng.integers(0, 1 << 63, 2).tolist()], [0])
    kept = (counters.cells >> 8 & 1023).max()
    assert kept <= 40


def test_a_crowded_table_is_as_the_page_says():
    # Three times as many contexts as there are cells: most find their place and its neighbour taken.
    page, rng = page_online.Counters(full=True, bytes_=False, n_lanes=1, decisions=1), np.random.default_rng(3)
    mapped = [one is not None for one in page.maps]
    longer = [-1 if one is None else one for one in page.longer]
    counters = open_counters(12, page.back, longer, mapped, 1)
    inputs, seen = np.zeros((1, 13), dtype=np.int32), np.zeros((1, 2), dtype=np.int64)
    pool = rng.integers(0, 1 << 63, (2000, len(mapped)))
    for base in pool[rng.integers(0, len(pool), 6000)]:
        found = page.find(base.tolist(), 1)
        look_up(counters, tables(), base[None].astype(np.uint64), np.ones(1, dtype=np.int64), 1, inputs, seen)
        assert inputs[0].tolist() == page.inputs(found)
        bit = int(rng.random() < base[0] % 97 / 97)
        page.learn(found, bit)
        learn_counters(counters, tables(), np.array([bit]), 1)


def test_lanes_learn_one_after_the_other():
    together, apart = _counters(2), _counters(1)
    _taught(together, [[9, 8], [9, 8]], [1, 1])
    for _ in range(2):
        _taught(apart, [[9, 8]], [1])
    assert (together.cells == apart.cells).all()
    # The second average knows of what had been seen when the decision was predicted: nothing, in both lanes.
    assert (together.novel & 255).max() == 2
    assert (apart.novel & 255).max() == 1


def test_the_first_maps_are_those_of_the_page():
    page = page_online.CountedMap(page_online._history_row, 8, 900, 900)
    assert _counters().maps[0, 1:].tolist() == [page[row] for row in range(1, 256)]


@pytest.mark.parametrize("bit", [0, 1])
def test_nothing_is_ever_quite_sure(bit: int):
    counters = _counters()
    for _ in range(3000):
        _taught(counters, [[1, 2]], [bit])
    for averages in (counters.cells >> 18 & (ONE - 1), counters.maps[0, 1:], counters.novel >> 8):
        assert averages.min() >= SURE
        assert averages.max() <= ONE - SURE
