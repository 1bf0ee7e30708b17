"""Group requests into batches of similar length, the same in every process, within a budget of tokens."""

from typing import NamedTuple

from lmeval.compute.memory import BATCH_TOKENS, UNLIMITED, at_once
from lmeval.compute.place import Place
from lmeval.models import CausalLM
from lmeval.models.logprobs import depends_on_batch


class Batching(NamedTuple):
    """Limits of one batch: at most `rows` sequences (None: any number), and at most `tokens` of input counting the padding;
    one sequence always fits."""

    rows: int | None
    tokens: int


def plan_batches(lengths: list[int], batching: Batching) -> list[list[int]]:
    """Indices of `lengths` in batches: longest first, so that padding is small and a shortage of memory shows at once.

    >>> plan_batches([3, 9, 8, 2], Batching(rows=None, tokens=18))
    [[1, 2], [0, 3]]
    """
    batches: list[list[int]] = []
    longest = 0
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        current = batches[-1] if batches else []
        full = (len(current) + 1) * longest > batching.tokens or len(current) == batching.rows
        if not current or full:
            batches.append([i])
            longest = lengths[i]
        else:
            current.append(i)
    return batches


def for_lengths(batching: Batching, model: CausalLM, longest: int) -> Batching:
    """The same limits, or one sequence at a time where the network would let the sequences of a batch change each other."""
    return batching._replace(rows=1) if depends_on_batch(model.network, longest) else batching


def batching_at(place: Place, model: CausalLM, batch_size: int | None = None) -> Batching:
    """Limits of a batch at a place: `batch_size` sequences where that is given, else as many tokens as the place allows."""
    if batch_size is not None:
        return Batching(batch_size, UNLIMITED)
    return Batching(None, at_once(BATCH_TOKENS, place, model.activation_bytes))
