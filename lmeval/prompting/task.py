"""A prompted task: what its file says, checked and with everything filled in. Nothing here reads data or runs a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lmeval.data.documents import DATA_SUFFIXES, DataSource
from lmeval.data.locate import named_spec, shipped_specs
from lmeval.errors import InputNotFound, TaskFileError, first_line
from lmeval.messages import nearest, shown
from lmeval.specs.tasks import CHOICE, LIKELIHOOD, OWN, SPLITS, TaskKeys, data_source, read_keys, scored_split
from lmeval.specs.templates import check_template

Field = str | int | Sequence[str] | Mapping[str, str] | Callable[[Mapping[str, Any]], Any]
"""How a row becomes text, target or choices: a field's name, a template, literal values, or a function of the row."""

MEASURES = ("f1", "mcc", "brier_score", "exact_match", "perplexity")  # that a task may name, beside every rule's accuracy
_LOCAL_SUFFIXES = {suffix: DATA_SUFFIXES[suffix] for suffix in (".jsonl", ".json", ".csv", ".parquet")}
STRATEGIES = ("auto", "tree", "plain")
Sampler = Literal["default", "fixed", "balanced", "first_n"]
SAMPLERS: Mapping[str, str] = {
    "default": "drawn for each item by seed and item",
    "fixed": "drawn once by the seed, the same for all items",
    "balanced": "drawn for each item, the labels equally often",
    "first_n": "the first rows of the split, the same for all items",
}


class Template(NamedTuple):
    """How a row is shown: text, target and choices, with delimiters. `where` tells the place of each key in its file."""

    text: Field
    target: Field
    choices: Field | None
    prefix: str | None
    target_delimiter: str
    fewshot_delimiter: str
    where: Mapping[str, str]


class Shots(NamedTuple):
    """Where few-shot examples come from: rows given in the file, or a split (None: there is none)."""

    sampler: Sampler
    source: DataSource | None
    split: str | None
    samples: Sequence[Mapping[str, Any]] | None
    indices: Sequence[int] | None
    process: Callable[[Any], Any] | None
    template: Template


@dataclass(frozen=True)
class Task:
    """A task of `multiple_choice` or `loglikelihood` requests.

    `keep` maps a split to the field values that a row must have. `cluster` (a field or template) names the cluster of an
    item; `neutral` lists content-free replacements of fields for contextual calibration; `unconditional` is the context
    that stands for no question at all in PMI scores, None where the task does not say. `local_files` could be read instead
    of the hub's data set, if their folder were named. `files` are the task file and those that it includes.
    """

    name: str
    path: Path
    output_type: str
    source: DataSource
    split: str
    process: Callable[[Any], Any] | None
    keep: Mapping[str, Mapping[str, Any]]
    template: Template
    description: str
    n_shots: int
    shots: Shots
    metrics: tuple[str, ...]
    cluster: str | None
    neutral: tuple[Mapping[str, Any], ...]
    unconditional: str | None
    version: str
    local_files: tuple[str, ...]
    files: tuple[str, ...]


def task_path(task: str | Path) -> Path:
    """The file of a task.

    Args:
        task: Its path, or the name of one that ships.

    Raises:
        InputNotFound: There is none of that name.
    """
    return named_spec(str(task), "task", shipped_specs())


def read_task(path: Path, *, data_folder: Path | None = None, allow_code: bool = False) -> Task:
    """Read a task file.

    Args:
        path: The file.
        data_folder: Where a task that names local files (`metadata.lmeval.local`) reads them; None takes the hub's data set.
        allow_code: Whether the functions that it names by `!function` are loaded.

    Raises:
        TaskFileError: The file is wrong; the message has file and line.
        InputNotFound: A file is not there.
    """
    return task_of(read_keys(path, allow_code=allow_code), data_folder)


def task_of(keys: TaskKeys, data_folder: Path | None = None) -> Task:
    """The task that the keys of a file describe. See `read_task`."""
    ours = dict((keys.values.get("metadata") or {}).get("lmeval") or {})
    keep: Mapping[str, Mapping[str, Any]] = {}
    if data_folder is not None and "local" in ours:
        keys, ours, keep = _local(keys, ours, data_folder)
    values = keys.values
    kind = values.get("output_type")
    if kind not in (CHOICE, LIKELIHOOD):
        raise TaskFileError(
            f"{keys.where('output_type')} is {kind!r}: scored here are {CHOICE}, {LIKELIHOOD} and loglikelihood_rolling; "
            "tasks that generate text are not"
        )
    for name in ("dataset_path", "doc_to_target") + (("doc_to_choice",) if kind == CHOICE else ()):
        if values.get(name) is None:
            raise TaskFileError(f"{keys.path}: key '{name}' must be given for {kind}")
    split = scored_split(keys)
    template = _template(keys, values, None)
    _check_filters(keys)
    return Task(
        name=str(values.get("task") or keys.path.stem),
        path=keys.path,
        output_type=kind,
        source=data_source(keys, split),
        split=split,
        process=_process(keys, values.get("process_docs"), "process_docs"),
        keep=keep,
        template=template,
        description=_checked(values.get("description") or "", keys.where("description")),
        n_shots=values.get("num_fewshot") or 0,
        shots=_shots(keys, template, ours),
        metrics=_metrics(keys),
        cluster=_optional_text(ours, "cluster", keys),
        neutral=_neutral(ours, keys),
        unconditional=_optional_text(ours, "unconditional", keys),
        version=str((values.get("metadata") or {}).get("version", "")),
        local_files=_files_elsewhere(ours) if data_folder is None else (),
        files=keys.files,
    )


def _files_elsewhere(ours: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the local files that would do instead of the hub's data set."""
    files = (ours.get("local") or {}).get("data_files") or {}
    return tuple(dict.fromkeys(str(name) for name in files.values()))


def _local(
    keys: TaskKeys, ours: dict[str, Any], folder: Path
) -> tuple[TaskKeys, dict[str, Any], Mapping[str, Mapping[str, Any]]]:
    """The keys with their local block put in: files of `folder` instead of the hub's data set."""
    local = dict(ours["local"])
    files = local.pop("data_files", None)
    if not files or not all(isinstance(name, str) for pair in files.items() for name in pair):
        raise TaskFileError(f"{keys.where('metadata.lmeval.local')}: data_files must map splits to file names")
    if not folder.is_dir():
        raise InputNotFound(f"no folder {folder}: --data-dir (or LMEVAL_DATA) names the folder that holds the task's files")
    paths = {split: folder / name for split, name in files.items()}
    keep = local.pop("filter", None) or {}
    if not all(isinstance(wanted, dict) for wanted in keep.values()):
        raise TaskFileError(f"{keys.where('metadata.lmeval.local.filter')} must give for each split the wanted fields")
    ours = {**ours, **{name: local.pop(name) for name in OWN if name in local}}
    wanted = {s: local.get(s, keys.values.get(s)) for s in (*SPLITS, "fewshot_split")}
    scored = next((wanted[s] for s in SPLITS if wanted[s]), None)
    if scored in paths and not paths[scored].is_file():
        raise InputNotFound(f"{shown(paths[scored])} is not there: {keys.path} reads it for its split {scored!r:.60}")
    present = {split: str(file) for split, file in paths.items() if file.is_file()}
    kept = {s: (v if v in present else None) for s, v in wanted.items() if v}
    builders = {_LOCAL_SUFFIXES.get(file.suffix) for file in paths.values()}
    if len(builders) != 1 or None in builders:
        raise TaskFileError(
            f"{keys.where('metadata.lmeval.local')}: data_files must be .jsonl, .json, .csv or .parquet, all of one kind"
        )
    values = {**keys.values, **local, **kept, "dataset_path": builders.pop(), "dataset_name": None}
    values["dataset_kwargs"] = {"data_files": present}
    above = "metadata.lmeval.local."
    inner = {name.removeprefix(above): place for name, place in keys.places.items() if name.startswith(above)}
    places = {**keys.places, **inner, **{f"metadata.lmeval.{name}": place for name, place in inner.items()}}
    return keys._replace(values=values, places=places), ours, keep


def _template(keys: TaskKeys, values: Mapping[str, Any], parent: Template | None) -> Template:
    """The template of the task, or, with `parent`, that of its few-shot examples, which replaces what it names."""
    above = "" if parent is None else "fewshot_config."

    def field(name: str, default: Any) -> Any:
        given = values.get(name)
        if given is None:
            return default
        where = keys.where(above + name)
        if isinstance(given, str):
            return _checked(given, where)
        if callable(given):
            return given
        if name == "doc_to_choice" and isinstance(given, (list, dict)):
            listed = list(given.values()) if isinstance(given, dict) else given
            if listed and all(isinstance(choice, str) for choice in listed):
                return tuple(listed)
            raise TaskFileError(f"{where} must list texts, not {given!r:.60}")
        raise TaskFileError(f"{where} must be a field's name or a template, not {given!r:.60}")

    names = ("doc_to_text", "doc_to_target", "doc_to_choice", "gen_prefix")
    where = {name: keys.where(above + name if above + name in keys.places else name) for name in names}
    prefix = field("gen_prefix", parent.prefix if parent else None)
    assert prefix is None or isinstance(prefix, str)
    return Template(
        text=field("doc_to_text", parent.text if parent else ""),
        target=field("doc_to_target", parent.target if parent else ""),
        choices=field("doc_to_choice", parent.choices if parent else None),
        prefix=prefix,
        target_delimiter=_default(values.get("target_delimiter"), parent.target_delimiter if parent else " "),
        fewshot_delimiter=_default(values.get("fewshot_delimiter"), parent.fewshot_delimiter if parent else "\n\n"),
        where=where,
    )


def _default(value: str | None, default: str) -> str:
    return default if value is None else value


def _checked(source: str, where: str) -> str:
    check_template(source, where)
    return source


def _shots(keys: TaskKeys, template: Template, ours: Mapping[str, Any]) -> Shots:
    """Few-shot settings. Without a split of their own examples come from training, else validation, else the scored split,
    as in the harness (where the item itself can then be among its examples; here it never is)."""
    values = keys.values
    own = values.get("fewshot_config") or {}
    sampler = ours.get("sampler") or own.get("sampler") or "default"
    if sampler not in SAMPLERS:
        place = keys.where("metadata.lmeval.sampler" if ours.get("sampler") else "fewshot_config.sampler")
        raise TaskFileError(f"{place}: unknown sampler {sampler!r}{nearest(str(sampler), SAMPLERS)}")
    samples, indices = own.get("samples"), own.get("fewshot_indices")
    if callable(samples):
        samples = _call(samples, keys.where("fewshot_config.samples"))
    if samples is not None and not (isinstance(samples, list) and all(map(_is_row, samples))):
        raise TaskFileError(f"{keys.where('fewshot_config.samples')} must be a list of rows")
    if indices is not None and not (isinstance(indices, list) and all(isinstance(i, int) for i in indices)):
        raise TaskFileError(f"{keys.where('fewshot_config.fewshot_indices')} must be a list of row numbers")
    split = own.get("split") or values.get("fewshot_split")
    if split is None and samples is None:
        split = next((values[name] for name in reversed(SPLITS) if values.get(name)), None)
    process = _process(keys, own.get("process_docs") or values.get("process_docs"), "fewshot_config.process_docs")
    source = data_source(keys, split) if split else None
    return Shots(sampler, source, split, samples, indices, process, _template(keys, own, template))


def _process(keys: TaskKeys, given: Any, name: str) -> Callable[[Any], list[dict[str, Any]]] | None:
    """The rows that a function of the task's own makes of a data set."""
    if given is None:
        return None
    if not callable(given):
        raise TaskFileError(f"{keys.where(name)} must be !function module.name, not {given!r:.60}")
    where = keys.where(name if name in keys.places else name.split(".")[-1])
    function: Callable[[Any], Any] = given

    def process(data: Any) -> list[dict[str, Any]]:
        rows = _call(lambda: [dict(row) for row in function(data)], where)
        if not all(map(_is_row, rows)):
            raise TaskFileError(f"{where}: its function gives rows whose columns have names that are not text")
        return rows

    return process


def _call(function: Callable[[], Any], where: str) -> Any:
    try:
        return function()
    except Exception as error:  # the task's own code
        raise TaskFileError(f"{where}: its function failed: {type(error).__name__}: {first_line(error)}") from error


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(isinstance(name, str) for name in row)


def _metrics(keys: TaskKeys) -> tuple[str, ...]:
    """The metrics that a task names: measures, and the accuracies of scoring rules."""
    from lmeval.prompting.rules import RULES  # only here are numbers needed

    known = frozenset({*MEASURES, *(rule.metric for rule in RULES.values())})
    metrics = []
    for entry in keys.values.get("metric_list") or []:
        metric = entry.get("metric") if isinstance(entry, dict) else entry
        if metric is None:
            raise TaskFileError(f"{keys.where('metric_list')}: an entry has no metric{nearest('', known)}")
        if not isinstance(metric, str):
            raise TaskFileError(f"{keys.where('metric_list')}: a metric that is code of the file's own is not run here")
        if metric not in known:
            raise TaskFileError(f"{keys.where('metric_list')}: unknown metric {metric!r}{nearest(metric, known)}")
        metrics.append(metric)
    return tuple(metrics)


def _check_filters(keys: TaskKeys) -> None:
    """Filters post-process generated text; the one that does nothing to scores is let pass."""
    for pipeline in keys.values.get("filter_list") or []:
        steps = pipeline.get("filter") if isinstance(pipeline, dict) else None
        if not isinstance(steps, list) or any(not isinstance(s, dict) or s.get("function") != "take_first" for s in steps):
            raise TaskFileError(f"{keys.where('filter_list')}: filters work on generated text, and none is generated here")


def _optional_text(ours: Mapping[str, Any], name: str, keys: TaskKeys) -> str | None:
    text = ours.get(name)
    return None if text is None else _checked(text, keys.where("metadata.lmeval." + name))


def _neutral(ours: Mapping[str, Any], keys: TaskKeys) -> tuple[Mapping[str, Any], ...]:
    rows = ours.get("neutral") or []
    if not all(row and _is_row(row) for row in rows):
        raise TaskFileError(f"{keys.where('metadata.lmeval.neutral')} must list fields to replace, such as sentence: N/A")
    return tuple(rows)
