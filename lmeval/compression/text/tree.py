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

from lmeval.compression.text.masses import LEAST_LOGIT, TINY, require_finite
from lmeval.compute.memory import MASS_ROWS, at_once
from lmeval.compute.place import Place, alone

LEAF_BITS = 8
LARGE_VOCABULARY = 4096  # masses above it are float32 (their sums never are)


class Buckets(NamedTuple):
    """Mass of each bucket of 2^min(depth, LEAF_BITS) ids, relative to the largest logit of the row."""

    masses: Float64[Tensor, "rows buckets"]
    largest: Float[Tensor, "rows 1"]


def bucket_masses(logits: Float[Tensor, "rows vocabulary"], depth: int, place: Place | None = None) -> Buckets:
    """Masses of the ids below 2^depth; the others (special tokens that text never holds) are left out of the tree.
    `place` may set a memory budget.

    Raises NonFiniteScore for NaN, infinite, or nothing but ruled-out logits.
    """
    logits = logits[:, : 1 << depth]
    n_ids, width = logits.shape[1], 1 << min(depth, LEAF_BITS)
    n_buckets = -(-n_ids // width)
    largest = logits.amax(dim=1, keepdim=True).to(_precision(logits))
    require_finite(bool(largest.isfinite().all()))
    masses = logits.new_empty((len(logits), n_buckets), dtype=torch.float64)
    n_rows = at_once(MASS_ROWS, place or alone(logits.device), 4 * n_ids)
    space = largest.new_zeros((min(n_rows, len(logits)), n_buckets * width))  # one for all slices: new memory is slow
    for first in range(0, len(logits), n_rows):
        rows = slice(first, min(first + n_rows, len(logits)))
        mass = space[: rows.stop - first]
        torch.sub(logits[rows], largest[rows], out=mass[:, :n_ids])
        mass[:, :n_ids].clamp_(min=LEAST_LOGIT).exp_()
        torch.sum(mass.view(len(mass), n_buckets, width), dim=2, dtype=torch.float64, out=masses[rows])
    return Buckets(masses, largest)


def _precision(logits: Tensor) -> torch.dtype:
    precise = logits.dtype == torch.float64 or logits.shape[1] <= LARGE_VOCABULARY
    return torch.float64 if precise else torch.float32


def _leaf_masses(
    logits: Float[Tensor, "rows vocabulary"],
    largest: Float[Tensor, "rows 1"],
    bucket: Int64[Tensor, " rows"],
    depth: int,
) -> Float64[Tensor, "rows leaves"]:
    """Masses of the ids of one bucket a row, computed as `bucket_masses` computes them; 0 for ids that there are none of."""
    width = 1 << min(depth, LEAF_BITS)
    ids = bucket.unsqueeze(1) * width + torch.arange(width, device=logits.device)
    missing = ids >= min(logits.shape[1], 1 << depth)
    chosen = logits.gather(1, ids.masked_fill(missing, 0)).to(largest.dtype)
    return (chosen - largest).clamp_(min=LEAST_LOGIT).exp_().masked_fill_(missing, 0.0).to(torch.float64)


def path_log_odds(
    logits: Float[Tensor, "rows vocabulary"], targets: Int64[Tensor, " rows"], depth: int, place: Place | None = None
) -> Float64[Tensor, "rows depth"]:
    """Log-odds of the decisions on the way to each target, high bit first. `place` may set a memory budget."""
    width = 1 << min(depth, LEAF_BITS)
    bucket, leaf = targets // width, targets % width
    buckets = bucket_masses(logits, depth, place)
    parts = [_path(_leaf_masses(logits, buckets.largest, bucket, depth), leaf)]
    if depth > LEAF_BITS:
        parts.insert(0, _path(_filled_up(buckets.masses, depth), bucket))
    return torch.cat(parts, dim=1)


def _filled_up(masses: Float64[Tensor, "rows buckets"], depth: int) -> Float64[Tensor, "rows leaves"]:
    """Buckets as the leaves of a complete tree."""
    return torch.nn.functional.pad(masses, (0, (1 << depth - LEAF_BITS) - masses.shape[1]))


def _path(mass: Float64[Tensor, "rows leaves"], leaf: Int64[Tensor, " rows"]) -> Float64[Tensor, "rows bits"]:
    """Log-odds on the way to one leaf of a complete tree, from the leaves up."""
    log_odds = []
    node = leaf.unsqueeze(1)
    while mass.shape[1] > 1:
        pair = mass.gather(1, torch.cat([node & ~1, node | 1], dim=1)).clamp_(min=TINY).log_()
        log_odds.append(pair[:, 1] - pair[:, 0])
        mass = mass[:, 0::2] + mass[:, 1::2]
        node = node >> 1
    return torch.stack(log_odds[::-1], dim=1)


Decide = Callable[[Float64[np.ndarray, " rows"]], Int32[np.ndarray, " rows"]]


def descend(
    logits: Float[Tensor, "rows vocabulary"], depth: int, decide: Decide, place: Place | None = None
) -> Int64[np.ndarray, " rows"]:
    """Ids found by walking down the tree in every row at once: `decide` turns one decision's log-odds into bits. `place` may
    set a memory budget."""
    width = 1 << min(depth, LEAF_BITS)
    buckets = bucket_masses(logits, depth, place)
    bucket = np.zeros(len(logits), dtype=np.int64)
    if depth > LEAF_BITS:
        bucket = _walk(_filled_up(buckets.masses, depth).cpu().numpy(), decide)
    # Damaged data may lead to a bucket without ids; the block's checksum will tell.
    leaves = _leaf_masses(logits, buckets.largest, torch.from_numpy(bucket).to(logits.device), depth)
    return bucket * width + _walk(leaves.cpu().numpy(), decide)


def _walk(mass: Float64[np.ndarray, "rows leaves"], decide: Decide) -> Int64[np.ndarray, " rows"]:
    levels = [mass]
    while levels[-1].shape[1] > 2:
        levels.append(levels[-1][:, 0::2] + levels[-1][:, 1::2])
    rows = np.arange(len(mass))
    node = np.zeros(len(mass), dtype=np.int64)
    for level in reversed(levels):
        node = node * 2
        pair = np.log(np.maximum(level[rows[:, None], node[:, None] + (0, 1)], TINY))
        node = node + decide(pair[:, 1] - pair[:, 0])
    return node
