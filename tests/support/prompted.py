"""Task files, exact models and records made by hand, for the tests of prompted tasks."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from samples import markov_transitions

from lmeval.models import CausalLM, from_pair
from lmeval.models.toys import byte_tokenizer, markov_model, uniform_model
from lmeval.prompting import Record, ScoredChoice, records_of_items, summarise
from lmeval.results import Report

ROWS: list[dict[str, Any]] = [
    {"q": "one and one", "options": ["two", "seven", "größe"], "label": 0, "topic": "sums"},
    {"q": "a colour", "options": ["house", "red", "a long answer"], "label": 1, "topic": "words"},
    {"q": "", "options": ["x", "yy", "zzz"], "label": 2, "topic": "words"},
    {"q": "trailing space ", "options": ["none", "some", "all"], "label": 1, "topic": "sums"},
    {"q": "größe 🙂", "options": ["🙂", "é", "e"], "label": 0, "topic": "signs"},
    {"q": "one and two", "options": ["three", "four", "five"], "label": 0, "topic": "sums"},
    {"q": "last", "options": ["first", "last", "last but one"], "label": 2, "topic": "words"},
]
CHOICES: dict[str, Any] = {
    "task": "odd_ones",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "options",
    "doc_to_target": "label",
    "target_delimiter": "",  # so that what a chain gives a choice depends on the question's last byte
}
LABELS = CHOICES | {"task": "labels", "doc_to_choice": ["no", "yes", "maybe"]}
TARGETS = {key: value for key, value in CHOICES.items() if key != "doc_to_choice"} | {
    "task": "targets",
    "output_type": "loglikelihood",
    "doc_to_target": "{{options[label]}}",
}


def task_file(folder: Path, keys: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = ROWS, **changes: Any) -> Path:
    """A task file with its rows beside it; `metric_list` may be given as names, `lmeval` as our own keys."""
    folder.mkdir(exist_ok=True)
    keys = {**keys, **changes}
    data = folder / f"{re.sub('[^a-z_]', '', keys['task'])}.jsonl"  # the library takes brackets for a pattern
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    keys.setdefault("dataset_kwargs", {"data_files": {"test": data.name}})
    keys["metric_list"] = [{"metric": metric} for metric in keys.get("metric_list", ["acc"])]
    if ours := keys.pop("lmeval", None):
        keys["metadata"] = {"version": 1.0, "lmeval": ours}
    path = folder / f"{keys['task']}.yaml"
    path.write_text(yaml.safe_dump(keys, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def chain(seed: int = 0, context: int = 1024) -> tuple[CausalLM, np.ndarray]:
    """A Markov chain over bytes, and its log transition probabilities."""
    transitions = markov_transitions(seed=seed)
    return from_pair(markov_model(transitions, context), byte_tokenizer(), name="chain"), np.log(transitions)


def uniform(context: int = 1024) -> CausalLM:
    return from_pair(uniform_model(context_length=context), byte_tokenizer(), name="uniform")


def record(
    item: str,
    nats: Sequence[float],
    gold: Sequence[int] = (0,),
    *,
    texts: Sequence[str] | None = None,
    seed: int = 0,
    cluster: str | None = None,
    free: Sequence[float] | None = None,
    neutral: Sequence[Sequence[float]] = (),
    greedy: Sequence[bool] | None = None,
) -> Record:
    """An item whose choices have these log-probabilities, each in two tokens."""
    texts = texts or [f"choice {c}" for c in range(len(nats))]
    choices = tuple(
        ScoredChoice(
            text=text,
            ids=(c, c + 1),
            nats=(0.25 * total, 0.75 * total),
            n_bytes=len(text.encode()),
            n_characters=len(text),
            greedy=bool(greedy[c]) if greedy else total == max(nats),
            unconditional_nats=None if free is None else free[c],
        )
        for c, (text, total) in enumerate(zip(texts, nats, strict=True))
    )
    rows = tuple(tuple(row) for row in neutral)
    return Record(item, int(item.strip("i") or 0), seed, tuple(gold), (), cluster, "0" * 64, 5, 0, choices, rows)


LEDGER = {  # of a run that scored everything
    **dict.fromkeys(("n_rows", "n_items", "n_items_scored"), 1),
    **dict.fromkeys(("n_items_too_long", "n_items_boundary_moved", "n_shots"), 0),
    "too_long": [],
    "split": "test",
    "seeds": [0],
    "prompt_tokens": {"mean": 5.0, "longest": 5},
    "cost": {"n_tokens": 1, "n_padded": 1, "n_positions": 1, "n_tokens_plain": 1, "path": "plain"},
}


def report_of(
    records: Sequence[Record],
    kind: str = "multiple_choice",
    metrics: Sequence[str] = ("acc",),
    task: str = "made",
    model: str = "maker",
) -> Report:
    """The report of records made by hand."""
    ledger = {"output_type": kind, "metrics": list(metrics), **LEDGER}
    inputs = {"task": task, "task_version": "", "data": "made"}
    described = {"name": model, "n_parameters": 1, "dtype": "float32"}
    provenance = {"kind": "run", "inputs": inputs, "models": [described], "device": "cpu", "seconds": 1.0}
    return summarise(records, {"model": model, "task": task}, ledger, provenance)


def records_in(report: Report) -> tuple[Record, ...]:
    """The records that a report's items hold."""
    assert report.items is not None
    return records_of_items(report.items.records)


def random_records(seed: int, n: int, n_choices: int = 3, seeds: int = 1, clusters: int | None = None) -> list[Record]:
    """Records of items that differ in difficulty, with everything that a rule may need."""
    rng = np.random.default_rng(seed)
    records = []
    for i in range(n):
        hard, gold = rng.normal(0, 2, n_choices), int(rng.integers(n_choices))
        for s in range(seeds):
            nats = -10 + hard + rng.normal(0, 1, n_choices)
            records.append(
                record(
                    f"i{i}",
                    nats.tolist(),
                    (gold,),
                    seed=s,
                    cluster=None if clusters is None else f"cluster {i % clusters}",
                    free=rng.normal(-9, 1, n_choices).tolist(),
                    neutral=rng.normal(-9, 1, (2, n_choices)).tolist(),
                )
            )
    return records
