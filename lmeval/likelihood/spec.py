"""Specs of `lmeval likelihood`: which models, which data, which bounds. `KEYS` is the table of all keys.

    likelihood: digits                        # its name; this key marks the file
    data: {images: digits, split: test}       # or an MNIST file with binarise: {seed: 0}, threshold, limit, shape
    models:
      - {name: VAE, model: lmeval-digits-vae-v1, bounds: [elbo, {iwae: 500}, {smc: {temperatures: 30}}], sandwich: 100}
      - {name: flow, model: lmeval-digits-flow-v1}
      - {name: generator, model: lmeval-digits-generator-v1, kde: {samples: 10000}}
    seed: 0
    paired: VAE                               # the model that the others are compared with

A file that is binary already counts as fixed ("static"); in data, `binarisation: sampled` (or threshold) says how it was
made. A sandwich takes the settings of its model's last annealed bound.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from lmeval.data.locate import find_in, named_spec, shipped_specs
from lmeval.data.tags import BINARISATIONS
from lmeval.errors import TaskFileError
from lmeval.likelihood.methods import BOUNDS, METHODS, Method
from lmeval.likelihood.settings import SCHEDULES, STARTS, usual_temperatures
from lmeval.messages import nearest
from lmeval.specs.keys import TEXT, Key, Keys, choice, is_whole, listed, mapping, mappings, needed, real, whole
from lmeval.specs.reader import FileKind, Node, has_key, read_file

COMPARISON_FILE = FileKind("spec", ("likelihood", "data", "models"), TaskFileError)

_IMAGES: Keys = {"images": needed(TEXT), "split": TEXT, "limit": whole(1)}
_DATA: Keys = _IMAGES | {
    "binarise": mapping({"seed": whole(0)}),
    "threshold": whole(1),
    "binarisation": choice(BINARISATIONS),
    "shape": listed(whole(1), "a list of whole numbers such as [28, 28]"),
}
_SETTINGS: Keys = {
    "particles": whole(1),
    "temperatures": whole(1),
    "gap": real(0),
    "schedule": choice(SCHEDULES),
    "start": choice(STARTS),
    "leapfrogs": whole(1),
}


def settings_key(method: Method) -> Key:
    """The settings of a bound; a whole number stands for that of its particles, where it has any."""
    keys: Keys = {key: _SETTINGS[key] for key in method.settings}
    if "particles" not in keys:
        return mapping(keys)
    return Key(
        lambda value: isinstance(value, dict) or (is_whole(value) and value >= 1),
        "the number of particles, a whole number of at least 1, or a mapping of settings",
        keys=keys,
    )


# An entry of `bounds` is a method's name, or a mapping with one to its settings.
_BOUND = Key(
    lambda value: value in BOUNDS if isinstance(value, str) else isinstance(value, dict) and len(value) == 1,
    f"one of {', '.join(BOUNDS)}, or a mapping from one of them to its settings",
    choice(BOUNDS).remedy,
    keys={name: settings_key(method) for name, method in BOUNDS.items()},
)
_KDE: Keys = {
    "samples": whole(2),
    "bandwidths": listed(real(0), "a list of numbers above 0"),
    "held_out": mapping(_IMAGES),
}
_MODEL: Keys = {
    "name": TEXT,
    "model": needed(TEXT),
    "bounds": Key(lambda value: isinstance(value, list) and value != [], "a list such as [elbo, smc]", each=_BOUND),
    "sandwich": whole(0),
    "kde": mapping(_KDE),
}
KEYS: Keys = {
    "likelihood": TEXT,
    "data": needed(mapping(_DATA)),
    "models": needed(mappings(_MODEL)),
    "seed": whole(0),
    "paired": TEXT,
}


NO_FILES: Mapping[str, Path] = MappingProxyType({})


class ImagesSpec(NamedTuple):
    """Images by file or name ("digits"), their split, and how many of the first are taken (None: all)."""

    images: str
    split: str | None = None
    limit: int | None = None


class DataSpec(NamedTuple):
    """The data to score. At most one of `binarise_seed` (seeded draw) and `threshold` (the least level that becomes 1) makes
    them binary, or `binarisation` says how those of a binary file were made so."""

    images: ImagesSpec
    binarise_seed: int | None = None
    threshold: int | None = None
    shape: tuple[int, ...] | None = None
    binarisation: str | None = None


class BoundSpec(NamedTuple):
    """One bound of a latent model. `settings` go to `log_likelihood` as they are: particles, temperatures, gap, ...; `plan`
    says what a planner foresaw where it chose the temperatures."""

    method: str
    settings: Mapping[str, Any]
    plan: Mapping[str, Any] | None = None

    @property
    def label(self) -> str:
        """Its name in tables.

        >>> BoundSpec("iwae", {"particles": 500}).label, BoundSpec("smc", {"particles": 16, "gap": 0.1}).label
        ('IWAE-500', 'SMC 16, gap 0.1')
        """
        planned = {} if self.plan is None else {"gap": self.plan["wanted_gap_nats"]}
        return METHODS[self.method].label(self.method, planned | dict(self.settings))


class KdeSpec(NamedTuple):
    """Kernel density estimate of an implicit model: samples drawn, bandwidths tried (in levels; None: a grid fitted to the
    data), and the images that choose among them (None: the end of the data's own training split where it has one, else
    samples)."""

    samples: int = 10_000
    bandwidths: tuple[float, ...] | None = None
    held_out: ImagesSpec | None = None


class ModelSpec(NamedTuple):
    """A model of the comparison. `bounds` are None where the spec leaves them to the model's kind; `sandwich` counts
    simulated data (0: no sandwich)."""

    name: str
    model: str
    bounds: tuple[BoundSpec, ...] | None = None
    sandwich: int = 0
    kde: KdeSpec | None = None


class Spec(NamedTuple):
    """A comparison of several models on one data set. `paired` names the reference model (None: the caller's choice).

    `files` says where the files and folders lie that it names, by those names; what it names beside them is bundled, or lies
    in `data_dir` under a name of its own.
    """

    name: str
    path: Path
    data: DataSpec
    models: tuple[ModelSpec, ...]
    seed: int = 0
    paired: str | None = None
    data_dir: Path | None = None
    files: Mapping[str, Path] = NO_FILES


DEFAULT_BOUNDS = (
    BoundSpec("elbo", {}),
    BoundSpec("iwae", {"particles": 500}),
    BoundSpec("smc", {"particles": 16, "temperatures": usual_temperatures("pilot")}),
)


def spec_path(name: str) -> Path:
    """The file of a spec that is named by its path or, for those that ship, by its name. Raises InputNotFound."""
    return named_spec(name, "spec", (known for known, file in shipped_specs().items() if is_spec(file)))


def is_spec(path: Path) -> bool:
    """Whether a YAML file has the key `likelihood` at its top, which marks a spec."""
    return has_key(path, "likelihood")


def read_spec(name: str | Path, data_dir: Path | None = None) -> Spec:
    """Read a spec, and find the files that it names: beside it, in the working folder, or in `data_dir`.

    Args:
        name: The YAML file, or the name of one that ships in tasks/.
        data_dir: A folder with files that lie neither beside the spec nor in the working folder.

    Raises:
        TaskFileError: It names file and line.
        InputNotFound: There is no such file.
    """
    path = name if isinstance(name, Path) else spec_path(name)
    top = read_file(path, COMPARISON_FILE, KEYS)
    if "likelihood" not in top.values:
        raise TaskFileError(f"{path}: not a spec: it lacks the key 'likelihood' (lmeval run scores task files)")
    blocks, paired = top.entries("models"), top.values.get("paired")
    models = tuple(map(_model, blocks))
    names = [model.name for model in models]
    for block, (i, called) in zip(blocks, enumerate(names), strict=True):
        if called in names[:i]:
            raise TaskFileError(f"{block.line_of()}: two models are called {called}: give each its own name")
    if paired is not None and paired not in names:
        raise TaskFileError(f"{top.where('paired')}: no model is called {paired!r:.60}{nearest(paired, names)}")
    title = top.values.get("likelihood") or path.stem
    data = _data(top.inner("data"))
    held_out = [model.kde.held_out.images for model in models if model.kde and model.kde.held_out]
    folders, named = [path.parent, Path(), data_dir], [data.images.images, *(model.model for model in models), *held_out]
    files = {name: file for name in named if (file := find_in(folders, name))}
    return Spec(title, path, data, models, top.values.get("seed") or 0, paired, data_dir, files)


def with_overrides(spec: Spec, limit: int | None, seed: int | None) -> Spec:
    """The spec with another number of data, or another seed, where they are given."""
    if limit is not None:
        spec = spec._replace(data=spec.data._replace(images=spec.data.images._replace(limit=limit)))
    return spec if seed is None else spec._replace(seed=seed)


def _data(data: Node) -> DataSpec:
    values = data.values
    made = [key for key in ("threshold", "binarisation", "binarise") if values.get(key) is not None]
    if len(made) > 1:
        raise TaskFileError(f"{data.where(made[0])} and {made[1]} both make images binary: give one of them")
    seed = (values["binarise"].get("seed") or 0) if "binarise" in made else None
    shape = tuple(values["shape"]) if values.get("shape") else None
    return DataSpec(_images(values), seed, values.get("threshold"), shape, values.get("binarisation"))


def _images(values: Mapping[str, Any]) -> ImagesSpec:
    return ImagesSpec(values["images"], values.get("split"), values.get("limit"))


def _model(model: Node) -> ModelSpec:
    values = model.values
    bounds = None
    if values.get("bounds") is not None:
        bounds = tuple(_bound(model, i, entry) for i, entry in enumerate(values["bounds"]))
        labels = [bound.label for bound in bounds]
        for i, label in enumerate(labels):
            if label in labels[:i]:
                raise TaskFileError(f"{model.where(f'bounds[{i}]')}: {label} is given twice: leave one out")
    kde = _kde(values["kde"] or {}) if "kde" in values else None
    name = values.get("name") or Path(values["model"]).stem
    return ModelSpec(name, values["model"], bounds, values.get("sandwich") or 0, kde)


def _kde(values: Mapping[str, Any]) -> KdeSpec:
    widths, held_out = values.get("bandwidths"), values.get("held_out")
    return KdeSpec(
        values.get("samples") or KdeSpec().samples,
        tuple(sorted({float(width) for width in widths})) if widths else None,
        None if held_out is None else _images(held_out),
    )


def _bound(model: Node, i: int, entry: Any) -> BoundSpec:
    """An entry of `bounds` with all its settings."""
    [(method, given)] = entry.items() if isinstance(entry, dict) else [(entry, None)]
    if is_whole(given):
        given = {"particles": given}
    settings: dict[str, Any] = {key: value for key, value in (given or {}).items() if value is not None}
    how = BOUNDS[method]
    if how.particles > 1:
        settings.setdefault("particles", how.particles)
    if how.annealed:
        if "temperatures" in settings and "gap" in settings:
            where = model.where(f"bounds[{i}].{method}.gap")
            raise TaskFileError(f"{where} chooses the number of temperatures: give gap or temperatures, not both")
        if "gap" not in settings:
            settings.setdefault("temperatures", usual_temperatures(settings.get("start")))
    return BoundSpec(method, {key: settings[key] for key in how.settings if key in settings})
