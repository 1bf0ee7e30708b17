"""Rows -> the texts that a model is asked about: a context and its possible continuations.

The text is lm-evaluation-harness's (0.4.13), character for character:

    description + shot + shot + ... + question            context
    delimiter + choice                                    continuation, one for each choice

where a shot is its question + target_delimiter + answer + fewshot_delimiter. A doc_to_text that gives a number makes the
choices part of the context (Winogrande): each choice is then a question of its own, and the target is the continuation.
"""

import ast
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lmeval.data.rows import Row
from lmeval.errors import InputError, first_line
from lmeval.messages import shown
from lmeval.prompting.task import Field, Task, Template
from lmeval.specs.tasks import CHOICE
from lmeval.specs.templates import render, value


class Question(NamedTuple):
    """A row as a template shows it.

    `texts` is one context, or one for each choice where the choices are inside the context; `choices` the choices' own
    texts (for a `loglikelihood` task: the one target); `continuations` what follows each, without delimiter; `gold` the
    indices of the right choices; `answer` what follows the text in a few-shot example.
    """

    texts: tuple[str, ...]
    choices: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: tuple[int, ...]
    answer: str
    prefix: str

    @property
    def inside(self) -> bool:
        """Whether the choices are inside the context, so that each has a context of its own."""
        return len(self.texts) > 1


class Prompt(NamedTuple):
    """One item ready to be scored: `contexts` and `continuations` [choices], the texts that the model sees."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    choices: tuple[str, ...]
    gold: tuple[int, ...]


def question(task: Task, template: Template, row: Row) -> Question:
    """Show a row. Raises InputError that names task file, key and item for whatever does not fit."""
    fields, where = row.fields, _Where(template, row)
    choices = _choices(template, fields, where) if template.choices is not None else None
    text = _take(template.text, fields, where("doc_to_text"))
    if choices is not None and _is_template(template.text, fields) and _is_number(text):
        text = int(text)
    target = _take(template.target, fields, where("doc_to_target"))
    if template.prefix is None:
        prefix = ""
    else:
        prefix = _text(value(template.prefix, fields, where("gen_prefix")), where("gen_prefix"))
    if isinstance(text, int) and choices is not None:
        gold = _index(text, choices, where("doc_to_text"))
        continuation = _text(target, where("doc_to_target"))
        if not continuation:
            raise InputError(f"{where('doc_to_target')}: the target is empty: there is nothing to score")
        return Question(choices, choices, (continuation,) * len(choices), (gold,), continuation, prefix)
    text = _text(text, where("doc_to_text"))
    if _is_template(template.target, fields):
        target = _literal(target, choices)
    if task.output_type == CHOICE and choices is not None:
        listed = target if isinstance(target, list) else [target]
        gold = tuple(_index(one, choices, where("doc_to_target")) for one in listed)
        if not gold:
            raise InputError(f"{where('doc_to_target')}: no right choice is given")
        return Question((text,), choices, choices, gold, choices[gold[0]], prefix)
    if isinstance(target, list) and target:
        target = target[0]
    target = _text(target, where("doc_to_target"))
    if not target:
        raise InputError(f"{where('doc_to_target')}: the target is empty: there is nothing to score")
    return Question((text,), (target,), (target,), (0,), target, prefix)


def shot_text(task: Task, example: Question) -> str:
    """A few-shot example as it stands in a prompt."""
    template = task.shots.template
    shown = example.texts[0] if not example.inside else example.texts[example.gold[0]]
    if not example.answer:
        return _with_prefix(shown, example.prefix, template.target_delimiter)
    if example.prefix:
        gap = " " if _needs_space(example.prefix, example.answer) else ""
        shown = _with_prefix(shown, example.prefix, template.target_delimiter)
        return shown + gap + example.answer + template.fewshot_delimiter
    return shown + template.target_delimiter + example.answer + template.fewshot_delimiter


def prompt(task: Task, item: Question, head: str) -> Prompt:
    """A question after `head`, the description and the few-shot examples.

    Args:
        task: The task that both are of.
        item: The question.
        head: The text before it.
    """
    delimiter = task.template.target_delimiter
    texts = (_with_prefix(text, item.prefix, "" if item.inside else delimiter) for text in item.texts)
    contexts = tuple(head + text for text in texts)
    joint = delimiter if task.output_type == CHOICE else ""
    continuations = tuple(joint + continuation for continuation in item.continuations)
    return Prompt(contexts if item.inside else contexts * len(continuations), continuations, item.choices, item.gold)


def description(task: Task, row: Row) -> str:
    """The task's description, filled in with the item's fields."""
    if not task.description:
        return ""
    where = f"{task.path}: description for item {row.id} (row {row.number})"
    if task.description in row.fields:
        text = row.fields[task.description]
        return "" if text is None else _text(text, where)
    return render(task.description, row.fields, where)


def _with_prefix(text: str, prefix: str, delimiter: str) -> str:
    return text + (delimiter if prefix and _needs_space(text, prefix) else "") + prefix


def _needs_space(left: str, right: str) -> bool:
    """Whether both sides have text and neither has white space where they meet."""
    return bool(left) and bool(right) and not (left[-1].isspace() or right[0].isspace())


class _Where(NamedTuple):
    """Names a key, its place and the item, for messages."""

    template: Template
    row: Row

    def __call__(self, key: str) -> str:
        return f"{self.template.where[key]} for item {self.row.id} (row {self.row.number})"


def _take(field: Field, fields: Mapping[str, Any], where: str) -> Any:
    """What a key makes of a row: a field's value, a rendered template, a literal, or a function's result."""
    if isinstance(field, str):
        return value(field, fields, where) if field else ""
    if callable(field):
        try:
            return field(fields)
        except Exception as error:  # the task's own code
            raise InputError(f"{where}: its function failed: {type(error).__name__}: {first_line(error)}") from error
    return field


def _is_template(field: Field, fields: Mapping[str, Any]) -> bool:
    """Whether what a key gives was rendered: then the harness reads digits and lists out of it, from fields it does not."""
    return isinstance(field, str) and field not in fields


def _is_number(text: Any) -> bool:
    """Whether text is digits, of an index at most: thousands of them are no number that Python reads."""
    return isinstance(text, str) and text.isdecimal() and len(text) < 19


def _parse(text: str) -> Any:
    """The Python literal that the text is. Raises ValueError for text that is none."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(first_line(error)) from error


def _literal(rendered: Any, choices: tuple[str, ...] | None) -> Any:
    """What a template rendered: digits are an index where there are choices, [...] is a list of right ones."""
    if not isinstance(rendered, str):
        return rendered
    if choices is not None and _is_number(rendered):
        return int(rendered)
    if len(rendered) > 1 and rendered[0] == "[" and rendered[-1] == "]":
        try:
            listed = _parse(rendered)
        except ValueError:
            return rendered
        return listed if isinstance(listed, list) else rendered
    return rendered


def _choices(template: Template, fields: Mapping[str, Any], where: "_Where") -> tuple[str, ...]:
    listed = _take(template.choices or "", fields, where("doc_to_choice"))
    if isinstance(listed, str):
        try:
            listed = _parse(listed)
        except ValueError as error:
            raise InputError(f"{where('doc_to_choice')} gives {listed!r:.60}, which is no list of texts") from error
    if isinstance(listed, Mapping):
        listed = list(listed.values())
    if not isinstance(listed, Sequence) or isinstance(listed, str) or len(listed) < 1:
        raise InputError(f"{where('doc_to_choice')} gives {listed!r:.60}, which is no list of texts")
    odd = next((i for i, choice in enumerate(listed) if not isinstance(choice, str | int | float)), None)
    if odd is not None:
        raise InputError(f"{where('doc_to_choice')}: choice {odd} is {type(listed[odd]).__name__}, not text")
    choices = tuple(choice if isinstance(choice, str) else str(choice) for choice in listed)
    if not all(choices):
        raise InputError(f"{where('doc_to_choice')}: choice {choices.index('')} is empty: there is nothing to score")
    return choices


def _index(label: Any, choices: tuple[str, ...], where: str) -> int:
    """The index of the right choice, given as a number or as the choice's text."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, int) and 0 <= label < len(choices):
        return int(label)
    if isinstance(label, str) and label in choices:
        return choices.index(label)
    hidden = ": the labels of this split may be hidden" if label in (-1, "-1") else ""
    listed = ", ".join(map(shown, choices))
    raise InputError(f"{where}: label {label!r:.60} is none of the {len(choices)} choices ({listed:.80}){hidden}")


def _text(given: Any, where: str) -> str:
    """What a key gave, as text. Raises InputError where it is neither text nor a number."""
    if isinstance(given, str):
        return given
    if isinstance(given, int | float):
        return str(given)
    raise InputError(f"{where} gives {type(given).__name__}, not text")
