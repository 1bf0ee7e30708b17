"""`lmeval compress`, `decompress` and `inspect`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lmeval import compression, densities, likelihood, models, report
from lmeval.cli.shared import (
    byte_progress,
    check_new,
    check_outputs,
    device_option,
    dtype_option,
    force_option,
    input_bytes,
    lanes_option,
    lanes_per_pass_option,
    loading,
    one_process,
    output_bytes,
    print_table,
)
from lmeval.errors import ArchiveError, InputError

SUFFIX = ".lmz"
BOUND_EVALUATIONS = 1 << 20  # of a decoder, for the importance-weighted bound beside the code length of images

_adapt_help = "Online models that learn from the data behind the model: full is smallest, light faster."
_data_dir = click.option("--data-dir", help="Where a density file's weights lie, if not beside it.", metavar="DIR")


@click.command("compress")
@click.argument("source", metavar="INPUT")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The archive.  [default: INPUT.lmz]")
@click.option(
    "--model",
    "-m",
    default="bundled",
    show_default=True,
    help="'bundled', a folder in Hugging Face format, or a hub id; for images a bundled density such as "
    "lmeval-mnist-vae-v1, or a density file (YAML).",
)
@lanes_option
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0.0, max=1.0),
    metavar="NATS",
    help="How far a decoder's log-probabilities may be off.  [default: as measured between two passes here]",
)
@click.option(
    "--context", type=click.IntRange(min=1), help="Input tokens of a window.  [default: the model's, at most 1024]"
)
@click.option("--overlap", type=click.IntRange(min=0), help="Tokens a window takes over.  [default: context / 8]")
@click.option("--adapt", type=click.Choice(compression.LEVELS), default="full", show_default=True, help=_adapt_help)
@click.option("--no-verify", is_flag=True, help="Do not decode every block before it is written.")
@click.option(
    "--particles",
    type=click.IntRange(min=1),
    help="Latents drawn for an image, of a density: a power of two.  [default: 16]",
)
@lanes_per_pass_option
@_data_dir
@device_option
@dtype_option
@force_option
@click.pass_context
def compress_command(
    context_of: click.Context,
    source: str,
    output: Path | None,
    model: str,
    lanes: int | None,
    tolerance: float | None,
    context: int | None,
    overlap: int | None,
    adapt: str,
    no_verify: bool,
    particles: int | None,
    lanes_per_pass: int | None,
    data_dir: str | None,
    device: str,
    dtype: str,
    force: bool,
) -> None:
    """Compress a file with a language model, or a set of images with a density.

    INPUT is any file, or '-' for standard input (the archive then goes to standard output); for a density it is a .npy or
    idx file of images. The archive says which model it needs, decodes on other machines, and has checksums of its content.
    """
    with loading(f"model {model}"):
        images = densities.is_density(model)
    _check_options(context_of, images=images)
    if output is None and source != "-":
        output = Path(source + SUFFIX)
    output = _named(output)
    with ExitStack() as stack:
        data = stack.enter_context(input_bytes(source))
        if output is not None:
            check_new(output, force=force)
            check_outputs([output], (source,))
        elif sys.stdout.isatty():
            raise InputError("an archive would go to the terminal: name a file with -o, or redirect standard output")
        if images:
            with loading(f"model {model}"):
                settings = compression.ImageSettings(particles, not no_verify)
                density = densities.load_density(model, data_dir)
            _compress_images(source, data, output, density, settings)
            return
        with loading(f"model {model}"):
            place = one_process(device)
            loaded = models.load_model(model, device=place.device, dtype=dtype)
            settings = compression.CompressSettings(lanes, tolerance, context, overlap, not no_verify, lanes_per_pass, adapt)
        on_progress = stack.enter_context(_two_bars(len(data), verify=not no_verify))
        with output_bytes(output) as out:
            found = compression.compress_to(out, data, loaded, settings, progress=on_progress)
    print_table(report.compression_table(source, found), to_stderr=output is None)
    if found.n_not_verified:
        click.echo(
            f"lmeval: {found.n_not_verified} blocks did not decode here and were coded without the model: the archive is "
            "sound but larger than it need be; give a larger --tolerance",
            err=True,
        )


_TEXT_ONLY = ("lanes", "tolerance", "context", "overlap", "adapt", "lanes_per_pass", "dtype", "device")


def _check_options(context: click.Context, *, images: bool) -> None:
    """Refuse options that would change nothing."""
    given = {
        option.name: option.opts[0]
        for option in context.command.params
        if option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    }
    if images and (odd := next((given[name] for name in _TEXT_ONLY if name in given), None)):
        raise InputError(f"{odd} is for language models: leave it out, a density runs in exact integers on the CPU")
    if not images and (odd := next((given[name] for name in ("particles", "data_dir") if name in given), None)):
        raise InputError(f"{odd} is for densities of images: leave it out, or name one with --model")


def _compress_images(
    source: str,
    data: memoryview,
    output: Path | None,
    density: "densities.LoadedDensity",
    settings: "compression.ImageSettings",
) -> None:
    with _two_bars(len(data), verify=settings.verify) as on_progress, output_bytes(output) as out:
        found = compression.compress_images_to(out, data, density, settings, progress=on_progress)
    bounds = _bounds(density, data, found)
    print_table(report.image_compression_table(source, found, bounds), to_stderr=output is None)


def _bounds(
    density: "densities.LoadedDensity", data: memoryview, found: "compression.ImageCompression"
) -> "list[report.Bound]":
    """The bound that several particles come near to, on as many images as do not take long."""
    particles = found.settings.n_particles
    if particles == 1:
        return []
    import torch  # `lmeval inspect` is in this module, and needs none

    x = torch.from_numpy(compression.first_images(data, found, BOUND_EVALUATIONS // particles)).to(torch.float32)
    settings = likelihood.BoundSettings(particles=particles)
    bound = likelihood.log_likelihood(density.model, x, "iwae", settings).mean if len(x) else None
    return [] if bound is None else [report.Bound(f"-IWAE, {particles} samples", bound.value, bound.stderr, len(x))]


@contextmanager
def _two_bars(n_bytes: int, *, verify: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Bars on standard error for encoding and verifying, with the ratio so far; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        stages = ("encoding", "verifying") if verify else ("encoding",)
        tasks = {stage: bars.add_task(stage, total=n_bytes, rate="") for stage in stages}

        def on_progress(stage: str, n: int, n_written: int) -> None:
            bars.advance(tasks[stage], n)
            done = bars.tasks[0].completed
            bars.update(tasks["encoding"], rate=report.running_rate(n_written, int(done)))

        yield on_progress


@click.command("decompress")
@click.argument("source", metavar="ARCHIVE")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The file.  [default: ARCHIVE without .lmz]")
@click.option(
    "--model", "-m", help="The model that encoded: a folder, hub id or density file.  [default: found if it is bundled]"
)
@click.option("--range", "span", metavar="A:B", help="Only bytes A to B (not included) of the original.")
@click.option("--salvage", is_flag=True, help="Recover what is whole of a damaged archive, with zeros for what is lost.")
@lanes_per_pass_option
@_data_dir
@device_option
@force_option
def decompress_command(
    source: str,
    output: Path | None,
    model: str | None,
    span: str | None,
    salvage: bool,
    lanes_per_pass: int | None,
    data_dir: str | None,
    device: str,
    force: bool,
) -> None:
    """Decompress an archive; '-' reads standard input and writes standard output.

    Nothing is written unless every checksum agrees.
    """
    if salvage and span:
        raise InputError("--salvage and --range exclude each other: salvage first, then cut the file")
    first, stop = _range(span) if span else (0, None)
    if output is None and source != "-":
        if not source.endswith(SUFFIX) or source == SUFFIX:
            raise InputError(f"{source} does not end in {SUFFIX}: name the output with -o ('-o -' is standard output)")
        output = Path(source.removesuffix(SUFFIX))
    output = _named(output)
    with ExitStack() as stack:
        data = stack.enter_context(input_bytes(source))
        if output is not None:
            check_new(output, force=force)
            check_outputs([output], (source,))
        with loading("PyTorch"):
            settings = compression.DecompressSettings(str(one_process(device).device), lanes_per_pass, data_dir)
        on_progress = stack.enter_context(byte_progress("decoding", None, show=True))
        with output_bytes(output) as out:
            if salvage:
                gaps = compression.salvage(out, data, model, settings, progress=on_progress)
            elif span:
                gaps = []
                compression.decompress_range(out, data, first, stop, model, settings, progress=on_progress)
            else:
                gaps = []
                compression.decompress_to(out, data, model, settings, progress=on_progress)
    if gaps:
        lost = ", ".join(f"{gap.first:,} to {gap.stop:,}" for gap in gaps)
        raise ArchiveError(f"salvaged what was whole; these bytes are lost and were written as zeros: {lost}")


def _named(output: Path | None) -> Path | None:
    """None for '-', standard output."""
    return None if output is not None and str(output) == "-" else output


def _range(span: str) -> tuple[int, int | None]:
    first, colon, stop = span.partition(":")
    try:
        found = (int(first or 0), int(stop) if stop else None)
    except ValueError:
        found = (-1, None)
    if not colon or found[0] < 0 or (found[1] is not None and found[1] < found[0]):
        raise InputError(f"range '{span}' is not A:B with whole numbers 0 <= A <= B (B may be left out)")
    return found


@click.command("inspect")
@click.argument("source", metavar="ARCHIVE")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def inspect_command(source: str, as_json: bool) -> None:
    """Everything an archive says of itself; no model is loaded."""
    with input_bytes(source) as data:
        found = compression.inspect(data)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        print_table(report.inspect_table(found))
