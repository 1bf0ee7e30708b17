"""A corpus as windows that are ready to score, read once, and counted while it streams by."""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lmeval.data.documents import Corpus, Document, file_corpus, text_corpus
from lmeval.models import CausalLM, TokenRun, encode_documents
from lmeval.models.text_units import BYTES
from lmeval.scoring import Windowing, WindowRequest, rolling_requests

Documents = Corpus | Path | str | Document | Iterable[str | Document]


@dataclass
class CorpusStats:
    """Counts and SHA-256 of a corpus, accumulated while it streams. `n_inexact` documents have text that their tokens do not
    give back; `first_inexact` is the name of the first of them."""

    n_documents: int = 0
    n_empty: int = 0
    n_bytes: int = 0
    n_tokens: int = 0
    n_inexact: int = 0
    first_inexact: str | None = None
    digest: Any = field(default_factory=hashlib.sha256)

    @property
    def sha256(self) -> str:
        """Of the text that was read so far, all documents end to end."""
        return self.digest.hexdigest()


class CorpusWindow(NamedTuple):
    """A window of a document, which is (index, name) and begins at byte `document_start` of the corpus."""

    document: tuple[int, str]
    document_start: int
    window: WindowRequest


def as_corpus(documents: Documents) -> Corpus:
    """A corpus as it is; a path as files, strings and documents as they are."""
    if isinstance(documents, Corpus):
        return documents
    return file_corpus([documents]) if isinstance(documents, Path) else text_corpus(documents)


def corpus_windows(model: CausalLM, corpus: Corpus, windowing: Windowing, stats: CorpusStats) -> Iterator[CorpusWindow]:
    """The windows of all documents in order; `stats` counts what has been read for them."""
    names: deque[str] = deque()  # of documents that are being read ahead

    def texts() -> Iterator[Iterator[str]]:
        for document in corpus.documents:
            names.append(document.name)
            yield _hashed(document, stats)

    for index, runs in enumerate(encode_documents(model.encoder, texts())):
        stats.n_documents += 1
        n_tokens, start, name = stats.n_tokens, stats.n_bytes, names.popleft()
        for window in rolling_requests(_counted(runs, name, stats), windowing):
            yield CorpusWindow((index, name), start, window)
        stats.n_empty += stats.n_tokens == n_tokens


def _hashed(document: Document, stats: CorpusStats) -> Iterator[str]:
    for piece in document.pieces:
        stats.digest.update(piece.encode(errors="surrogatepass"))
        yield piece


def _counted(runs: Iterator[TokenRun], name: str, stats: CorpusStats) -> Iterator[TokenRun]:
    exact = True
    for run in runs:
        stats.n_tokens += len(run.ids)
        stats.n_bytes += int(run.units[:, BYTES].sum())
        if exact and not run.exact:
            exact = False
            stats.n_inexact += 1
            if stats.first_inexact is None:
                stats.first_inexact = name
        yield run
