"""Text in: files, folders, globs, standard input, data sets. A document is text with a name, read piece by piece.

What is scored is what is in the file: UTF-8, byte for byte, with no newline translation, no stripping and no joining of
documents. Pieces of a document are bounded in size, so a file of any length passes through constant memory.
"""

import codecs
import glob
import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from lmeval.errors import EmptyInput, InputNotFound, UndecodableText, first_line

PIECE_BYTES = 1 << 20
DATA_SUFFIXES = {".json": "json", ".jsonl": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet", ".txt": "text"}


@dataclass(frozen=True)
class Document:
    """One text. `pieces` yields consecutive parts of it, in order and once; their concatenation is the document."""

    name: str
    pieces: Iterator[str]


@dataclass(frozen=True)
class Corpus:
    """Documents in order and where they come from. `n_bytes_hint` (for progress bars) is None where it is unknown;
    `rereadable` is False for pipes, which only one of several processes can read."""

    sources: tuple[str, ...]
    documents: Iterator[Document]
    n_bytes_hint: int | None
    rereadable: bool = True


def first_documents(corpus: Corpus, limit: int | None) -> Corpus:
    """The corpus of the first `limit` documents alone; all of them for None.

    >>> [document.name for document in first_documents(text_corpus(["one", "two", "three"]), 2).documents]
    ['text 0', 'text 1']
    """
    if limit is None:
        return corpus
    return replace(corpus, documents=itertools.islice(corpus.documents, limit), n_bytes_hint=None)


def begun(corpus: Corpus) -> Corpus:
    """The same corpus, with the first piece of its first document read: a file that is no text, or a table without the
    column, shows itself then and not later. A pipe is left as it is, for it may have nothing to read yet.

    Args:
        corpus: What is to be read. It is the returned one that goes on with it.

    Raises:
        InputNotFound: The first document cannot be read.
        UndecodableText: It does not begin as UTF-8.
    """
    if not corpus.rereadable:
        return corpus
    documents = iter(corpus.documents)
    first = next(documents, None)
    if first is None:
        return corpus
    pieces = iter(first.pieces)
    read = list(itertools.islice(pieces, 1))
    document = Document(first.name, itertools.chain(read, pieces))
    return replace(corpus, documents=itertools.chain([document], documents))


def text_corpus(texts: str | Document | Iterable[str | Document]) -> Corpus:
    """A corpus of strings held in memory, or of documents that the caller made.

    Args:
        texts: A single text, or any number of them, which are taken one by one as the corpus is read.

    Returns:
        A corpus of a document each, in order. Strings are called "text 0", "text 1" and so on; documents keep their names.

    Raises:
        InputNotFound: `texts` is bytes or cannot be iterated over; or, once the corpus is read, one of them is neither a
            string nor a Document.

    >>> [document.name for document in text_corpus(["one", "two"]).documents]
    ['text 0', 'text 1']
    """
    if isinstance(texts, str | Document):
        texts = [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes):
        raise InputNotFound(f"documents must be strings, not {type(texts).__name__}: decode bytes, or give a Path")
    return Corpus(("texts",), (_document(i, text) for i, text in enumerate(texts)), None)


def _document(i: int, text: str | Document) -> Document:
    if isinstance(text, Document):
        return text
    if not isinstance(text, str):
        raise InputNotFound(
            f"document {i} is {type(text).__name__}, not a string: decode bytes, read files with file_corpus"
        )
    return Document(f"text {i}", iter([text]))


def file_corpus(paths: Iterable[str | Path]) -> Corpus:
    """A corpus of files, one document each: files, folders (all files below, hidden ones left out), globs, '-' (stdin).

    An empty file inside a folder or glob becomes an empty document, which the ledger counts.

    Args:
        paths: What to read, in this order; the files of a folder or glob come in the order of their names.

    Returns:
        A corpus that opens each file when its document is read.

    Raises:
        InputNotFound: A path does not exist, a pattern matches no file, or '-' is given twice; or, once the corpus is read,
            a file cannot be opened.
        EmptyInput: There are no paths, a folder holds no files, or a file that was named itself is empty.
        UndecodableText: Once the corpus is read, a file is not UTF-8.
    """
    names = [str(path) for path in paths]
    files = [file for name in names for file in _expand(name)]
    if not files:
        raise EmptyInput(f"no files to read in {', '.join(names) or 'an empty list of paths'}: name files, folders or '-'")
    ordinary = all(file != "-" and Path(file).is_file() for file in files)
    size = sum(Path(file).stat().st_size for file in files) if ordinary else None
    if names.count("-") > 1:
        raise InputNotFound("standard input was named twice, and can be read once: give '-' once")
    documents = (Document("stdin" if file == "-" else file, _read_file(file)) for file in files)
    return Corpus(tuple(names), documents, size, rereadable=ordinary)


def _expand(name: str) -> list[str]:
    path = Path(name)
    if name == "-":
        return [name]
    if path.is_dir():
        below = (p for p in sorted(path.rglob("*")) if p.is_file())
        files = [str(p) for p in below if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        if not files:
            raise EmptyInput(f"folder {name} holds no files: name a folder with text files")
        return files
    if path.is_file():
        if path.stat().st_size == 0:
            raise EmptyInput(f"{name} is empty (0 bytes): there is nothing to score")
        return [name]
    if path.exists():  # a pipe or a device
        return [name]
    if any(mark in name for mark in "*?["):
        matches = [match for match in sorted(glob.glob(name, recursive=True)) if Path(match).is_file()]  # noqa: PTH207
        if matches:
            return matches
        raise InputNotFound(f"no file matches {name}: check the pattern ('**' crosses folders)")
    raise InputNotFound(f"no such file or folder: {name}")


def _read_file(name: str) -> Iterator[str]:
    try:
        if name == "-":
            if sys.stdin is None:
                raise InputNotFound("standard input is closed: name a file instead of '-'")
            yield from _decode(sys.stdin.buffer, "standard input")
        else:
            with Path(name).open("rb") as stream:
                yield from _decode(stream, name)
    except OSError as error:
        raise InputNotFound(f"cannot read {name}: {error.strerror or first_line(error)}") from error


def _decode(stream: IO[bytes], name: str) -> Iterator[str]:
    """UTF-8 text of a stream in pieces, decoded strictly; a bad byte is named with its offset in the stream."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    offset = 0
    while True:
        chunk = stream.read(PIECE_BYTES)
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            position = offset - (len(error.object) - len(chunk)) + error.start
            raise UndecodableText(
                f"{name} is not UTF-8 text: byte 0x{error.object[error.start]:02x} at offset {position:,}; "
                "convert it first (for example with iconv), or leave it out"
            ) from None
        offset += len(chunk)
        if text:
            yield text
        if not chunk:
            return


def python_manual() -> Corpus:
    """The running interpreter's own manual, `pydoc_data.topics`: real text on every Python, one document a topic."""
    from pydoc_data.topics import topics

    documents = (Document(f"pydoc_data.topics[{name!r}]", iter([text])) for name, text in sorted(topics.items()))
    return Corpus(("pydoc_data.topics",), documents, sum(len(text.encode()) for text in topics.values()))


def column(name: str) -> Callable[[Mapping[str, Any]], str]:
    """The text of a data set's row: its field `name`. Raises InputNotFound for rows without such a field of text."""

    def read(row: Mapping[str, Any]) -> str:
        if name not in row:
            raise InputNotFound(f"no column '{name}': there are {', '.join(map(str, row))}")
        if not isinstance(row[name], str):
            raise InputNotFound(f"column '{name}' holds {type(row[name]).__name__}, not text: name a text column")
        return row[name]

    return read


class DataSource(NamedTuple):
    """What `datasets.load_dataset` is asked for: a hub id, a local folder, or a builder ("json", "csv", "parquet", "text")
    with `data_files`; `kwargs` go to it as they are."""

    path: str
    name: str | None = None
    split: str = "test"
    data_files: tuple[str, ...] = ()
    kwargs: Mapping[str, Any] = MappingProxyType({})

    def __str__(self) -> str:
        """What a reader would call it."""
        if self.data_files:
            return ", ".join(self.data_files)
        return "/".join(part for part in (self.path, self.name, self.split) if part)


def local_files(source: DataSource) -> tuple[str, ...]:
    """The files of this machine that a data set is read from; none where it comes from the hub."""
    if source.data_files:
        return source.data_files
    folder = Path(source.path)
    return tuple(str(path) for path in folder.rglob("*")) if folder.is_dir() else ()


def dataset_corpus(source: DataSource, text: Callable[[Mapping[str, Any]], str]) -> Corpus:
    """A corpus of the rows of a data set, one document each, streamed by the `datasets` library."""
    return Corpus((str(source),), _read_rows(open_dataset(source), text, str(source)), None)


def open_dataset(source: DataSource, *, streaming: bool = True) -> Any:
    """The data set of the `datasets` library: rows that are read as they are asked for, or all of them with methods such as
    map and filter. Raises InputNotFound."""
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar, set_verbosity

    disable_progress_bar()
    set_verbosity(logging.CRITICAL)  # what goes wrong is raised, in one line
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
    # The library takes names for patterns; a name with brackets that is there is meant as it is.
    named = [glob.escape(name) if Path(name).exists() else name for name in source.data_files]
    files = {"data_files": named} if named else {}
    try:
        return load_dataset(source.path, source.name, split=source.split, streaming=streaming, **files, **source.kwargs)
    except StopIteration:
        raise EmptyInput(f"nothing to score in {source}: it has no rows") from None
    except Exception as error:  # the library raises many kinds: all of them mean that there is nothing to read
        raise InputNotFound(f"cannot load data set {source}: {first_line(error)}") from error


def _read_rows(
    rows: Iterable[Mapping[str, Any]], text: Callable[[Mapping[str, Any]], str], label: str
) -> Iterator[Document]:
    iterator = enumerate(rows)
    while True:
        try:
            i, row = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # as above: a broken file shows itself only while it streams
            raise InputNotFound(f"cannot read data set {label}: {first_line(error)}") from error
        try:
            document = text(row)
        except InputNotFound as error:
            raise InputNotFound(f"row {i} of {label}: {error}") from None
        yield Document(f"{label}[{i}]", iter([document]))


def table_corpus(paths: Iterable[str | Path], text: Callable[[Mapping[str, Any]], str]) -> Corpus:
    """A corpus of the rows of local JSON, JSON lines, CSV, TSV, parquet or text files."""
    files = [file for path in paths for file in _expand(str(path))]
    suffixes = {Path(file).suffix.lower() for file in files}
    builders = {DATA_SUFFIXES.get(suffix, "") for suffix in suffixes}
    if len(builders) != 1 or "" in builders:
        known, given = ", ".join(sorted(DATA_SUFFIXES)), ", ".join(sorted(suffixes)) or "no suffix"
        raise InputNotFound(f"cannot read a column from files of kind {given}: name files of one kind among {known}")
    separator = {"sep": "\t"} if suffixes == {".tsv"} else {}
    corpus = dataset_corpus(DataSource(builders.pop(), split="train", data_files=tuple(files), kwargs=separator), text)
    return replace(corpus, n_bytes_hint=sum(Path(file).stat().st_size for file in files))
