"""`lmeval compress`, `decompress` and `inspect`."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from lmeval import compression, densities, likelihood
from lmeval.cli.progress import drawn_progress
from lmeval.cli.shared import (
    STDOUT,
    check_input,
    check_new,
    check_outputs,
    data_dir_option,
    device_option,
    dtype_option,
    force_option,
    input_bytes,
    json_option,
    known_model,
    lanes_option,
    lanes_per_pass_option,
    loading,
    memory_option,
    one_process,
    output_bytes,
    print_report,
    write_report,
)
from lmeval.compression.container.archive import read_header
from lmeval.compute.place import on_processor
from lmeval.errors import ArchiveError, InputError
from lmeval.results import Report
from lmeval.results.report import with_of

if TYPE_CHECKING:
    from lmeval.compute.place import Place

SUFFIX = ".lmz"

_adapt_help = "Let online models adapt to the file: full (smallest archive), light (faster), none."


@click.command("compress")
@click.argument("source", metavar="INPUT")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The archive.  [default: INPUT.lmz]")
@click.option(
    "--model",
    "-m",
    default="bundled",
    show_default=True,
    callback=known_model,
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
@data_dir_option
@device_option
@memory_option
@dtype_option
@json_option
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
    data_dir: Path | None,
    device: str,
    memory: int | None,
    dtype: str,
    json_path: Path | None,
    force: bool,
) -> None:
    """Compress a file with a language model, or a set of images with a density.

    INPUT is any file, or '-' for standard input (the archive then goes to standard output); for a density it is a .npy or
    idx file of images. The archive says which model it needs, decodes on other machines, and has checksums of its content.
    """
    check_input(source)
    with loading(f"model {model}"):
        images = densities.is_density(model)
    _check_options(context_of, images=images)
    if output is None and source != "-":
        output = Path(source + SUFFIX)
    output = _named(output)
    with ExitStack() as stack:
        data = stack.enter_context(input_bytes(source))
        _check_outputs(source, output, json_path, force=force)
        if output is None and sys.stdout.isatty():
            raise InputError("an archive would go to the terminal: name a file with -o, or redirect standard output")
        if images:
            with loading(f"model {model}"):
                settings = compression.ImageSettings(particles, not no_verify)
                density = densities.load_density(model, data_dir)
                place = one_process("cpu", memory)
            report = _compress_images(source, data, output, density, settings, place)
            print_report(report, json_path, to_stderr=output is None)
            return
        with loading(f"model {model}"):
            loaded, place = compression.load_text_model(model, _place(model, device, memory, dtype, len(data)), dtype)
            settings = compression.CompressSettings(lanes, tolerance, context, overlap, not no_verify, lanes_per_pass, adapt)
        progress = stack.enter_context(drawn_progress())
        with output_bytes(output) as out:
            report = compression.compress_to(out, data, loaded, settings, place=place, progress=progress)
    print_report(with_of(report, file=source), json_path, to_stderr=output is None)
    if n := report.ledger["n_not_verified"]:
        click.echo(
            f"lmeval: {n} blocks did not decode here and were coded without the model: the archive is sound but larger than "
            "it need be; give a larger --tolerance",
            err=True,
        )


def _place(model: str, device: str, memory: int | None, dtype: str, n_bytes: int) -> "Place":
    if compression.is_light(model, device, dtype, n_bytes):
        return on_processor(memory)
    return one_process(device, memory)


def _decoding_place(data: memoryview, model: str | None, device: str, memory: int | None) -> "Place":
    return one_process(device, memory) if model else compression.usual_place(data, device)._replace(memory=memory)


def _check_outputs(source: str, output: Path | None, json_path: Path | None, *, force: bool) -> None:
    """Refuse at the start what could not be written at the end."""
    if output is None and json_path == STDOUT:
        raise InputError("--json - and the output would both go to standard output: name a file for one of them")
    if output is not None:
        check_new(output, force=force)
    check_outputs([output, json_path], [source])


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
    place: "Place",
) -> Report:
    with drawn_progress() as progress, output_bytes(output) as out:
        report = compression.compress_images_to(out, data, density, settings, place=place, progress=progress)
    particles = report.provenance["settings"]["particles"]
    images = compression.bounded_images(data, report)
    if particles == 1 or images is None:
        return with_of(report, file=source)
    bound = likelihood.log_likelihood(density.model, images, "iwae", likelihood.BoundSettings(particles=particles)).mean
    return with_of(compression.with_bound(report, f"-IWAE, {particles} samples", bound), file=source)


@click.command("decompress")
@click.argument("source", metavar="ARCHIVE")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The file.  [default: ARCHIVE without .lmz]")
@click.option(
    "--model",
    "-m",
    callback=known_model,
    help="The model that encoded: a folder, hub id or density file.  [default: found if it is bundled]",
)
@click.option("--range", "span", metavar="A:B", help="Only bytes A to B (not included) of the original.")
@click.option("--salvage", is_flag=True, help="Recover what is whole of a damaged archive, with zeros for what is lost.")
@lanes_per_pass_option
@data_dir_option
@device_option
@memory_option
@json_option
@force_option
def decompress_command(
    source: str,
    output: Path | None,
    model: str | None,
    span: str | None,
    salvage: bool,
    lanes_per_pass: int | None,
    data_dir: Path | None,
    device: str,
    memory: int | None,
    json_path: Path | None,
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
        _check_outputs(source, output, json_path, force=force)
        read_header(data)  # what is no archive is refused before anything slow is imported
        with loading("the decoder"):
            place = _decoding_place(data, model, device, memory)
            settings = compression.DecompressSettings(lanes_per_pass, data_dir)
        progress = stack.enter_context(drawn_progress())
        with output_bytes(output) as out:
            if salvage:
                report = compression.salvage(out, data, model, settings, place=place, progress=progress)
            elif span:
                report = compression.decompress_range(
                    out, data, first, stop, model, settings, place=place, progress=progress
                )
            else:
                report = compression.decompress_to(out, data, model, settings, place=place, progress=progress)
    write_report(with_of(report, file=source), json_path)
    if salvage and report.tables["gaps"]:
        raise ArchiveError(_what_is_lost(report))


def _what_is_lost(report: Report) -> str:
    gaps = report.tables["gaps"]
    lost = ", ".join(f"{gap['first']:,} to {gap['stop']:,}" for gap in gaps)
    if all(gap["n_zeros"] for gap in gaps):
        return f"salvaged what was whole; these bytes are lost and were written as zeros: {lost}"
    return (
        f"salvaged what was whole; these bytes are lost: {lost}; the last of them are more than the archive can have held, "
        "and nothing was written for them"
    )


def _named(output: Path | None) -> Path | None:
    """None for '-', standard output."""
    return None if output == STDOUT else output


def _range(span: str) -> tuple[int, int | None]:
    first, colon, stop = span.partition(":")
    try:
        begin, end = int(first or 0), int(stop) if stop else None
    except ValueError:
        begin, end = -1, None
    if not colon or begin < 0 or (end is not None and end < begin):
        raise InputError(f"range '{span}' is not A:B with whole numbers 0 <= A <= B (B may be left out)")
    return begin, end


@click.command("inspect")
@click.argument("source", metavar="ARCHIVE")
@json_option
def inspect_command(source: str, json_path: Path | None) -> None:
    """Everything an archive says of itself; no model is loaded."""
    check_outputs([json_path], [source])
    with input_bytes(source) as data:
        report = compression.inspect(data)
    print_report(with_of(report, file=source), json_path)
