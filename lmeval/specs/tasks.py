"""Task files: YAML in lm-evaluation-harness's own key names.

`read_keys` gives the keys of a file over those of the file that it includes, each with file and line. `TASK` is the table of
all keys: those that stand for text stay as they are written, others are ignored on purpose, or refused with a reason.
`!function module.name` runs Python from beside the file and is refused unless the caller allows it. Our own keys lie in
`metadata: {lmeval: {...}}`, which the harness ignores: a file of ours loads there too.
"""

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmeval.data.documents import Corpus, DataSource, dataset_corpus
from lmeval.data.locate import exists, find_in
from lmeval.errors import InputNotFound, TaskFileError, first_line
from lmeval.messages import names, nearest
from lmeval.specs.keys import ANY_TEXT, ANYTHING, LIST, MAPPING, WRITTEN, Key, Keys, mapping, refused, whole
from lmeval.specs.reader import Constructor, FileKind, Node, read_file
from lmeval.specs.templates import text_of_row

ROLLING, CHOICE, LIKELIHOOD = "loglikelihood_rolling", "multiple_choice", "loglikelihood"
SPLITS = ("test_split", "validation_split", "training_split")  # the first that is given is scored, as the harness does
ROLLING_METRICS = frozenset({"word_perplexity", "byte_perplexity", "bits_per_byte"})
TASK_FILE = FileKind("task file", ("task", "dataset_path"), TaskFileError)

_AS_WRITTEN = ANYTHING._replace(as_written=True)  # text, a list of texts, a mapping, or a function
# How a row is shown: keys of the file, and of its few-shot examples where they are shown otherwise.
_TEMPLATE: Keys = {
    **dict.fromkeys(("doc_to_text", "doc_to_target", "doc_to_choice"), _AS_WRITTEN),
    **dict.fromkeys(("gen_prefix", "target_delimiter", "fewshot_delimiter"), WRITTEN),
}
_SHOTS: Keys = _TEMPLATE | {
    "sampler": ANY_TEXT,
    "split": WRITTEN,
    **dict.fromkeys(("process_docs", "fewshot_indices", "samples"), ANYTHING),
}
_METRIC: Keys = dict.fromkeys(
    ("metric", "aggregation", "higher_is_better", "hf_evaluate", "ignore_case", "ignore_punctuation"), ANYTHING
)
# Many files carry them, and they change no number here or in the harness.
_IGNORED: Keys = dict.fromkeys(
    ("task_alias", "tag", "should_decontaminate", "doc_to_decontamination_query", "generation_kwargs"), ANYTHING
)
_COMMON: Keys = (
    _TEMPLATE
    | _IGNORED
    | dict.fromkeys(("task", "dataset_path", "dataset_name", *SPLITS, "fewshot_split", "description"), WRITTEN)
    | {
        "output_type": ANY_TEXT,
        "dataset_kwargs": MAPPING,
        "process_docs": ANYTHING,
        "num_fewshot": whole(0),
        "fewshot_config": mapping(_SHOTS),
        "metric_list": LIST._replace(each=ANYTHING._replace(keys=_METRIC)),
        "filter_list": LIST,
        "repeats": Key(lambda value: value == 1, "1", lambda value: ": a probability is the same every time"),
        "unsafe_code": Key(
            lambda value: value is False, "false", lambda value: ": tasks that run a model's code are not run here"
        ),
    }
)
OWN: Keys = {"cluster": WRITTEN, "neutral": LIST, "unconditional": WRITTEN}
"""Keys of `metadata: {lmeval: ...}` that its block of local files may give anew."""
_LOCAL: Keys = _COMMON | OWN | {"data_files": MAPPING, "filter": MAPPING}
TASK: Keys = _COMMON | {
    "include": ANYTHING,
    "metadata": mapping({"lmeval": mapping(OWN | {"local": mapping(_LOCAL), "sampler": ANY_TEXT})}, others=True),
    "process_results": refused("metrics that are code of the file's own are not run here"),
    "use_prompt": refused("promptsource is not read here: write its template out as doc_to_text"),
    "custom_dataset": refused("data sets that are code are not run here: write a JSON or parquet file"),
    **dict.fromkeys(("doc_to_image", "doc_to_audio"), refused("only text is scored here")),
    "likelihood": refused("it compares densities: lmeval likelihood reads such files"),
    "group": refused("a group is a list of tasks: name its tasks one by one"),
}

TaskKeys = Node
"""The keys of a task file over those of the files that it includes; `places` tells for each the file where it stands."""


class RollingTask(NamedTuple):
    """A named corpus: where its rows are, and the text of a row. `files` are the task file and those that it includes."""

    name: str
    source: DataSource
    text: Callable[[Mapping[str, Any]], str]
    files: tuple[str, ...] = ()


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


def _read(path: Path, above: tuple[Path, ...], allow_code: bool) -> TaskKeys:
    """The file's keys over those of the file that it includes. `above` are the files that include it."""
    keys = read_file(path, TASK_FILE, TASK, {"!function": _function(path, allow_code)})
    if path.resolve() in above:
        raise TaskFileError(f"{path}: includes itself")
    if "include" not in keys.values:
        return keys
    values = dict(keys.values)
    listed = values.pop("include")
    keys = keys._replace(values=values)
    for name in listed if isinstance(listed, list) else [listed]:  # the first of several has its way
        if not isinstance(name, str):
            raise TaskFileError(f"{keys.where('include')} must name a task file or list several, not {name!r:.60}")
        try:
            base = _read(path.parent / name, (*above, path.resolve()), allow_code)
        except InputNotFound as error:
            raise InputNotFound(f"{keys.where('include')}: {error}") from None
        keys = keys._replace(
            values={**base.values, **keys.values}, places={**base.places, **keys.places}, files=keys.files + base.files
        )
    return keys


def _function(path: Path, allow_code: bool) -> Constructor:
    """What `!function module.name` stands for: `name` of module.py in the task file's folder."""

    def construct(loader: yaml.SafeLoader, node: yaml.Node) -> Any:
        line = f"{path}: line {node.start_mark.line + 1}: !function"
        if not allow_code:
            raise TaskFileError(
                f"{line} would run code from this file's folder: write a template instead, or allow it with --allow-code if "
                "you trust the file"
            )
        if not isinstance(node, yaml.ScalarNode):
            raise TaskFileError(f"{line} takes module.name")
        *parts, name = str(loader.construct_scalar(node)).split(".")
        where = f"{line} {node.value}"
        if not parts or not parts[-1]:
            raise TaskFileError(f"{where}: give it as module.name")
        file = path.parent.joinpath(*parts).with_suffix(".py")
        spec = importlib.util.spec_from_file_location(f"lmeval_task_{file.stem}", file) if exists(file) else None
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
    return tuple(str(find_in([keys.path.parent], name) or name) for name in listed)
