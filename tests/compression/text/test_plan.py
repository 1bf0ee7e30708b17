import itertools

import pytest
from samples import model_settings, talker

from lmeval.compression.container import frame
from lmeval.compression.text import plan
from lmeval.compression.text.plan import CompressSettings, cuts, plan_blocks
from lmeval.compression.text.survey import Survey
from lmeval.compute import memory
from lmeval.compute.memory import LANES
from lmeval.compute.place import alone

FULL = CompressSettings()


def found(bytes_per_token: float = 1.0, lane_bytes: int = 1000, depth: int = 8) -> Survey:
    return Survey(model_settings(talker())._replace(depth=depth), 2.0, bytes_per_token, 100.0, lane_bytes)


@pytest.mark.parametrize(
    ("n_bytes", "n_blocks", "n_lanes"),
    [
        (1, 1, 1),
        (8191, 1, 1),
        (8192, 1, 2),
        (40_000, 1, 19),
        (100_000, 1, 24),
        (1 << 20, 1, 64),
        (1 << 21, 1, 64),
        (5 << 20, 3, 64),
    ],
)
def test_adapted_blocks_are_large_and_lanes_long(n_bytes: int, n_blocks: int, n_lanes: int):
    made = plan_blocks(found(), n_bytes, FULL, alone())
    assert (-(-n_bytes // made.block_bytes), made.n_lanes, made.blocks_at_once) == (n_blocks, n_lanes, 1)


@pytest.mark.parametrize(("n_bytes", "n_lanes"), [(1 << 20, 128), (5 << 20, 256)])
def test_an_accelerator_steps_with_more_lanes(n_bytes: int, n_lanes: int):
    there = alone("cuda")._replace(memory=1 << 34)
    assert plan_blocks(found(), n_bytes, FULL, there).n_lanes == n_lanes


def test_an_adapted_block_has_so_many_decisions_at_most():
    for bytes_per_token, depth in ((1.0, 8), (4.0, 16), (0.7, 17), (4.5, 9)):
        made = plan_blocks(found(bytes_per_token, depth=depth), 10**9, FULL, alone())
        assert made.block_bytes * 8 <= plan.ADAPTED_BLOCK_DECISIONS
        assert made.block_bytes / bytes_per_token * depth <= plan.ADAPTED_BLOCK_DECISIONS
        assert made.block_bytes <= frame.MAX_BLOCK_UNITS


def test_lanes_fit_into_memory_unless_asked_for():
    heavy = found(lane_bytes=LANES.bytes.on_cpu // 5)
    assert plan_blocks(heavy, 1 << 20, FULL, alone()).n_lanes == 5
    assert plan_blocks(heavy, 1 << 20, FULL._replace(lanes=9), alone()).n_lanes == 9


@pytest.mark.parametrize("adapt", ["none", "full"])
def test_memory_decides_how_many_blocks_are_coded_at_once_and_nothing_else(adapt: str, monkeypatch: pytest.MonkeyPatch):
    """An accelerator says what is free at the moment, which must not show in an archive; nor does a budget."""
    heavy, settings = found(lane_bytes=LANES.bytes.on_accelerator // 50), FULL._replace(adapt=adapt)
    for place in (alone("cpu"), alone("cuda")):
        made = []
        for free in (1 << 40, 3 << 30, 1 << 20):
            monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
            made += [plan_blocks(heavy, 30 << 20, settings, where) for where in (place, place._replace(memory=free))]
        assert len({(plan.block_bytes, plan.n_lanes) for plan in made}) == 1
        assert 45 < made[0].n_lanes <= 50
        assert made[-1].blocks_at_once == 1


def test_less_memory_codes_fewer_blocks_at_once():
    light, settings = found(), FULL._replace(adapt="none")
    plans = [plan_blocks(light, 30 << 20, settings, alone()._replace(memory=memory)) for memory in (None, 1 << 18)]
    assert [plan.blocks_at_once for plan in plans] == [8, 2]
    assert plans[0][:2] == plans[1][:2]


def test_without_a_model_blocks_are_for_online_models():
    assert plan_blocks(None, 5 << 20, FULL, alone()) == (-(-(5 << 20) // 3), 1, 1)
    assert plan_blocks(None, 5 << 20, FULL._replace(adapt="none"), alone()) == (1 << 20, 1, 1)


def test_cuts_leave_no_gap():
    data = b"word " * 1000
    for size in (1, 300, 999, 5000, 10_000):
        spans = list(cuts(memoryview(data), size))
        assert [spans[0].first, spans[-1].stop] == [0, len(data)]
        assert all(one.stop == other.first for one, other in itertools.pairwise(spans))
