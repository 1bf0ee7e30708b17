"""Well-known corpora, and what others have published about compressing them: published, not measured here.

The folder compression/corpora holds one YAML file for each corpus, read by `lmeval.specs.reader`. A rate that its own bytes
contradict is an error, too.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

from lmeval.data.resources import data_folder
from lmeval.errors import InputError, InputNotFound
from lmeval.specs.keys import ANY_TEXT, TEXT, Key, Keys, is_whole, mappings, matching, needed
from lmeval.specs.reader import FileKind, Node, read_file


class PublishedResult(NamedTuple):
    """What a program makes of a corpus, by the account of `source`.

    Attributes:
        program: Name, version and options as far as the source states them.
        n_bytes_out: Bytes of the archive; None where the source gives only a rate.
        bits_per_byte: Of the archive: exact from its bytes where they are known, else as rounded by the source.
        total_bytes: Archive and whatever else the decoder needs (program, model, dictionary); None where nobody counted.
        decoded: Whether the archive was decoded and compared, by the source's account; None where it says nothing.
        note: What a reader of the figure should know; may be empty.
        source: URL.
        date: Year and month, "YYYY-MM", of the source or its last update; where it gives neither, of our reading a copy.
    """

    program: str
    n_bytes_out: int | None
    bits_per_byte: float
    total_bytes: int | None
    decoded: bool | None
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


CORPUS_FILE = FileKind("corpus file", ("name", "n_bytes", "published"), InputError)
_COUNT = Key(lambda value: is_whole(value) and value > 0, "a positive whole number")
_URL = matching(r"https?://\S+", "a URL")
_RESULT: Keys = {
    "program": needed(TEXT),
    "n_bytes_out": _COUNT,
    # Its digits tell how it was rounded, so that a whole number would say nothing.
    "bits_per_byte": Key(lambda value: isinstance(value, float) and value > 0, "a positive decimal"),
    "total_bytes": _COUNT,
    "decoded": Key(lambda value: isinstance(value, bool), "true or false"),
    "note": ANY_TEXT,
    "source": needed(_URL),
    "date": needed(matching(r"[12]\d{3}-(0[1-9]|1[0-2])", 'a year and month in quotes, "YYYY-MM"')),
}
_CORPUS: Keys = {
    "name": needed(TEXT),
    "description": needed(TEXT),
    "n_bytes": needed(_COUNT),
    "sha256": matching("[0-9a-f]{64}", "64 lower-case hexadecimal digits"),
    "md5": matching("[0-9a-f]{32}", "32 lower-case hexadecimal digits"),
    "url": needed(_URL),
    "licence": needed(TEXT),
    "published": needed(mappings(_RESULT)),
}


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
    """Read one file of compression/corpora. Raises InputError, which names file, line and key."""
    corpus = read_file(path, CORPUS_FILE, _CORPUS)
    results = [_result(entry, corpus.values["n_bytes"]) for entry in corpus.entries("published")]
    values: dict[str, Any] = {key: corpus.values.get(key) for key in _CORPUS}
    return KnownCorpus(**{**values, "published": tuple(sorted(results, key=lambda result: result.bits_per_byte))})


def _result(entry: Node, n_bytes: int) -> PublishedResult:
    values = {key: entry.values.get(key) for key in _RESULT}
    n_out, printed, total = values["n_bytes_out"], values["bits_per_byte"], values["total_bytes"]
    if n_out is None and printed is None:
        raise InputError(f"{entry.line_of()}: one of the keys 'n_bytes_out' and 'bits_per_byte' must be given")
    exact = printed if n_out is None else 8 * n_out / n_bytes
    if printed is not None and abs(printed - exact) > _half_of_last_digit(printed) + 1e-12:
        raise InputError(f"{entry.where('bits_per_byte')} is {printed}, but n_bytes_out makes it {exact:.6f}")
    if total is not None and n_out is not None and total < n_out:
        raise InputError(f"{entry.where('total_bytes')} is {total:,}, less than the archive's {n_out:,}")
    return PublishedResult(**{**values, "bits_per_byte": exact, "note": values["note"] or ""})


def _half_of_last_digit(printed: float) -> float:
    """What rounding to the printed digits may change: 0.0005 for 1.106."""
    return 0.5 * 10.0 ** -len(str(printed).partition(".")[2])
