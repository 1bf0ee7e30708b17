"""Where a job runs: this process among its peers, its device, and the memory that it may use. A value that is passed on.

Only this module and `memory` ask what kind of device there is.
"""

import os
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    import torch

from lmeval.errors import DeviceError


class Processor(NamedTuple):
    """Stands for `torch.device("cpu")` in a place that is known without PyTorch."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


class Place(NamedTuple):
    """Where this process works.

    `rank` in [0, `size`) is its number among the processes of the run, `device` what it computes on. `memory` is how many
    bytes may be used there at a time beside the weights of models; None asks an accelerator for what is free, and on a CPU
    keeps to the sizes that are fastest (see `memory.at_once`).
    """

    rank: int
    size: int
    device: "torch.device"
    memory: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that speaks and writes for all."""
        return self.rank == 0

    @property
    def on_accelerator(self) -> bool:
        """Whether the device has memory of its own."""
        return not is_cpu(self.device)


def is_cpu(device: "torch.device") -> bool:
    """Whether a device computes in the machine's own memory, on threads that torch shares out."""
    return device.type == "cpu"


def with_generators(device: "torch.device") -> "list[torch.device]":
    """The devices beside the CPU whose random state `torch.random.fork_rng` has to keep, for work on this one."""
    return [device] if device.type == "cuda" else []


def on_processor(memory: int | None = None) -> Place:
    """This process alone, on the CPU; known without PyTorch."""
    return Place(0, 1, cast("torch.device", Processor()), memory)


def alone(device: "torch.device | str" = "cpu") -> Place:
    """The place of a process without peers."""
    import torch

    return Place(0, 1, torch.device(device))


def describe_place(place: Place) -> dict[str, Any]:
    """Device, processes and threads, JSON-ready, for provenance."""
    if isinstance(place.device, Processor):
        return {"device": str(place.device), "n_processes": place.size, "n_threads": n_processors()}
    import torch

    return {"device": str(place.device), "n_processes": place.size, "n_threads": torch.get_num_threads()}


def n_processors() -> int:
    """Threads that computing on the CPU may take: as many as OMP_NUM_THREADS says, else as this process has processors."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if named.isdigit() and int(named):
        return int(named)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_named(name: str) -> "torch.device":
    """The device of a name: "auto" (an accelerator where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: There is no such device, or not on this machine.
    """
    import torch

    accelerator = torch.accelerator.current_accelerator()
    if name == "auto":
        return torch.device("cpu") if accelerator is None else accelerator
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"unknown device '{name}': use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda") and (accelerator is None or device.type != accelerator.type):
        instead = "cpu" if accelerator is None else accelerator.type
        raise DeviceError(f"device '{name}' is not here: use --device {instead}")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise DeviceError(f"device '{name}' is not here: this machine has {count} CUDA devices; use --device cpu")
    return device
