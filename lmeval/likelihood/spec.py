"""Specs of `lmeval likelihood`: which models, which data, which bounds. YAML, read strictly and without running code.

    likelihood: digits                        # its name; this key marks the file
    data: {images: digits, split: test}       # or an MNIST file with binarise: {seed: 0}, threshold, limit, shape
    models:
      - {name: VAE, model: lmeval-digits-vae-v1, bounds: [elbo, {iwae: 500}, {smc: {temperatures: 30}}], sandwich: 100}
      - {name: flow, model: lmeval-digits-flow-v1}
      - {name: generator, model: lmeval-digits-generator-v1, kde: {samples: 10000}}
    seed: 0
    paired: VAE                               # the model that the others are compared with

A file that is binary already counts as fixed ("static"); in data, `binarisation: sampled` (or threshold) says how it was
made. A sandwich takes the settings of its model's last annealed bound. A key that is not known is an error that tells file,
line and the nearest known key.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml

from lmeval.data.images import BINARISATIONS
from lmeval.data.resources import data_folder
from lmeval.errors import InputNotFound, TaskFileError, first_line
from lmeval.likelihood.runs import STARTS, TEMPERATURES
from lmeval.likelihood.schedules import Schedule
from lmeval.messages import nearest, shown
from lmeval.specs.tasks import find_task

METHODS = ("elbo", "iwae", "ais", "smc")
ANNEALED = ("ais", "smc")
PARTICLES = {"iwae": 500, "ais": 16, "smc": 16}
_ANNEALED_KEYS = frozenset({"particles", "temperatures", "gap", "schedule", "start", "leapfrogs"})
_IMAGE_KEYS = frozenset({"images", "split", "limit"})
# Which keys may stand in a mapping, by where it stands; "*" is an entry of a list.
_KNOWN: Mapping[str, frozenset[str]] = {
    "": frozenset({"likelihood", "data", "models", "seed", "paired"}),
    "data": _IMAGE_KEYS | {"binarise", "threshold", "binarisation", "shape"},
    "data.binarise": frozenset({"seed"}),
    "models.*": frozenset({"name", "model", "bounds", "sandwich", "kde"}),
    "models.*.bounds.*": frozenset(METHODS),
    **{f"models.*.bounds.*.{method}": _ANNEALED_KEYS for method in ANNEALED},
    **{f"models.*.bounds.*.{method}": frozenset({"particles"}) for method in ("elbo", "iwae")},
    "models.*.kde": frozenset({"samples", "bandwidths", "held_out"}),
    "models.*.kde.held_out": _IMAGE_KEYS,
}


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
        particles = self.settings.get("particles")
        if self.method not in ANNEALED:
            return self.method.upper() + (f"-{particles}" if particles else "")
        steps = self.settings.get("temperatures")
        gap = self.settings.get("gap") or (self.plan or {}).get("wanted_gap_nats")
        size = f"{particles} x {steps}" if steps else f"{particles}"
        size += f", gap {gap:g}" if gap else ""
        return f"{self.method.upper()} {size}"


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
    """A comparison of several models on one data set. `paired` names the reference model (None: the caller's choice)."""

    name: str
    path: Path
    data: DataSpec
    models: tuple[ModelSpec, ...]
    seed: int = 0
    paired: str | None = None


DEFAULT_BOUNDS = (
    BoundSpec("elbo", {}),
    BoundSpec("iwae", {"particles": 500}),
    BoundSpec("smc", {"particles": 16, "temperatures": TEMPERATURES["pilot"]}),
)


def spec_path(name: str) -> Path:
    """The file of a spec that is named by its path or, for those that ship, by its name. Raises InputNotFound."""
    path = find_task(name)
    if path is None:
        shipped = [file.stem for file in data_folder("tasks").glob("[!_]*.yaml") if is_spec(file)]
        if name in shipped:
            raise InputNotFound(f"spec {name} is hidden by a file or folder of that name here: start lmeval elsewhere")
        raise InputNotFound(f"no spec {shown(name)}: give a YAML file, or one of tasks/{nearest(name, shipped)}")
    return path


def is_spec(path: Path) -> bool:
    """Whether a YAML file has the key `likelihood` at its beginning of a line, which marks a spec."""
    return any(line.startswith("likelihood:") for line in path.read_text(encoding="utf-8", errors="replace").splitlines())


def locate(name: str, spec: Spec, data_dir: Path | None) -> Path | None:
    """A file or folder that a spec names: beside the spec, in the working folder, in `data_dir`; None where in none."""
    folders = [spec.path.parent, Path(), *([data_dir] if data_dir else [])]
    return next((folder / name for folder in folders if _exists(folder / name)), None)


def read_spec(path: Path) -> Spec:
    """Read a spec. Raises TaskFileError with file and line, and InputNotFound."""
    values, places = _read_strictly(path)
    if "likelihood" not in values:
        raise TaskFileError(
            f"{path}: not a spec of likelihoods: it lacks the key 'likelihood' (lmeval run scores task files)"
        )
    top = _Block(values, places, "", path)
    models = tuple(_model(block) for block in top.blocks("models"))
    names = [model.name for model in models]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise TaskFileError(f"{places[f'models.{i}']}: two models are called {name}: give each its own name")
    paired = top.text("paired")
    if paired is not None and paired not in names:
        raise TaskFileError(f"{top.where('paired')}: no model is called {paired!r:.60}{nearest(paired, names)}")
    name = top.text("likelihood") or path.stem
    return Spec(name, path, _data(top.block("data")), models, top.whole("seed", 0) or 0, paired)


class _Block(NamedTuple):
    """A mapping of the file, and how messages name what stands in it."""

    values: Mapping[str, Any]
    places: Mapping[str, str]
    at: str
    path: Path

    def where(self, key: str) -> str:
        """File, line and key."""
        full = f"{self.at}.{key}".lstrip(".")
        return f"{self.places.get(full, self.places.get(self.at, str(self.path)))}: {key.rpartition('.')[2]}"

    def given(self, key: str, fits: Callable[[Any], bool], description: str) -> Any:
        """The value of a key, None where it is not given."""
        found = self.values.get(key)
        if found is not None and not fits(found):
            raise TaskFileError(f"{self.where(key)} must be {description}, not {_brief(found)}")
        return found

    def text(self, key: str) -> str | None:
        """A text that is not empty."""
        return self.given(key, lambda found: isinstance(found, str) and found != "", "text (in quotes where it is a number)")

    def needed(self, key: str) -> str:
        """A text that must be there."""
        found = self.text(key)
        if found is None:
            raise TaskFileError(f"{self.places.get(self.at, str(self.path))}: key '{key}' must be given, as text")
        return found

    def whole(self, key: str, least: int) -> int | None:
        """A whole number."""
        return self.given(key, lambda found: _is_whole(found) and found >= least, f"a whole number of at least {least}")

    def number(self, key: str) -> float | None:
        """A number above 0."""
        return self.given(key, _is_positive, "a number above 0")

    def word(self, key: str, known: Iterable[str]) -> str | None:
        """One of several words."""
        found = self.text(key)
        if found is not None and found not in known:
            raise TaskFileError(f"{self.where(key)}: unknown {key} {found!r:.60}{nearest(found, known)}")
        return found

    def block(self, key: str) -> "_Block":
        """A mapping; an empty one where it is not given."""
        found = self.given(key, lambda found: isinstance(found, dict), "a mapping")
        return _Block(found or {}, self.places, f"{self.at}.{key}".lstrip("."), self.path)

    def blocks(self, key: str) -> list["_Block"]:
        """A list of mappings, at least one."""
        found = self.given(key, lambda found: isinstance(found, list) and found != [], "a list with at least one entry")
        if found is None:
            raise TaskFileError(f"{self.path}: key '{key}' must be given: a list with at least one entry")
        return [_Block({str(i): entry}, self.places, key, self.path).block(str(i)) for i, entry in enumerate(found)]


def _data(block: _Block) -> DataSpec:
    binarise = block.values.get("binarise")
    threshold = block.whole("threshold", 1)
    made = block.word("binarisation", BINARISATIONS)
    if sum(given is not None for given in (binarise, threshold, made)) > 1:
        keys = [key for key in ("threshold", "binarisation", "binarise") if block.values.get(key) is not None]
        raise TaskFileError(f"{block.where(keys[0])} and {keys[1]} both make images binary: give one of them")
    seed = None if binarise is None else block.block("binarise").whole("seed", 0) or 0
    listed = lambda found: isinstance(found, list) and found != [] and all(_is_whole(n) and n >= 1 for n in found)  # noqa: E731
    shape = block.given("shape", listed, "a list of whole numbers such as [28, 28]")
    return DataSpec(_images(block), seed, threshold, tuple(shape) if shape else None, made)


def _images(block: _Block) -> ImagesSpec:
    return ImagesSpec(block.needed("images"), block.text("split"), block.whole("limit", 1))


def _model(block: _Block) -> ModelSpec:
    model = block.needed("model")
    bounds = None
    if block.values.get("bounds") is not None:
        entries = block.given("bounds", lambda found: isinstance(found, list) and found != [], "a list such as [elbo, smc]")
        bounds = tuple(_bound(block, i, entry) for i, entry in enumerate(entries))
        labels = [bound.label for bound in bounds]
        for i, label in enumerate(labels):
            if label in labels[:i]:
                raise TaskFileError(f"{block.where(f'bounds.{i}')}: {label} is given twice: leave one out")
    kde = None
    if "kde" in block.values:
        inner = block.block("kde")
        listed = lambda found: isinstance(found, list) and found != [] and all(map(_is_positive, found))  # noqa: E731
        widths = inner.given("bandwidths", listed, "a list of numbers above 0")
        held_out = _images(inner.block("held_out")) if inner.values.get("held_out") is not None else None
        widths = tuple(sorted({float(width) for width in widths})) if widths else None
        kde = KdeSpec(inner.whole("samples", 2) or KdeSpec().samples, widths, held_out)
    return ModelSpec(block.text("name") or Path(model).stem, model, bounds, block.whole("sandwich", 0) or 0, kde)


def _bound(model: _Block, i: int, entry: Any) -> BoundSpec:
    """An entry of `bounds`: a method's name, or a mapping with one to its settings (for iwae, the number of samples)."""
    at = f"bounds.{i}"
    place = model.places.get(f"{model.at}.{at}", str(model.path))
    if isinstance(entry, str):
        if entry not in METHODS:
            raise TaskFileError(f"{place}: unknown bound {entry!r:.60}{nearest(entry, METHODS)}")
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        known = ", ".join(METHODS)
        raise TaskFileError(f"{place}: a bound must be one of {known}, or one of them with settings, not {_brief(entry)}")
    [(method, given)] = entry.items()
    if _is_whole(given):
        given = {"particles": given}
    block = _Block({method: given}, model.places, f"{model.at}.{at}", model.path).block(method)
    found: dict[str, Any] = {"particles": block.whole("particles", 1)}
    if method in ANNEALED:
        found |= {"temperatures": block.whole("temperatures", 1), "gap": block.number("gap")}
        if found["temperatures"] and found["gap"]:
            raise TaskFileError(
                f"{block.where('gap')} chooses the number of temperatures: give gap or temperatures, not both"
            )
        found |= {"schedule": block.word("schedule", get_args(Schedule)), "start": block.word("start", STARTS)}
        found["leapfrogs"] = block.whole("leapfrogs", 1)
        found["particles"] = found["particles"] or PARTICLES[method]
        if not found["gap"] and not found["temperatures"]:
            found["temperatures"] = _usual_temperatures(found["start"])
    elif method == "iwae":
        found["particles"] = found["particles"] or PARTICLES[method]
    return BoundSpec(method, {key: value for key, value in found.items() if value is not None})


def _usual_temperatures(start: str | None) -> int:
    return TEMPERATURES["pilot" if start in (None, "auto") else start]


def _is_whole(found: Any) -> bool:
    return isinstance(found, int) and not isinstance(found, bool)


def _is_positive(found: Any) -> bool:
    return isinstance(found, int | float) and not isinstance(found, bool) and 0 < found < float("inf")


def _brief(found: Any) -> str:
    kinds = {dict: "a mapping", list: "a list", type(None): "nothing"}
    return kinds.get(type(found), f"{found!r:.60}")


def _read_strictly(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of a file, and file and line of each by its dotted place ("models.0.bounds.1.iwae")."""
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise TaskFileError(
                f"{path}: not a spec of likelihoods: that is a YAML mapping with the keys likelihood, data, models"
            )
        places: dict[str, str] = {}
        _check(node, path, "", "", places, set())
        return loader.construct_document(node), places
    except UnicodeDecodeError as error:
        raise TaskFileError(f"{path}: not UTF-8 text: {error.reason} at offset {error.start}") from error
    except (OSError, ValueError) as error:  # a ValueError: a name with a null character, what looks like a date and is none
        kind = (
            InputNotFound(f"no such spec: {shown(path)}")
            if not _exists(path)
            else TaskFileError(f"{path}: {first_line(error)}")
        )
        raise kind from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise TaskFileError(f"{path}:{line} {getattr(error, 'problem', None) or first_line(error)}") from error
    except RecursionError as error:
        raise TaskFileError(f"{path}: nested too deeply") from error


def _check(node: yaml.Node, path: Path, at: str, kind: str, places: dict[str, str], seen: set[int]) -> None:
    """Refuse unknown keys, keys given twice, tags and aliases; note where everything stands.

    `at` is the node's own dotted place, `kind` the same with "*" for entries of lists.
    """
    line = f"{path}: line {node.start_mark.line + 1}"
    places[at] = line
    if id(node) in seen:
        raise TaskFileError(f"{line}: an alias: write the value out, it is not read here")
    seen.add(id(node))
    if node.tag.startswith("!"):
        raise TaskFileError(f"{line}: {node.tag} is a tag: only plain values are read here")
    if isinstance(node, yaml.SequenceNode):
        for i, entry in enumerate(node.value):
            _check(entry, path, f"{at}.{i}", f"{kind}.*", places, seen)
    if not isinstance(node, yaml.MappingNode):
        return
    known, given = _KNOWN.get(kind), set[str]()
    for key, child in node.value:
        line = f"{path}: line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise TaskFileError(f"{line}: a key must be a word")
        if known is not None and key.value not in known:
            inside = f" in {kind.replace('.*', '')}" if kind else ""
            raise TaskFileError(f"{line}: unknown key {key.value!r:.60}{inside}{nearest(key.value, known)}")
        if key.value in given:
            raise TaskFileError(f"{line}: key {key.value!r:.60} is given twice")
        given.add(key.value)
        _check(child, path, f"{at}.{key.value}".lstrip("."), f"{kind}.{key.value}".lstrip("."), places, seen)
        places[f"{at}.{key.value}".lstrip(".")] = line


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
