"""Score a prompted task: rows -> prompts -> token ids -> the engine -> records -> report."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lmeval import results
from lmeval.compute import gather
from lmeval.compute.place import Place
from lmeval.data.locate import named_spec, shipped_specs
from lmeval.data.resources import BUNDLED_FOR_TASKS
from lmeval.errors import ContextTooLong, InputError
from lmeval.models import CausalLM, ModelLike, as_model, describe_model
from lmeval.progress import SILENT, Progress
from lmeval.prompting.asking import Asked, Asking, RunSettings, ask
from lmeval.prompting.encoding import Encoded, encode_prompts
from lmeval.prompting.prompts import Prompt
from lmeval.prompting.records import Record, RecordSet, ScoredChoice, ids_sha256
from lmeval.prompting.summary import summarise
from lmeval.prompting.task import Task, read_task
from lmeval.results import Report
from lmeval.scoring import Scored, SharedScores, score_shared
from lmeval.specs.tasks import CHOICE

MAX_LISTED = 20  # items too long for the context, in the ledger


class TaskRun(NamedTuple):
    """What a run gives: the report, and the records from which it was computed (`summarise`)."""

    report: Report
    records: RecordSet


def run_task(
    task: Task | str | Path,
    model: ModelLike = "bundled",
    settings: RunSettings = RunSettings(),  # noqa: B008 (immutable)
    *,
    device: str = "auto",
    dtype: str = "float32",
    data_folder: Path | None = None,
    allow_code: bool = False,
    progress: Progress = SILENT,
) -> TaskRun:
    """Score a task file (a path, or the name of one that ships) or a Task with a causal language model.

    `data_folder` holds the files that a task names as local; `allow_code` lets the task file's `!function` run; `progress`
    counts requests. "bundled" is the bundled model for prompted tasks.
    Under `torchrun` or `accelerate launch` the work is shared out, and every process returns the same.

    Items whose prompt does not fit the model's context are left out, counted and named in the ledger, never cut. With
    several seeds an item is left out under all of them if it does not fit under one, so that all seeds score the same items.
    Raises InputError, ModelError and their kin.
    """
    place = gather.connect(device)
    if not isinstance(task, Task):
        task = read_task(task_path(task), data_folder=data_folder, allow_code=allow_code)
    asking = ask(task, settings)
    _check_metrics(task, asking)
    loaded = as_model(BUNDLED_FOR_TASKS if model == "bundled" else model, place.device, dtype)
    place = place._replace(device=loaded.device)
    began = time.perf_counter()
    encoded = encode_prompts(loaded, asking.prompts)
    fits = [loaded.context_length is None or one.n_inputs <= loaded.context_length for one in encoded]
    long = [item for item in asking.items if not all(fits[i] for i in _prompts_of(item))]
    left_out = {item.row.id for item in long}
    kept = [item for item in asking.items if item.row.id not in left_out]
    if not kept:
        longest = max(one.n_inputs for one in encoded)
        remedy = "lower --num-fewshot" if asking.n_shots else "use a model with a longer context"
        raise ContextTooLong(
            f"none of the {len(left_out)} items of {task.name} fits the {loaded.context_length} tokens of {loaded.name} "
            f"(the longest has {longest}): {remedy}"
        )
    wanted = sorted({i for item in kept for i in _prompts_of(item)})
    requests = [request for i in wanted for request in encoded[i].requests]
    progress.stage("scoring", len(requests), "requests")
    scored = score_shared(loaded, requests, place, batch_size=settings.batch_size, path=settings.path, progress=progress)
    by_prompt = _by_prompt(wanted, encoded, scored.scores)
    seconds = time.perf_counter() - began
    records = tuple(_record(item, asking.prompts, encoded, by_prompt) for item in kept)
    found = RecordSet(_header(task, settings, asking, loaded, place, scored, _Left(kept, long, encoded), seconds), records)
    return TaskRun(summarise(found), found)


def task_path(task: str | Path) -> Path:
    """The file of a task that is named by its path or, for those that ship, by its name. Raises InputNotFound."""
    return named_spec(str(task), "task", shipped_specs())


def _check_metrics(task: Task, asking: Asking) -> None:
    """Refuse before the work what `summary` would refuse behind it."""
    labels = {asking.prompts[item.main].choices for item in asking.items}
    if "f1" in task.metrics and task.output_type == CHOICE and (len(labels) > 1 or len(next(iter(labels))) != 2):
        raise InputError(
            f"{task.path}: the metric f1 needs two labels, the same for every item: leave it out of metric_list"
        )


def _prompts_of(item: Asked) -> tuple[int, ...]:
    return (item.main, *(() if item.unconditional is None else (item.unconditional,)), *item.neutral)


def _by_prompt(wanted: list[int], encoded: list[Encoded], scores: list[Scored]) -> dict[int, list[Scored]]:
    found, first = {}, 0
    for i in wanted:
        found[i] = scores[first : first + len(encoded[i].requests)]
        first += len(encoded[i].requests)
    return found


def _record(item: Asked, prompts: Sequence[Prompt], encoded: list[Encoded], scores: dict[int, list[Scored]]) -> Record:
    prompt, requests = prompts[item.main], encoded[item.main].requests
    free = None if item.unconditional is None else [_total(one) for one in scores[item.unconditional]]
    choices = tuple(
        ScoredChoice(
            text=text,
            ids=tuple(request.target.tolist()),
            nats=tuple(one.log_probs.astype(float).tolist()),
            n_bytes=len(text.encode()),
            n_characters=len(text),
            greedy=bool(one.greedy),
            unconditional_nats=None if free is None else free[c],
        )
        for c, (text, request, one) in enumerate(zip(prompt.choices, requests, scores[item.main], strict=True))
    )
    return Record(
        item=item.row.id,
        number=item.row.number,
        seed=item.seed,
        gold=prompt.gold,
        shots=item.shots,
        cluster=item.cluster,
        context_sha256=ids_sha256(requests[0].context),
        n_context_tokens=len(requests[0].context),
        n_moved=encoded[item.main].n_moved,
        choices=choices,
        neutral_nats=tuple(tuple(_total(one) for one in scores[i]) for i in item.neutral),
    )


def _total(scored: Scored) -> float:
    return float(scored.log_probs.sum(dtype="float64"))


class _Left(NamedTuple):
    """What was scored and what was left out."""

    kept: list[Asked]
    long: list[Asked]
    encoded: list[Encoded]


def _header(
    task: Task,
    settings: RunSettings,
    asking: Asking,
    model: CausalLM,
    place: Place,
    scored: SharedScores,
    left: _Left,
    seconds: float,
) -> dict[str, Any]:
    """What describes the run, JSON-ready; the report's ledger and provenance are taken from here."""
    moved = [item for item in left.kept if left.encoded[item.main].n_moved]
    lengths = [left.encoded[item.main].n_inputs for item in left.kept]
    ledger = {
        "n_rows": asking.n_rows,
        "n_items": len({item.row.id for item in asking.items}),
        "n_items_scored": len({item.row.id for item in left.kept}),
        "n_items_too_long": len({item.row.id for item in left.long}),
        "too_long": [_long_row(item, left) for item in left.long[:MAX_LISTED]],
        "n_items_boundary_moved": len({item.row.id for item in moved}),
        "split": task.split,
        "n_shots": asking.n_shots,
        "sampler": asking.sampler if asking.n_shots else None,
        "shot_split": task.shots.split if asking.n_shots else None,
        "seeds": list(range(settings.seed, settings.seed + settings.shot_seeds)),
        "prompt_tokens": {"mean": sum(lengths) / len(lengths), "longest": max(lengths)},
        "n_requests": sum(len(left.encoded[i].requests) for i in {i for item in left.kept for i in _prompts_of(item)}),
        "cost": scored.cost._asdict(),
    }
    provenance = {
        "task": task.name,
        "task_version": task.version,
        "task_sha256": results.files_sha256(task.files),
        "data": str(task.source),
        "data_sha256": results.text_sha256("\n".join(dict.fromkeys(item.row.id for item in asking.items))),
        "date": results.now(),
        "model": describe_model(model),
        "device": str(place.device),
        "n_processes": place.size,
        "n_threads": torch.get_num_threads(),
        "settings": settings._asdict(),
        "seconds": round(seconds, 3),
        "versions": results.versions(),
    }
    return {
        "task": task.name,
        "output_type": task.output_type,
        "metrics": list(task.metrics),
        "ledger": ledger,
        "provenance": provenance,
    }


def _long_row(item: Asked, left: _Left) -> dict[str, Any]:
    return {
        "item": item.row.id,
        "row": item.row.number,
        "seed": item.seed,
        "n_tokens": max(left.encoded[i].n_inputs for i in _prompts_of(item)),
    }
