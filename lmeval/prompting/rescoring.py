"""Records of `lmeval run` -> the report that the run gave, without the model."""

from collections.abc import Mapping
from typing import Any

from lmeval.prompting.records import record_of_row, records_of_items
from lmeval.prompting.summary import summarise
from lmeval.results import Report
from lmeval.results.records import RecordSet, records_of


def rescore(records: RecordSet) -> Report:
    """Compute every score of a prompted task again.

    Args:
        records: One set of what `lmeval run --records` wrote.

    Returns:
        The report of the run.

    Raises:
        InputError: An item lacks what scoring needs.
        NonFiniteScore: A log-probability is NaN or infinite.
    """
    header = records.header
    return summarise(records_of_items(records.records), records.records[0].of, header.ledger, header.provenance)


def read_old_records(header: Mapping[str, Any], rows: list[dict[str, Any]]) -> RecordSet:
    """One set of records of schema 1 as one of today, for `results.records.read_records`, which checked its SHA-256.

    Args:
        header: The set's first line.
        rows: Its other lines, one an item and seed.

    Returns:
        The items with their scores, computed again, and what describes them.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: The header or a row lacks what schema 1 says.
        InputError: The items do not fit together, such as a seed that lacks one.
        NonFiniteScore: A log-probability is NaN or infinite.
    """
    old = header["provenance"]
    inputs = {name: old[name] for name in ("task", "task_version", "task_sha256", "data", "data_sha256") if name in old}
    rest = {name: value for name, value in old.items() if name not in {*inputs, "model", "date"}}
    provenance = {"kind": "run", "date": old.get("date"), "inputs": inputs, "models": [old["model"]], **rest}
    ledger = {"output_type": header["output_type"], "metrics": header["metrics"], **header["ledger"]}
    of = {"model": str(old["model"]["name"]), "task": str(header["task"])}
    return records_of(summarise([record_of_row(row) for row in rows], of, ledger, provenance))[0]
