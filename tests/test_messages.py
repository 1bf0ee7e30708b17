from lmeval.messages import names, nearest, shown


def test_names_that_would_break_the_line_are_quoted():
    assert shown("a b") == "a b"
    assert shown("a\nb") == "'a\\nb'"
    assert names({"a\nb": 1, "c": 2}) == "'a\\nb', c"
    assert nearest("\n", ["a", "\nb"]) == ": known are '\\nb', a"


def test_no_fields_are_called_so():
    assert names({}) == "no fields"
    assert nearest("a", []) == ": known are none"
