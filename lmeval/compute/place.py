"""Where a job runs: this process among its peers, its device, and the memory that it may use. A value that is passed on."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch


class Place(NamedTuple):
    """Where this process works.

    `rank` in [0, `size`) is its place among the processes of the run, `device` what it computes on. `memory` is how many
    bytes a job may use there at a time; None asks an accelerator for what is free, and on a CPU keeps to the sizes that are
    fastest.
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
        return self.device.type != "cpu"


def alone(device: "torch.device | str" = "cpu") -> Place:
    """The place of a process without peers."""
    import torch

    return Place(0, 1, torch.device(device))


def describe_place(place: Place) -> dict[str, Any]:
    """Device, processes and threads, JSON-ready, for provenance."""
    import torch

    return {"device": str(place.device), "n_processes": place.size, "n_threads": torch.get_num_threads()}
