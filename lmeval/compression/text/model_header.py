"""What an archive that a model coded records of the model and of the numbers: read and written in its header."""

import base64
from typing import Any, NamedTuple

import numpy as np

from lmeval.compression.coding.grid import MAX_CELLS, Grid
from lmeval.compression.text.decisions import depth_of
from lmeval.compression.text.lanes import Layout
from lmeval.compression.text.online.recipes import LEVELS
from lmeval.compression.text.text_model import TextModel
from lmeval.data.resources import bundled_by_fingerprint
from lmeval.errors import CorruptArchive, ModelMismatch
from lmeval.models.dtypes import DTYPES


class ModelSettings(NamedTuple):
    """Identity of the model, layout of the lanes' windows, tree and grid.

    `vocabulary_sha256` is of the bytes that each id stands for: all that decoding needs of a tokenizer, so an archive
    outlives changes of the tokenizer's file format.

    `epsilon` (nats): how far any log-probability of the decoder may be off, beyond the `drift` (nats, of log-odds) that the
    encoder measured between its parallel and its stepwise pass; the grid's margin is 2 epsilon + drift. `canary`: a few ids
    of the text with their log-probabilities in the encoder's pass, read after the start token. `adapt`: the level of the
    online models (recipes.LEVELS) that blocks of this model are coded with; it stands in the header beside the model.
    """

    name: str
    weights_sha256: str
    vocabulary_sha256: str
    dtype: str
    depth: int
    layout: Layout
    grid: Grid
    epsilon: float
    drift: float
    canary: "Canary"
    adapt: str = "none"


class Canary(NamedTuple):
    """Ids and their log-probabilities (nats)."""

    ids: tuple[int, ...]
    log_probs: tuple[float, ...]


def as_meta(settings: ModelSettings) -> dict[str, Any]:
    """JSON-ready, but for the level of adaptation: the header says it of the whole archive."""
    return {
        "name": settings.name,
        "weights_sha256": settings.weights_sha256,
        "vocabulary_sha256": settings.vocabulary_sha256,
        "dtype": settings.dtype,
        "tree_depth": settings.depth,
        "window": settings.layout.window,
        "overlap": settings.layout.overlap,
        "start_id": settings.layout.start_id,
        "grid_cells": settings.grid.cells,
        "margin_nats": settings.grid.margin,
        "epsilon_nats": settings.epsilon,
        "drift_nats": settings.drift,
        "canary_ids": list(settings.canary.ids),
        "canary_log_probs": base64.b64encode(
            np.array(settings.canary.log_probs, dtype=_kind(settings.dtype)).tobytes()
        ).decode(),
    }


def _kind(dtype: str) -> str:
    """Little-endian numbers as precise as the model's own, and at least float32."""
    return "<f8" if dtype == "float64" else "<f4"


def from_header(header: dict[str, Any]) -> ModelSettings:
    """From the metadata of an archive. Raises CorruptArchive where something is missing or cannot be."""
    if "model" not in header:
        raise CorruptArchive("the archive has model-coded blocks, but its header names no model")
    meta, adapt = header["model"], header.get("adapt", "none")
    try:
        canary = np.frombuffer(base64.b64decode(meta["canary_log_probs"], validate=True), dtype=_kind(meta["dtype"]))
        settings = ModelSettings(
            name=str(meta["name"]),
            weights_sha256=str(meta["weights_sha256"]),
            vocabulary_sha256=str(meta["vocabulary_sha256"]),
            dtype=str(meta["dtype"]),
            depth=int(meta["tree_depth"]),
            layout=Layout(int(meta["window"]), int(meta["overlap"]), int(meta["start_id"])),
            grid=Grid(int(meta["grid_cells"]), float(meta["margin_nats"])),
            epsilon=float(meta["epsilon_nats"]),
            drift=float(meta["drift_nats"]),
            canary=Canary(tuple(int(i) for i in meta["canary_ids"]), tuple(canary.tolist())),
            adapt=str(adapt),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptArchive(f"the archive's header lacks what decoding needs: {error}") from error
    window, overlap, start_id = settings.layout
    numbers = (settings.grid.margin, settings.epsilon, settings.drift, *settings.canary.log_probs)
    sound = (
        1 <= settings.depth <= 32
        and 0 <= overlap < window <= 1 << 24
        and 1 <= settings.grid.cells <= MAX_CELLS
        and start_id >= 0
    )
    sound &= len(settings.canary.ids) == len(settings.canary.log_probs) <= window and settings.grid.margin >= 0
    sound = sound and all(0 <= i < 1 << settings.depth for i in settings.canary.ids)
    if not sound or settings.adapt not in LEVELS or settings.dtype not in DTYPES or not np.isfinite(numbers).all():
        raise CorruptArchive("the archive's header claims what no encoder writes")
    return settings


def where_model_is(settings: ModelSettings) -> str | None:
    """What `load_model` takes to load the bundled model that has this fingerprint, or None."""
    return bundled_by_fingerprint(settings.weights_sha256)


def check_model(settings: ModelSettings, model: TextModel) -> None:
    """Raises ModelMismatch, naming both, unless this is the very model and tokenizer that encoded."""
    if model.weights_sha256 != settings.weights_sha256:
        raise ModelMismatch(
            f"the archive needs {settings.name} with weights {settings.weights_sha256[:16]}..., but {model.name} has "
            f"{model.weights_sha256[:16]}...: give the model that encoded with --model"
        )
    vocabulary = model.vocabulary_sha256
    if vocabulary != settings.vocabulary_sha256:
        raise ModelMismatch(
            f"the archive needs the tokenizer vocabulary {settings.vocabulary_sha256[:16]}... of {settings.name}, but that "
            f"of {model.name} is {vocabulary[:16]}...: give the folder that encoded with --model"
        )
    if settings.layout.window > (model.context_length or settings.layout.window):
        raise CorruptArchive(f"the archive's windows of {settings.layout.window:,} tokens do not fit {model.name}")
    if settings.depth > depth_of(model.n_ids) or settings.layout.start_id >= model.n_ids:
        raise CorruptArchive(f"the archive's tree does not fit the vocabulary of {model.name}")
