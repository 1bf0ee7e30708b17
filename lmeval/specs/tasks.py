"""Task files: YAML in lm-evaluation-harness's own key names, read strictly and without running code.

`read_keys` gives the keys of a file over those of the file that it includes, each with file and line. A key that is not
known is an error that tells file, line and the nearest known key. "yes", "no", "on" and "off" are the words that they look
like, not booleans, and values that stand for text (TEXT_KEYS) stay as they are written. `!function module.name` runs Python
from beside the file and is refused unless the caller allows it. Our own keys lie in `metadata: {lmeval: {...}}`, which the
harness ignores: a file of ours loads there too.
"""

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmeval.data.documents import Corpus, DataSource, dataset_corpus
from lmeval.data.resources import data_folder
from lmeval.errors import InputNotFound, TaskFileError, first_line
from lmeval.messages import names, nearest, shown
from lmeval.specs.templates import text_of_row

ROLLING, CHOICE, LIKELIHOOD = "loglikelihood_rolling", "multiple_choice", "loglikelihood"
SPLITS = ("test_split", "validation_split", "training_split")  # the first that is given is scored, as the harness does
TEXT_KEYS = frozenset(
    {"task", "dataset_path", "dataset_name", *SPLITS, "fewshot_split", "doc_to_text", "doc_to_target", "doc_to_choice"}
    | {"description", "target_delimiter", "fewshot_delimiter", "gen_prefix", "split", "cluster", "unconditional"}
)
_READ = frozenset({"include", "output_type", "dataset_kwargs", "process_docs", "num_fewshot", "fewshot_config"})
_NEUTRAL = frozenset(  # many files carry them, and they change no number here or in the harness
    {"task_alias", "tag", "should_decontaminate", "doc_to_decontamination_query", "generation_kwargs"}
)
_REFUSED = {
    "process_results": "metrics that are code of the file's own are not run here",
    "use_prompt": "promptsource is not read here: write its template out as doc_to_text",
    "custom_dataset": "data sets that are code are not run here: write a JSON or parquet file",
    **dict.fromkeys(("doc_to_image", "doc_to_audio"), "only text is scored here"),
    "likelihood": "it compares densities: lmeval likelihood reads such files",
    "group": "a group is a list of tasks: name its tasks one by one",
}
_MISC = frozenset({"metric_list", "metadata", "filter_list", "repeats", "unsafe_code"})
KEYS = (TEXT_KEYS - {"split", "cluster", "unconditional"}) | _READ | _NEUTRAL | _MISC
FEWSHOT_KEYS = frozenset(
    {"sampler", "split", "process_docs", "fewshot_indices", "samples", "doc_to_text", "doc_to_choice", "doc_to_target"}
    | {"gen_prefix", "fewshot_delimiter", "target_delimiter"}
)
METRIC_KEYS = frozenset({"metric", "aggregation", "higher_is_better", "hf_evaluate", "ignore_case", "ignore_punctuation"})
OUR_KEYS = frozenset({"local", "cluster", "neutral", "unconditional", "sampler"})
LOCAL_KEYS = (KEYS | {"data_files", "filter", "cluster", "neutral", "unconditional"}) - {"include", "metadata"}
MAX_VALUES = 100_000  # of a task file, aliases written out
ROLLING_METRICS = frozenset({"word_perplexity", "byte_perplexity", "bits_per_byte"})


class TaskKeys(NamedTuple):
    """The keys of a task file. `places` tells file and line of each, also of nested ones ("fewshot_config.sampler"); `files`
    are the file and those that it includes."""

    path: Path
    values: Mapping[str, Any]
    places: Mapping[str, str]
    files: tuple[str, ...] = ()

    def where(self, key: str) -> str:
        """Name, file and line of a key, for messages."""
        return f"{self.places.get(key, self.path)}: {key}"


class RollingTask(NamedTuple):
    """A named corpus: where its rows are, and the text of a row. `files` are the task file and those that it includes."""

    name: str
    source: DataSource
    text: Callable[[Mapping[str, Any]], str]
    files: tuple[str, ...] = ()


class _Loader(yaml.SafeLoader):
    """SafeLoader whose only implicit booleans are true and false, in YAML 1.2's spelling."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node. What has the form or tag of a number or date and is none, such as 2024-02-31, has a line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise yaml.constructor.ConstructorError(None, None, first_line(error), node.start_mark) from error


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def find_task(name: str) -> Path | None:
    """The task file that `name` stands for: a YAML file, or the name of one that ships in tasks/; None if neither."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    shipped = data_folder("tasks") / f"{name}.yaml"
    # An underscore marks what tasks include, and is no task of its own.
    return shipped if not _exists(path) and _exists(shipped) and not name.startswith("_") else None


def read_keys(path: Path, *, allow_code: bool = False) -> TaskKeys:
    """Read a task file and what it includes. Raises TaskFileError with file and line, and InputNotFound."""
    return _read(path, (), allow_code)


def read_rolling_task(path: Path) -> RollingTask:
    """Read a `loglikelihood_rolling` task file. Raises TaskFileError with file and line."""
    return rolling_task(read_keys(path))


def rolling_task(keys: TaskKeys) -> RollingTask:
    """The corpus that the keys of a `loglikelihood_rolling` task name."""
    path, values = keys.path, keys.values
    if values.get("output_type") != ROLLING:
        raise TaskFileError(
            f"{path}: output_type is {values.get('output_type')!r}, and only {ROLLING} names a corpus to score"
            " (lmeval run scores prompted tasks)"
        )
    for name in ("dataset_path", "doc_to_target"):
        if not isinstance(values.get(name), str):
            raise TaskFileError(f"{path}: key '{name}' must be given, as text")
    if values.get("process_docs") is not None:
        raise TaskFileError(
            f"{keys.where('process_docs')} is not run on a corpus: write what it makes to a file and name that"
        )
    if values.get("doc_to_text") not in (None, ""):
        raise TaskFileError(f"{path}: doc_to_text must be empty for {ROLLING}: the whole text is the target")
    for entry in values.get("metric_list") or []:
        metric = entry.get("metric") if isinstance(entry, dict) else entry
        if not isinstance(metric, str) or metric not in ROLLING_METRICS:
            raise TaskFileError(f"{path}: unknown metric {metric!r} in metric_list{nearest(str(metric), ROLLING_METRICS)}")
    text = text_of_row(values["doc_to_target"], keys.where("doc_to_target"))
    return RollingTask(str(values.get("task", path.stem)), data_source(keys, scored_split(keys)), text, keys.files)


def task_corpus(task: RollingTask) -> Corpus:
    """The documents that a task names."""
    return replace(dataset_corpus(task.source, task.text), sources=(task.name,))


def scored_split(keys: TaskKeys) -> str:
    """The split to score. Raises TaskFileError where none is named."""
    split = next((keys.values[name] for name in SPLITS if keys.values.get(name)), None)
    if split is None:
        raise TaskFileError(f"{keys.path}: none of {', '.join(SPLITS)} is given: say which split to score")
    return split


def data_source(keys: TaskKeys, split: str) -> DataSource:
    """Where the rows of a split are."""
    kwargs = dict(keys.values.get("dataset_kwargs") or {})
    kwargs.pop("trust_remote_code", None)  # the library no longer runs data sets' code
    files = _data_files(kwargs.pop("data_files", ()), split, keys)
    name = keys.values.get("dataset_name")
    return DataSource(keys.values["dataset_path"], name, split if not files else "train", files, kwargs)


def _read(path: Path, seen: tuple[Path, ...], allow_code: bool) -> TaskKeys:
    """The file's keys over those of the file that it includes."""
    keys, places = _parsed(path, _text_of(path), allow_code)
    if path.resolve() in seen:
        raise TaskFileError(f"{path}: includes itself")
    found = TaskKeys(path, keys, places, (str(path),))
    _check_types(found)
    if "include" not in keys:
        return found
    listed = keys.pop("include")
    for name in listed if isinstance(listed, list) else [listed]:  # the first of several has its way
        if not isinstance(name, str):
            raise TaskFileError(f"{found.where('include')} must name a task file or list several, not {name!r:.60}")
        try:
            base = _read(path.parent / name, (*seen, path.resolve()), allow_code)
        except InputNotFound as error:
            raise InputNotFound(f"{found.where('include')}: {error}") from None
        found = TaskKeys(path, {**base.values, **keys}, {**base.places, **places}, found.files + base.files)
        keys, places = dict(found.values), dict(found.places)
    return found._replace(values=keys, places=places)


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise TaskFileError(f"{path}: not UTF-8 text: {error.reason} at offset {error.start}") from error
    except (OSError, ValueError) as error:  # a ValueError: a name with a null character
        raise InputNotFound(f"no such task file: {shown(path)}") from error


def _parsed(path: Path, text: str, allow_code: bool) -> tuple[dict[str, Any], dict[str, str]]:
    """The keys of one file, and the place of each."""
    try:
        loader = _Loader(text)
        loader.yaml_constructors = {**_Loader.yaml_constructors, "!function": _function(path, allow_code)}
        node = loader.get_single_node()
        _check_node(node, path, allow_code)
        assert node is not None
        return loader.construct_document(node), _places(node, path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise TaskFileError(f"{path}:{line} {getattr(error, 'problem', None) or first_line(error)}") from error
    except RecursionError as error:
        raise TaskFileError(f"{path}: nested too deeply") from error


_Kinds = dict[str, tuple[type, str]]
_TEXT, _LIST, _MAPPING = (str, "text"), (list, "a list"), (dict, "a mapping")
_TOP: _Kinds = dict.fromkeys(("dataset_path", "dataset_name", *SPLITS, "fewshot_split", "output_type", "task"), _TEXT)
_TOP |= dict.fromkeys(("target_delimiter", "fewshot_delimiter", "description", "gen_prefix"), _TEXT)
_TOP |= {"metric_list": _LIST, "filter_list": _LIST, "num_fewshot": (int, "a whole number")}
_TOP |= dict.fromkeys(("dataset_kwargs", "fewshot_config", "metadata"), _MAPPING)
_SHOTS: _Kinds = dict.fromkeys(("sampler", "split", "gen_prefix", "target_delimiter", "fewshot_delimiter"), _TEXT)
_OURS: _Kinds = {"neutral": _LIST, "cluster": _TEXT, "unconditional": _TEXT}
# What the values of a mapping must be, by where it stands; outer ones first.
_KINDS: Mapping[str, _Kinds] = {
    "": _TOP,
    "fewshot_config": _SHOTS,
    "metadata": {"lmeval": _MAPPING},
    "metadata.lmeval": _OURS | {"local": _MAPPING, "sampler": _TEXT},
    "metadata.lmeval.local": _TOP | _OURS | {"data_files": _MAPPING, "filter": _MAPPING},
    "metadata.lmeval.local.fewshot_config": _SHOTS,
}


def _check_types(keys: TaskKeys) -> None:
    for where, kinds in _KINDS.items():
        block = _nested(keys.values, where) or {}
        above = f"{where}." if where else ""
        for name, (kind, description) in kinds.items():
            found = block.get(name)
            if found is not None and (not isinstance(found, kind) or isinstance(found, bool)):
                raise TaskFileError(f"{keys.where(above + name)} must be {description}, not {found!r:.60}")
        if not kinds.keys() >= _TOP.keys():
            continue
        if block.get("repeats", 1) != 1:
            raise TaskFileError(f"{keys.where(above + 'repeats')} must be 1: a probability is the same every time")
        if block.get("unsafe_code", False) is not False:
            raise TaskFileError(f"{keys.where(above + 'unsafe_code')}: tasks that run a model's code are not run here")


def _nested(values: Mapping[str, Any], dotted: str) -> Any:
    found: Any = values
    for name in dotted.split(".") if dotted else ():
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


# Which keys may stand in a mapping, by where it stands ("*" is an entry of a list). Others are not looked into.
_KNOWN: Mapping[str, frozenset[str]] = {
    "": KEYS,
    "fewshot_config": FEWSHOT_KEYS,
    "metric_list.*": METRIC_KEYS,
    "metadata.lmeval": OUR_KEYS,
    "metadata.lmeval.local": LOCAL_KEYS,
    "metadata.lmeval.local.fewshot_config": FEWSHOT_KEYS,
    "metadata.lmeval.local.metric_list.*": METRIC_KEYS,
}
_LOOKED_INTO = frozenset({"metadata", *(where.removesuffix(".*") for where in _KNOWN if where)})


def _check_node(node: yaml.Node | None, path: Path, allow_code: bool) -> None:
    if not isinstance(node, yaml.MappingNode):
        raise TaskFileError(f"{path}: not a task file: a task file is a YAML mapping with keys such as task, dataset_path")
    _check_values(node, path, allow_code, sizes={}, above=())
    _check_mapping(node, path, "")


def _check_mapping(node: yaml.Node, path: Path, where: str) -> None:
    """Refuse unknown keys, and make text of what stands for text."""
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            if isinstance(entry, yaml.MappingNode):
                _check_mapping(entry, path, f"{where}.*")
    if not isinstance(node, yaml.MappingNode):
        return
    known = _KNOWN.get(where)
    for key, child in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise TaskFileError(f"{path}: line {line}: a key must be a word")
        if where == "" and key.value in _REFUSED:
            raise TaskFileError(f"{path}: line {line}: key '{key.value}': {_REFUSED[key.value]}")
        if known is not None and key.value not in known:
            inside = f" in {where}" if where else ""
            raise TaskFileError(f"{path}: line {line}: unknown key {key.value!r:.60}{inside}{nearest(key.value, known)}")
        inner = f"{where}.{key.value}".lstrip(".")
        if known is not None and key.value in TEXT_KEYS:
            _as_written(child)
        elif inner in _LOOKED_INTO:
            _check_mapping(child, path, inner)


def _as_written(node: yaml.Node) -> None:
    """Text stays text: `doc_to_choice: [1, true]` means the words "1" and "true"."""
    if isinstance(node, yaml.ScalarNode):
        if not node.tag.startswith("!") and node.tag != "tag:yaml.org,2002:null":
            node.tag = "tag:yaml.org,2002:str"
        return
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            _as_written(part)


def _check_values(node: yaml.Node, path: Path, allow_code: bool, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """Refuse tags that would run code, keys given twice, nodes that hold themselves, and aliases of aliases that are too
    large when they are written out. Returns that size; `sizes` spares an alias a second visit."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise TaskFileError(f"{path}: line {line}: an alias refers to the value that holds it")
    if id(node) in sizes:
        return sizes[id(node)]
    above = (*above, id(node))
    if node.tag == "!function" and not allow_code:
        raise TaskFileError(
            f"{path}: line {line}: !function would run code from this file's folder: write a template instead, or allow it "
            "with --allow-code if you trust the file"
        )
    if node.tag.startswith("!") and node.tag != "!function":
        raise TaskFileError(
            f"{path}: line {line}: {node.tag} would run code from this file's folder: write a template instead"
        )
    children: list[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
        given: set[tuple[str, str]] = set()
        for key in children[::2]:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in given:
                raise TaskFileError(f"{path}: line {key.start_mark.line + 1}: key {key.value!r:.60} is given twice")
            given.add((key.tag, str(key.value)))
    size = 1 + sum(_check_values(child, path, allow_code, sizes, above) for child in children)
    if size > MAX_VALUES:
        raise TaskFileError(f"{path}: line {line}: holds more than {MAX_VALUES:,} values, its aliases written out")
    sizes[id(node)] = size
    return size


def _places(node: yaml.Node, path: Path, above: str = "") -> dict[str, str]:
    """File and line of each key."""
    found = {}
    for key, child in node.value:
        name = f"{above}{key.value}"
        found[name] = f"{path}: line {key.start_mark.line + 1}"
        if isinstance(child, yaml.MappingNode) and name in _LOOKED_INTO:
            found |= _places(child, path, f"{name}.")
    return found


def _function(path: Path, allow_code: bool) -> Callable[[yaml.SafeLoader, yaml.Node], Any]:
    """What `!function module.name` stands for: `name` of module.py in the task file's folder."""

    def construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode) or not allow_code:
            raise TaskFileError(f"{path}: line {node.start_mark.line + 1}: !function takes module.name")
        *parts, name = str(loader.construct_scalar(node)).split(".")
        where = f"{path}: line {node.start_mark.line + 1}: !function {node.value}"
        if not parts or not parts[-1]:
            raise TaskFileError(f"{where}: give it as module.name")
        file = path.parent.joinpath(*parts).with_suffix(".py")
        spec = importlib.util.spec_from_file_location(f"lmeval_task_{file.stem}", file) if _exists(file) else None
        if spec is None or spec.loader is None:
            raise TaskFileError(f"{where}: there is no file {file}")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            return getattr(module, name)
        except (Exception, SystemExit) as error:  # the user's own code
            raise TaskFileError(f"{where}: {type(error).__name__}: {first_line(error)}") from error

    return construct


def _data_files(files: Any, split: str, keys: TaskKeys) -> tuple[str, ...]:
    """Local files of a split, looked for beside the task file first."""
    if isinstance(files, dict):
        if split not in files:
            raise TaskFileError(
                f"{keys.where('dataset_kwargs')}: data_files has no entry for the split {split!r:.60}: it has {names(files)}"
            )
        files = files[split]
    listed = [files] if isinstance(files, str) else files
    if not isinstance(listed, (list, tuple)) or not all(isinstance(name, str) for name in listed):
        raise TaskFileError(
            f"{keys.where('dataset_kwargs')}: data_files must be a file name, a list, or a mapping from splits to them"
        )
    beside = [keys.path.parent / name for name in listed]
    return tuple(str(b) if _exists(b) else name for b, name in zip(beside, listed, strict=True))


def _exists(path: Path) -> bool:
    """Whether there is such a path; a name that no path can have (too long, a null character) is not there."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
