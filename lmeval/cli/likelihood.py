"""`lmeval likelihood`."""

from pathlib import Path

import click

from lmeval.cli.progress import drawn_progress
from lmeval.cli.shared import (
    STDOUT,
    RunOptions,
    check_outputs,
    data_dir_option,
    limit_option,
    loading,
    run_options,
    seed_option,
    write_report,
)
from lmeval.likelihood.methods import BOUNDS
from lmeval.likelihood.spec import read_spec, with_overrides
from lmeval.report.figures import check_folder, save_figures
from lmeval.report.terminal import print_blocks
from lmeval.report.views import view

HELP = f"""Log-likelihoods of several models on the same images, side by side, each with the side it lies on.

SPEC is a YAML file that names data, models and bounds, or the name of one in tasks/, such as digits. Its keys:

\b
  likelihood   name of the comparison
  data         images, split, limit, shape; binarise {{seed}} or threshold, or binarisation of a binary file
  models       list of: name, model (bundled name, folder, density file), bounds, sandwich (simulated data), kde
  bounds       list of: {", ".join(BOUNDS)}; or with settings: {{smc: {{particles, temperatures or gap, start}}}}
  seed, paired (the model that the others are compared with)
"""


@click.command("likelihood", help=HELP)
@click.argument("spec", metavar="SPEC")
@data_dir_option
@limit_option("Score the first N images only.  [default: the spec's]")
@seed_option("Seed of all draws.  [default: the spec's, else 0]", default=None)
@run_options
@click.option("--figures", "folder", type=click.Path(path_type=Path), help="Write figures to this folder, as PNG and SVG.")
def likelihood_command(
    spec: str,
    data_dir: Path | None,
    limit: int | None,
    seed: int | None,
    options: RunOptions,
    folder: Path | None,
) -> None:
    """Read the spec, score what it names, and print the tables."""
    wanted = with_overrides(read_spec(spec, data_dir), limit, seed)
    check_outputs(options.outputs, [str(wanted.path), *map(str, wanted.files.values())])
    if folder:
        check_folder(folder)
    with loading("PyTorch"):
        from lmeval.compute.gather import as_place, disconnect
        from lmeval.likelihood.compare import compare
        from lmeval.likelihood.cost import cost_lines
        from lmeval.likelihood.prepare import prepare
    place = as_place(options.device, options.memory)
    with loading("the models"):
        prepared = prepare(wanted, place)
    if place.is_first:
        for line in cost_lines(prepared):
            click.echo(line, err=True)
    with drawn_progress(show=place.is_first) as progress:
        report = compare(prepared, place=place, progress=progress)
    if place.is_first:
        blocks = view(report)
        print_blocks(blocks, to_stderr=options.json_path == STDOUT)
        write_report(report, options.json_path, options.records_path)
        for file in save_figures(blocks, folder) if folder else ():
            click.echo(f"wrote {file}", err=True)
    disconnect(place)
