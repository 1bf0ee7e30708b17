"""`lmeval likelihood`."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmeval import report, results
from lmeval.cli.shared import check_outputs, device_option, json_option, loading, print_table, write_json_data
from lmeval.compute import gather

if TYPE_CHECKING:
    from lmeval.likelihood.spec import Spec
    from lmeval.likelihood.summary import Comparison

RECORDS_KIND = "lmeval.likelihood"


@click.command("likelihood")
@click.argument("spec", metavar="SPEC")
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    envvar="LMEVAL_DATA",
    help="Folder with files that the spec names and that lie neither beside it nor here.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Score the first N images only.  [default: the spec's]")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of all draws.  [default: the spec's, else 0]")
@device_option
@json_option
@click.option(
    "--records", "records_path", type=click.Path(path_type=Path), help="Write every datum's values here, as JSON lines."
)
@click.option("--figures", "folder", type=click.Path(path_type=Path), help="Write figures to this folder, as PNG and SVG.")
def likelihood_command(
    spec: str,
    data_dir: Path | None,
    limit: int | None,
    seed: int | None,
    device: str,
    json_path: Path | None,
    records_path: Path | None,
    folder: Path | None,
) -> None:
    r"""Log-likelihoods of several models on the same images, side by side, each with the side it lies on.

    SPEC is a YAML file that names data, models and bounds, or the name of one in tasks/, such as digits. Its keys:

    \b
      likelihood   name of the comparison
      data         images, split, limit, shape; binarise {seed} or threshold, or binarisation of a binary file
      models       list of: name, model (bundled name, folder, density file), bounds, sandwich (simulated data), kde
      bounds       list of: elbo, iwae, ais, smc; or with settings: {smc: {particles, temperatures or gap, start}}
      seed, paired (the model that the others are compared with)
    """
    with loading("PyTorch"):
        from lmeval.likelihood.compare import compare
        from lmeval.likelihood.prepare import changed, costs, prepare, with_plans
        from lmeval.likelihood.spec import read_spec, spec_path
    wanted = changed(read_spec(spec_path(spec)), limit, seed)
    check_outputs([path for path in (json_path, records_path) if path], _inputs(wanted, data_dir))
    if folder:
        report.check_folder(folder)
    group = gather.connect(device)
    with loading("the models"):
        prepared = prepare(wanted, data_dir, group.device)
    prepared = with_plans(prepared, group)
    if group.rank == 0:
        for line in costs(prepared):
            click.echo(line, err=True)
    with _progress(wanted.name, show=group.rank == 0) as watch:
        found = compare(prepared, group, watch)
    if group.rank == 0:
        print_table(report.likelihood_tables(found.report))
        _write(found, json_path, records_path, folder)
    gather.disconnect(group)


def _inputs(spec: "Spec", data_dir: Path | None) -> tuple[str, ...]:
    """Files that the run reads, which no output may take the place of."""
    from lmeval.likelihood.spec import locate

    named = [spec.data.images.images, *(model.model for model in spec.models)]
    named += [model.kde.held_out.images for model in spec.models if model.kde and model.kde.held_out]
    return (str(spec.path), *(str(path) for name in named if (path := locate(name, spec, data_dir))))


def _write(found: "Comparison", json_path: Path | None, records_path: Path | None, folder: Path | None) -> None:
    from lmeval.likelihood.summary import as_json, records

    if json_path:
        write_json_data(as_json(found), json_path)
    if records_path:
        head = {"kind": RECORDS_KIND, "schema": results.SCHEMA, "ledger": found.report.ledger}
        rows = [head | {"provenance": found.report.provenance}, *records(found)]
        results.write_text("".join(json.dumps(row, allow_nan=False) + "\n" for row in rows), records_path)
    if folder:
        for path in report.save_figures(found, folder):
            click.echo(f"wrote {path}", err=True)


@contextmanager
def _progress(label: str, *, show: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error for what is being done; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (show and console.is_terminal)) as progress:
        bar = progress.add_task(label, total=None)
        now = label

        def watch(doing: str, done: int, total: int) -> None:
            nonlocal now
            if doing != now:
                progress.reset(bar, description=doing, total=total)
                now = doing
            progress.update(bar, completed=done, total=total)

        yield watch
