"""Perplexity and bits per byte of a causal language model on text.

`word_perplexity`, `byte_perplexity` and `bits_per_byte` are those of lm-evaluation-harness 0.4.13 wherever that puts no BOS
into the text and scores the text that it counts (it counts one word more than there are runs of white space, and so does
this). `evaluate`'s `mean_perplexity` is another quantity: the mean over texts of each text's token perplexity.
"""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from lmeval.compute.gather import as_place
from lmeval.compute.memory import settled
from lmeval.compute.place import Place, describe_place
from lmeval.data.documents import Corpus
from lmeval.errors import ContextTooLong, EmptyInput, InputError
from lmeval.models import CausalLM, ModelLike, as_model, describe_model
from lmeval.perplexity.corpus import CorpusStats, CorpusWindow, Documents, as_corpus, corpus_windows
from lmeval.perplexity.measures import item_metrics, measurements
from lmeval.perplexity.summary import (
    MAX_LISTED_DOCUMENTS,
    DocumentRecords,
    document_table,
    ledger,
    paired_items,
    position_table,
)
from lmeval.perplexity.tally import DocumentSums, ScoredWindow, Tally
from lmeval.progress import SILENT, Progress
from lmeval.results import Report, provenance
from lmeval.results.records import RecordHeader, record_writer
from lmeval.scoring import BosPolicy, LogProbs, Request, Windowing, score

DEFAULT_CONTEXT = 2048  # for architectures without a limit of their own


class PerplexitySettings(NamedTuple):
    """How text is scored. None means: `context` the model's own length, `stride` the context, `batch_size` automatic.

    `bos` "auto" is "window", except where stride = context: there windows keep one token of the text as context and BOS
    stands at the document's start alone ("document"), which is lm-evaluation-harness's rolling windows. `seed` is for the
    bootstrap.
    """

    context: int | None = None
    stride: int | None = None
    bos: BosPolicy | str = "auto"
    batch_size: int | None = None
    seed: int = 0


def perplexity(
    model: ModelLike,
    documents: Documents,
    settings: PerplexitySettings = PerplexitySettings(),  # noqa: B008 (immutable)
    *,
    place: Place | str = "auto",
    dtype: str = "float32",
    progress: Progress = SILENT,
    records: Path | None = None,
) -> Report:
    """Score text with a causal language model.

    Texts stream: memory does not grow with them. Under `torchrun` or `accelerate launch` the work is shared out, and every
    process returns the same report.

    Args:
        model: A loaded model, a pair (network, tokenizer), a folder, a hub id, or "bundled".
        documents: A corpus, the path of a file or folder (`Path`), or strings, each a document.
        settings: How the text is cut and scored.
        place: Where: a Place, or a device's name ("auto", "cpu", "cuda:1").
        dtype: Precision of a model that is loaded by name.
        progress: Told of the bytes that were scored, about.
        records: A file for the sums of every document, as item records; written by the first process.

    Returns:
        A report of kind "perplexity": bits per byte, character and token, and perplexities, each with its interval; tables
        "by_position" and "documents" (the first MAX_LISTED_DOCUMENTS); items that two reports on one text are paired over.

    Raises:
        InputError: The settings contradict each other or the model, or there is nothing to score.
        ModelError: The model cannot be loaded, or gives numbers that are not finite.

    >>> perplexity("bundled", ["The quick brown fox jumps over the lazy dog."])["bits_per_byte"] < 8
    True
    """
    place = as_place(place)
    loaded = as_model(model, place.device, dtype)
    place = settled(place._replace(device=loaded.device))
    windowing = resolve(loaded, settings)
    corpus = as_corpus(documents)
    if place.size > 1 and not corpus.rereadable:
        raise InputError("several processes cannot share standard input or a pipe: name files")
    began = time.perf_counter()
    listed, items = list[DocumentSums](), DocumentRecords(loaded)
    with record_writer(records) if records and place.is_first else nullcontext() as writer:

        def on_document(document: DocumentSums) -> None:
            if len(listed) < MAX_LISTED_DOCUMENTS:
                listed.append(document)
            if writer:
                writer.add(items.record(document))

        run = _Run(loaded, corpus, windowing, settings, place, CorpusStats(), Tally(windowing.context, on_document))
        for window in _scored(run, progress):
            run.tally.add_window(window)
        run.tally.finish()
        if not run.tally.n_windows:
            sources = ", ".join(corpus.sources)
            raise EmptyInput(f"nothing to score in {sources}: {run.stats.n_documents} documents, all empty")
        report = _report(run, listed, time.perf_counter() - began)
        if writer:
            metrics = item_metrics(exact=not run.stats.n_inexact)
            of = {"model": loaded.name}
            writer.end(RecordHeader(report.kind, of, metrics, ledger=report.ledger, provenance=report.provenance))
    return report


class _Run(NamedTuple):
    """What is scored, how and where; and what has been counted of it so far."""

    model: CausalLM
    corpus: Corpus
    windowing: Windowing
    settings: PerplexitySettings
    place: Place
    stats: CorpusStats
    tally: Tally


def resolve(model: CausalLM, settings: PerplexitySettings) -> Windowing:
    """Fill in what `settings` leaves open and check it against the model.

    Args:
        model: The model, which gives the longest context and the BOS token (or EOS, where it has no BOS).
        settings: How text is scored; None and "auto" are what is filled in.

    Returns:
        Context and stride in tokens, the BOS policy, and BOS's id (-1 where the model has none).

    Raises:
        ContextTooLong: The context is more than the model takes.
        InputError: A number is not positive, the stride exceeds the context, or the BOS policy does not suit the model.
    """
    for name in ("context", "stride", "batch_size"):
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number of at least 1, or None, not {value!r}")
    limit = model.context_length
    context = (limit or DEFAULT_CONTEXT) if settings.context is None else settings.context
    if limit is not None and context > limit:
        raise ContextTooLong(
            f"context {context:,} is more than the {limit:,} tokens that {model.name} takes: lower --context"
        )
    stride = context if settings.stride is None else settings.stride
    if not 1 <= stride <= context:
        raise InputError(f"stride {stride:,} must lie between 1 and the context, {context:,}: else tokens would be left out")
    bos = settings.bos
    if bos == "auto":
        bos = "none" if model.bos_id is None else "document" if stride == context else "window"
    elif model.bos_id is None and bos != "none":
        raise InputError(f"BOS policy '{bos}', but the tokenizer of {model.name} has neither BOS nor EOS: use none or auto")
    if bos == "window" or bos == "document" or bos == "none":
        return Windowing(context, stride, bos, -1 if model.bos_id is None else model.bos_id)
    raise InputError(f"unknown BOS policy '{bos}': use auto, window, document or none")


def _scored(run: _Run, progress: Progress) -> Iterator[ScoredWindow]:
    """Every window of the corpus with what the model says of it, in order. The engine reads ahead by one pool."""
    ahead: deque[CorpusWindow] = deque()

    def requests() -> Iterator[Request]:
        for window in corpus_windows(run.model, run.corpus, run.windowing, run.stats):
            ahead.append(window)
            yield window.window.request

    progress.stage("scoring", run.corpus.n_bytes_hint, "bytes")
    in_bytes = _InBytes(progress, run.stats)
    for log_probs in score(run.model, requests(), run.place, batch_size=run.settings.batch_size, progress=in_bytes):
        yield _with_scores(ahead.popleft(), log_probs)


def _with_scores(scored: CorpusWindow, log_probs: LogProbs) -> ScoredWindow:
    window = scored.window
    return ScoredWindow(
        document=scored.document,
        log_probs=log_probs,
        units=window.units,
        n_before=len(window.request.context) - 1,
        first_byte=scored.document_start + window.first_byte,
    )


class _InBytes:
    """Progress in tokens, told in bytes: as many as a token has taken so far."""

    def __init__(self, progress: Progress, stats: CorpusStats) -> None:
        self._progress, self._stats = progress, stats

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Begin or resume a stage."""
        self._progress.stage(name, total, unit)

    def advance(self, n: int, note: str = "") -> None:
        """Tell the bytes of `n` tokens."""
        self._progress.advance(n * self._stats.n_bytes // max(1, self._stats.n_tokens), note)


def _report(run: _Run, listed: list[DocumentSums], seconds: float) -> Report:
    model, stats, tally = run.model, run.stats, run.tally
    spread = tally.spread(run.settings.seed)
    of = {"model": model.name, "corpus": ", ".join(run.corpus.sources)}
    text = {"sources": list(run.corpus.sources), "sha256": stats.sha256, "n_bytes": stats.n_bytes}
    return Report(
        kind="perplexity",
        results=measurements(spread, of, exact=not stats.n_inexact),
        ledger=ledger(model, run.windowing, stats, tally, spread),
        provenance=provenance(
            "perplexity",
            inputs={"corpus": text},
            models=[describe_model(model)],
            place=describe_place(run.place),
            settings=run.settings._asdict(),
            seconds=seconds,
        ),
        tables={"by_position": position_table(tally.by_position()), "documents": document_table(listed)},
        items=paired_items(model, stats, tally, listed),
    )
