"""Records: everything that scoring an item gave, from which all of its scores can be computed again without the model.

A `Record` is one item under one seed of few-shot examples. A report holds it as an `ItemRecord`: `values` are its scores,
`detail` is what they were computed from.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lmeval.errors import InputError
from lmeval.results.items import DAMAGED, ItemRecord

RECORDS_ONLY = ("shots", "context_sha256", "n_context_tokens", "n_moved", "choices", "neutral_nats")
"""Details that a report's JSON leaves out: they are many times as long as the scores, and only rescoring needs them."""


class ScoredChoice(NamedTuple):
    """One continuation.

    Attributes:
        text: The choice's own text, without the delimiter.
        ids: Token ids of the continuation.
        nats: log p of each of its tokens, given the context and the tokens before.
        n_bytes: Length of `text` in UTF-8.
        n_characters: Length of `text` in Unicode characters.
        greedy: Whether each of its tokens was the model's first choice.
        unconditional_nats: log p of the continuation after the task's empty or domain context; None if it was not scored.
    """

    text: str
    ids: tuple[int, ...]
    nats: tuple[float, ...]
    n_bytes: int
    n_characters: int
    greedy: bool
    unconditional_nats: float | None

    @property
    def total_nats(self) -> float:
        """log p(continuation | context), summed in float64."""
        return float(np.sum(np.array(self.nats, dtype=np.float64)))


class Record(NamedTuple):
    """One item under one seed.

    Attributes:
        item: The row's id.
        number: Its place in the split, from 0.
        seed: Of the few-shot examples.
        gold: Indices of the right choices.
        shots: Ids of the few-shot rows, in their order.
        cluster: The item's cluster, or None.
        context_sha256: Hash of the context's token ids (int64, little-endian; of the first choice).
        n_context_tokens: How many they are.
        n_moved: Not 0 where a token spans the boundary between context and continuation (see `encoding`).
        choices: The continuations, scored.
        neutral_nats: log p of the choices after each content-free input, [inputs][choices]; empty where the task has none.
    """

    item: str
    number: int
    seed: int
    gold: tuple[int, ...]
    shots: tuple[str, ...]
    cluster: str | None
    context_sha256: str
    n_context_tokens: int
    n_moved: int
    choices: tuple[ScoredChoice, ...]
    neutral_nats: tuple[tuple[float, ...], ...]


def ids_sha256(ids: np.ndarray) -> str:
    """SHA-256 of token ids as little-endian int64."""
    return hashlib.sha256(np.ascontiguousarray(ids, dtype="<i8").tobytes()).hexdigest()


def as_item(record: Record, of: Mapping[str, str], values: Mapping[str, float], predicted: int | None = None) -> ItemRecord:
    """The record as an item of a report.

    Args:
        record: What scoring the item gave.
        of: The model and the task.
        values: Its scores.
        predicted: Index of the choice that the rule "sum" predicts; None for tasks with one target.
    """
    detail: dict[str, Any] = {"row": record.number, "gold": list(record.gold)}
    if predicted is not None:
        detail["predicted"] = predicted
    detail |= {
        "shots": list(record.shots),
        "context_sha256": record.context_sha256,
        "n_context_tokens": record.n_context_tokens,
        "n_moved": record.n_moved,
        "choices": [{**choice._asdict(), "ids": list(choice.ids), "nats": list(choice.nats)} for choice in record.choices],
        "neutral_nats": [list(nats) for nats in record.neutral_nats],
    }
    return ItemRecord(record.item, of, values, record.cluster, record.seed, detail)


def records_of_items(items: Iterable[ItemRecord]) -> tuple[Record, ...]:
    """The records that `as_item` made items of.

    Args:
        items: Items of a report of `run` or of its records file, with their details.

    Returns:
        One record an item, in the order of the items.

    Raises:
        InputError: An item lacks what `run` keeps of it.
    """
    records = []
    for item in items:
        row = {
            **item.detail,
            "number": item.detail.get("row"),
            "item": item.item,
            "cluster": item.cluster,
            "seed": item.seed,
        }
        try:
            records.append(record_of_row({name: row[name] for name in Record._fields}))
        except DAMAGED as error:
            raise InputError(
                f"item {item.item} has no choices to score again: give the file that `lmeval run --records` wrote"
            ) from error
    return tuple(records)


def record_of_row(row: Mapping[str, Any]) -> Record:
    """The record that a row of plain data holds, such as a line of a records file of schema 1.

    Raises:
        KeyError, TypeError, ValueError: The row is none.
    """
    choices = tuple(
        ScoredChoice(**{**choice, "ids": tuple(choice["ids"]), "nats": tuple(map(float, choice["nats"]))})
        for choice in row["choices"]
    )
    if not choices or not all(0 <= g < len(choices) for g in row["gold"]) or not all(map(_is_scored, choices)):
        raise ValueError("no choices, no right one among them, or a choice without text, lengths or tokens")
    if not isinstance(row["seed"], int):
        raise TypeError(f"the seed {row['seed']!r} is no whole number")
    neutral = tuple(tuple(map(float, nats)) for nats in row["neutral_nats"])
    if not all(len(nats) == len(choices) for nats in neutral):
        raise ValueError("a content-free input that not all choices were scored after")
    parts = {"gold": tuple(row["gold"]), "shots": tuple(row["shots"]), "choices": choices, "neutral_nats": neutral}
    return Record(**{**row, **parts})


def _is_scored(choice: ScoredChoice) -> bool:
    """Whether a choice that was read has all that rules compare."""
    lengths, free = (choice.n_bytes, choice.n_characters), choice.unconditional_nats
    return (
        isinstance(choice.text, str)
        and all(isinstance(n, int) and n > 0 for n in lengths)
        and len(choice.ids) > 0
        and len(choice.nats) > 0
        and (free is None or isinstance(free, int | float))
    )
