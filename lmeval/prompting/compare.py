"""Two runs on the same items: is one better, by how much, and how small a difference could have been seen? Data, no files.

Pairing item by item removes what the items have in common. lm-evaluation-harness's model comparator takes the two standard
errors as independent instead, which for models that fail on the same items makes the error of the difference too large.
"""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from lmeval import stats
from lmeval.errors import InputError
from lmeval.stats import Estimate, McNemar


class PairedComparison(NamedTuple):
    """Runs a and b over the `n` items that both have; values and difference (a - b) are in the measure's unit.

    `mcnemar` is None for measures that are not right or wrong. `minimum_detectable_effect` is the smallest true difference
    found 80 times in 100 at 5%, None where the difference has no standard error. `n_only_a` and `n_only_b` count items that
    one run alone has: they are left out of everything else.
    """

    n: int
    value_a: float
    value_b: float
    difference: Estimate
    mcnemar: McNemar | None
    minimum_detectable_effect: float | None
    n_only_a: int
    n_only_b: int


def compare_items(
    a: Mapping[str, float], b: Mapping[str, float], clusters: Mapping[str, Hashable] | None, binary: bool
) -> PairedComparison:
    """Compare two runs' values of one measure, keyed by item id; `clusters` names each common item's cluster.

    `binary` values are 1 (right) and 0 (wrong). Raises InputError where no item is in common, where a value is not finite
    (or not 0 or 1 where `binary`), and where a common item has no cluster.
    """
    common = sorted(a.keys() & b.keys())
    if not common:
        raise InputError(f"no item is in both runs ({len(a)} and {len(b)} items): compare runs of the same task and data")
    values_a, values_b = _values(a, common, binary), _values(b, common, binary)
    lost = [item for item in common if clusters is not None and item not in clusters]
    if lost:
        raise InputError(f"item {lost[0]} has no cluster: give one to every item, or to none")
    groups = None if clusters is None else [clusters[item] for item in common]
    difference = stats.paired_difference(values_a, values_b, groups)
    effect = None if difference.stderr is None else stats.minimum_detectable_effect(difference.stderr)
    return PairedComparison(
        n=len(common),
        value_a=stats.mean_estimate(values_a).value,
        value_b=stats.mean_estimate(values_b).value,
        difference=difference,
        mcnemar=stats.mcnemar(values_a == 1, values_b == 1) if binary else None,
        minimum_detectable_effect=effect,
        n_only_a=len(a) - len(common),
        n_only_b=len(b) - len(common),
    )


def compare_tasks(comparisons: Mapping[str, PairedComparison]) -> list[dict[str, Any]]:
    """A JSON-ready row for each task, with p-values adjusted by Holm over the tasks.

    `test` is "mcnemar" (exact) where items are right or wrong and independent, else "t" (paired; over clusters where there
    are some: McNemar's test would take the items of a cluster as independent). Both are None where there are too few items
    for a p-value; such a task does not count among Holm's tests. `p_value` is of the task alone, `p_holm` of the family.
    """
    tests = {name: _test(pair) for name, pair in comparisons.items()}
    p_values = {name: p for name, (_, p) in tests.items() if p is not None}
    adjusted = dict(zip(p_values, stats.holm(list(p_values.values())), strict=True))
    return [_row(name, pair, *tests[name], adjusted.get(name)) for name, pair in comparisons.items()]


def _values(run: Mapping[str, float], items: list[str], binary: bool) -> Float64[np.ndarray, " n"]:
    values = np.array([run[item] for item in items], dtype=np.float64)
    fits = np.isin(values, (0.0, 1.0)) if binary else np.isfinite(values)
    if not fits.all():
        wrong = items[int(fits.argmin())]
        raise InputError(f"item {wrong} has the value {run[wrong]}: it must be {'0 or 1' if binary else 'a finite number'}")
    return values


def _test(pair: PairedComparison) -> tuple[str | None, float | None]:
    """Name and p-value of the test that fits the comparison."""
    if pair.mcnemar is not None and pair.difference.n_clusters == pair.n > 1:
        return "mcnemar", pair.mcnemar.p_value
    p = stats.t_test(pair.difference)
    return (None, None) if p is None else ("t", p)


def _row(name: str, pair: PairedComparison, test: str | None, p: float | None, p_holm: float | None) -> dict[str, Any]:
    difference = pair.difference
    return {
        "task": name,
        "n": pair.n,
        "n_clusters": difference.n_clusters,
        "n_only_a": pair.n_only_a,
        "n_only_b": pair.n_only_b,
        "a": pair.value_a,
        "b": pair.value_b,
        "difference": difference.value,
        "stderr": difference.stderr,
        "ci95": difference.ci95,
        "right_in_a_only": pair.mcnemar.only_a if pair.mcnemar else None,
        "right_in_b_only": pair.mcnemar.only_b if pair.mcnemar else None,
        "test": test,
        "p_value": p,
        "p_holm": p_holm,
        "minimum_detectable_effect": pair.minimum_detectable_effect,
    }
