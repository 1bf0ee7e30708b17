"""The reader: one dialect, every place, every refusal in one line with file, line, key, and what would be right."""

import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lmeval.errors import DensityError, InputError, InputNotFound, LmevalError, ModelNotFound, TaskFileError
from lmeval.specs.keys import ANYTHING, LIST, TEXT, WRITTEN, Keys, choice, mapping, mappings, needed, real, refused, whole
from lmeval.specs.reader import MAX_BYTES, MAX_VALUES, FileKind, Node, check, has_key, read_file

KIND = FileKind("menu", ("menu", "dishes"), TaskFileError)
DISH = {"name": needed(TEXT), "price": real(0), "hot": choice(["mild", "medium", "sharp"]), "parts": LIST}
KEYS: Keys = {
    "menu": needed(TEXT),
    "table": whole(1, 99),
    "dishes": mappings(DISH),
    "notes": mapping({"cook": TEXT}, others=True),
    "words": WRITTEN,
    "drinks": refused("they have a list of their own"),
    "free": ANYTHING,
}


def read(folder: Path, text: str | bytes, keys: Keys | None = KEYS, **tags: Any) -> Node:
    path = folder / "menu.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_file(path, KIND, keys, tags and {f"!{name}": value for name, value in tags.items()})


def refusal(folder: Path, text: str | bytes, keys: Keys | None = KEYS) -> str:
    """The one line with which a file is refused, without its path."""
    with pytest.raises(TaskFileError) as caught:
        read(folder, text, keys)
    message, path = str(caught.value), str(folder / "menu.yaml")
    assert message.splitlines() == [message]
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:").strip()


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "Yes", "NO", "y", "n", "None", "1e-3", "TRUe"])
def test_words_that_look_like_something_else_are_words(tmp_path: Path, word: str):
    assert read(tmp_path, f"menu: {word}\nfree: [{word}]").values == {"menu": word, "free": [word]}


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("FALSE", False),
        ("1", 1),
        ("0123", 83),
        ("0x10", 16),
        ("1_000", 1000),
        ("1:30", 90),
        ("1.5e-3", 0.0015),
        ("null", None),
        ("~", None),
        ("2024-01-31", datetime.date(2024, 1, 31)),
        ("'1'", "1"),
        ("[1, a]", [1, "a"]),
    ],
)
def test_other_values_are_those_of_yaml(tmp_path: Path, written: str, value: Any):
    found = read(tmp_path, f"menu: a\nfree: {written}").values["free"]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("word", ["1", "true", "1.0", "0x10", "2024-01-01", "no", ".5"])
def test_what_stays_as_it_is_written(tmp_path: Path, word: str):
    keys = {"words": ANYTHING._replace(as_written=True), "free": ANYTHING}
    values = read(tmp_path, f"words: [{word}, {{{word}: [{word}, null]}}]", keys).values
    assert values["words"] == [word, {word: [word, None]}]


def test_every_value_has_its_place(tmp_path: Path):
    text = "menu: a\n\ndishes:\n  - name: soup\n    price: 3\n  - {name: rice}\nnotes:\n"
    text += "  cook: me\n  more:\n    - 1\n    - {x: 2}\n"
    top = read(tmp_path, text)
    path = tmp_path / "menu.yaml"
    lines = {place: int(line.removeprefix(f"{path}: line ")) for place, line in top.places.items()}
    assert lines == {
        "menu": 1,
        "dishes": 3,
        "dishes[0]": 4,
        "dishes[0].name": 4,
        "dishes[0].price": 5,
        "dishes[1]": 6,
        "dishes[1].name": 6,
        "notes": 7,
        "notes.cook": 8,
        "notes.more": 9,
        "notes.more[0]": 10,
        "notes.more[1]": 11,
        "notes.more[1].x": 11,
    }
    assert top.where("dishes[0].price") == f"{path}: line 5: dishes[0].price"
    assert top.where("absent") == f"{path}: absent"
    first, second = top.entries("dishes")
    assert first.where("price") == f"{path}: line 5: dishes[0].price"
    assert second.where("price") == f"{path}: line 6: dishes[1].price"  # not given: the line of its mapping
    assert top.inner("notes").where("more") == f"{path}: line 9: notes.more"
    assert top.inner("absent").values == {} and top.entries("absent") == []
    assert top.files == (str(path),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mneu: a", "line 1: unknown key 'mneu' (did you mean 'menu'?)"),
        ("menu: a\nqqqq: b", "line 2: unknown key 'qqqq': known are dishes, free, menu, notes, table, words"),
        ("menu: a\ndishes:\n- {name: b, prize: 3}", "line 3: unknown key 'prize' in dishes[0] (did you mean 'price'?)"),
        ("menu: a\ndrinks: b", "line 2: key 'drinks': they have a list of their own"),
        ("3: a", "line 1: unknown key '3'"),
        ('"a\\nb": 1', "line 1: unknown key 'a\\nb'"),
        ("table: 3", "key 'menu' must be given, as text"),
        ("menu:", "key 'menu' must be given, as text"),
        ("menu: a\ndishes:\n- price: 3", "line 3: key 'name' must be given, as text"),
        ("menu: 3", "line 1: menu must be text, not 3: put it in quotes"),
        ("menu: 2024-01-31", "line 1: menu must be text, not 2024-01-31: put it in quotes"),
        ("menu: true", "line 1: menu must be text, not true: put it in quotes"),
        ("menu: [a]", "line 1: menu must be text, not ['a']"),
        ("table: 0\nmenu: 3", "line 1: table must be a whole number"),  # in the file's order
        ("menu: a\ntable: 0", "line 2: table must be a whole number from 1 to 99, not 0"),
        ("menu: a\ntable: 0x" + "f" * 5000, "line 2: table must be a whole number from 1 to 99, not a number of very"),
        ("menu: a\ndishes: []", "line 2: dishes must be a list with at least one entry, not []"),
        ("menu: a\ndishes: {name: a}", "line 2: dishes must be a list with at least one entry, not {'name': 'a'}"),
        ("menu: a\ndishes:\n- soup", "line 3: dishes[0] must be a mapping, not 'soup'"),
        ("menu: a\ndishes:\n-", "line 3: dishes[0] must be a mapping, not nothing"),
        (
            "menu: a\ndishes:\n- name: b\n  price: 1e-3",
            "line 4: dishes[0].price must be a number above 0, not '1e-3': an expo",
        ),
        (
            "menu: a\ndishes:\n- name: b\n  hot: medum",
            "line 4: dishes[0].hot must be one of mild, medium, sharp, not 'medum' (did you mean 'medium'?)",
        ),
        ("menu: a\nnotes: 3", "line 2: notes must be a mapping, not 3"),
        ("menu: a\nnotes: {cook: 3, any: 4}", "line 2: notes.cook must be text, not 3"),
    ],
)
def test_a_table_says_what_is_wrong_and_where(tmp_path: Path, text: str, message: str):
    assert refusal(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a menu: that is a YAML mapping with keys such as menu, dishes"),
        (b"# nothing but a remark\n", "not a menu"),
        (b"\xef\xbb\xbf", "not a menu"),
        (b"- menu\n", "not a menu"),
        (b"words", "not a menu"),
        (b"menu: \xff", "not UTF-8 text: invalid start byte at offset 6"),
        (b"menu: a\x00b", "unacceptable character #x0000"),
        (b"menu: a\n\ttable: b", "line 2: found character '\\t'"),
        (b"menu: [a", "line 1"),
        (b"a: b: c", "line 1: mapping values are not allowed"),
        (b"menu: *nowhere", "line 1: found undefined alias"),
        (b"menu: a\n---\nmenu: b", "line 2"),
        (b"menu: a\n\nmenu: b", "line 3: key 'menu' is given twice"),
        (b"menu: a\nfree:\n  a: 1\n  b: 2\n  a: 2", "line 5: key 'a' is given twice"),
        (b"free: [{b: 1, 'b': 2}]", "line 1: key 'b' is given twice"),
        (b"free: {? [a] : b}", "line 1: a key must be a word"),
        (b"? {a: b}\n: c", "line 1: a key must be a word"),
        (b"free: !!int words", "line 1: invalid literal"),
        (b"free: !!bool words", "line 1: no true or false: 'words'"),
        (b"free: {!!bool words: 1}", "line 1: no true or false: 'words'"),
        (b"\nfree: 2024-02-31", "line 2: day"),
        (b"free: !!timestamp words", "line 1"),
        (b"free: 0x_", "line 1"),
        (b"free: " + b"9" * 5000, "line 1"),
        (b"free: &m {a: *m}", "line 1: an alias refers to the value that holds it"),
        (b"free: &c [a, *c]", "line 1: an alias refers to the value that holds it"),
        (b"free: {a: !x b}", "line 1: !x is a tag: only plain values are read here"),
        (b"free: !" + b"x" * 900 + b" b", "line 1: !" + "x" * 59 + " is a tag"),
        (b"free: !!python/object/new:os.system [true]", "line 1: could not determine a constructor"),
        (b"free: " + b"[" * 600 + b"]" * 600, "nested too deeply"),
    ],
)
@pytest.mark.parametrize("keys", [KEYS, None])
def test_what_no_file_may_hold(tmp_path: Path, text: bytes, message: str, keys: Keys | None):
    assert refusal(tmp_path, text, keys).startswith(message)


@pytest.mark.parametrize("key", ["0x" + "f" * 5000, "3", "1.5", "~"])
def test_a_key_of_any_kind_has_a_name(tmp_path: Path, key: str):
    node = read(tmp_path, f"menu: a\nnotes:\n  ? {key}\n  : 1")  # among keys that are free
    assert list(node.values["notes"].values()) == [1]
    node = read(tmp_path, f"? {key}\n: 1", None)
    with pytest.raises(TaskFileError, match=r"menu.yaml: .*unknown key '.{1,60}: known are"):
        check(node, KEYS)


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path):
    message = f"not a menu: it holds more than {MAX_BYTES:,} bytes"
    assert refusal(tmp_path, b"menu: a # " + bytes(MAX_BYTES)) == message
    with pytest.raises(TaskFileError, match="more than"):
        read_file(Path("/dev/zero"), KIND, KEYS)
    assert not has_key(Path("/dev/zero"), "menu")


def test_aliases_of_aliases_do_not_explode(tmp_path: Path):
    layers = ["free:\n  a: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    layers += [f"  b{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 30)]
    assert f"holds more than {MAX_VALUES:,} values, its aliases written out" in refusal(tmp_path, "\n".join(layers))


def test_an_alias_is_what_it_names(tmp_path: Path):
    text = "menu: &d a b\nfree: {x: *d, y: &y [1, 2], z: [*y, *y]}\n"
    assert read(tmp_path, text).values["free"] == {"x": "a b", "y": [1, 2], "z": [[1, 2], [1, 2]]}


def test_a_tag_of_ones_own_is_made_by_its_constructor_after_all_names_are_checked(tmp_path: Path):
    made: list[str] = []

    def shout(loader: yaml.SafeLoader, node: yaml.Node) -> str:
        made.append(node.value)
        return node.value.upper()

    assert read(
        tmp_path, "menu: !shout a\nwords: [!shout b, 1]", {**KEYS, "words": ANYTHING._replace(as_written=True)}, shout=shout
    ).values == {
        "menu": "A",
        "words": ["B", "1"],
    }
    assert made == ["a", "b"]
    with pytest.raises(TaskFileError, match=r"line 1: table must be .* from 1 to 99, not a function$"):
        read(tmp_path, "table: !len x", len=lambda loader, node: len)
    with pytest.raises(TaskFileError, match="unknown key"):
        read(tmp_path, "menu: !shout a\nnotes: {cook: b}\ndishes: [{nam: c}]", shout=shout)
    assert made == ["a", "b"]


def test_a_file_that_is_not_there(tmp_path: Path):
    for path in (tmp_path / "none.yaml", Path("nul\0l.yaml"), tmp_path, Path("n" * 5000 + ".yaml")):
        with pytest.raises(InputNotFound, match="no such menu: "):
            read_file(path, KIND)


def test_each_kind_of_file_has_its_own_errors(tmp_path: Path):
    kind = FileKind("density file", ("density",), DensityError, ModelNotFound)
    with pytest.raises(ModelNotFound, match="no such density file"):
        read_file(tmp_path / "none.yaml", kind)
    path = tmp_path / "density.yaml"
    for text in ("a: [", "- a", "a: 1\na: 2", "b: 1", "a: x"):
        path.write_text(text)
        with pytest.raises(DensityError):
            read_file(path, kind, {"a": whole(1)})


def test_values_of_no_file_are_checked_alike():
    kind = FileKind("menu", ("menu",), InputError)
    check(Node(Path("menu.yaml"), kind, {"menu": "a", "dishes": [{"name": "b"}]}, {}), KEYS)
    for values, message in (
        ({"menu": "a", "tabel": 3}, "menu.yaml: unknown key 'tabel' for lunch (did you mean 'table'?)"),
        ({}, "menu.yaml: key 'menu' must be given for lunch, as text"),
        ({"menu": 3}, "menu.yaml: menu must be text, not 3"),
        (
            {"menu": "a", "dishes": [{"name": "b", "hto": 1}]},
            "menu.yaml: unknown key 'hto' in dishes[0] (did you mean 'hot'?)",
        ),
    ):
        with pytest.raises(InputError) as caught:
            check(Node(Path("menu.yaml"), kind, values, {}), KEYS, " for lunch")
        assert str(caught.value).startswith(message)


def test_a_key_at_the_top_tells_kinds_of_files_apart(tmp_path: Path):
    path = tmp_path / "a.yaml"
    for text, expected in (("menu: a", True), ("b: {menu: a}", False), ("- menu", False), ("menu: [", False), ("", False)):
        path.write_text(text)
        assert has_key(path, "menu") is expected
    assert not has_key(tmp_path / "none.yaml", "menu") and not has_key(Path("nul\0l"), "menu")


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 200), st.floats(), st.text(max_size=5), st.dates())
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KEYS, *DISH, "cook", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from([*KEYS, "x"]), VALUES, max_size=4))
def test_whatever_a_file_holds_it_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
):
    path = tmp_path_factory.mktemp("fuzz") / "menu.yaml"
    path.write_text(yaml.safe_dump({"menu": "a", **values}), encoding="utf-8")
    try:
        assert read_file(path, KIND, KEYS).values["menu"]
    except LmevalError as error:
        assert str(error).splitlines() == [str(error)] and str(error).startswith(str(path))
