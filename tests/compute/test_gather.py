from collections.abc import Mapping, Sequence
from typing import Any

import accelerate.utils
import pytest
import torch

from lmeval.compute import gather
from lmeval.compute.gather import gather_by_id
from lmeval.compute.place import Place
from lmeval.errors import DeviceError, NonFiniteScore, WorkerError

ALONE = Place(0, 1, torch.device("cpu"))


def gather_as_group(
    monkeypatch: pytest.MonkeyPatch, parts: Sequence[Mapping[int, Any]], n_items: int, failures: dict[int, BaseException]
) -> list[Any]:
    """What every rank gets (its error, where it raises): the collective is put together from what all would send."""
    sent = [(str(failures[r]) if r in failures else None, dict(part)) for r, part in enumerate(parts)]
    got = []
    for rank, part in enumerate(parts):
        monkeypatch.setattr(
            accelerate.utils, "gather_object", lambda mine, rank=rank: sent if mine == [sent[rank]] else None
        )
        try:
            got.append(gather_by_id(part, n_items, Place(rank, len(parts), torch.device("cpu")), failures.get(rank)))
        except Exception as error:
            got.append(error)
    return got


def test_items_come_back_in_the_order_of_their_ids(monkeypatch: pytest.MonkeyPatch):
    assert gather_by_id({2: "c", 0: "a", 1: "b"}, 3, ALONE) == ["a", "b", "c"]
    parts = [{3: "d", 0: "a"}, {2: "c"}, {1: "b"}]
    assert gather_as_group(monkeypatch, parts, 4, {}) == [["a", "b", "c", "d"]] * 3


def test_a_rank_without_work_takes_part(monkeypatch: pytest.MonkeyPatch):
    assert gather_as_group(monkeypatch, [{0: "a"}, {}], 1, {}) == [["a"], ["a"]]
    assert gather_as_group(monkeypatch, [{}, {}], 0, {}) == [[], []]


def test_a_failure_is_raised_by_all_ranks(monkeypatch: pytest.MonkeyPatch):
    bad = NonFiniteScore("NaN in row 7")
    first, failed, third = gather_as_group(monkeypatch, [{0: 1}, {}, {2: 3}], 3, {1: bad})
    assert failed is bad
    for other in (first, third):
        assert isinstance(other, WorkerError)
        assert str(other) == "process 1 of 3 failed: NaN in row 7"
    with pytest.raises(NonFiniteScore, match="row 7"):
        gather_by_id({}, 3, ALONE, bad)


@pytest.mark.parametrize("mine", [{0: 1}, {0: 1, 2: 3}, {0: 1, 1: 2, 2: 3}])
def test_missing_and_surplus_items_are_refused(mine: dict[int, int]):
    with pytest.raises(AssertionError, match="did not share one plan"):
        gather_by_id(mine, 2, ALONE)


def test_items_that_two_ranks_did_are_refused(monkeypatch: pytest.MonkeyPatch):
    for error in gather_as_group(monkeypatch, [{0: 1, 1: 2}, {1: 2}], 2, {}):
        assert isinstance(error, AssertionError)


def test_alone_without_a_launcher(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert gather.connect("cpu") == ALONE


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "", "cpu,cuda"])
def test_an_unknown_device_is_named(name: str):
    with pytest.raises(DeviceError, match=f"unknown device '{name}'"):
        gather.connect(name)


def test_a_device_that_is_not_here_is_named():
    count = torch.cuda.device_count()
    with pytest.raises(DeviceError, match=f"device 'cuda:{count}' is not here: this machine has {count} CUDA devices"):
        gather.connect(f"cuda:{count}")


@pytest.mark.parametrize("name", ["mps", "xpu", "meta"])
def test_a_device_of_another_kind_that_is_not_here_is_named(name: str):
    if (found := torch.accelerator.current_accelerator()) and found.type == name:
        pytest.skip(f"this machine has {name}")
    with pytest.raises(DeviceError):
        gather.connect(name)


def test_agreement_is_on_the_smallest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(accelerate.utils, "gather_object", lambda mine: [9, *mine, 7])
    assert gather.agree(8, Place(1, 3, torch.device("cpu"))) == 7
    assert gather.agree(8, ALONE) == 8
