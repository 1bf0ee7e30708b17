"""How many things are computed at once: the one module from which batch sizes come.

Every kind of work has a `Quota`: the numbers that were measured to be fastest on a CPU and on an accelerator, and the share
of a job's memory that the work may take. `at_once` makes a number of it, from the place and from what one unit takes:

    a CPU without a memory budget   the number that is fastest there, always the same
    a memory budget (`--memory`)    the same number, or as many units as the quota's share of the budget holds
    an accelerator                  the same, with what is free there as the budget

So results on a CPU are the same bits on every machine, and a budget changes how much is computed at once, never what.
Should a batch be too large all the same, `compute_within_memory` cuts it in halves and remembers.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from lmeval.compute.place import Place
from lmeval.errors import InputError, OutOfMemory

if TYPE_CHECKING:
    import torch

UNLIMITED = 1 << 40
Item = TypeVar("Item")
Result = TypeVar("Result")
_UNITS = {
    "": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "ki": 1 << 10,
    "mi": 1 << 20,
    "gi": 1 << 30,
    "ti": 1 << 40,
}


class Most(NamedTuple):
    """A limit on a CPU, and one on an accelerator."""

    on_cpu: int
    on_accelerator: int


class Quota(NamedTuple):
    """What one kind of work may take.

    `share` of the memory budget, where there is one; at most `units` units and `bytes` bytes at once whatever the budget;
    `least` units where there is no budget.
    """

    share: float
    units: Most = Most(UNLIMITED, UNLIMITED)
    bytes: Most = Most(UNLIMITED, UNLIMITED)
    least: int = 1


BATCH_TOKENS = Quota(0.6, units=Most(2048, 131_072))
"""Input tokens of a forward pass. On a CPU a batch is sized for the caches: more tokens at once only spill
(see scripts/bench_scoring). A unit is what a token's activations take in one layer."""

PASS_TOKENS = Quota(0.3, units=Most(2048, 16_384))
"""Input tokens of one pass of lanes that are read step by step, beside their keys and values."""

LOGIT_ROWS = Quota(0.1, bytes=Most(4 << 20, 512 << 20), least=256)
"""Positions whose logits exist at a time: 4 MB of float32 are what a CPU's caches hold, but enough rows must share the
reading of a large head's weights."""

MASS_ROWS = Quota(0.1, bytes=Most(4 << 20, 512 << 20))
"""Positions whose token probabilities exist at a time while a text is coded."""

LANES = Quota(0.5, units=Most(512, 1024), bytes=Most(2 << 30, 2 << 30))
"""Lanes that step together, each with its keys and values: what decoding is fastest with."""

PARTICLES = Quota(0.6, units=Most(4096, 4096), bytes=Most(16 << 20, 16 << 20))
"""Latent vectors that go through a decoder at once; a unit is the float32 datum that one of them becomes."""

DENSITY_ROWS = Quota(0.6, units=Most(8192, 8192))
"""Data that go through a density at once."""

CODED_BLOCKS = Quota(0.5, units=Most(8, 8), bytes=Most(256 << 20, 256 << 20))
"""Blocks of images that are coded side by side."""

PASS_OVERHEAD_TOKENS = Most(256, 4096)
"""About as many tokens as another pass through the network costs."""


def limit_of(most: Most, place: Place) -> int:
    """The limit that holds on the place's device."""
    return most.on_accelerator if place.on_accelerator else most.on_cpu


def at_once(quota: Quota, place: Place, unit_bytes: int) -> int:
    """How many units are computed at once.

    Args:
        quota: The kind of work.
        place: Where it is done. An accelerator is asked for what is free, unless the place has a budget (see `settled`).
        unit_bytes: What one unit takes in memory, about.

    Returns:
        A number of units, at least 1.

    >>> from lmeval.compute.place import alone
    >>> at_once(BATCH_TOKENS, alone("cpu"), 1000), at_once(BATCH_TOKENS, alone("cpu")._replace(memory=10**6), 1000)
    (2048, 600)
    """
    most, budget = fastest(quota, place, unit_bytes), memory_bytes(place)
    if budget is None:
        return most
    return max(1, min(most, int(quota.share * budget) // max(1, unit_bytes)))


def fastest(quota: Quota, place: Place, unit_bytes: int) -> int:
    """How many units at once are fastest, whatever memory there is: the same number on every device of a sort.

    For what a number of units decides beyond the speed, such as the lanes that an archive is written in.

    Args:
        quota: The kind of work.
        place: Where it is done.
        unit_bytes: What one unit takes in memory, about.

    Returns:
        A number of units, at least 1.
    """
    n = min(limit_of(quota.units, place), limit_of(quota.bytes, place) // max(1, unit_bytes))
    return max(quota.least, n)


def memory_bytes(place: Place) -> int | None:
    """Bytes that a job may use: the place's budget, else what is free on an accelerator; None on a CPU without a budget."""
    return free_bytes(place.device) if place.memory is None else place.memory


def settled(place: Place) -> Place:
    """The place with a budget where one can be known: asks an accelerator once, for all that follows."""
    return place._replace(memory=memory_bytes(place))


def free_bytes(device: "torch.device") -> int | None:
    """Bytes that are free on an accelerator; None for a CPU, and for an accelerator that does not say."""
    if device.type == "cpu":
        return None
    import torch

    try:
        free, _ = torch.accelerator.get_memory_info(device)
    except (AttributeError, NotImplementedError, RuntimeError):
        return None
    return free


def parse_bytes(text: str) -> int:
    """A number of bytes as people write it: 1500000, 4GB, 512 MiB.

    Raises:
        InputError: It is no such number, or less than 1.

    >>> parse_bytes("4GB"), parse_bytes("1.5 KiB")
    (4000000000, 1536)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    n = float(match[1]) * _UNITS[match[2]] if match and match[2] in _UNITS else 0.0
    if not 1 <= n < math.inf:
        raise InputError(f"memory '{text}' is no number of bytes: write one such as 4GB, 512MiB or 1000000")
    return int(n)


class MemoryLimit:
    """The smallest batch that is known not to fit; None until memory runs out. Shared by the batches of one job."""

    size: int | None = None


def compute_within_memory(
    batch: Sequence[Item],
    compute: Callable[[Sequence[Item]], Result],
    limit: MemoryLimit,
    *,
    size: Callable[[Sequence[Item]], int],
    too_large: Callable[[Sequence[Item]], str],
    split: Callable[[Sequence[Item]], Sequence[Sequence[Item]]] | None = None,
    device: "torch.device | None" = None,
) -> list[Result]:
    """What `compute` gives for a batch, or for its parts where memory runs out.

    Args:
        batch: What is to be computed, at least one item.
        compute: Computes a part of the batch, or raises what frameworks raise when memory runs out.
        limit: Remembers the size that failed, so that batches to come are split before they are tried.
        size: How large a part is, in any unit that grows with the memory that it takes.
        too_large: The message for a part that cannot be split and does not fit.
        split: Cuts a part in parts that take less; [] where that cannot be. None halves until one item is left.
        device: Where memory runs out, for its cache to be emptied before the next try.

    Returns:
        The results of the parts, in the order of their items.

    Raises:
        OutOfMemory: A part does not fit and cannot be split.
    """
    parts = (halves if split is None else split)(batch)
    if not parts or limit.size is None or size(batch) < limit.size:
        try:
            return [compute(batch)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if not parts:
                raise OutOfMemory(too_large(batch)) from error
            limit.size = size(batch)
        if device is not None:
            empty_cache(device)
    options: dict[str, Any] = {"size": size, "too_large": too_large, "split": split, "device": device}
    return [result for part in parts for result in compute_within_memory(part, compute, limit, **options)]


def halves(batch: Sequence[Item]) -> Sequence[Sequence[Item]]:
    """The two halves of a batch; none of a single item."""
    half = len(batch) // 2
    return (batch[:half], batch[half:]) if half else ()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: frameworks have several for it."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error)


def empty_cache(device: "torch.device") -> None:
    """Give back to an accelerator what was freed and is held for reuse; nothing on a CPU."""
    if device.type == "cuda":
        import torch

        torch.cuda.empty_cache()
