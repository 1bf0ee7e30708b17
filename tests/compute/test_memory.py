import subprocess
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from samples import ROOT

from lmeval.compute import memory
from lmeval.compute.memory import (
    BATCH_TOKENS,
    DENSITY_ROWS,
    LANES,
    LOGIT_ROWS,
    MASS_ROWS,
    PARTICLES,
    PASS_TOKENS,
    MemoryLimit,
    Most,
    Quota,
    at_once,
    compute_within_memory,
    limit_of,
    parse_bytes,
    settled,
)
from lmeval.compute.place import alone
from lmeval.errors import InputError, OutOfMemory

QUOTAS = {name: value for name, value in vars(memory).items() if isinstance(value, Quota)}


def test_a_cpu_without_a_budget_takes_the_numbers_that_are_fastest():
    """Archives and scores on a CPU are the same bits on every machine: these numbers are a contract."""
    assert at_once(BATCH_TOKENS, alone(), 123_456) == at_once(PASS_TOKENS, alone(), 123_456) == 2048
    for vocabulary in (257, 4096, 50_257, 151_936, 10_000_000):
        assert at_once(LOGIT_ROWS, alone(), 4 * vocabulary) == max(256, (1 << 20) // vocabulary)
        assert at_once(MASS_ROWS, alone(), 4 * vocabulary) == max(1, (1 << 20) // vocabulary)
    for lane_bytes in (1, 1 << 22, 5 << 22, 1 << 40):
        assert at_once(LANES, alone(), lane_bytes) == max(1, min(512, (2 << 30) // lane_bytes))
    for pixels in (1, 784, 3072, 1 << 23):
        assert at_once(PARTICLES, alone(), 4 * pixels) == max(1, min(4096, (1 << 22) // pixels))
    assert at_once(DENSITY_ROWS, alone(), 4 * 784) == 8192


@pytest.mark.parametrize("quota", QUOTAS.values(), ids=QUOTAS)
@given(st.integers(1, 1 << 50), st.integers(1, 1 << 40))
def test_a_budget_only_makes_less_of_it_and_never_nothing(quota: Quota, budget: int, unit: int):
    n, without = at_once(quota, alone()._replace(memory=budget), unit), at_once(quota, alone(), unit)
    assert 1 <= n <= without
    assert n == 1 or n * unit <= budget
    assert at_once(quota, alone()._replace(memory=2 * budget), unit) >= n


def test_an_accelerator_is_asked_for_what_is_free(monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(torch.accelerator, "get_memory_info", lambda device: (asked.append(device), (10_000_000, 1))[1])
    place = alone("cuda")
    assert at_once(BATCH_TOKENS, place, 1000) == 6000
    assert len(asked) == 1
    there = settled(place)
    assert there.memory == 10_000_000
    assert at_once(BATCH_TOKENS, there, 1000) == 6000
    assert len(asked) == 2
    assert at_once(BATCH_TOKENS, place._replace(memory=1_000_000), 1000) == 600
    assert len(asked) == 2
    assert settled(alone()) == alone()


def test_an_accelerator_that_does_not_say_gets_the_numbers_of_accelerators(monkeypatch: pytest.MonkeyPatch):
    def fail(_: torch.device) -> tuple[int, int]:
        raise NotImplementedError

    monkeypatch.setattr(torch.accelerator, "get_memory_info", fail)
    assert at_once(BATCH_TOKENS, alone("mps"), 1000) == 131_072
    assert limit_of(Most(1, 2), alone("mps")) == 2
    assert limit_of(Most(1, 2), alone("cpu")) == 1


@pytest.mark.parametrize(
    ("text", "n"),
    [("1", 1), ("1500", 1500), ("4GB", 4 * 10**9), ("4 gb", 4 * 10**9), ("1.5K", 1500), ("2GiB", 2 << 30), ("7 b", 7)],
)
def test_sizes_are_read_as_people_write_them(text: str, n: int):
    assert parse_bytes(text) == n


@pytest.mark.parametrize("text", ["", "0", "-1", "GB", "4 GBs", "1e9", "4XB", "0.2", "i", "4ib", "9" * 400 + "GB"])
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(InputError, match="is no number of bytes: write one such as 4GB"):
        parse_bytes(text)


class Device:
    """Sums numbers; batches whose sum is above `room` do not fit."""

    def __init__(self, room: int, error: Callable[[], Exception] = lambda: torch.OutOfMemoryError("out of memory")) -> None:
        self.room, self.error, self.tried = room, error, list[tuple[int, ...]]()

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.tried.append(tuple(batch))
        if sum(batch) > self.room:
            raise self.error()
        return [2 * x for x in batch]


def doubled(device: Device, batch: Sequence[int], limit: MemoryLimit | None = None) -> list[int]:
    parts = compute_within_memory(
        batch, device, limit or MemoryLimit(), size=sum, too_large=lambda part: f"{part[0]} is too large"
    )
    return [x for part in parts for x in part]


ERRORS = {
    "torch's": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "Python's": MemoryError,
    "the allocator's": lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(9, 60))
def test_every_item_is_computed_once_in_order(error: Callable[[], Exception], batch: list[int], room: int):
    device = Device(room, error)
    assert doubled(device, batch) == [2 * x for x in batch]
    assert sum(len(part) for part in device.tried if sum(part) <= room) == len(batch)


def test_a_size_that_did_not_fit_is_not_tried_again():
    device, limit = Device(3), MemoryLimit()
    for _ in range(5):
        assert doubled(device, [1] * 8, limit) == [2] * 8
    assert sum(sum(part) > 3 for part in device.tried) == 2  # 8, then 4


def test_a_single_item_that_does_not_fit_is_an_error_and_others_of_its_size_are_tried():
    device, limit = Device(3), MemoryLimit()
    with pytest.raises(OutOfMemory, match="5 is too large"):
        doubled(device, [1, 5, 1], limit)
    assert doubled(device, [3], limit) == [6]


def test_another_error_is_passed_on_at_once():
    device = Device(0, lambda: RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        doubled(device, [1, 2])
    assert len(device.tried) == 1


def test_parts_are_cut_as_the_work_wants():
    device = Device(1)
    parts = compute_within_memory(
        [1, 1, 1], device, MemoryLimit(), size=sum, too_large=str, split=lambda b: [[x] for x in b] if len(b) > 1 else []
    )
    assert parts == [[2], [2], [2]]
    assert device.tried == [(1, 1, 1), (1,), (1,), (1,)]


def test_only_place_and_memory_ask_what_kind_of_device_there_is():
    found = subprocess.run(
        ["grep", "-rlE", r"\.type [!=]= \"|\.type (not )?in \(\"|\.is_cuda", "lmeval", "--include=*.py"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert set(found.stdout.split()) == {"lmeval/compute/place.py", "lmeval/compute/memory.py"}
