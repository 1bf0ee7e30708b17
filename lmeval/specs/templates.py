"""Templates of task files: Jinja over the fields of a row, in a sandbox, as lm-evaluation-harness writes them.

A template is a field's name (its value is taken as it is) or text with Jinja expressions. A field that a row lacks is an
error, never an empty string. The sandbox lets a template read its row and nothing else: no attributes with underscores, no
imports, no calls that change what they are called on.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import jinja2.sandbox

from lmeval.errors import InputNotFound, TaskFileError, first_line
from lmeval.messages import names, nearest

Row = Mapping[str, Any]


def _regex_replace(text: str, pattern: str, repl: str, count: int = 0) -> str:
    return re.sub(pattern, repl, text, count=count)


def _shown(result: Any) -> Any:
    """What an expression may leave in a text: a missing value (null, an empty cell) would be written as the word "None"."""
    if result is None:
        raise jinja2.UndefinedError("an expression gives None, a missing value (write {{ field or '' }} where it may be)")
    return result


_ENVIRONMENT = jinja2.sandbox.ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=_shown
)
_ENVIRONMENT.filters["regex_replace"] = _regex_replace  # the one filter that the harness adds to Jinja's own


def has_expressions(source: str) -> bool:
    """Whether the text is a template and not a plain word.

    >>> has_expressions("{{question}}"), has_expressions("question")
    (True, False)
    """
    return "{{" in source or "{%" in source or "{#" in source


@functools.lru_cache(maxsize=512)
def _compiled(source: str) -> jinja2.Template:
    return _ENVIRONMENT.from_string(source)


def check_template(source: str, where: str) -> None:
    """Raise TaskFileError, with the line inside the template, for what Jinja cannot parse. `where` names key and file."""
    try:
        _compiled(source)
    except jinja2.TemplateSyntaxError as error:
        raise TaskFileError(f"{where} is no template: {first_line(error)} (line {error.lineno} of it)") from error
    except Exception as error:  # what Jinja makes of it is no Python: nested too deeply, a number of too many digits
        raise TaskFileError(f"{where} is no template: {type(error).__name__}: {first_line(error)}") from error


def render(source: str, row: Row, where: str) -> str:
    """The template filled in with the row's fields. Raises InputNotFound, which names `where` and the fields there are."""
    try:
        return _compiled(source).render(dict(row))
    except jinja2.UndefinedError as error:
        raise InputNotFound(f"{where}: {first_line(error)}: the row has {names(row)}") from error
    except Exception as error:  # a template can fail in as many ways as an expression
        raise InputNotFound(f"{where}: {first_line(error)}") from error


def value(source: str, row: Row, where: str) -> Any:
    """A field's value where `source` names one, else the rendered template.

    A single word that is no field is refused: it is nearly always a field's name misspelt.
    """
    if source in row:
        return row[source]
    if source.isidentifier() and not has_expressions(source):
        raise InputNotFound(f"{where}: no column '{source}'{nearest(source, map(str, row))}")
    return render(source, row, where)


def text_of_row(source: str, where: str) -> Callable[[Row], str]:
    """A reader of one text of a row, with the template checked at once."""
    check_template(source, where)

    def read(row: Row) -> str:
        text = value(source, row, where)
        if not isinstance(text, str):
            raise InputNotFound(f"{where}: {source!r} holds {type(text).__name__}, not text: name a text column")
        return text

    return read
