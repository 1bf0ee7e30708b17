"""`lmeval run`, `lmeval rescore` and `lmeval compare`."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import click

from lmeval import models, prompting, report, results
from lmeval.cli.progress import drawn_progress
from lmeval.cli.shared import (
    BatchSize,
    check_outputs,
    device_option,
    dtype_option,
    json_option,
    loading,
    model_option,
    print_table,
    write_json_data,
)
from lmeval.compute import gather
from lmeval.data.documents import local_files
from lmeval.data.resources import BUNDLED_FOR_TASKS
from lmeval.errors import InputError
from lmeval.prompting.task import SAMPLERS, Task, task_of
from lmeval.results import Report
from lmeval.specs.tasks import ROLLING, RollingTask, read_keys, rolling_task, task_corpus


@click.command("run")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@model_option
@click.option(
    "--num-fewshot", "-k", type=click.IntRange(min=0), help="Examples before each item.  [default: as the task says]"
)
@click.option("--sampler", type=click.Choice(list(SAMPLERS)), help="How they are chosen.  [default: the task's]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of their choice.")
@click.option("--shot-seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Score under that many seeds.")
@click.option("--limit", type=click.IntRange(min=1), help="Score the first N rows only.")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="LMEVAL_DATA",
    help="Folder with the files that a task names as local; without it data sets come from the hub.",
)
@click.option("--batch-size", type=BatchSize(), default=None, help="Rows at once.  [default: auto]")
@click.option(
    "--unconditional/--no-unconditional",
    default=None,
    help="Score choices behind no question too, for PMI.  [default: the task's]",
)
@click.option(
    "--path",
    type=click.Choice(["auto", "tree", "plain"]),
    default="auto",
    show_default=True,
    help="tree: shared prefixes once; plain: each prompt by itself, with the same result.",
)
@click.option("--allow-code", is_flag=True, help="Run the functions that a task file names by !function.")
@device_option
@dtype_option
@json_option
@click.option(
    "--records", "records_path", type=click.Path(path_type=Path), help="Write what was found of each item, for rescore."
)
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
    path: str,
    allow_code: bool,
    device: str,
    dtype: str,
    json_path: Path | None,
    records_path: Path | None,
) -> None:
    """Score prompted tasks through next-token probabilities.

    TASK is a task file (lm-evaluation-harness's YAML), or the name of one in tasks/.
    """
    files = [prompting.task_path(task) for task in tasks]
    read = _read(files, data_dir, allow_code=allow_code)
    check_outputs([p for p in (json_path, records_path) if p], tuple(i for task in read.values() for i in _inputs(task)))
    prompted = [task for task in read.values() if isinstance(task, Task)]
    if records_path and not prompted:
        raise InputError("--records keeps what is found of items, and plain text has none: leave it out")
    settings = prompting.RunSettings(num_fewshot, sampler, limit, seed, shot_seeds, batch_size, unconditional, path)
    with loading(f"model {model}"):
        from lmeval.perplexity import Settings, perplexity

        group = gather.connect(device)
        loaded = models.as_model(BUNDLED_FOR_TASKS if model == "bundled" and prompted else model, group.device, dtype)
    reports: dict[str, Report] = {}
    records: list[prompting.RecordSet] = []
    for name, task in read.items():
        if isinstance(task, Task):
            with drawn_progress(show=group.rank == 0) as progress:
                found = prompting.run_task(task, loaded, settings, device=device, progress=progress)
            reports[name] = found.report
            records.append(found.records)
        else:
            corpus = task_corpus(task)
            corpus = replace(corpus, documents=islice(corpus.documents, limit))
            reports[name] = perplexity(loaded, corpus, Settings(batch_size=batch_size), device=device)
        if group.rank == 0:
            _print(reports[name], first=len(reports) == 1)
    if group.rank == 0:
        _write(reports, records, json_path, records_path)
    gather.disconnect(group)


@click.command("rescore")
@click.argument("records_path", metavar="RECORDS", type=click.Path(path_type=Path))
@json_option
def rescore_command(records_path: Path, json_path: Path | None) -> None:
    """Compute all scores of `run --records` again, without the model."""
    check_outputs([json_path] if json_path else [], (str(records_path),))
    reports: dict[str, Report] = {}
    for found in prompting.read_records(records_path):
        reports[str(found.header["task"])] = prompting.summarise(found)
    _write(reports, [], json_path, None)
    for i, found in enumerate(reports.values()):
        _print(found, first=i == 0)


@click.command("compare")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, help="Measure to compare; may be given again.  [default: acc]")
@json_option
def compare_command(a: Path, b: Path, metrics: tuple[str, ...], json_path: Path | None) -> None:
    """Compare two runs on the same items: paired difference with interval, McNemar's test, Holm over tasks.

    A and B are what `lmeval run` wrote with --json or --records.
    """
    check_outputs([json_path] if json_path else [], (str(a), str(b)))
    rows = prompting.compare_runs(a, b, metrics)
    if json_path:
        write_json_data({"schema": results.SCHEMA, "a": str(a), "b": str(b), "comparisons": rows}, json_path)
    print_table(report.compare_table(rows, str(a), str(b)))


def _read(files: list[Path], data_dir: Path | None, *, allow_code: bool) -> dict[str, Task | RollingTask]:
    """The tasks by name, all of them before anything is scored."""
    found: dict[str, Task | RollingTask] = {}
    for file in files:
        keys = read_keys(file, allow_code=allow_code)
        task = rolling_task(keys) if keys.values.get("output_type") == ROLLING else task_of(keys, data_dir)
        if task.name in found:
            raise InputError(f"two of the tasks are called {task.name}: run them one after the other")
        found[task.name] = task
    return found


def _inputs(task: Task | RollingTask) -> tuple[str, ...]:
    """Files that a task is read from, which no output may take the place of."""
    shots = task.shots.source if isinstance(task, Task) else None
    return (*task.files, *local_files(task.source), *(local_files(shots) if shots else ()))


def _print(found: Report, *, first: bool) -> None:
    if not first:
        click.echo()
    if "windows" not in found.ledger:
        print_table(report.task_tables(found))
        return
    print_table(report.perplexity_tables(found))
    if notice := report.withheld_notice(found):
        click.echo(f"lmeval: {notice}", err=True)


def _write(
    reports: dict[str, Report], records: "list[prompting.RecordSet]", json_path: Path | None, records_path: Path | None
) -> None:
    """One task is a report of its own; several are one file with all of them."""
    if json_path:
        data: Any = results.as_json(results.together("run", tuple(reports.values()), {}))
        write_json_data(data, json_path)
    if records_path:
        prompting.write_records(records, records_path)
