"""What was measured of each item, and how items make up a metric: enough to rescore and to compare without a model."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lmeval.results.measurement import NOTHING, Side, flipped

DAMAGED = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading raises where JSON is not what was written: of a file that was cut or changed, or is not of lmeval."""
SIDES: Mapping[str, Side] = {"exact": "exact", "lower": "lower", "upper": "upper", "estimate": "estimate"}


class ItemMetric(NamedTuple):
    """How the values of items make up one metric.

    Without `denominator` it is the mean over items of `scale * values[numerator]`; with one it is the ratio of sums
    `scale * sum values[numerator] / sum values[denominator]`, such as bits per byte from nats and bytes. `share` says that
    every item's value lies in [0, 1], such as right (1) and wrong (0): other values are refused when items are read.
    """

    name: str
    unit: str
    numerator: str
    denominator: str = ""
    scale: float = 1.0
    higher_is_better: bool = False
    side: Side = "exact"
    share: bool = False


class ItemRecord(NamedTuple):
    """One item: a document, a prompted question, an image, a file.

    `item` identifies it in every run over the same data. `of` says what was measured (model, task, bound ...). `values` are
    the numbers that metrics are made of. `cluster` names what items share that are not independent, `seed` the draw of
    examples or noise that the values depend on; both None where there is no such thing. `detail` is whatever else the
    capability needs to compute every score again, JSON-ready.
    """

    item: str
    of: Mapping[str, str]
    values: Mapping[str, float]
    cluster: str | None = None
    seed: int | None = None
    detail: Mapping[str, Any] = NOTHING


class Items(NamedTuple):
    """Items of one run, and the metrics that they make up.

    `ordered` says that neighbours are related (consecutive pieces of one text), so that their errors must be taken together.
    `records_only` names the details that only a records file keeps: a report's JSON would grow large with them.
    """

    metrics: tuple[ItemMetric, ...]
    records: tuple[ItemRecord, ...]
    ordered: bool = False
    records_only: tuple[str, ...] = ()


def has_metric(metric: ItemMetric, records: Sequence[ItemRecord]) -> bool:
    """Whether every record has the values that the metric is made of, and there is something to divide by."""
    names = [name for name in (metric.numerator, metric.denominator) if name]
    present = all(name in record.values for record in records for name in names)
    return present and (not metric.denominator or any(record.values[metric.denominator] for record in records))


def side_of(metric: ItemMetric, of: Mapping[str, str]) -> Side:
    """The side of a metric of items that are `of` something: that of the items' values where `of` names one, turned round
    where the metric is a negative multiple of them; else the metric's own.

    >>> side_of(ItemMetric("bits_per_dim", "bits/dim", "log_likelihood_nats", scale=-0.02), {"side": "lower"})
    'upper'
    """
    side = SIDES.get(of.get("side", ""))
    if side is None:
        return metric.side
    return flipped(side) if metric.scale < 0 else side


def record_as_json(record: ItemRecord, without: Sequence[str] = ()) -> dict[str, Any]:
    """One item as JSON-ready data; what it lacks is left out, and so are the details named in `without`."""
    data: dict[str, Any] = {"item": record.item, "of": dict(record.of), "values": dict(record.values)}
    if record.cluster is not None:
        data["cluster"] = record.cluster
    if record.seed is not None:
        data["seed"] = record.seed
    detail = {name: value for name, value in record.detail.items() if name not in without}
    if detail:
        data["detail"] = detail
    return data


def record_from_json(data: Mapping[str, Any], metrics: Sequence[ItemMetric]) -> ItemRecord:
    """The item that `record_as_json` wrote, for `metrics` that are made of its values.

    Raises:
        KeyError, TypeError, ValueError: It is none, or a value lies outside the range of its metric.
    """
    unknown = data.keys() - set(ItemRecord._fields)
    detail, cluster, seed = data.get("detail", NOTHING), data.get("cluster"), data.get("seed")
    if unknown or not isinstance(data["item"], str) or not isinstance(detail, Mapping):
        raise ValueError(f"no item, or unknown keys {sorted(unknown)}")
    if not isinstance(cluster, str | None) or not isinstance(seed, int | None):
        raise ValueError(f"the cluster {cluster!r} is no text, or the seed {seed!r} no whole number")
    values = {str(name): _number(value) for name, value in data["values"].items()}
    for metric in metrics:
        if metric.share and not 0.0 <= values.get(metric.numerator, 0.0) <= 1.0:
            raise ValueError(f"{metric.name} is {values[metric.numerator]}, which is no share")
    of = {str(key): str(value) for key, value in data["of"].items()}
    return ItemRecord(data["item"], of, values, cluster, seed, detail)


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return float(value)


def mapping_from_json(value: Any) -> Mapping[str, Any]:
    """The value, which must be an object of JSON. Raises TypeError for anything else."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.60} is no JSON object")
    return value


def metric_from_json(data: Mapping[str, Any]) -> ItemMetric:
    """The metric that `ItemMetric._asdict` gave. Raises KeyError, TypeError and ValueError for anything else."""
    metric = ItemMetric(**data)
    words = (metric.name, metric.unit, metric.numerator, metric.denominator, metric.side)
    flags = (metric.higher_is_better, metric.share)
    if not all(isinstance(word, str) for word in words) or not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(f"{dict(data)} is no metric of items")
    return metric._replace(scale=_number(metric.scale))


def as_json(items: Items) -> dict[str, Any]:
    """Items as JSON-ready data, without the details that only a records file keeps.

    Args:
        items: The items of a run and their metrics; `records_only` names the details that are left out.

    Returns:
        A dictionary with the keys "ordered", "metrics" and "rows", which `from_json` reads back.
    """
    return {
        "ordered": items.ordered,
        "metrics": [metric._asdict() for metric in items.metrics],
        "rows": [record_as_json(record, items.records_only) for record in items.records],
    }


def from_json(data: Mapping[str, Any]) -> Items:
    """The items that `as_json` wrote. Raises KeyError, TypeError and ValueError for anything else."""
    metrics = tuple(map(metric_from_json, data["metrics"]))
    return Items(metrics, tuple(record_from_json(row, metrics) for row in data["rows"]), bool(data["ordered"]))


def groups(records: Iterable[ItemRecord]) -> dict[tuple[tuple[str, str], ...], list[ItemRecord]]:
    """Records by what they are of, in order of first appearance; the keys are sorted pairs."""
    grouped: dict[tuple[tuple[str, str], ...], list[ItemRecord]] = {}
    for record in records:
        grouped.setdefault(tuple(sorted(record.of.items())), []).append(record)
    return grouped
