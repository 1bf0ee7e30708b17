"""Templates read their row and nothing else, and whatever is wrong with one is an error of ours in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmeval.errors import InputNotFound, LmevalError, TaskFileError
from lmeval.specs.templates import check_template, has_expressions, render, text_of_row, value

ROW = {"text": "ab", "n": 3, "list": ["x", "y"], "self": "me", "empty": "", "none": None}
WHERE = "task.yaml: line 3: doc_to_text"


def one_line_of(error: BaseException) -> str:
    message = str(error)
    assert message.startswith(WHERE)
    assert message.splitlines() == [message]
    return message


def rendered(source: str, row: dict[str, object] = ROW) -> str:
    check_template(source, WHERE)
    return render(source, row, WHERE)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{{text}}", "ab"),
        ("{{text}}\n", "ab\n"),  # as the harness: a newline at the end stays
        ("{{text|upper}} {{n + 1}} {{list[1]}}", "AB 4 y"),
        ("{% for x in list %}{{loop.index}}{{x}}{% endfor %}", "1x2y"),
        ("{{text|regex_replace('a', 'o')}}", "ob"),
        ("{{list}}", "['x', 'y']"),
        ("{# nothing #}{{none is none}}", "True"),
        ("{{ '{{text}}' }}", "{{text}}"),  # what is rendered is not rendered again
    ],
)
def test_a_template_is_filled_in(source: str, expected: str):
    assert rendered(source) == expected


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_what_a_row_holds_is_text_and_never_a_template(text: str):
    assert rendered("{{text}}", {"text": text}) == text
    assert value("text", {"text": text}, WHERE) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__ }}",
        "{{ text.__class__.__mro__[1].__subclasses__() }}",
        "{{ (text|attr('__class__')).__mro__ }}",
        "{{ text['__class__'] }}{{ text['__cla' ~ 'ss__'].__base__ }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ '{0.__class__}'.format_map({'0': text}) }}",
        "{{ list.append('z') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ range(999999999) }}",
        "{{ range(10**12)|list }}",
        "{% import 'os' as os %}",
        "{% from 'os' import system %}",
        "{% include '/etc/passwd' %}",
        "{% extends '/etc/passwd' %}",
        "{{ open('/etc/passwd') }}",
        "{{ __import__('os') }}",
        "{{ absent }}",
        "{{ n.absent }}",
        "{{ 1 / 0 }}",
        "{{ n + text }}",
        "{{ text|regex_replace('(', '') }}",
        "{{ none.x }}",
    ],
)
def test_nothing_but_the_row_can_be_reached(source: str):
    with pytest.raises(InputNotFound) as caught:
        rendered(source)
    one_line_of(caught.value)
    assert ROW["list"] == ["x", "y"]


@pytest.mark.parametrize(
    "source",
    [
        "{{ text",
        "{% if %}",
        "{{ text | no_such_filter }}",
        "{% for x in list %}",
        "{{ " + "(" * 3000 + ")" * 3000 + " }}",
        "{{ " + "9" * 5000 + " }}",
        "{% for x in list %}" * 30 + "{% endfor %}" * 30,
        "{{ " + "-" * 5000 + "1 }}",
    ],
    ids=lambda source: source[:20],
)
def test_what_is_no_template_is_refused_at_once(source: str):
    with pytest.raises(TaskFileError, match="is no template") as caught:
        check_template(source, WHERE)
    one_line_of(caught.value)


ATOMS = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "text",
    "n",
    "list",
    ".",
    "|",
    "(",
    ")",
    "[",
    "]",
    "'",
    "1",
    "+",
    " if ",
    " in ",
]
ATOMS += [
    "for x in list",
    "endfor",
    "set n = 2",
    "__class__",
    "~",
    "-",
    "\n",
    "lower",
    "é",
    "**",
    ":",
    ",",
    "%",
    "raw",
    "self",
]


@given(source=st.lists(st.sampled_from(ATOMS), max_size=14).map("".join))
def test_any_source_gives_text_or_an_error_of_ours(source: str):
    try:
        assert isinstance(rendered(source), str)
    except LmevalError as error:
        one_line_of(error)


def test_a_field_is_taken_as_it_is():  # and a column may have any name, also "self", which is Jinja's
    for name, expected in ROW.items():
        assert value(name, ROW, WHERE) is expected
    assert value("two words", ROW, WHERE) == "two words"
    assert value("", {}, WHERE) == ""
    assert value("a field {{x}}", {"a field {{x}}": 5}, WHERE) == 5


def test_a_word_that_is_no_field_is_taken_for_a_misspelt_one():
    with pytest.raises(InputNotFound, match=r"no column 'txet' \(did you mean 'text'\?\)"):
        value("txet", ROW, WHERE)
    with pytest.raises(InputNotFound, match="no column 'zzzz': known are empty, list, n, none, self, text") as caught:
        value("zzzz", ROW, WHERE)
    one_line_of(caught.value)


def test_names_that_would_break_the_line_are_quoted():
    with pytest.raises(InputNotFound) as caught:
        value("zzzz", {"a\nb": 1, "c": 2}, WHERE)
    assert "'a\\nb'" in one_line_of(caught.value)
    with pytest.raises(InputNotFound) as caught:
        rendered("{{q}}", {"a\nb": 1})
    assert "'a\\nb'" in one_line_of(caught.value)


def test_a_missing_field_tells_what_the_row_has():
    with pytest.raises(InputNotFound, match="'q' is undefined: the row has text, n"):
        render("{{q}}", {"text": "", "n": 1}, WHERE)
    with pytest.raises(InputNotFound, match="the row has no fields"):
        render("{{q}}", {}, WHERE)


def test_a_text_must_be_text():
    assert text_of_row("{{n}}", WHERE)(ROW) == "3"
    with pytest.raises(InputNotFound, match="'n' holds int, not text"):
        text_of_row("n", WHERE)(ROW)
    with pytest.raises(TaskFileError):
        text_of_row("{{", WHERE)


@pytest.mark.parametrize("source", ["{{x}}", "{% if x %}{% endif %}", "{# x #}"])
def test_an_expression_is_known_by_its_marks(source: str):
    assert has_expressions(source)
    assert not has_expressions(source.replace("{", "").replace("}", ""))


@pytest.mark.parametrize("source", ["{{q}}", "{{q}} {{other}}", "{{ none }}", "{% if other %}{{q}}{% endif %}"])
def test_a_missing_value_is_no_word(source: str):
    """A null field, or an empty cell of a CSV file, would be written as "None" and scored."""
    with pytest.raises(LmevalError, match="None"):
        check_template(source, "here")
        render(source, {"q": None, "other": "x"}, "here")
    assert render("{{ q or '' }}{{ 'x' if q is none }}", {"q": None}, "here") == "x"
