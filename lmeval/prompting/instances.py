"""A task and its rows -> every prompt that has to be scored, each once, and which of them belong to which item."""

from collections.abc import Callable
from typing import NamedTuple

from lmeval.data.rows import Row, load_rows, with_ids
from lmeval.errors import InputError, InputNotFound
from lmeval.messages import nearest
from lmeval.prompting import shots
from lmeval.prompting.prompts import Prompt, Question, description, prompt, question, shot_text
from lmeval.prompting.rules import RULES
from lmeval.prompting.task import SAMPLERS, STRATEGIES, Sampler, Task
from lmeval.specs.templates import value


class RunSettings(NamedTuple):
    """How a task is scored.

    Attributes:
        num_fewshot: Examples before each item; None for as many as the task says.
        sampler: How they are chosen, a key of SAMPLERS; None for the task's.
        limit: Score the first rows only; None for all.
        seed: Of the choice of examples.
        shot_seeds: Score every item under that many seeds (`seed`, `seed` + 1, ...), to show what the choice of examples is
            worth.
        batch_size: Rows at once; None for as many as memory allows.
        unconditional: Whether choices are scored after no question too; None for where the task asks for it.
        strategy: "tree" (shared prefixes are computed once), "plain" (each prompt by itself), or "auto": tree where the
            model allows it. All give the same scores.
    """

    num_fewshot: int | None = None
    sampler: str | None = None
    limit: int | None = None
    seed: int = 0
    shot_seeds: int = 1
    batch_size: int | None = None
    unconditional: bool | None = None
    strategy: str = "auto"


class Instance(NamedTuple):
    """One item under one seed of few-shot examples.

    `row` is the item, `shots` are the ids of the rows shown before it, `cluster` names what it shares with other items.
    `main`, `unconditional` and `neutral` are indices into `TaskInstances.prompts`: of its own prompt, of its choices after
    no question, and of its content-free prompts.
    """

    row: Row
    seed: int
    shots: tuple[str, ...]
    cluster: str | None
    main: int
    unconditional: int | None
    neutral: tuple[int, ...]


class TaskInstances(NamedTuple):
    """All that is to be scored. Equal prompts stand once in `prompts`; `n_rows` counts the split's rows before any limit."""

    items: tuple[Instance, ...]
    prompts: tuple[Prompt, ...]
    n_shots: int
    sampler: Sampler
    n_rows: int


def build_instances(task: Task, settings: RunSettings) -> TaskInstances:
    """Read the task's rows and write its prompts.

    Args:
        task: The task, whose data are read here.
        settings: How many items and examples, from which seeds.

    Returns:
        Every item under every seed, and the prompts that have to be scored, each once.

    Raises:
        InputError: A setting, a row or a label does not fit; the message names file and item.
        InputNotFound: The data cannot be read.
    """
    rows = _scored_rows(task)
    n_shots = task.n_shots if settings.num_fewshot is None else settings.num_fewshot
    sampler = settings.sampler or task.shots.sampler
    _check(settings, n_shots, sampler)
    assert sampler == "default" or sampler == "fixed" or sampler == "balanced" or sampler == "first_n"
    pool = _pool(task, sampler) if n_shots else None
    numbers: dict[Prompt, int] = {}
    shown = _shot_texts(task, pool)
    items = []
    for row in rows[: settings.limit]:
        own, before, cluster = question(task, task.template, row), description(task, row), _cluster(task, row)
        without_content = _neutral(task, row)
        for seed in range(settings.seed, settings.seed + settings.shot_seeds):
            drawn = _draw_shots(task, pool, row, n_shots, sampler, seed) if pool else ()
            head = before + "".join(map(shown, drawn))
            main = prompt(task, own, head)
            neutral = [prompt(task, replaced, head)._replace(gold=()) for replaced in without_content]
            free = _unconditional(task, main, own) if _wants_unconditional(task, settings) else None
            items.append(
                Instance(
                    row=row,
                    seed=seed,
                    shots=tuple(pool.rows[i].id for i in drawn) if pool else (),
                    cluster=cluster,
                    main=numbers.setdefault(main, len(numbers)),
                    unconditional=None if free is None else numbers.setdefault(free, len(numbers)),
                    neutral=tuple(numbers.setdefault(one, len(numbers)) for one in neutral),
                )
            )
    return TaskInstances(tuple(items), tuple(numbers), n_shots, sampler, len(rows))


def _scored_rows(task: Task) -> list[Row]:
    try:
        return load_rows(task.source, task.process, task.keep.get(task.split))
    except InputNotFound as error:
        if not task.local_files:
            raise
        files = ", ".join(task.local_files)
        raise InputNotFound(f"{error}; or name a folder with {files} by --data-dir or LMEVAL_DATA") from error


def _check(settings: RunSettings, n_shots: int, sampler: str) -> None:
    if settings.strategy not in STRATEGIES:
        raise InputError(f"unknown strategy '{settings.strategy}': use {', '.join(STRATEGIES)}")
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler '{sampler}'{nearest(sampler, SAMPLERS)}")
    for name, least in (("limit", 1), ("shot_seeds", 1), ("num_fewshot", 0), ("batch_size", 1)):
        number = getattr(settings, name)
        if number is not None and (not isinstance(number, int) or number < least):
            raise InputError(f"{name} must be a whole number of at least {least}, not {number!r}")
    if settings.shot_seeds > 1 and (n_shots == 0 or sampler == "first_n"):
        why = "there are no few-shot examples" if n_shots == 0 else "the sampler first_n does not draw"
        raise InputError(f"--shot-seeds {settings.shot_seeds} would score the same prompts again: {why}")


def _pool(task: Task, sampler: str) -> shots.Pool:
    """The rows that few-shot examples are drawn from."""
    source = task.shots
    if source.samples is not None and source.split is None:
        rows = with_ids(source.samples)
    elif source.source is not None and source.split is not None:
        rows = load_rows(source.source, source.process, task.keep.get(source.split))
    else:
        raise InputError(
            f"{task.path}: few-shot examples are wanted, but no split or samples to take them from: set fewshot_split"
        )
    if source.indices is not None:
        if not all(0 <= i < len(rows) for i in source.indices):
            raise InputError(f"{task.path}: fewshot_indices go beyond the {len(rows)} rows of {source.split or 'samples'}")
        rows = [rows[i] for i in source.indices]
    labels = [question(task, source.template, row).gold for row in rows] if sampler == "balanced" else [()] * len(rows)
    return shots.Pool(rows, labels)


def _draw_shots(task: Task, pool: shots.Pool, row: Row, count: int, sampler: Sampler, seed: int) -> tuple[int, ...]:
    try:
        return shots.draw(pool, row, count, sampler, seed)
    except InputError as error:
        raise InputError(f"{task.path}: item {row.id} (row {row.number}): {error}") from None


def _shot_texts(task: Task, pool: shots.Pool | None) -> Callable[[int], str]:
    """A function that gives the text of an example by its index in the pool; each is written once."""
    texts: dict[int, str] = {}

    def shown(index: int) -> str:
        assert pool is not None
        if index not in texts:
            texts[index] = shot_text(task, question(task, task.shots.template, pool.rows[index]))
        return texts[index]

    return shown


def _neutral(task: Task, row: Row) -> list[Question]:
    """The item with its content replaced by content-free inputs."""
    questions = []
    for replaced in task.neutral:
        unknown = sorted(set(replaced) - set(row.fields))
        if unknown:
            raise InputError(
                f"{task.path}: metadata.lmeval.neutral: no column '{unknown[0]}'{nearest(unknown[0], row.fields)}"
            )
        questions.append(question(task, task.template, row._replace(fields={**row.fields, **replaced})))
    return questions


def _wants_unconditional(task: Task, settings: RunSettings) -> bool:
    if settings.unconditional is not None:
        return settings.unconditional
    return task.unconditional is not None or any(
        rule.unconditional and rule.metric in task.metrics for rule in RULES.values()
    )


def _unconditional(task: Task, main: Prompt, own: Question) -> Prompt | None:
    """The choices after no question; None where the choices are inside the context, and what follows them is the same."""
    if own.inside:
        return None
    return main._replace(gold=(), contexts=(task.unconditional or "",) * len(main.contexts))


def _cluster(task: Task, row: Row) -> str | None:
    if task.cluster is None:
        return None
    return str(value(task.cluster, row.fields, f"{task.path}: metadata.lmeval.cluster for item {row.id} (row {row.number})"))
