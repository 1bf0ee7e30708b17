"""torch's random numbers, seeded for a moment."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lmeval.compute.place import with_generators

if TYPE_CHECKING:
    import torch

_GENERATOR = threading.RLock()  # torch's generator is one for all threads


@contextmanager
def seeded(seed: int | None, device: "torch.device | str" = "cpu") -> Iterator[None]:
    """Random numbers from `seed` inside, the caller's own random state afterwards, on the CPU and on `device`.

    Other threads that want numbers in this way wait until the block ends: torch's generator is one for all of them.

    Args:
        seed: Of torch's generators; None leaves them as they are inside.
        device: The device whose generator is kept beside that of the CPU.
    """
    import torch

    with _GENERATOR, torch.random.fork_rng(devices=with_generators(torch.device(device))):
        if seed is not None:
            torch.manual_seed(seed)
        yield
