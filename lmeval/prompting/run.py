"""Score a prompted task: rows -> prompts -> token ids -> the engine -> records -> report."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lmeval import results
from lmeval.compute.gather import as_place
from lmeval.compute.place import Place, describe_place
from lmeval.data.resources import BUNDLED_FOR_TASKS
from lmeval.errors import ContextTooLong, InputError
from lmeval.models import CausalLM, ModelLike, as_model, describe_model
from lmeval.progress import SILENT, Progress
from lmeval.prompting.encoding import Encoded, encode_prompts
from lmeval.prompting.instances import Instance, RunSettings, TaskInstances, build_instances
from lmeval.prompting.prompts import Prompt
from lmeval.prompting.records import Record, ScoredChoice, ids_sha256
from lmeval.prompting.summary import summarise
from lmeval.prompting.task import Task, read_task, task_path
from lmeval.results import Report
from lmeval.scoring import Cost, Scored, score_shared
from lmeval.specs.tasks import CHOICE

MAX_LISTED = 20  # items too long for the context, in the ledger


def run_task(
    task: Task | str | Path,
    model: ModelLike = "bundled",
    settings: RunSettings = RunSettings(),  # noqa: B008 (immutable)
    *,
    place: Place | str = "auto",
    dtype: str = "float32",
    data_folder: Path | None = None,
    allow_code: bool = False,
    progress: Progress = SILENT,
) -> Report:
    """Score a prompted task with a causal language model.

    Items whose prompt does not fit the model's context are left out, counted and named in the ledger, never cut. With
    several seeds an item is left out under all of them if it does not fit under one, so that all seeds score the same items.
    Under `torchrun` or `accelerate launch` the work is shared out, and every process returns the same.

    Args:
        task: A Task, the path of a task file, or the name of one that ships.
        model: A loaded model, a pair (model, tokenizer), a folder, a hub id, or "bundled": the model for prompted tasks.
        settings: How the task is scored.
        place: Where: a Place, or a device's name ("auto", "cpu", "cuda:1").
        dtype: Precision of a model that is loaded by name.
        data_folder: Folder with the files that a task names as local; without it data sets come from the hub.
        allow_code: Whether the functions that a task file names by `!function` are run.
        progress: Told of the requests that were scored.

    Returns:
        A report of kind "run": accuracy under every scoring rule with intervals, calibration, and every item with all that
        `rescore` needs.

    Raises:
        InputError: The task file, its data or the settings are wrong; its kin name the file and the item.
        ContextTooLong: No item fits the model's context.
        ModelError: The model cannot be loaded.
    """
    place = as_place(place)
    if not isinstance(task, Task):
        task = read_task(task_path(task), data_folder=data_folder, allow_code=allow_code)
    instances = build_instances(task, settings)
    _check_metrics(task, instances)
    loaded = as_model(BUNDLED_FOR_TASKS if model == "bundled" else model, place.device, dtype)
    place = place._replace(device=loaded.device)
    began = time.perf_counter()
    encoded = encode_prompts(loaded, instances.prompts)
    selection = _select(task, loaded, instances, encoded)
    scores, cost = _score(task, loaded, selection, settings, place, progress)
    seconds = time.perf_counter() - began
    records = [_record(item, instances.prompts, encoded, scores) for item in selection.scored]
    provenance = results.provenance(
        "run",
        inputs=_inputs(task, instances),
        models=[describe_model(loaded)],
        place=describe_place(place),
        settings=settings._asdict(),
        seconds=seconds,
    )
    of = {"model": loaded.name, "task": task.name}
    return summarise(records, of, _ledger(task, settings, instances, selection, cost), provenance)


def _check_metrics(task: Task, instances: TaskInstances) -> None:
    """Refuse before the work what `summary` would refuse after it."""
    labels = {instances.prompts[item.main].choices for item in instances.items}
    if "f1" in task.metrics and task.output_type == CHOICE and (len(labels) > 1 or len(next(iter(labels))) != 2):
        raise InputError(
            f"{task.path}: the metric f1 needs two labels, the same for every item: leave it out of metric_list"
        )


class _Selection(NamedTuple):
    """The items that are scored, those too long for the model's context, and the token ids of every prompt."""

    scored: list[Instance]
    too_long: list[Instance]
    encoded: list[Encoded]

    @property
    def prompts(self) -> list[int]:
        """Indices of the prompts that are scored, in their order."""
        return sorted({i for item in self.scored for i in _prompts_of(item)})


def _select(task: Task, model: CausalLM, instances: TaskInstances, encoded: list[Encoded]) -> _Selection:
    """Leave out the items that do not fit the context under every seed. Raises ContextTooLong where none is left."""
    fits = [model.context_length is None or one.n_inputs <= model.context_length for one in encoded]
    too_long = [item for item in instances.items if not all(fits[i] for i in _prompts_of(item))]
    left_out = {item.row.id for item in too_long}
    scored = [item for item in instances.items if item.row.id not in left_out]
    if not scored:
        longest = max(one.n_inputs for one in encoded)
        remedy = "lower --num-fewshot" if instances.n_shots else "use a model with a longer context"
        raise ContextTooLong(
            f"none of the {len(left_out)} items of {task.name} fits the {model.context_length} tokens of {model.name} "
            f"(the longest has {longest}): {remedy}"
        )
    return _Selection(scored, too_long, encoded)


def _score(
    task: Task, model: CausalLM, selection: _Selection, settings: RunSettings, place: Place, progress: Progress
) -> tuple[dict[int, list[Scored]], Cost]:
    """The scores of every prompt's requests, by the prompt's index, and what they cost."""
    requests = [request for i in selection.prompts for request in selection.encoded[i].requests]
    progress.stage(task.name, len(requests), "requests")
    shared = score_shared(
        model,
        requests,
        place,
        batch_size=settings.batch_size,
        path=settings.strategy,
        progress=progress,
    )
    by_prompt, first = {}, 0
    for i in selection.prompts:
        stop = first + len(selection.encoded[i].requests)
        by_prompt[i] = shared.scores[first:stop]
        first = stop
    return by_prompt, shared.cost


def _prompts_of(item: Instance) -> tuple[int, ...]:
    """Indices of the prompts that belong to an item."""
    return (item.main, *(() if item.unconditional is None else (item.unconditional,)), *item.neutral)


def _record(item: Instance, prompts: Sequence[Prompt], encoded: list[Encoded], scores: dict[int, list[Scored]]) -> Record:
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


def _ledger(
    task: Task, settings: RunSettings, instances: TaskInstances, selection: _Selection, cost: Cost
) -> dict[str, Any]:
    """What was scored, how, and what was left out, JSON-ready."""
    moved = [item for item in selection.scored if selection.encoded[item.main].n_moved]
    lengths = [selection.encoded[item.main].n_inputs for item in selection.scored]
    return {
        "output_type": task.output_type,
        "metrics": list(task.metrics),
        "n_rows": instances.n_rows,
        "n_items": len({item.row.id for item in instances.items}),
        "n_items_scored": len({item.row.id for item in selection.scored}),
        "n_items_too_long": len({item.row.id for item in selection.too_long}),
        "too_long": [_long_row(item, selection) for item in selection.too_long[:MAX_LISTED]],
        "n_items_boundary_moved": len({item.row.id for item in moved}),
        "split": task.split,
        "n_shots": instances.n_shots,
        "sampler": instances.sampler if instances.n_shots else None,
        "shot_split": task.shots.split if instances.n_shots else None,
        "seeds": list(range(settings.seed, settings.seed + settings.shot_seeds)),
        "prompt_tokens": {"mean": sum(lengths) / len(lengths), "longest": max(lengths)},
        "n_requests": sum(len(selection.encoded[i].requests) for i in selection.prompts),
        "cost": cost._asdict(),
    }


def _inputs(task: Task, instances: TaskInstances) -> Mapping[str, Any]:
    """The task and its data, by name and hash."""
    return {
        "task": task.name,
        "task_version": task.version,
        "task_sha256": results.files_sha256(task.files),
        "data": str(task.source),
        "data_sha256": results.text_sha256("\n".join(dict.fromkeys(item.row.id for item in instances.items))),
    }


def _long_row(item: Instance, selection: _Selection) -> dict[str, Any]:
    return {
        "item": item.row.id,
        "row": item.row.number,
        "seed": item.seed,
        "n_tokens": max(selection.encoded[i].n_inputs for i in _prompts_of(item)),
    }
