"""What was measured of each item, and how items make up a metric: enough to rescore and to compare without a model."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lmeval.results.measurement import NOTHING, Side


class ItemMetric(NamedTuple):
    """How the values of items make up one metric.

    Without `denominator` it is the mean over items of `scale * values[numerator]`; with one it is the ratio of sums
    `scale * sum values[numerator] / sum values[denominator]`, such as bits per byte from nats and bytes.
    """

    name: str
    unit: str
    numerator: str
    denominator: str = ""
    scale: float = 1.0
    higher_is_better: bool = False
    side: Side = "exact"


class ItemRecord(NamedTuple):
    """One item: a document, a prompted question, an image, a file.

    `item` identifies it in every run over the same data. `of` says what was measured (model, task, bound ...). `values` are
    the numbers that metrics are made of. `cluster` names what items share that are not independent, `seed` the draw of
    examples or noise behind the values; both None where there is no such thing. `detail` is whatever else the capability
    needs to compute every score again, JSON-ready.
    """

    item: str
    of: Mapping[str, str]
    values: Mapping[str, float]
    cluster: str | None = None
    seed: int | None = None
    detail: Mapping[str, Any] = NOTHING


class Items(NamedTuple):
    """Items of one run, and the metrics that they make up. `ordered` says that neighbours are related (consecutive pieces of
    one text), so that their errors must be taken together."""

    metrics: tuple[ItemMetric, ...]
    records: tuple[ItemRecord, ...]
    ordered: bool = False


def record_as_json(record: ItemRecord) -> dict[str, Any]:
    """One item as JSON-ready data; what it has not is left out."""
    data: dict[str, Any] = {"item": record.item, "of": dict(record.of), "values": dict(record.values)}
    if record.cluster is not None:
        data["cluster"] = record.cluster
    if record.seed is not None:
        data["seed"] = record.seed
    if record.detail:
        data["detail"] = dict(record.detail)
    return data


def record_from_json(data: Mapping[str, Any]) -> ItemRecord:
    """The item that `record_as_json` wrote. Raises KeyError, TypeError and ValueError for anything else."""
    unknown = data.keys() - set(ItemRecord._fields)
    if unknown or not isinstance(data["item"], str):
        raise ValueError(f"unknown keys {sorted(unknown)}")
    values = {str(name): float(value) for name, value in data["values"].items()}
    of = {str(key): str(value) for key, value in data["of"].items()}
    return ItemRecord(data["item"], of, values, data.get("cluster"), data.get("seed"), data.get("detail") or NOTHING)


def as_json(items: Items) -> dict[str, Any]:
    """Items as JSON-ready data."""
    return {
        "ordered": items.ordered,
        "metrics": [metric._asdict() for metric in items.metrics],
        "rows": [record_as_json(record) for record in items.records],
    }


def from_json(data: Mapping[str, Any]) -> Items:
    """The items that `as_json` wrote."""
    metrics = tuple(ItemMetric(**metric) for metric in data["metrics"])
    return Items(metrics, tuple(record_from_json(row) for row in data["rows"]), bool(data.get("ordered", False)))


def groups(records: Iterable[ItemRecord]) -> dict[tuple[tuple[str, str], ...], list[ItemRecord]]:
    """Records by what they are of, in order of first appearance; the keys are sorted pairs."""
    grouped: dict[tuple[tuple[str, str], ...], list[ItemRecord]] = {}
    for record in records:
        grouped.setdefault(tuple(sorted(record.of.items())), []).append(record)
    return grouped
