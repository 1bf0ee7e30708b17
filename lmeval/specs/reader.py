"""The one reader of spec files: YAML, read strictly and without running code.

The dialect is YAML as PyYAML reads it, with one exception that is YAML 1.2's: only `true` and `false` are booleans, and
"yes", "no", "on" and "off" are the words that they look like. A key that is unknown or given twice, a tag, a value of the
wrong kind and an alias that would grow without bounds are errors. Each names file, line, key, what was given, what is
allowed, and the nearest known name.
"""

import datetime
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmeval.errors import InputNotFound, LmevalError, first_line
from lmeval.messages import nearest, shown
from lmeval.specs.keys import Key, Keys, mapping

MAX_BYTES = 10_000_000  # of a file: more is data, and would be read for minutes
MAX_VALUES = 100_000  # of a file, its aliases written out

Constructor = Callable[[yaml.SafeLoader, yaml.Node], Any]
"""What makes a value of a node with a tag of one's own, such as `!function`."""


class FileKind(NamedTuple):
    """A kind of spec file: what messages call it, some of its keys, and what is raised where it is wrong or not there."""

    name: str
    examples: tuple[str, ...]
    error: type[LmevalError]
    not_found: type[LmevalError] = InputNotFound


class Node(NamedTuple):
    """A mapping of a spec file.

    Attributes:
        path: The file.
        kind: What kind of file it is.
        values: Key -> plain value: text, numbers, booleans, dates, None, lists, dicts.
        places: Place of a value ("models[2].bounds[0].smc") -> "FILE: line 7". The top's places are "task", "data", ...
        at: The mapping's own place; empty for the top of the file.
        files: The files that the values were read from.
    """

    path: Path
    kind: FileKind
    values: Mapping[str, Any]
    places: Mapping[str, str]
    at: str = ""
    files: tuple[str, ...] = ()

    def line_of(self, key: str = "") -> str:
        """File and line of a key, which may be "outer.inner"; those of the mapping where it is not given."""
        return self.places.get(_joined(self.at, key), self.places.get(self.at, str(self.path)))

    def where(self, key: str) -> str:
        """File, line and place of what stands under a key, for the beginning of a message."""
        return f"{self.line_of(key)}: {_joined(self.at, key)}"

    def inner(self, key: str) -> "Node":
        """The mapping under a key; an empty one where none is given."""
        value = self.values.get(key)
        return self._replace(values=value if isinstance(value, dict) else {}, at=_joined(self.at, key))

    def entries(self, key: str) -> list["Node"]:
        """The mappings in the list under a key. What else the list holds is left out."""
        value, place = self.values.get(key), _joined(self.at, key)
        listed = value if isinstance(value, list) else []
        return [self._replace(values=v, at=f"{place}[{i}]") for i, v in enumerate(listed) if isinstance(v, dict)]


def read_file(path: Path, kind: FileKind, keys: Keys | None = None, tags: Mapping[str, Constructor] | None = None) -> Node:
    """Read a spec file.

    Args:
        path: The file.
        kind: What kind of file it is.
        keys: The table to check it with; None where `check` follows.
        tags: Tags that may stand in it; others are refused.

    Returns:
        The mapping at the top of the file.

    Raises:
        LmevalError: `kind.error` with file and line for what is wrong, `kind.not_found` for a file that is not there.
    """
    try:
        content = _content_of(path)
    except (OSError, ValueError) as error:  # a ValueError: a name with a null character
        raise kind.not_found(f"no such {kind.name}: {shown(path)}") from error
    if len(content) > MAX_BYTES:
        raise kind.error(f"{path}: not a {kind.name}: it holds more than {MAX_BYTES:,} bytes")
    try:
        node = _parsed(content.decode("utf-8"), _Source(path, kind, tags or {}), keys)
    except UnicodeDecodeError as error:
        raise kind.error(f"{path}: not UTF-8 text: {error.reason} at offset {error.start}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise kind.error(f"{path}:{line} {getattr(error, 'problem', None) or first_line(error)}") from error
    except RecursionError as error:
        raise kind.error(f"{path}: nested too deeply") from error
    if keys is not None:
        check(node, keys)
    return node


def check(node: Node, keys: Keys, of: str = "", *, others: bool = False) -> None:
    """Refuse what a table does not allow: unknown keys, missing ones, and values of the wrong kind, in inner mappings too.

    Args:
        node: The mapping.
        keys: Its table.
        of: What the table is for, as messages say it, such as " for density latent"; empty for the mapping's own place.
        others: Whether the mapping may hold other keys, too.

    Raises:
        LmevalError: `node.kind.error`, one line.
    """
    _check_mapping(node, mapping(keys, others=others), of)


def has_key(path: Path, key: str) -> bool:
    """Whether a file is YAML with this key at its top. False for files that cannot be read."""
    try:
        node = yaml.compose(_content_of(path).decode("utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(node, yaml.MappingNode) and any(name.value == key for name, _ in node.value)


def _content_of(path: Path) -> bytes:
    """The bytes of a file, of a larger one the first MAX_BYTES and one more."""
    with path.open("rb") as stream:
        return stream.read(MAX_BYTES + 1)


def _joined(at: str, key: str) -> str:
    """The place of a key in the mapping at `at`."""
    return f"{at}.{key}" if at and key else at or key


def _check_mapping(node: Node, key: Key, of: str = "") -> None:
    keys = key.keys or {}
    for name in map(_name, node.values):
        _check_name(name, key, node.line_of(name), node.kind, of or _inside(node.at))
    for name, value in node.values.items():
        if value is not None and name in keys:
            _check_value(node, name, value, keys[name])
    for name, inner in keys.items():
        if inner.needed and node.values.get(name) is None:
            raise node.kind.error(f"{node.line_of()}: key '{name}' must be given{of}, as {inner.description}")


def _name(key: Any) -> str:
    """The key of a mapping as a word."""
    return key if isinstance(key, str) else _brief(key)


def _check_value(node: Node, name: str, value: Any, key: Key) -> None:
    """Check the value under the key `name` of a mapping, or an entry of a list there, which is named "name[2]"."""
    if not key.fits(value):
        raise node.kind.error(f"{node.where(name)} must be {key.description}, not {_brief(value)}{key.remedy(value)}")
    if key.keys is not None and isinstance(value, dict):
        _check_mapping(node._replace(values=value, at=_joined(node.at, name)), key)
    if key.each is not None and isinstance(value, list):
        for i, entry in enumerate(value):
            _check_value(node, f"{name}[{i}]", entry, key.each)


def _check_name(name: str, key: Key, line: str, kind: FileKind, of: str) -> None:
    """Refuse a name that is not in the table of a mapping, or is there only to be refused."""
    keys = key.keys or {}
    if name not in keys and not key.others:
        known = [other for other, inner in keys.items() if not inner.refused]
        raise kind.error(f"{line}: unknown key {name!r:.60}{of}{nearest(name, known)}")
    if name in keys and keys[name].refused:
        raise kind.error(f"{line}: key '{name}': {keys[name].refused}")


def _brief(value: Any) -> str:
    """A value for a message, cut short."""
    if value is None or isinstance(value, bool):
        return "nothing" if value is None else str(value).lower()
    if callable(value) or isinstance(value, datetime.date):
        return "a function" if callable(value) else str(value)
    try:
        return f"{value!r:.60}"
    except ValueError:  # Python writes out no whole number of several thousand digits
        return "a number of very many digits"


def _inside(at: str) -> str:
    return f" in {at}" if at else ""


class _Loader(yaml.SafeLoader):
    """SafeLoader whose only implicit booleans are true and false, in YAML 1.2's spelling."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node. What has the form or tag of a number or date and is none, such as 2024-02-31, has a line."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, OverflowError, KeyError) as error:
            what = f"no true or false: {error}" if isinstance(error, KeyError) else first_line(error)
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark) from error


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


class _Source(NamedTuple):
    """A file that is being parsed, and what makes values of the tags that may stand in it."""

    path: Path
    kind: FileKind
    tags: Mapping[str, Constructor]

    def line_of(self, node: yaml.Node) -> str:
        """File and line of a node, for messages."""
        return f"{self.path}: line {node.start_mark.line + 1}"

    def error(self, node: yaml.Node, what: str) -> LmevalError:
        """The error that something is wrong with a node."""
        return self.kind.error(f"{self.line_of(node)}: {what}")


def _parsed(text: str, source: _Source, keys: Keys | None) -> Node:
    """The values of a file, and the place of each. The names of keys are checked before any value is made."""
    path, kind = source.path, source.kind
    loader = _Loader(text)
    loader.yaml_constructors = {**_Loader.yaml_constructors, **source.tags}
    top = loader.get_single_node()
    if not isinstance(top, yaml.MappingNode):
        examples = ", ".join(kind.examples)
        raise kind.error(f"{path}: not a {kind.name}: that is a YAML mapping with keys such as {examples}")
    _check_structure(top, source, sizes={}, above=())
    if keys is not None:
        _prepare(top, mapping(keys), source, "")
    places = dict(_places(top, source, ""))
    return Node(path, kind, loader.construct_document(top), places, files=(str(path),))


def _check_structure(node: yaml.Node, source: _Source, sizes: dict[int, int], above: tuple[int, ...]) -> int:
    """Refuse unknown tags, keys that are no words or given twice, and aliases that hold themselves or grow too large.

    Returns how many values the node holds, its aliases written out. `sizes` holds those of the nodes that were visited, so
    that an alias costs no second visit; `above` are the nodes that hold this one.
    """
    if id(node) in above:
        raise source.error(node, "an alias refers to the value that holds it")
    if id(node) in sizes:
        return sizes[id(node)]
    if node.tag.startswith("!") and node.tag not in source.tags:
        raise source.error(node, f"{node.tag:.60} is a tag: only plain values are read here")
    children: list[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        _check_keys_of(node, source)
        children = [child for pair in node.value for child in pair]
    size = 1 + sum(_check_structure(child, source, sizes, (*above, id(node))) for child in children)
    if size > MAX_VALUES:
        raise source.error(node, f"holds more than {MAX_VALUES:,} values, its aliases written out")
    sizes[id(node)] = size
    return size


def _check_keys_of(node: yaml.MappingNode, source: _Source) -> None:
    given: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise source.error(key, "a key must be a word")
        if key.value in given:
            raise source.error(key, f"key {key.value!r:.60} is given twice")
        given.add(key.value)


def _prepare(node: yaml.Node, key: Key, source: _Source, at: str) -> None:
    """Check the names of all keys that have a table, and make text of what stays as it is written."""
    if key.as_written:
        _as_written(node)
    elif isinstance(node, yaml.MappingNode) and key.keys is not None:
        for name, child in node.value:
            _check_name(name.value, key, source.line_of(name), source.kind, _inside(at))
            if name.value in key.keys:
                _prepare(child, key.keys[name.value], source, _joined(at, name.value))
    elif isinstance(node, yaml.SequenceNode) and key.each is not None:
        for i, entry in enumerate(node.value):
            _prepare(entry, key.each, source, f"{at}[{i}]")


def _as_written(node: yaml.Node) -> None:
    """Make text of all scalars in a node: `doc_to_choice: [1, true]` means the words "1" and "true"."""
    if isinstance(node, yaml.ScalarNode):
        if not node.tag.startswith("!") and node.tag != "tag:yaml.org,2002:null":
            node.tag = "tag:yaml.org,2002:str"
        return
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            _as_written(part)


def _places(node: yaml.Node, source: _Source, at: str) -> Iterator[tuple[str, str]]:
    """Place -> file and line of all that a node holds. A key has the line of its name."""
    inner: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        inner = [(_joined(at, key.value), key, child) for key, child in node.value]
    elif isinstance(node, yaml.SequenceNode):
        inner = [(f"{at}[{i}]", entry, entry) for i, entry in enumerate(node.value)]
    for place, first, child in inner:
        yield place, source.line_of(first)
        yield from _places(child, source, place)
