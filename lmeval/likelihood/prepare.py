"""A spec -> data and models, read and checked before anything is computed."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmeval.compute.gather import agree, as_place
from lmeval.compute.place import Place
from lmeval.data.images import ImageSet, binarise, read_images, threshold
from lmeval.data.images import limited as first_of
from lmeval.densities.modelfile import load_density
from lmeval.densities.named import LoadedDensity
from lmeval.densities.protocols import KINDS, CheckedDensity, CheckedLatent, Kind, check_density, kind_of
from lmeval.errors import LmevalError, MixedSpaces, TaskFileError
from lmeval.likelihood.methods import METHODS, Method
from lmeval.likelihood.settings import BoundSettings, FixedSettings, fix_settings
from lmeval.likelihood.spec import DEFAULT_BOUNDS, BoundSpec, ImagesSpec, KdeSpec, ModelSpec, Spec
from lmeval.results import files_sha256

LAST_OF_TRAIN = 200  # images that choose a bandwidth where nothing else is named


class SettledBound(NamedTuple):
    """A bound of the spec, the method that gives it, and its settings with nothing left open."""

    spec: BoundSpec
    method: Method
    settings: FixedSettings

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.spec.label


class Model(NamedTuple):
    """A model of the spec with all that is needed to score it.

    `checked` is the model as it was checked on the data, None for an implicit one, which has no likelihood to check and no
    `bounds`. `sandwich` is the bound whose settings the sandwich takes, the last annealed one (None: no sandwich).
    `held_out` [m, D] are the data that choose the bandwidth of an implicit model (None: its samples do).
    """

    spec: ModelSpec
    density: LoadedDensity
    kind: Kind
    checked: CheckedDensity | None
    held_out: Tensor | None
    bounds: tuple[SettledBound, ...] = ()
    sandwich: SettledBound | None = None


class Prepared(NamedTuple):
    """Data and models. `x` [n, D] holds the levels of `data` as float32, on the device; `ledger` says what the data are, and
    `inputs` which files were read, both JSON-ready."""

    spec: Spec
    data: ImageSet
    x: Tensor
    models: tuple[Model, ...]
    ledger: Mapping[str, Any]
    inputs: Mapping[str, Any]


def prepare(spec: Spec, place: Place | str = "cpu") -> Prepared:
    """Read data and models of a spec, refuse what cannot be put into one table, and plan, before anything is computed.

    Args:
        spec: What `read_spec` read.
        place: Where data and models are put.

    Returns:
        The data, and every model, checked on them once. Where a bound names a gap its temperatures are chosen, by a pilot
        over a few of the data; all processes agree on them.

    Raises:
        InputError: A file is not there or cannot be used, or (MixedSpaces) a model was made for data of another kind.
        ModelError: A model cannot be used.
    """
    place = as_place(place)
    data = _images(spec.data.images, spec)
    x = data.x.to(device=place.device, dtype=torch.float32)
    models = [_model(model, data, x, spec) for model in spec.models]
    settled = tuple(_settle(model, x, spec.seed, place) for model in models)
    return Prepared(spec, data, x, settled, _ledger(data, spec.seed), _inputs(data, spec))


def _settle(model: Model, x: Tensor, seed: int, place: Place) -> Model:
    """The model with its bounds, whose settings have nothing left open."""
    if model.checked is None:
        return model
    if model.kind == "exact":
        return model._replace(bounds=(_settled(BoundSpec("exact", {}), model.checked, x, seed, place),))
    wanted = model.spec.bounds or DEFAULT_BOUNDS
    bounds = tuple(_settled(bound, model.checked, x, seed, place) for bound in wanted)
    annealed = [bound for bound in bounds if bound.method.annealed]
    if model.spec.sandwich and not annealed:
        annealed = [_settled(DEFAULT_BOUNDS[-1], model.checked, x, seed, place)]
    return model._replace(bounds=bounds, sandwich=annealed[-1] if model.spec.sandwich else None)


def _settled(bound: BoundSpec, density: CheckedDensity, x: Tensor, seed: int, place: Place) -> SettledBound:
    method, given = METHODS[bound.method], dict(bound.settings)
    gap = given.pop("gap", None)
    settings = fix_settings(BoundSettings(**given, seed=seed), method.particles, method.resample_below)
    if gap is None:
        return SettledBound(bound, method, settings)
    assert method.plan is not None and isinstance(density, CheckedLatent)
    foreseen = method.plan(density, x, settings, gap)
    given["temperatures"] = agree(foreseen.settings.temperatures, place)
    plan = {"wanted_gap_nats": gap} | {key: value for key, value in foreseen._asdict().items() if key != "settings"}
    settings = settings._replace(temperatures=given["temperatures"])
    return SettledBound(BoundSpec(bound.method, given, plan), method, settings)


def _images(wanted: ImagesSpec, spec: Spec) -> ImageSet:
    """Images in the spec's binarisation, which is drawn for the whole set: a limit changes no pixel."""
    data = spec.data
    path = spec.files.get(wanted.images)
    images = read_images(str(path or wanted.images), shape=data.shape, data_dir=spec.data_dir, split=wanted.split)
    if path:
        images = dataclasses.replace(images, name=wanted.images)  # as the spec has it, wherever it lies
    if data.binarise_seed is not None:
        images = binarise(images, data.binarise_seed)
    elif data.threshold is not None:
        images = threshold(images, data.threshold)
    elif data.binarisation is not None:
        if images.tags.binarisation != "static":
            raise MixedSpaces(
                f"binarisation {data.binarisation} is for files of zeros and ones, and {images.name} is of "
                f"{images.tags.describe()}: binarise: {{seed: 0}} makes it binary"
            )
        tags = dataclasses.replace(images.tags, binarisation=data.binarisation)
        images = dataclasses.replace(images, tags=tags)
    return first_of(images, wanted.limit)


def _model(model: ModelSpec, data: ImageSet, x: Tensor, spec: Spec) -> Model:
    """A model with all that is needed to score it, tried on the data; what is wrong with it is told with its name."""
    density = load_density(str(spec.files.get(model.model, model.model)), spec.data_dir, x.device)
    _check_space(model.name, density, data)
    kind = kind_of(density.model)
    try:
        checked = None if kind == "implicit" else check_density(density.model, x, data.levels)
    except LmevalError as error:
        raise type(error)(f"{model.name}: {error}") from error
    keys: tuple[tuple[str, object, Kind], ...] = (
        ("bounds", model.bounds, "latent"),
        ("sandwich", model.sandwich, "latent"),
        ("kde", model.kde, "implicit"),
    )
    for key, given, needs in keys:
        if given and kind != needs:
            raise TaskFileError(
                f"{spec.path}: {model.name} is {KINDS[kind].description}, and {key} is for {KINDS[needs].description}: "
                "leave it out"
            )
    held_out = _held_out(model.kde or KdeSpec(), spec, data) if kind == "implicit" else None
    return Model(model, density, kind, checked, held_out)


def _check_space(name: str, density: LoadedDensity, data: ImageSet) -> None:
    """Refuse data that the model was not made for: its number would be of another space than the others'."""
    if (density.levels, density.binarisation) != (data.tags.levels, data.tags.binarisation):
        made_for = f"{density.levels} levels" + (f", {density.binarisation}" if density.binarisation else "")
        raise MixedSpaces(
            f"{name} is a model of images of {made_for}, and the data are of {data.tags.describe()}: no table holds both; "
            "make grey images binary with binarise or threshold, or say with binarisation how a binary file was made"
        )
    if math.prod(density.shape) != data.n_dims:
        sizes = [" x ".join(map(str, shape)) for shape in (density.shape, data.shape)]
        raise MixedSpaces(f"{name} is a model of images of {sizes[0]}, and the data are of {sizes[1]}: no table holds both")


def _held_out(kde: KdeSpec, spec: Spec, data: ImageSet) -> Tensor | None:
    """The data that choose a bandwidth: those that the spec names, else the end of the training split of a set that has one
    (the part that is usually kept from training, as our own models' was)."""
    wanted, last = kde.held_out, 0
    if wanted is None:
        if spec.data.images.split != "test" or spec.data.images.images in spec.files:
            return None
        wanted, last = ImagesSpec(spec.data.images.images, "train"), LAST_OF_TRAIN
    apart = spec.data if spec.data.binarise_seed is None else spec.data._replace(binarise_seed=spec.data.binarise_seed + 1)
    others = _images(wanted, spec._replace(data=apart))
    if (others.n_dims, others.levels) != (data.n_dims, data.levels):
        raise MixedSpaces(
            f"held-out images have {others.n_dims} pixels and {others.tags.describe()}, and the data {data.n_dims} pixels "
            f"and {data.tags.describe()}: name images of the same kind"
        )
    return others.x[-last:].float()


def _inputs(data: ImageSet, spec: Spec) -> dict[str, Any]:
    return {
        "spec": {"name": spec.name, "sha256": files_sha256([str(spec.path)])},
        "data": {"name": data.name, "sha256": data.sha256},
    }


def _ledger(data: ImageSet, seed: int) -> dict[str, Any]:
    return {
        "data": data.name,
        "n": len(data),
        "n_in_set": data.n_source,
        "n_dims": data.n_dims,
        "shape": list(data.shape),
        "tags": dataclasses.asdict(data.tags),
        "space": data.tags.describe(),
        "seed": seed,
    }
