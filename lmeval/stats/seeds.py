"""How much the draw of a seed moves a figure, apart from the draw of the items."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from lmeval.errors import EmptyInput
from lmeval.stats.estimates import mean_estimate


class SeedSpread(NamedTuple):
    """A figure over several seeds, in the values' unit: see `seed_variance`. None where one seed or item says nothing."""

    mean: float
    item_stderr: float | None
    seed_sd: float | None
    total_stderr: float | None
    per_seed: Float64[np.ndarray, " seeds"]


def seed_variance(values: Float64[np.ndarray, "seeds items"]) -> SeedSpread:
    """What the draw of seeds (of examples, of orders) and the draw of items add to the error of the grand mean.

    Two-way random effects, every item under every seed: v_si = mean + seed_s + item_i + rest_si. With S seeds, I items and
    the mean squares of the two-way table, the components by the method of moments (Searle, Casella & McCulloch, Variance
    Components, 1992, chapter 4), each at least 0:

        var_rest = MS_rest,   var_item = (MS_item - MS_rest) / S,   var_seed = (MS_seed - MS_rest) / I
        item_stderr^2  = var_item / I + var_rest / (S I)      new items, the same seeds
        seed_sd^2      = var_seed                             one seed to another, over endless items
        total_stderr^2 = item_stderr^2 + var_seed / S         new items and new seeds

    The standard deviation of `per_seed` is something else: it holds the noise of the items, var_rest / I, as well. Several
    seeds do not count as S I independent items: the error falls with S only as far as var_seed and var_rest go.

    Args:
        values: One number for each item under each seed, float64 [seeds, items].

    Returns:
        The grand mean, the three errors above and the mean of each seed [seeds], in the unit of the values. With a single
        seed or a single item `seed_sd` and `total_stderr` are None; with a single item `item_stderr` is None too.

    Raises:
        EmptyInput: There is no seed, or no item.
    """
    seeds, items = values.shape
    if not values.size:
        raise EmptyInput("no values to take the spread of: give at least one seed and one item")
    mean, per_seed, per_item = math.fsum(values.ravel()) / values.size, values.mean(axis=1), values.mean(axis=0)
    if items < 2 or seeds < 2:
        item_stderr = mean_estimate(per_item).stderr
        return SeedSpread(mean, item_stderr, None, None, per_seed)
    rest = values - per_seed[:, None] - per_item[None, :] + mean
    ms_rest = float((rest**2).sum()) / ((seeds - 1) * (items - 1))
    ms_item = seeds * float(((per_item - mean) ** 2).sum()) / (items - 1)
    ms_seed = items * float(((per_seed - mean) ** 2).sum()) / (seeds - 1)
    var_item, var_seed = max(0.0, (ms_item - ms_rest) / seeds), max(0.0, (ms_seed - ms_rest) / items)
    from_items = var_item / items + ms_rest / (seeds * items)
    total = math.sqrt(from_items + var_seed / seeds)
    return SeedSpread(mean, math.sqrt(from_items), math.sqrt(var_seed), total, per_seed)
