"""`lmeval run`, `lmeval rescore` and `lmeval compare`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lmeval import models, prompting, results
from lmeval.cli.progress import drawn_progress
from lmeval.cli.shared import (
    STDOUT,
    BatchSize,
    RunOptions,
    check_outputs,
    data_dir_option,
    dtype_option,
    json_option,
    limit_option,
    loading,
    model_option,
    print_report,
    run_options,
    seed_option,
    write_report,
)
from lmeval.compute import gather
from lmeval.compute.place import Place, describe_place
from lmeval.data.documents import first_documents, local_files
from lmeval.data.resources import BUNDLED_FOR_TASKS
from lmeval.errors import InputError, first_line
from lmeval.progress import Progress
from lmeval.prompting.task import SAMPLERS, STRATEGIES, Task, task_of, task_path
from lmeval.report.terminal import print_blocks
from lmeval.report.views import view
from lmeval.report.views.perplexity import withheld_notice
from lmeval.results import Report
from lmeval.results.items import DAMAGED
from lmeval.results.records import read_records
from lmeval.results.report import with_of
from lmeval.specs.tasks import ROLLING, RollingTask, read_keys, rolling_task, task_corpus

if TYPE_CHECKING:
    from lmeval.perplexity import PerplexitySettings


@click.command("run")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@model_option
@click.option(
    "--num-fewshot", "-k", type=click.IntRange(min=0), help="Examples before each item.  [default: as the task says]"
)
@click.option("--sampler", type=click.Choice(list(SAMPLERS)), help="How they are chosen.  [default: the task's]")
@seed_option("Seed of their choice.")
@click.option("--shot-seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Score under that many seeds.")
@limit_option("Score the first N rows only.")
@data_dir_option
@click.option("--batch-size", type=BatchSize(), default=None, help="Rows at once.  [default: auto]")
@click.option(
    "--unconditional/--no-unconditional",
    default=None,
    help="Score choices after no question too, for PMI.  [default: the task's]",
)
@click.option(
    "--strategy",
    type=click.Choice(STRATEGIES),
    default="auto",
    show_default=True,
    help="tree: shared prefixes once; plain: each prompt by itself, with the same result.",
)
@click.option("--context", type=click.IntRange(min=1), help="Tokens a window, for rolling tasks.  [default: the model's]")
@click.option("--stride", type=click.IntRange(min=1), help="Tokens from window to window.  [default: the context]")
@click.option("--allow-code", is_flag=True, help="Run the functions that a task file names by !function.")
@dtype_option
@run_options
def run_command(
    tasks: tuple[str, ...],
    model: str,
    num_fewshot: int | None,
    sampler: str | None,
    seed: int,
    shot_seeds: int,
    limit: int | None,
    data_dir: Path | None,
    batch_size: int | None,
    unconditional: bool | None,
    strategy: str,
    context: int | None,
    stride: int | None,
    allow_code: bool,
    dtype: str,
    options: RunOptions,
) -> None:
    """Score prompted tasks and texts through next-token probabilities.

    TASK is a task file (lm-evaluation-harness's YAML), or the name of one in tasks/.

    'bundled' is lmeval-reviews-4m-v1 where a task is prompted, and the model of `lmeval perplexity` where all are plain text
    (loglikelihood_rolling).
    """
    files = [task_path(task) for task in tasks]
    read = _read_tasks(files, data_dir, allow_code=allow_code)
    check_outputs(options.outputs, [name for task in read.values() for name in _inputs(task)])
    prompted = any(isinstance(task, Task) for task in read.values())
    settings = prompting.RunSettings(num_fewshot, sampler, limit, seed, shot_seeds, batch_size, unconditional, strategy)
    with loading(f"model {model}"):
        from lmeval.perplexity import PerplexitySettings

        place = gather.as_place(options.device, options.memory)
        loaded = models.as_model(BUNDLED_FOR_TASKS if model == "bundled" and prompted else model, place.device, dtype)
    windows = PerplexitySettings(context, stride, batch_size=batch_size)
    parts: list[Report] = []
    for task in read.values():
        with drawn_progress(show=place.is_first) as progress:
            if isinstance(task, Task):
                parts.append(prompting.run_task(task, loaded, settings, place=place, progress=progress))
            else:
                parts.append(_score_text(task, limit, loaded, windows, place, progress))
        if place.is_first:
            _print(parts[-1], first=len(parts) == 1, to_stderr=options.json_path == STDOUT)
    if place.is_first:
        write_report(_together(parts, loaded, place), options.json_path, options.records_path)
    gather.disconnect(place)


@click.command("rescore")
@click.argument("records_path", metavar="RECORDS", type=click.Path(path_type=Path))
@json_option
def rescore_command(records_path: Path, json_path: Path | None) -> None:
    """Compute all scores of --records again, without the model.

    RECORDS is what `lmeval run`, `perplexity`, `likelihood` or `benchmark` wrote with --records.
    """
    from lmeval.results.reduction import rescore_items

    check_outputs([json_path], [str(records_path)])
    sets = read_records(records_path, prompting.read_old_records)
    inputs = {"records": {"file": str(records_path), "sha256": results.files_sha256([str(records_path)])}}
    try:
        parts = tuple(prompting.rescore(one) if one.header.report == "run" else rescore_items(one) for one in sets)
        rescored = results.together(parts[0].kind, parts, results.provenance(parts[0].kind, inputs=inputs))
        blocks = view(rescored)
    except DAMAGED as error:  # whole, but made by another program
        what = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{records_path} lacks what lmeval writes into the header of records ({what})") from error
    print_blocks(blocks, to_stderr=json_path == STDOUT)
    write_report(rescored, json_path)


@click.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, help="Measure to compare; may be given again.  [default: the main one]")
@json_option
def compare_command(a: Path, b: Path, metrics: tuple[str, ...], json_path: Path | None) -> None:
    """Compare two results on the same items, with paired intervals.

    The differences have correlations, tests and Holm's adjustment.

    A and B are what `lmeval run`, `perplexity`, `likelihood` or `benchmark` wrote with --json or --records, of one kind.
    """
    from lmeval.results.compare import compare_reports
    from lmeval.results.reading import read_results

    check_outputs([json_path], [str(a), str(b)])
    reports = [read_results(path, prompting.read_old_records) for path in (a, b)]
    compared = compare_reports(reports[0], reports[1], metrics, (str(a), str(b)))
    print_report(compared, json_path)


def _read_tasks(files: list[Path], data_dir: Path | None, *, allow_code: bool) -> dict[str, Task | RollingTask]:
    """The tasks by name, all of them before anything is scored."""
    tasks: dict[str, Task | RollingTask] = {}
    for file in files:
        keys = read_keys(file, allow_code=allow_code)
        task = rolling_task(keys) if keys.values.get("output_type") == ROLLING else task_of(keys, data_dir)
        if task.name in tasks:
            raise InputError(f"two of the tasks are called {task.name}: run them one after the other")
        tasks[task.name] = task
    return tasks


def _inputs(task: Task | RollingTask) -> tuple[str, ...]:
    """Files that a task is read from, which no output may take the place of."""
    shots = task.shots.source if isinstance(task, Task) else None
    return (*task.files, *local_files(task.source), *(local_files(shots) if shots else ()))


def _score_text(
    task: RollingTask,
    limit: int | None,
    model: "models.CausalLM",
    windows: "PerplexitySettings",
    place: Place,
    progress: Progress,
) -> Report:
    """Perplexity of a task that names plain text, of its first `limit` documents."""
    from lmeval.perplexity import perplexity

    corpus = first_documents(task_corpus(task), limit)
    return with_of(perplexity(model, corpus, windows, place=place, progress=progress), task=task.name)


def _together(parts: list[Report], model: "models.CausalLM", place: Place) -> Report:
    """One task is a report of its own; several are one report with each as a part."""
    provenance = results.provenance(
        "run", models=[models.describe_model(model)], place=describe_place(place._replace(device=model.device))
    )
    return results.together("run", tuple(parts), provenance)


def _print(part: Report, *, first: bool, to_stderr: bool) -> None:
    if not first:
        click.echo(err=to_stderr)
    print_blocks(view(part), to_stderr=to_stderr)
    if part.kind == "perplexity" and (notice := withheld_notice(part)):
        click.echo(f"lmeval: {notice}", err=True)
