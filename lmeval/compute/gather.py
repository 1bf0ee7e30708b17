"""Several processes, one result: the only module that knows Accelerate.

All processes read the same input and form the same plan of work with global ids. Each does the items of its rank and knows
nothing of the others until `gather_by_id`, which is the only collective: it returns every item to every process, ordered by
id, and checks that each id came exactly once. So results do not depend on the number of processes, uneven work cannot
dead-lock, and nothing is padded with duplicates that would have to be removed again.
"""

import os
from collections.abc import Mapping
from typing import Any

from lmeval.compute.place import Place, device_named, is_cpu
from lmeval.errors import WorkerError, first_line


def connect(device: str = "auto") -> Place:
    """Join the processes that `torchrun` or `accelerate launch` started, or stand alone.

    With several processes each takes the device of its local rank. On CPUs they talk through gloo: start them with
    `torchrun --nproc_per_node N -m lmeval ...` (plain `accelerate launch --cpu` starts one process only).

    Args:
        device: "auto" (an accelerator where there is one), "cpu", "cuda" or "cuda:N".

    Raises:
        DeviceError: There is no such device.
    """
    wanted = device_named(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Place(0, 1, wanted)
    from accelerate import PartialState  # costs a second to import, and only several processes need it

    state = PartialState(cpu=is_cpu(wanted))
    return Place(state.process_index, state.num_processes, state.device or wanted)


def as_place(place: Place | str, memory: int | None = None) -> Place:
    """A place as it is, or this process's place among those of the run, by the name of a device.

    Args:
        place: A place, or a device's name: "auto", "cpu", "cuda:1".
        memory: Bytes that may be used there, for a place that is given by name.

    Raises:
        DeviceError: There is no such device.
    """
    return connect(place)._replace(memory=memory) if isinstance(place, str) else place


def gather_by_id(mine: Mapping[int, Any], n_items: int, place: Place, failure: BaseException | None = None) -> list[Any]:
    """Values of items 0 .. n_items - 1 in order, from all processes, on all processes.

    Args:
        mine: This process's items: global id -> picklable value.
        n_items: How many there are in all processes.
        place: This process among its peers.
        failure: The error of a process that failed, so that all raise instead of waiting for it.

    Raises:
        WorkerError: Another process failed; one that failed itself raises its own error.
    """
    if place.size == 1:
        if failure is not None:
            raise failure
        parts: list[tuple[str | None, Mapping[int, Any]]] = [(None, mine)]
    else:
        from accelerate.utils import gather_object

        parts = gather_object([(None if failure is None else first_line(failure), dict(mine))])
        if failure is not None:
            raise failure
        for rank, (message, _) in enumerate(parts):
            if message is not None:
                raise WorkerError(f"process {rank} of {place.size} failed: {message}")
    ids = sorted(i for _, part in parts for i in part)
    if ids != list(range(n_items)):
        raise AssertionError(f"{len(ids)} results for {n_items} items: the processes did not share one plan")
    together = {i: value for _, part in parts for i, value in part.items()}
    return [together[i] for i in range(n_items)]


def agree(value: int, place: Place) -> int:
    """The smallest of all processes' values, on all of them."""
    if place.size == 1:
        return value
    from accelerate.utils import gather_object

    return min(gather_object([value]))


def disconnect(place: Place) -> None:
    """Leave the processes in good order: without it, process groups complain when the interpreter exits."""
    if place.size == 1:
        return
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
