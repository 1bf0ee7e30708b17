"""Group requests into batches of similar length, the same in every process, within a budget of tokens."""

from typing import NamedTuple

import torch

from lmeval.models import CausalLM
from lmeval.models.logprobs import depends_on_batch

CPU_BATCH_TOKENS = 2048
ACCELERATOR_BATCH_TOKENS = (2048, 131_072)


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


def automatic_batching(model: CausalLM) -> Batching:
    """Batch size for the model's device.

    On a CPU a batch is sized for the cache: more tokens at once only spill (see scripts/bench_scoring). On an accelerator
    it is sized for 60% of the free memory, by a count of the activations of one layer; should that be too much, the
    engine halves the batch and goes on.
    """
    if model.device.type != "cuda":
        return Batching(None, CPU_BATCH_TOKENS)
    config = model.network.config.get_text_config()
    width = getattr(config, "hidden_size", 1024)
    inner = getattr(config, "intermediate_size", None) or 4 * width
    bytes_per_token = model.network.dtype.itemsize * (16 * width + 4 * inner)
    free, _ = torch.cuda.mem_get_info(model.device)
    low, high = ACCELERATOR_BATCH_TOKENS
    return Batching(None, min(high, max(low, int(0.6 * free / bytes_per_token))))
