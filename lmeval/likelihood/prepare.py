"""A spec -> data and models, read and checked before anything is computed."""

import dataclasses
import math
from typing import NamedTuple

import torch
from torch import Tensor

from lmeval.compute.gather import agree, as_place
from lmeval.compute.place import Place
from lmeval.data.images import ImageSet, binarise, read_images, threshold
from lmeval.data.images import limited as first_of
from lmeval.densities.modelfile import LoadedDensity, load_density
from lmeval.densities.protocols import KINDS, CheckedDensity, CheckedLatent, Kind, check_density, kind_of
from lmeval.errors import LmevalError, MixedSpaces, TaskFileError
from lmeval.likelihood.gap_planner import plan_temperatures
from lmeval.likelihood.methods import BOUNDS
from lmeval.likelihood.settings import BoundSettings, fix_settings
from lmeval.likelihood.spec import DEFAULT_BOUNDS, BoundSpec, ImagesSpec, KdeSpec, ModelSpec, Spec

LAST_OF_TRAIN = 200  # images that choose a bandwidth where nothing else is named


class Model(NamedTuple):
    """A model of the spec with all that is needed to score it.

    `checked` is the model as it was checked on the data (None for an implicit one, which has no likelihood to check).
    `bounds` are those of a latent model, else empty; `held_out` [m, D] are the data that choose the bandwidth of an implicit
    one (None: its samples do).
    """

    spec: ModelSpec
    density: LoadedDensity
    kind: Kind
    checked: CheckedDensity | None
    bounds: tuple[BoundSpec, ...]
    held_out: Tensor | None

    @property
    def sandwich_bound(self) -> BoundSpec:
        """The bound whose settings the sandwich takes: the last annealed one."""
        return [bound for bound in (*DEFAULT_BOUNDS, *self.bounds) if BOUNDS[bound.method].annealed][-1]


class Prepared(NamedTuple):
    """Data and models. `x` [n, D] holds the levels of `data` as float32, on the device."""

    spec: Spec
    data: ImageSet
    x: Tensor
    models: tuple[Model, ...]


def with_overrides(spec: Spec, limit: int | None, seed: int | None) -> Spec:
    """The spec with another number of data, or another seed, where they are given."""
    if limit is not None:
        spec = spec._replace(data=spec.data._replace(images=spec.data.images._replace(limit=limit)))
    return spec if seed is None else spec._replace(seed=seed)


def prepare(spec: Spec, place: Place | str = "cpu") -> Prepared:
    """Read data and models of a spec, and refuse what cannot be put into one table, before anything is computed.

    Args:
        spec: What `read_spec` read.
        place: Where data and models are put.

    Returns:
        The data, and every model checked on them once.

    Raises:
        InputError: A file is not there or cannot be used, or (MixedSpaces) a model was made for data of another kind.
        ModelError: A model cannot be used.
    """
    device = as_place(place).device
    data = _images(spec.data.images, spec)
    x = data.x.to(device=device, dtype=torch.float32)
    models = tuple(_model(model, data, spec, device) for model in spec.models)
    return Prepared(spec, data, x, tuple(_check_on(x, data.levels, model) for model in models))


def _check_on(x: Tensor, levels: int, model: Model) -> Model:
    """The model, tried on the data; what is wrong with it is told with its name."""
    if model.kind == "implicit":
        return model
    try:
        return model._replace(checked=check_density(model.density.model, x, levels))
    except LmevalError as error:
        raise type(error)(f"{model.spec.name}: {error}") from error


def plan_gaps(prepared: Prepared, place: Place) -> Prepared:
    """Temperatures chosen for every bound that names a gap, by a pilot over a few of the data; all processes agree."""
    return prepared._replace(
        models=tuple(
            model._replace(bounds=tuple(_planned(bound, model, prepared, place) for bound in model.bounds))
            for model in prepared.models
        )
    )


def _planned(bound: BoundSpec, model: Model, prepared: Prepared, place: Place) -> BoundSpec:
    if "gap" not in bound.settings:
        return bound
    assert isinstance(model.checked, CheckedLatent)
    given = dict(bound.settings)
    gap = given.pop("gap")
    method = BOUNDS[bound.method]
    settings = fix_settings(BoundSettings(**given, seed=prepared.spec.seed), method.particles, method.resample_below)
    foreseen = plan_temperatures(model.checked, prepared.x, settings, gap)
    given["temperatures"] = agree(foreseen.settings.temperatures, place)
    plan = {"wanted_gap_nats": gap} | {key: value for key, value in foreseen._asdict().items() if key != "settings"}
    return BoundSpec(bound.method, given, plan)


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


def _model(model: ModelSpec, data: ImageSet, spec: Spec, device: str | torch.device) -> Model:
    density = load_density(str(spec.files.get(model.model, model.model)), spec.data_dir, device)
    _check_space(model.name, density, data)
    kind = kind_of(density.model)
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
    bounds = (model.bounds or DEFAULT_BOUNDS) if kind == "latent" else ()
    held_out = _held_out(model.kde or KdeSpec(), spec, data) if kind == "implicit" else None
    return Model(model, density, kind, None, bounds, held_out)


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
