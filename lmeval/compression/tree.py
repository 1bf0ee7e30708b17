"""The binary tree over the vocabulary: a token is the bits of its id, high bit first.

Each bit is a decision between two subtrees, with log-odds ln(mass of the ids with bit 1 / mass of those with bit 0).
Masses are sums of exp(logit - largest logit). If every logit is off by at most e, so is each log-mass, and every log-odds
by at most 2 e: the tolerance is uniform in log-odds, whatever the tree. (Other orders of the leaves, by frequency or by
spelling, change the cost of the tolerance by less than 4% on real text; the ids as they are need no table.)

The lowest LEAF_BITS bits form a bucket. Sums over buckets are taken once; below them only the token's own is looked at.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32, Int64
from torch import Tensor

from lmeval.errors import NonFiniteScore

LEAF_BITS = 8
LEAST_LOGIT = -80.0  # below the largest: keeps every mass a normal float32. Clamping moves no two logits farther apart
SLICE_ELEMENTS = 1 << 19  # logits whose masses exist at a time on a CPU: what its caches hold
LARGE_VOCABULARY = 4096  # masses above it are float32 (their sums never are)
_TINY = 1e-300  # a subtree without ids has mass 0: its log-odds become a number beyond the grid's limit


class Masses(NamedTuple):
    """exp(logit - largest) of ids below 2^depth, in buckets of 2^min(depth, LEAF_BITS)."""

    leaves: Float[Tensor, "rows buckets leaf"]
    buckets: Float64[Tensor, "rows buckets"]


def depth_of(n_ids: int) -> int:
    """Bits that tell `n_ids` ids apart.

    >>> [depth_of(n) for n in (1, 2, 256, 257, 50257)]
    [1, 1, 8, 9, 16]
    """
    return max(1, (n_ids - 1).bit_length())


def masses(logits: Float[Tensor, "rows vocabulary"], depth: int) -> Masses:
    """Masses of the ids below 2^depth; the others (special tokens that text never holds) are left out of the tree.

    Raises NonFiniteScore for NaN, infinite, or nothing but ruled-out logits.
    """
    logits = logits[:, : 1 << depth]
    n_ids = logits.shape[1]
    precise = logits.dtype == torch.float64 or n_ids <= LARGE_VOCABULARY
    width = 1 << min(depth, LEAF_BITS)
    n_buckets = -(-n_ids // width)
    mass = logits.new_empty((len(logits), n_buckets * width), dtype=torch.float64 if precise else torch.float32)
    mass[:, n_ids:] = 0.0
    real = mass[:, :n_ids]
    real.copy_(logits)
    largest = real.amax(dim=1, keepdim=True)
    if not bool(largest.isfinite().all()):
        raise NonFiniteScore(
            "the model gives NaN or infinite logits for this text: its weights are damaged, or its dtype overflows "
            "(try --dtype float32)"
        )
    real.sub_(largest).clamp_(min=LEAST_LOGIT).exp_()
    leaves = mass.view(len(mass), n_buckets, width)
    return Masses(leaves, leaves.sum(dim=2, dtype=torch.float64))


def path_log_odds(
    logits: Float[Tensor, "rows vocabulary"], targets: Int64[Tensor, " rows"], depth: int
) -> Float64[Tensor, "rows depth"]:
    """Log-odds of the decisions on the way to each target, high bit first."""
    rows = max(1, (SLICE_ELEMENTS if logits.device.type == "cpu" else 1 << 27) // logits.shape[1])
    parts = [_slice_log_odds(part, ids, depth) for part, ids in zip(logits.split(rows), targets.split(rows), strict=True)]
    return torch.cat(parts)


def _slice_log_odds(
    logits: Float[Tensor, "rows vocabulary"], targets: Int64[Tensor, " rows"], depth: int
) -> Float64[Tensor, "rows depth"]:
    found = masses(logits, depth)
    width = found.leaves.shape[2]
    bucket, leaf = targets // width, targets % width
    rows = torch.arange(len(targets), device=logits.device)
    parts = [_path(found.leaves[rows, bucket].to(torch.float64), leaf)]
    if depth > LEAF_BITS:
        n_leaves = 1 << (depth - LEAF_BITS)
        buckets = torch.nn.functional.pad(found.buckets, (0, n_leaves - found.buckets.shape[1]))
        parts.insert(0, _path(buckets, bucket))
    return torch.cat(parts, dim=1)


def _path(mass: Float64[Tensor, "rows leaves"], leaf: Int64[Tensor, " rows"]) -> Float64[Tensor, "rows bits"]:
    """Log-odds on the way to one leaf of a complete tree, from the leaves up."""
    found = []
    node = leaf.unsqueeze(1)
    while mass.shape[1] > 1:
        pair = mass.gather(1, torch.cat([node & ~1, node | 1], dim=1)).clamp_(min=_TINY).log_()
        found.append(pair[:, 1] - pair[:, 0])
        mass = mass[:, 0::2] + mass[:, 1::2]
        node = node >> 1
    return torch.stack(found[::-1], dim=1)


def path_bits(ids: Int64[np.ndarray, " tokens"], depth: int) -> Int32[np.ndarray, "tokens depth"]:
    """The decisions themselves: bits of the ids, high bit first."""
    return (ids[:, None] >> np.arange(depth - 1, -1, -1) & 1).astype(np.int32)


Decide = Callable[[Float64[np.ndarray, " rows"]], Int32[np.ndarray, " rows"]]


def descend(logits: Float[Tensor, "rows vocabulary"], depth: int, decide: Decide) -> Int64[np.ndarray, " rows"]:
    """Ids found by walking down the tree in every row at once: `decide` turns one decision's log-odds into bits."""
    found = masses(logits, depth)
    bucket = np.zeros(len(logits), dtype=np.int64)
    if depth > LEAF_BITS:
        n_leaves = 1 << (depth - LEAF_BITS)
        buckets = torch.nn.functional.pad(found.buckets, (0, n_leaves - found.buckets.shape[1]))
        bucket = _walk(buckets.cpu().numpy(), decide)
    rows = torch.arange(len(logits), device=logits.device)
    # Damaged data may lead to a bucket that does not exist; the block's checksum will tell.
    inside = torch.from_numpy(np.minimum(bucket, found.leaves.shape[1] - 1)).to(logits.device)
    leaves = found.leaves[rows, inside].to(torch.float64).cpu().numpy()
    return bucket * leaves.shape[1] + _walk(leaves, decide)


def _walk(mass: Float64[np.ndarray, "rows leaves"], decide: Decide) -> Int64[np.ndarray, " rows"]:
    levels = [mass]
    while levels[-1].shape[1] > 2:
        levels.append(levels[-1][:, 0::2] + levels[-1][:, 1::2])
    rows = np.arange(len(mass))
    node = np.zeros(len(mass), dtype=np.int64)
    for level in reversed(levels):
        node = node * 2
        pair = np.log(np.maximum(level[rows[:, None], node[:, None] + (0, 1)], _TINY))
        node = node + decide(pair[:, 1] - pair[:, 0])
    return node


def code_length_nats(log_odds: Float64[np.ndarray, "*shape"], bits: Int32[np.ndarray, "*shape"]) -> float:
    """Ideal code length: sum of -ln P(bit), with P(1) = sigmoid(log-odds).

    >>> round(code_length_nats(np.zeros(3), np.array([0, 1, 1])) / np.log(2), 9)
    3.0
    """
    return float(np.logaddexp(0.0, np.where(bits == 1, -log_odds, log_odds)).sum())
