"""Items made by hand, for the tests of results, records and comparisons."""

from collections.abc import Mapping, Sequence

import numpy as np

from lmeval.results import ItemMetric, ItemRecord, Items, Report

ACC = ItemMetric("acc", "1", "acc", higher_is_better=True, share=True)
LOSS = ItemMetric("log_loss", "nats", "log_loss")
RATE = ItemMetric("bits_per_byte", "bits/byte", "nll_nats", "n_bytes", 1 / np.log(2))


def item(
    name: str,
    values: Mapping[str, float],
    cluster: str | None = None,
    seed: int | None = None,
    of: Mapping[str, str] | None = None,
) -> ItemRecord:
    return ItemRecord(name, {"task": "t"} if of is None else of, values, cluster, seed)


def report_with(
    values: Mapping[str, Sequence[float] | np.ndarray],
    metrics: Sequence[ItemMetric] = (ACC,),
    clusters: Sequence[str] | None = None,
    kind: str = "run",
    of: Mapping[str, str] | None = None,
    ordered: bool = False,
) -> Report:
    """A report whose item i has the i-th of each list of values."""
    n = len(next(iter(values.values())))
    records = tuple(
        item(f"i{i}", {name: float(v[i]) for name, v in values.items()}, clusters[i] if clusters else None, of=of)
        for i in range(n)
    )
    return Report(kind, items=Items(tuple(metrics), records, ordered))


def two_models(rng: np.random.Generator, n: int, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Values of items of very different difficulty, for two models of which a is better by `gain`."""
    difficulty = rng.normal(0, 2, n)
    return difficulty + gain + 0.5 * rng.standard_normal(n), difficulty + 0.5 * rng.standard_normal(n)


def two_rates(rng: np.random.Generator, n: int, gain: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Nats and bytes of n documents of very different length and difficulty, for two models; a needs `gain` nats a byte
    more."""
    n_bytes = rng.integers(50, 5000, n).astype(float)
    rate = 1.5 + rng.gamma(2.0, 0.3, n)
    noise = rng.normal(0, 0.05, (2, n))
    return (
        {"nll_nats": (rate + gain + noise[0]) * n_bytes, "n_bytes": n_bytes},
        {"nll_nats": (rate + noise[1]) * n_bytes, "n_bytes": n_bytes},
    )
