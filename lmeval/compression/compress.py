"""Any bytes to an archive: survey, plan, blocks, container."""

import hashlib
import io
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from lmeval import results
from lmeval.compression.container import archive
from lmeval.compression.text.account import DECODED_TO_VERIFY, Tally, compression_report
from lmeval.compression.text.blocks import Coded, Job, code_block, verify_blocks
from lmeval.compression.text.encode import BY_MODEL
from lmeval.compression.text.loading import load_text_model
from lmeval.compression.text.model_header import as_meta
from lmeval.compression.text.plan import CompressSettings, check_settings, cuts, grouped, plan_blocks
from lmeval.compression.text.survey import Survey, survey
from lmeval.compression.text.text_model import TextModel
from lmeval.compute.memory import settled
from lmeval.compute.place import Place, describe_place, n_processors
from lmeval.densities.named import LoadedDensity, names_density
from lmeval.errors import InputError
from lmeval.models.compiled.network import Network
from lmeval.progress import SILENT, Progress
from lmeval.results import Report

if TYPE_CHECKING:
    from lmeval.compression.images.density_header import DensityLike
    from lmeval.compression.images.encode import ImageSettings
    from lmeval.models import ModelLike


def compress(
    data: bytes,
    model: "ModelLike | DensityLike" = "bundled",
    settings: "CompressSettings | ImageSettings | None" = None,
    *,
    place: Place | str = "auto",
    dtype: str = "float32",
    progress: Progress = SILENT,
) -> bytes:
    """Compress bytes by a language model, or the file of a set of images by a density.

    Args:
        data: The bytes; for a density, those of a .npy or idx file.
        model: A language model, as for `compress_to`, or a density, as for `compress_images_to`.
        settings: How to compress: CompressSettings for a language model, ImageSettings for a density.
        place: Where the language model computes.
        dtype: Precision of a language model that is given by name.
        progress: Is told of the stages "encoding" and "verifying", in bytes.

    Returns:
        The archive.

    Raises:
        InputError: The settings cannot be, or are those of another kind of model.
        ModelError: The model cannot code.
        NumericalDrift: The model reads token by token something else than it does in parallel.

    >>> from lmeval.compression import decompress
    >>> decompress(compress(b"to be or not to be"))
    b'to be or not to be'
    """
    out = io.BytesIO()
    if names_density(model):
        if isinstance(settings, CompressSettings):
            raise InputError("a density takes ImageSettings: CompressSettings are for language models")
        from lmeval.compression.images.encode import ImageSettings, compress_images_to

        compress_images_to(
            out, memoryview(data), cast("DensityLike", model), settings or ImageSettings(), place=place, progress=progress
        )
    else:
        if settings is not None and not isinstance(settings, CompressSettings):
            raise InputError("a language model takes CompressSettings: ImageSettings are for densities")
        settings = settings or CompressSettings()
        compress_to(out, memoryview(data), model, settings, place=place, dtype=dtype, progress=progress)
    return out.getvalue()


def compress_to(
    out: BinaryIO,
    data: memoryview,
    model: "ModelLike | LoadedDensity | TextModel" = "bundled",
    settings: CompressSettings = CompressSettings(),  # noqa: B008 (immutable)
    *,
    place: Place | str = "auto",
    dtype: str = "float32",
    progress: Progress = SILENT,
) -> Report:
    """Write an archive of `data` to `out`.

    Every input can be coded: what the model's tokens cannot spell, or the model does not shorten, is coded without it.
    Memory does not grow with the input.

    Args:
        out: Where the archive goes.
        data: The input.
        model: "bundled", a folder, a hub id, a loaded model, or a pair of network and tokenizer.
        settings: How to compress.
        place: Where the model computes; a model that is given loaded stays where it is.
        dtype: Precision of a model that is given by name.
        progress: Is told of the stages "encoding" and "verifying", in bytes of the input.

    Returns:
        A report of kind "compress": see `text.account.compression_report`.

    Raises:
        InputError: The settings cannot be.
        ModelError: The model cannot code: its tokens' bytes are not known, or it has no cache.
        NumericalDrift: The model reads token by token something else than it does in parallel.
    """
    check_settings(settings)
    if names_density(model) or isinstance(model, LoadedDensity):
        raise InputError("a density codes images and no text: compress_images_to writes archives of those")
    began = time.perf_counter()
    loaded, place = load_text_model(model, place, dtype, len(data))
    place = settled(place)
    surveyed = _surveyed(loaded, data, settings)
    survey_seconds, tally = time.perf_counter() - began, Tally()
    job = Job(loaded, surveyed, data, plan_blocks(surveyed, len(data), settings, place), settings, tally, progress)
    groups = _coded_groups(job)
    first = next(groups, [])
    if settings.adapting and not _needs_model(first, len(data)):
        surveyed = None
    meta = _meta(data, surveyed, loaded, settings.adapt)
    header = archive.write_header(out, meta)
    tally.n_header_bytes = archive.header_bytes(header)
    for coded in itertools.chain([first], groups):
        for block, length in coded:
            tally.add(archive.write_block(out, block, header.seed), block, length)
    n_archive_bytes = archive.write_end(out, tally.lines, tally.n_header_bytes, header.seed)
    ledger = {
        "n_lanes": job.plan.n_lanes if surveyed else 0,
        "adapt": settings.adapt,
        "steps": _steps(loaded, surveyed) if surveyed else "",
        "verified": settings.verify and any(tally.n_blocks[kind] for kind in DECODED_TO_VERIFY),
        "survey_seconds": survey_seconds,
    }
    provenance = results.provenance(
        "compress",
        inputs={"data": {"n_bytes": len(data), "sha256": meta["sha256"]}},
        models=[loaded.describe()],
        place=describe_place(place),
        settings=settings._asdict(),
        seconds=time.perf_counter() - began,
    )
    model_settings = surveyed.settings if surveyed else None
    return compression_report(tally, len(data), n_archive_bytes, model_settings, ledger, provenance)


def code_length(
    data: bytes | memoryview,
    model: "ModelLike | TextModel" = "bundled",
    settings: CompressSettings = CompressSettings(),  # noqa: B008 (immutable)
    *,
    place: Place | str = "auto",
    progress: Progress = SILENT,
) -> Report:
    """Find out what `compress_to` does with the data, without an archive, and without decoding it.

    Args:
        data: The input.
        model: As for `compress_to`.
        settings: As for `compress_to`; `verify` is not used.
        place: Where the model computes.
        progress: Is told of the stage "encoding".

    Returns:
        The report of `compress_to`.
    """
    with Path(os.devnull).open("wb") as out:
        settings = settings._replace(verify=False)
        return compress_to(out, memoryview(data), model, settings, place=place, progress=progress)


def _surveyed(model: TextModel, data: memoryview, settings: CompressSettings) -> Survey | None:
    if not len(data):
        return None
    return survey(model, data, settings.context, settings.overlap, settings.tolerance, settings.adapt)


def _coded_groups(job: Job) -> Iterator[list[Coded]]:
    """Blocks, coded and verified, as many at a time as the plan says; the next are begun when these are taken."""
    for group in grouped(cuts(job.data, job.plan.block_bytes), job.plan.blocks_at_once):
        began = time.perf_counter()
        job.progress.stage("encoding", len(job.data), "bytes")
        coded = [code_block(job, cut) for cut in group]
        job.tally.encode_seconds += time.perf_counter() - began
        began = time.perf_counter()
        coded = verify_blocks(job, coded)
        job.tally.verify_seconds += time.perf_counter() - began
        yield coded


def _steps(model: TextModel, surveyed: Survey) -> str:
    """By what lanes are read: "compiled", or "library" and why."""
    network = model.network(surveyed.settings.layout.window)
    return "compiled" if isinstance(network, Network) else f"library: {network}"


def _needs_model(first: list[Coded], n_bytes: int) -> bool:
    """Whether the header must describe the model. Only an archive whose first group is all of it, without a block that the
    model coded, can do without."""
    whole = sum(block.n_bytes for block, _ in first) == n_bytes
    return not whole or any(block.kind in BY_MODEL for block, _ in first)


def _meta(data: memoryview, surveyed: Survey | None, model: TextModel, adapt: str) -> dict[str, Any]:
    versions = {name: results.versions()[name] for name in ("lmeval", "torch", "transformers")}
    meta: dict[str, Any] = {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "versions": versions}
    if adapt != "none":
        meta["adapt"] = adapt
    if surveyed is not None:
        meta["model"] = as_meta(surveyed.settings)
        meta["made_on"] = {"device": model.device, "n_threads": n_processors(), "steps": _steps(model, surveyed)}
    return meta
