"""Which parts of two reports, and which of their items, answer the same question."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from lmeval.errors import InputError
from lmeval.results.items import ItemRecord, Items, groups
from lmeval.results.report import Report, leaves

MODEL = frozenset({"model", "compressor"})
MAY_DIFFER = (frozenset[str](), MODEL, MODEL | {"bound", "side"})
"""What two runs over the same items may be of differently: the closest match counts, nothing before the model alone."""

Key = tuple[tuple[str, str], ...]
Matched = TypeVar("Matched")


class Matches(NamedTuple, Generic[Matched]):
    """What two results have in common, in pairs, and what each of the two has alone."""

    pairs: list[tuple[Matched, Matched]]
    alone: tuple[list[Matched], list[Matched]]


def match_parts(a: Report, b: Report, names: tuple[str, str]) -> Matches[Report]:
    """Parts of a and b that have items of one kind and, of several, of one task.

    Args:
        a: A report.
        b: Another.
        names: What they are called in messages.

    Returns:
        At least one pair.

    Raises:
        InputError: A report has no items or has one task twice, or they have no kind or no task in common.
    """
    both = [[part for part in leaves(report) if part.items is not None] for report in (a, b)]
    for name, report, parts in zip(names, (a, b), both, strict=True):
        if not parts:
            raise InputError(
                f"{name} holds no items to compare (it is of kind {report.kind}): give what --json or --records of "
                "perplexity, run, likelihood or benchmark wrote"
            )
    kinds = [{part.kind for part in parts} for parts in both]
    if not kinds[0] & kinds[1]:
        raise InputError(
            f"{names[0]} is of kind {', '.join(sorted(kinds[0]))} and {names[1]} of kind {', '.join(sorted(kinds[1]))}: "
            "give two results of one kind"
        )
    by_task = [_by_task(parts, name) for parts, name in zip(both, names, strict=True)]
    pairs = [(part, by_task[1][key]) for key, part in by_task[0].items() if key in by_task[1]]
    if not pairs:
        tasks = [", ".join(dict.fromkeys(task for _, task in by_key)) for by_key in by_task]
        raise InputError(f"{names[0]} has the tasks {tasks[0]} and {names[1]} has {tasks[1]}: no task is in both")
    alone = [[part for key, part in own.items() if key not in other] for own, other in (by_task, by_task[::-1])]
    return Matches(pairs, (alone[0], alone[1]))


def _by_task(parts: Iterable[Report], name: str) -> dict[tuple[str, str], Report]:
    """Parts by their kind and the task that their items are of, which is empty for kinds without tasks."""
    by_task: dict[tuple[str, str], Report] = {}
    for part in parts:
        key = (part.kind, next((record.of.get("task", "") for record in items_of(part).records), ""))
        if key in by_task:
            raise InputError(f"{name} holds {' '.join(filter(None, key))} twice: keep different runs in different files")
        by_task[key] = part
    return by_task


def items_of(part: Report) -> Items:
    """The items of a part that has some."""
    assert part.items is not None
    return part.items


def match_groups(a: Report, b: Report) -> Matches[list[ItemRecord]]:
    """Groups of records of two parts that are of the same; of what is left, those that differ in what MAY_DIFFER names.

    Only what has exactly one counterpart is paired.
    """
    left_a, left_b = (groups(items_of(part).records) for part in (a, b))
    pairs = []
    for differing in MAY_DIFFER:
        by_a, by_b = (_by_rest(left, differing) for left in (left_a, left_b))
        for rest, keys_a in by_a.items():
            keys_b = by_b.get(rest, [])
            if len(keys_a) == len(keys_b) == 1:
                pairs.append((left_a.pop(keys_a[0]), left_b.pop(keys_b[0])))
    return Matches(pairs, (list(left_a.values()), list(left_b.values())))


def _by_rest(keys: Iterable[Key], differing: frozenset[str]) -> dict[Key, list[Key]]:
    """The keys by what is left of them without the names that may differ."""
    by_rest: dict[Key, list[Key]] = defaultdict(list)
    for key in keys:
        by_rest[tuple(pair for pair in key if pair[0] not in differing)].append(key)
    return by_rest


def different_inputs(a: Report, b: Report) -> list[str]:
    """Names of the inputs (corpus, task, data ...) whose SHA-256 both reports tell, and tell differently."""
    hashes = [dict(_hashes(part.provenance.get("inputs"))) for part in (a, b)]
    return [name for name, sha256 in hashes[0].items() if hashes[1].get(name, sha256) != sha256]


def _hashes(inputs: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every SHA-256 in the description of inputs, under the name of what it is of."""
    for key, value in inputs.items() if isinstance(inputs, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _hashes(value, str(key))
        elif str(key).endswith("sha256"):
            yield str(key).removesuffix("sha256").rstrip("_") or name, str(value)
