"""Items -> the metrics that they make up, with errors and intervals: what any records give again without a model."""

from collections.abc import Mapping, Sequence

import numpy as np

from lmeval import stats
from lmeval.results.items import ItemMetric, ItemRecord, Items, groups, has_metric, side_of
from lmeval.results.measurement import Measurement
from lmeval.results.records import RecordSet
from lmeval.results.report import Report
from lmeval.stats.estimates import Estimate
from lmeval.stats.paired import ENOUGH_BLOCKS


def measure_items(items: Items) -> tuple[Measurement, ...]:
    """Every metric of the items, for each thing that they are of.

    A metric without denominator is a mean over items, with the interval of `stats.mean_estimate` (over clusters where the
    items name some, and over items where each has several seeds). A metric with one is a ratio of sums, with the linearised
    error over the same units, or a block bootstrap where items are consecutive pieces of one text.

    Args:
        items: The items of a run, or of a records file.

    Returns:
        The measurements, group by group in order of appearance; metrics whose values a group lacks are left out. `n` counts
        the independent units.
    """
    measured = []
    for records in groups(items.records).values():
        of = records[0].of
        for metric in items.metrics:
            if has_metric(metric, records):
                measured.append(_measure(metric, records, of, ordered=items.ordered))
    return tuple(measured)


def rescore_items(records: RecordSet) -> Report:
    """The report of any records: their metrics, and the items themselves.

    Args:
        records: One set of a records file.

    Returns:
        A report of kind "rescore"; its ledger says which kind of report the records are from.
    """
    header = records.header
    return Report(
        kind="rescore",
        results=measure_items(records.items),
        ledger={"rescored": header.report, **header.ledger},
        provenance=header.provenance,
        items=records.items,
    )


def _measure(metric: ItemMetric, records: Sequence[ItemRecord], of: Mapping[str, str], *, ordered: bool) -> Measurement:
    units = stats.independent_units([record.item for record in records], [record.cluster for record in records])
    numerators = np.array([metric.scale * record.values[metric.numerator] for record in records])
    if metric.denominator:
        denominators = np.array([record.values[metric.denominator] for record in records])
        estimate = _ratio(np.stack([numerators, denominators], axis=1), units, ordered=ordered)
    else:
        estimate = stats.mean_estimate(numerators, units, share=metric.share)
    return Measurement(
        name=metric.name,
        value=estimate.value,
        unit=metric.unit,
        side=side_of(metric, of),
        stderr=estimate.stderr,
        ci95=estimate.ci95,
        n=estimate.n_clusters,
        higher_is_better=metric.higher_is_better,
        of=of,
    )


def _ratio(rows: np.ndarray, units: Sequence[str] | None, *, ordered: bool) -> Estimate:
    """Ratio of the sums of two columns over rows [n, 2]."""
    if ordered and len(rows) >= ENOUGH_BLOCKS:
        ratio = rows[:, 0].sum() / rows[:, 1].sum()
        block = stats.automatic_block_length(rows[:, 0] - ratio * rows[:, 1])
        return stats.bootstrapped_ratio(rows.sum(axis=0), stats.block_bootstrap(rows, block, seed=0), 0, 1)
    return stats.ratio_estimate(rows, units)
