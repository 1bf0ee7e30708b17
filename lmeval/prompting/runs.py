"""Two runs, read back from what `lmeval run` wrote, and compared on the items that they share."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lmeval.errors import InputError, InputNotFound
from lmeval.prompting.compare import PairedComparison, compare_items, compare_tasks
from lmeval.prompting.records import KIND, read_records
from lmeval.prompting.summary import summarise

HIDDEN = frozenset({"item", "row", "seed", "cluster", "gold", "predicted"})


class Run(NamedTuple):
    """One task of a run: values[measure][item], means over seeds; clusters[item], None where the task names none."""

    values: Mapping[str, Mapping[str, float]]
    clusters: Mapping[str, str] | None


def read_run(path: Path) -> dict[str, Run]:
    """The tasks of a results JSON (`run --json`) or of records (`run --records`). Raises InputNotFound and InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputNotFound(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is neither results JSON nor records of lmeval run") from error
    if KIND in text.split("\n", 1)[0]:
        return {str(found.header["task"]): _run(summarise(found).tables["items"]) for found in read_records(path)}
    try:
        data = json.loads(text)
        tasks = data["tasks"] if "tasks" in data else {data["provenance"].get("task", ""): data}
        found = {str(name): _run(task["items"]) for name, task in tasks.items() if task.get("items")}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is neither results JSON nor records of lmeval run, or was cut or changed") from error
    if not found:
        raise InputError(f"{path} holds no items to compare: give the --json or --records of `lmeval run`")
    return found


def compare_runs(a: Path, b: Path, metrics: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """A row for each task and measure that both runs have, with Holm's adjustment over all rows.

    Without `metrics`: accuracy (`acc`). Others are the columns of the items: `acc_norm`, `log_loss`, `target_nll_nats` and
    so on. Raises InputError where nothing is in common.
    """
    runs_a, runs_b = read_run(a), read_run(b)
    common = [name for name in runs_a if name in runs_b]
    if not common:
        raise InputError(f"{a} has the tasks {', '.join(runs_a)} and {b} has {', '.join(runs_b)}: no task is in both")
    pairs: dict[str, PairedComparison] = {}
    places: dict[str, tuple[str, str]] = {}
    for name in common:
        for metric in metrics or ("acc",):
            values = [run[name].values.get(metric) for run in (runs_a, runs_b)]
            if values[0] is None or values[1] is None:
                known = sorted(runs_a[name].values.keys() & runs_b[name].values.keys())
                raise InputError(f"task {name} has no {metric} in both runs: there are {', '.join(known)}")
            binary = all(value in (0.0, 1.0) for run in values if run is not None for value in run.values())
            clusters = runs_a[name].clusters or runs_b[name].clusters
            pairs[f"{name} {metric}"] = compare_items(values[0], values[1], clusters, binary)
            places[f"{name} {metric}"] = (name, metric)
    rows = compare_tasks(pairs)
    return [{**row, "task": places[row["task"]][0], "metric": places[row["task"]][1]} for row in rows]


def _run(items: Any) -> Run:
    sums: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    clusters: dict[str, str] = {}
    for row in items:
        for metric, value in row.items():
            if metric not in HIDDEN:
                sums[metric][row["item"]].append(float(value))
        if row.get("cluster") is not None:
            clusters[row["item"]] = str(row["cluster"])
    for metric, by_item in sums.items():
        found = [value for values in by_item.values() for value in values]
        if len(found) != len(items) or (metric.startswith("acc") and not all(0.0 <= value <= 1.0 for value in found)):
            raise ValueError(f"{metric} is missing in an item, or is no share")
    values = {metric: {item: sum(v) / len(v) for item, v in by_item.items()} for metric, by_item in sums.items()}
    return Run(values, clusters or None)
