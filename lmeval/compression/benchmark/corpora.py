"""Well-known corpora, and what others have published about compressing them: published, not measured here.

The folder compression/corpora holds one YAML file for each corpus. It is read strictly: a key that is not known, a value of
the wrong kind, or a rate that its own bytes contradict is an error that names file and key.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lmeval.data.resources import data_folder
from lmeval.errors import InputError, InputNotFound, first_line


class PublishedResult(NamedTuple):
    """What a program makes of a corpus, by the account of `source`.

    Attributes:
        program: Name, version and options as far as the source states them.
        n_bytes_out: Bytes of the archive; None where the source gives only a rate.
        bits_per_byte: Of the archive: exact from its bytes where they are known, else as rounded by the source.
        total_bytes: Archive and whatever else the decoder needs (program, model, dictionary); None where nobody counted.
        note: What a reader of the figure should know; may be empty.
        source: URL.
        date: Year and month, "YYYY-MM", of the source or its last update; where it gives neither, of our reading a copy.
    """

    program: str
    n_bytes_out: int | None
    bits_per_byte: float
    total_bytes: int | None
    note: str
    source: str
    date: str


class KnownCorpus(NamedTuple):
    """A file that many have compressed. Checksums are of the uncompressed file; `published` is in order of the rate."""

    name: str
    description: str
    n_bytes: int
    sha256: str | None
    md5: str | None
    url: str
    licence: str
    published: tuple[PublishedResult, ...]


class _Key(NamedTuple):
    """A key of a file: what its value must be, in code and in words, and whether the key may be missing or null."""

    fits: Callable[[Any], bool]
    description: str
    optional: bool = False


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


_TEXT = _Key(_matches(r"(?s).*\S.*"), "text")
_COUNT = _Key(_is_count, "a positive whole number")
_URL = _Key(_matches(r"https?://\S+"), "a URL")
_CORPUS_KEYS = {
    "name": _TEXT,
    "description": _TEXT,
    "n_bytes": _COUNT,
    "sha256": _Key(_matches("[0-9a-f]{64}"), "64 lower-case hexadecimal digits", optional=True),
    "md5": _Key(_matches("[0-9a-f]{32}"), "32 lower-case hexadecimal digits", optional=True),
    "url": _URL,
    "licence": _TEXT,
    "published": _Key(lambda value: isinstance(value, list) and bool(value), "a list with an entry or more"),
}
_RESULT_KEYS = {
    "program": _TEXT,
    "n_bytes_out": _COUNT._replace(optional=True),
    "bits_per_byte": _Key(lambda value: isinstance(value, float) and value > 0, "a positive decimal", optional=True),
    "total_bytes": _COUNT._replace(optional=True),
    "note": _Key(lambda value: isinstance(value, str), "text", optional=True),
    "source": _URL,
    "date": _Key(_matches(r"[12]\d{3}-(0[1-9]|1[0-2])"), 'a year and month in quotes, "YYYY-MM"'),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which it would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"key '{twice}' is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


@functools.cache
def known_corpora() -> tuple[KnownCorpus, ...]:
    """All corpora that ship in compression/corpora, in order of size."""
    folder = data_folder("compression") / "corpora"
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise InputNotFound(f"no corpora in {folder}: the installation lacks its data files")
    return tuple(sorted(map(read_corpus, paths), key=lambda corpus: corpus.n_bytes))


def identify(n_bytes: int, sha256: str | None = None, md5: str | None = None) -> KnownCorpus | None:
    """The corpus that a file of this size and these checksums is, or None.

    A checksum that is not given decides nothing; those given must all agree, and one at least must be known to us.
    """
    for corpus in known_corpora():
        pairs = [(sha256, corpus.sha256), (md5, corpus.md5)]
        agree = [given.lower() == known for given, known in pairs if given is not None and known is not None]
        if corpus.n_bytes == n_bytes and agree and all(agree):
            return corpus
    return None


def read_corpus(path: Path) -> KnownCorpus:
    """Read one file of compression/corpora. Raises InputError, which names the file and the key."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader
    except OSError as error:
        raise InputNotFound(f"no such corpus file: {path}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text: {error.reason} at offset {error.start}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{path}:{line} {getattr(error, 'problem', None) or first_line(error)}") from error
    values = _checked(loaded, _CORPUS_KEYS, str(path))
    results = [
        _result(entry, values["n_bytes"], f"{path}: published[{i}]") for i, entry in enumerate(values.pop("published"))
    ]
    return KnownCorpus(**values, published=tuple(sorted(results, key=lambda result: result.bits_per_byte)))


def _checked(loaded: Any, keys: Mapping[str, _Key], where: str) -> dict[str, Any]:
    """The values of all `keys`, None where an optional one is missing."""
    if not isinstance(loaded, dict):
        raise InputError(f"{where}: not a mapping with the keys {', '.join(keys)}")
    for name in loaded:
        if name not in keys:
            raise InputError(f"{where}: unknown key '{name}': known are {', '.join(keys)}")
    values = {name: loaded.get(name) for name in keys}
    for name, key in keys.items():
        if values[name] is None and not key.optional:
            raise InputError(f"{where}: key '{name}' must be given, as {key.description}")
        if values[name] is not None and not key.fits(values[name]):
            raise InputError(f"{where}: key '{name}' must be {key.description}, not {values[name]!r:.60}")
    return values


def _result(entry: Any, n_bytes: int, where: str) -> PublishedResult:
    values = _checked(entry, _RESULT_KEYS, where)
    n_out, printed, total = values["n_bytes_out"], values["bits_per_byte"], values["total_bytes"]
    if n_out is None and printed is None:
        raise InputError(f"{where}: one of the keys 'n_bytes_out' and 'bits_per_byte' must be given")
    exact = printed if n_out is None else 8 * n_out / n_bytes
    if printed is not None and abs(printed - exact) > _half_of_last_digit(printed) + 1e-12:
        raise InputError(f"{where}: key 'bits_per_byte' is {printed}, but 'n_bytes_out' makes it {exact:.6f}")
    if total is not None and n_out is not None and total < n_out:
        raise InputError(f"{where}: key 'total_bytes' is {total:,}, less than the archive's {n_out:,}")
    return PublishedResult(**{**values, "bits_per_byte": exact, "note": values["note"] or ""})


def _half_of_last_digit(printed: float) -> float:
    """What rounding to the printed digits may change: 0.0005 for 1.106."""
    return 0.5 * 10.0 ** -len(str(printed).partition(".")[2])
