"""Any bytes to an archive: survey, plan, blocks, container."""

import hashlib
import io
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from lmeval import results
from lmeval.compression.container import archive
from lmeval.compression.images.density_header import DensityLike
from lmeval.compression.images.encode import ImageSettings, compress_images_to
from lmeval.compression.text.account import Compression, Tally
from lmeval.compression.text.blocks import Coded, Job, Progress, code_block, verified
from lmeval.compression.text.encode import BY_MODEL
from lmeval.compression.text.model_header import as_meta
from lmeval.compression.text.plan import CompressSettings, check_settings, cuts, grouped, plan_blocks
from lmeval.compression.text.survey import Survey, survey
from lmeval.densities.modelfile import names_density
from lmeval.errors import InputError
from lmeval.models import CausalLM, ModelLike, as_model


def compress(
    data: bytes,
    model: ModelLike | DensityLike = "bundled",
    settings: CompressSettings | ImageSettings = CompressSettings(),  # noqa: B008 (immutable)
    **options: Any,
) -> bytes:
    """An archive of the data, as bytes, by `compress_to`; by `compress_images_to` where the model is a density of images (or
    the name of one, a folder or a file). Settings and `options` as for those.

    >>> from lmeval.compression import decompress
    >>> decompress(compress(b"to be or not to be"))
    b'to be or not to be'
    """
    out = io.BytesIO()
    if names_density(model):
        images = settings if isinstance(settings, ImageSettings) else ImageSettings(verify=settings.verify)
        compress_images_to(out, memoryview(data), cast(Any, model), images, **options)
    else:
        compress_to(out, memoryview(data), cast(Any, model), cast(Any, settings), **options)
    return out.getvalue()


def compress_to(
    out: BinaryIO,
    data: memoryview,
    model: ModelLike = "bundled",
    settings: CompressSettings = CompressSettings(),  # noqa: B008 (immutable)
    *,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> Compression:
    """Write an archive of `data` to `out`.

    Every input can be coded: what the model's tokens cannot spell or the model does not shorten is coded without it. Memory
    does not grow with the input. Raises InputError, ModelError and NumericalDrift.
    """
    check_settings(settings)
    if names_density(model):
        raise InputError("a density codes images and no text: compress_images_to writes archives of those")
    began = time.perf_counter()
    loaded = as_model(model, device, dtype)
    found = _surveyed(loaded, data, settings)
    plan = plan_blocks(found, len(data), settings, loaded)
    tally = Tally(settings.adapt, time.perf_counter() - began)
    job = Job(loaded, found, data, plan, settings, tally, progress)
    groups = _coded_groups(job)
    first = next(groups, [])
    if settings.adapting and not _needs_model(first, len(data)):
        found = None
    header = archive.write_header(out, _meta(data, found, loaded, settings.adapt))
    if found is not None:
        tally.settings, tally.n_lanes = found.settings, plan.n_lanes
    tally.n_header_bytes = archive.header_bytes(header)
    for coded in _chained(first, groups):
        for block, length in coded:
            tally.add(archive.write_block(out, block, header.seed), block, length)
    end = archive.write_end(out, tally.lines, tally.n_header_bytes, header.seed)
    return tally.finished(len(data), end, verify=settings.verify)


def code_length(
    data: bytes | memoryview,
    model: ModelLike = "bundled",
    settings: CompressSettings = CompressSettings(),  # noqa: B008 (immutable)
    *,
    progress: Progress | None = None,
) -> Compression:
    """What `compress_to` does with the data, without an archive, and without decoding it."""
    with Path(os.devnull).open("wb") as out:
        return compress_to(out, memoryview(data), model, settings._replace(verify=False), progress=progress)


def _surveyed(model: CausalLM, data: memoryview, settings: CompressSettings) -> Survey | None:
    if not len(data):
        return None
    return survey(model, data, settings.context, settings.overlap, settings.tolerance, settings.adapt)


def _coded_groups(job: Job) -> Iterator[list[Coded]]:
    """Blocks, coded and verified, as many at a time as the plan says; the next are begun when these are taken."""
    for group in grouped(cuts(job.data, job.plan.block_bytes), job.plan.blocks_at_once):
        began = time.perf_counter()
        coded = [code_block(job, cut) for cut in group]
        job.tally.encode_seconds += time.perf_counter() - began
        began = time.perf_counter()
        coded = verified(job, coded)
        job.tally.verify_seconds += time.perf_counter() - began
        yield coded


def _chained(first: list[Coded], rest: Iterator[list[Coded]]) -> Iterator[list[Coded]]:
    yield first
    yield from rest


def _needs_model(first: list[Coded], n_bytes: int) -> bool:
    """Whether the header must describe the model. Only an archive whose first group is all of it, without a block that the
    model coded, can do without."""
    whole = sum(block.n_bytes for block, _ in first) == n_bytes
    return not whole or any(block.kind in BY_MODEL for block, _ in first)


def _meta(data: memoryview, found: Survey | None, model: CausalLM, adapt: str) -> dict[str, Any]:
    versions = {name: results.versions()[name] for name in ("lmeval", "torch", "transformers")}
    meta: dict[str, Any] = {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "versions": versions}
    if adapt != "none":
        meta["adapt"] = adapt
    if found is not None:
        meta["model"] = as_meta(found.settings)
        meta["made_on"] = {"device": str(model.device), "n_threads": torch.get_num_threads()}
    return meta
