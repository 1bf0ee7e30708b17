"""Task files: YAML in lm-evaluation-harness's own key names, read strictly and without running code.

Here: the keys of `output_type: loglikelihood_rolling`, which name a corpus to score. A key that is not known is an error
that tells file, line and the nearest known key. "yes", "no", "on" and "off" are the words that they look like, not
booleans. `!function` would run Python from beside the file and is refused.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.sandbox
import yaml

from lmeval.documents import Corpus, DataSource, column, dataset_corpus
from lmeval.errors import InputNotFound, TaskFileError, first_line
from lmeval.resources import data_folder

ROLLING = "loglikelihood_rolling"
SPLITS = ("test_split", "validation_split", "training_split")  # the first that is given is scored, as the harness does
KEYS = frozenset(
    {
        "task",
        "task_alias",
        "tag",
        "include",
        "dataset_path",
        "dataset_name",
        "dataset_kwargs",
        *SPLITS,
        "output_type",
        "doc_to_text",
        "doc_to_target",
        "metric_list",
        "metadata",
        # accepted because many files carry them; they change nothing in the harness either
        "should_decontaminate",
        "doc_to_decontamination_query",
    }
)
METRICS = frozenset({"word_perplexity", "byte_perplexity", "bits_per_byte"})


class RollingTask(NamedTuple):
    """A named corpus: where its rows are, and the text of a row."""

    name: str
    source: DataSource
    text: Callable[[Mapping[str, Any]], str]


class _Loader(yaml.SafeLoader):
    """SafeLoader whose only implicit booleans are true and false, in YAML 1.2's spelling."""


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
    return shipped if not path.exists() and shipped.is_file() else None


def read_rolling_task(path: Path) -> RollingTask:
    """Read a `loglikelihood_rolling` task file. Raises TaskFileError with file and line."""
    keys = _read_keys(path, seen=())
    if keys.get("output_type") != ROLLING:
        raise TaskFileError(
            f"{path}: output_type is {keys.get('output_type')!r}, and only {ROLLING} names a corpus to score"
        )
    _check_types(keys, path)
    for name in ("dataset_path", "doc_to_target"):
        if not isinstance(keys.get(name), str):
            raise TaskFileError(f"{path}: key '{name}' must be given, as text")
    if keys.get("doc_to_text") not in (None, ""):
        raise TaskFileError(f"{path}: doc_to_text must be empty for {ROLLING}: the whole text is the target")
    for entry in keys.get("metric_list") or []:
        metric = entry.get("metric") if isinstance(entry, dict) else entry
        if metric not in METRICS:
            raise TaskFileError(f"{path}: unknown metric {metric!r} in metric_list{_nearest(str(metric), METRICS)}")
    split = next((keys[name] for name in SPLITS if keys.get(name)), None)
    if split is None:
        raise TaskFileError(f"{path}: none of {', '.join(SPLITS)} is given: say which split to score")
    kwargs = dict(keys.get("dataset_kwargs") or {})
    files = _data_files(kwargs.pop("data_files", ()), split, path)
    source = DataSource(keys["dataset_path"], keys.get("dataset_name"), split if not files else "train", files, kwargs)
    return RollingTask(str(keys.get("task", path.stem)), source, _template(keys["doc_to_target"], path))


def _check_types(keys: dict[str, Any], path: Path) -> None:
    kinds: dict[str, tuple[type, str]] = {"metric_list": (list, "a list"), "dataset_kwargs": (dict, "a mapping")}
    kinds |= dict.fromkeys(("dataset_name", *SPLITS), (str, "text"))
    for name, (kind, description) in kinds.items():
        if keys.get(name) is not None and not isinstance(keys[name], kind):
            raise TaskFileError(f"{path}: key '{name}' must be {description}, not {keys[name]!r:.60}")


def task_corpus(task: RollingTask) -> Corpus:
    """The documents that a task names."""
    return replace(dataset_corpus(task.source, task.text), sources=(task.name,))


def _read_keys(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's keys over those of the file that it includes."""
    if path.resolve() in seen:
        raise TaskFileError(f"{path}: includes itself")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputNotFound(f"no such task file: {path}") from error
    except UnicodeDecodeError as error:
        raise TaskFileError(f"{path}: not UTF-8 text: {error.reason} at offset {error.start}") from error
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        _check_node(node, path)
        keys = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise TaskFileError(f"{path}:{line} {getattr(error, 'problem', None) or first_line(error)}") from error
    finally:
        loader.dispose()
    if "include" in keys:
        base = _read_keys(path.parent / str(keys.pop("include")), (*seen, path.resolve()))
        keys = {**base, **keys}
    return keys


def _check_node(node: yaml.Node | None, path: Path) -> None:
    if not isinstance(node, yaml.MappingNode):
        raise TaskFileError(f"{path}: not a task file: a task file is a YAML mapping with keys such as task, dataset_path")
    seen = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise TaskFileError(f"{path}: line {line}: a key must be a word")
        if key.value in seen:
            raise TaskFileError(f"{path}: line {line}: key '{key.value}' is given twice")
        seen.add(key.value)
        if key.value not in KEYS:
            raise TaskFileError(f"{path}: line {line}: unknown key '{key.value}'{_nearest(key.value, KEYS)}")
    _refuse_code(node, path, seen={}, above=())


def _refuse_code(node: yaml.Node, path: Path, seen: dict[int, None], above: tuple[int, ...]) -> None:
    """Refuse tags that would run code, and nodes that hold themselves. `seen` spares an alias a second visit."""
    if id(node) in above:
        raise TaskFileError(f"{path}: line {node.start_mark.line + 1}: an alias refers to the value that holds it")
    if id(node) in seen:
        return
    seen[id(node)] = None
    above = (*above, id(node))
    if node.tag.startswith("!"):
        line = node.start_mark.line + 1
        raise TaskFileError(
            f"{path}: line {line}: {node.tag} would run code from this file's folder: write a template instead"
        )
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for child in pair:
                _refuse_code(child, path, seen, above)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_code(child, path, seen, above)


def _nearest(name: str, known: frozenset[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1)
    return f" (did you mean '{close[0]}'?)" if close else f": known are {', '.join(sorted(known))}"


def _data_files(files: Any, split: str, path: Path) -> tuple[str, ...]:
    """Local files of the split that is scored, looked for beside the task file first."""
    if isinstance(files, dict):
        if split not in files:
            raise TaskFileError(f"{path}: data_files has no entry for the split '{split}': it has {', '.join(files)}")
        files = files[split]
    names = [files] if isinstance(files, str) else files
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise TaskFileError(f"{path}: data_files must be a file name, a list of them, or a mapping from splits to them")
    beside = [path.parent / name for name in names]
    return tuple(str(b) if b.exists() else name for b, name in zip(beside, names, strict=True))


def _template(target: str, path: Path) -> Callable[[Mapping[str, Any]], str]:
    """A field's name, or a Jinja template over the row's fields, rendered in a sandbox."""
    if "{{" not in target and "{%" not in target:
        return column(target)
    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    try:
        template = environment.from_string(target)
    except jinja2.TemplateSyntaxError as error:
        raise TaskFileError(f"{path}: doc_to_target is no template: {error.message}") from error

    def render(row: Mapping[str, Any]) -> str:
        try:
            return template.render(**row)
        except Exception as error:  # a template can fail in as many ways as an expression
            raise InputNotFound(f"doc_to_target of {path} does not fit it: {first_line(error)}") from error

    return render
