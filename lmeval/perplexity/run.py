"""Perplexity and bits per byte of a causal language model on text.

With l_t = ln p(x_t | context of x_t) of the scored tokens t, N = -sum_t l_t in nats, and B bytes, C characters, W words and
T tokens of exactly the text that was scored:

    bits_per_byte       N / (B ln 2)          byte_perplexity    exp(N / B)
    bits_per_character  N / (C ln 2)          word_perplexity    exp(N / W)
    bits_per_token      N / (T ln 2)          token_perplexity   exp(N / T)

`word_perplexity`, `byte_perplexity` and `bits_per_byte` are those of lm-evaluation-harness 0.4.13 wherever that puts no BOS
into the text and scores the text that it counts (it counts one word more than there are runs of white space, and so does
this). `evaluate`'s `mean_perplexity` is another quantity: the mean over texts of each text's token perplexity.
"""

import hashlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lmeval import results
from lmeval.compute import gather
from lmeval.compute.place import Place
from lmeval.data.documents import Corpus, Document, file_corpus, text_corpus
from lmeval.errors import ContextTooLong, EmptyInput, InputError
from lmeval.models import CausalLM, ModelLike, TokenRun, as_model, describe_model, encode_documents
from lmeval.perplexity import tally
from lmeval.results import Measurement, Report
from lmeval.results.table import untyped
from lmeval.scoring import BosPolicy, LogProbs, Request, Windowing, WindowRequest, rolling_requests, score
from lmeval.stats import Estimate

DEFAULT_CONTEXT = 2048  # for architectures without a limit of their own
MAX_LISTED_DOCUMENTS = 1000
MAX_EXPONENT = 700.0  # exp of more is no float64
UNITS = {"byte": tally.BYTES, "character": tally.CHARACTERS, "word": tally.WORDS, "token": tally.TOKENS}
METRICS = (
    "bits_per_byte",
    "bits_per_character",
    "bits_per_token",
    "byte_perplexity",
    "word_perplexity",
    "token_perplexity",
    "nll_nats",
)

Documents = Corpus | Path | str | Document | Iterable[str | Document]


class Settings(NamedTuple):
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


class Watch(NamedTuple):
    """Called during a run: `progress` with the bytes that were just scored in all processes (estimated from this one's),
    `document` with every document in order."""

    progress: Callable[[int], None] | None = None
    document: Callable[[tally.DocumentSums], None] | None = None


def perplexity(
    model: ModelLike,
    documents: Documents,
    settings: Settings = Settings(),  # noqa: B008 (immutable)
    *,
    device: str = "auto",
    dtype: str = "float32",
    watch: Watch = Watch(),  # noqa: B008 (immutable)
) -> Report:
    """Score text with a causal language model.

    `documents` is a corpus, the path of a file or folder (`Path`), or strings, each a document. Texts stream: memory does
    not grow with them. Under `torchrun` or `accelerate launch` the work is shared out, and every process returns the same
    report.

    Raises InputError, ModelError and their kin (see `lmeval.errors`).

    >>> perplexity("bundled", ["The quick brown fox jumps over the lazy dog."])["bits_per_byte"] < 8
    True
    """
    place = gather.connect(device)
    loaded = as_model(model, place.device, dtype)
    place = place._replace(device=loaded.device)
    windowing = resolve(loaded, settings)
    corpus = _as_corpus(documents)
    if place.size > 1 and not corpus.rereadable:
        raise InputError("several processes cannot share standard input or a pipe: name files")
    began = time.perf_counter()
    reading = _Reading()
    listed: list[tally.DocumentSums] = []

    def on_document(document: tally.DocumentSums) -> None:
        if len(listed) < MAX_LISTED_DOCUMENTS:
            listed.append(document)
        if watch.document:
            watch.document(document)

    sums = tally.Tally(windowing.context, on_document)
    for scheduled, log_probs in _scored(loaded, corpus, windowing, reading, settings, place, watch):
        request, units = scheduled.window
        sums.add_window(scheduled.document, units, log_probs, len(request.context) - 1)
    sums.finish()
    if not sums.n_windows:
        raise EmptyInput(f"nothing to score in {', '.join(corpus.sources)}: {reading.n_documents} documents, all empty")
    seconds = time.perf_counter() - began
    spread = sums.spread(settings.seed)
    return Report(
        kind="perplexity",
        results=_measurements(spread, exact=not reading.inexact),
        ledger=_ledger(loaded, windowing, reading, sums, spread),
        provenance=_provenance(loaded, corpus, reading, settings, place, seconds),
        tables={
            "by_position": untyped([_position_row(found) for found in sums.by_position()]),
            "documents": untyped([document_row(document) for document in listed]),
        },
    )


def resolve(model: CausalLM, settings: Settings) -> Windowing:
    """Fill in what `settings` leaves open and check it against the model. Raises ContextTooLong and InputError."""
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


def _as_corpus(documents: Documents) -> Corpus:
    if isinstance(documents, Corpus):
        return documents
    return file_corpus([documents]) if isinstance(documents, Path) else text_corpus(documents)


@dataclass
class _Reading:
    """What is learnt of the corpus while it is read."""

    digest: Any = field(default_factory=hashlib.sha256)
    n_documents: int = 0
    n_empty: int = 0
    n_bytes: int = 0
    n_tokens: int = 0
    inexact: dict[str, None] = field(default_factory=dict)  # names of documents that the tokenizer does not give back


class _Scheduled(NamedTuple):
    document: tuple[int, str]
    window: WindowRequest


def _scored(
    model: CausalLM,
    corpus: Corpus,
    windowing: Windowing,
    reading: _Reading,
    settings: Settings,
    place: Place,
    watch: Watch,
) -> Iterator[tuple[_Scheduled, LogProbs]]:
    """Every window of the corpus with its log-probabilities, in order. The engine reads ahead by one pool."""
    ahead: deque[_Scheduled] = deque()

    def requests() -> Iterator[Request]:
        for scheduled in _windows(model, corpus, windowing, reading):
            ahead.append(scheduled)
            yield scheduled.window.request

    progress = _InBytes(watch.progress, reading)
    for log_probs in score(model, requests(), place, batch_size=settings.batch_size, progress=progress):
        yield ahead.popleft(), log_probs


class _InBytes:
    """Progress of tokens, told in bytes by what a token has taken so far."""

    def __init__(self, report: Callable[[int], None] | None, reading: _Reading) -> None:
        self._report, self._reading = report, reading

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Do nothing: there is one stage."""

    def advance(self, n: int, note: str = "") -> None:
        """Tell the bytes of `n` tokens."""
        if self._report:
            self._report(n * self._reading.n_bytes // max(1, self._reading.n_tokens))


def _windows(model: CausalLM, corpus: Corpus, windowing: Windowing, reading: _Reading) -> Iterator[_Scheduled]:
    names: deque[str] = deque()  # of documents that are being read ahead

    def texts() -> Iterator[Iterator[str]]:
        for document in corpus.documents:
            names.append(document.name)
            yield _hashed(document, reading)

    for index, runs in enumerate(encode_documents(model.encoder, texts())):
        reading.n_documents += 1
        before, name = reading.n_tokens, names.popleft()
        for window in rolling_requests(_watched(runs, name, reading), windowing):
            yield _Scheduled((index, name), window)
        reading.n_empty += reading.n_tokens == before


def _hashed(document: Document, reading: _Reading) -> Iterator[str]:
    for piece in document.pieces:
        reading.digest.update(piece.encode(errors="surrogatepass"))
        yield piece


def _watched(runs: Iterator[TokenRun], name: str, reading: _Reading) -> Iterator[TokenRun]:
    for run in runs:
        reading.n_tokens += len(run.ids)
        reading.n_bytes += int(run.units[:, 0].sum())
        if not run.exact:
            reading.inexact[name] = None
        yield run


def _measurements(spread: tally.Spread, *, exact: bool) -> tuple[Measurement, ...]:
    """All normalisations of the one sum of nats. Where the tokens do not determine the text, figures per unit of text would
    describe another text than the one that was read, and are withheld; so is a perplexity too large for a float64."""
    total = spread.moments.total
    units = [unit for unit, column in UNITS.items() if (exact or unit == "token") and total[column] > 0]
    found = [m for unit in units for m in _ratio_measurements(unit, tally.ratio(spread, UNITS[unit]))]
    found.append(Measurement("nll_nats", float(total[tally.NATS]), "nats", "exact", None, None, spread.n, False))
    reported = (m for m in found if m.name in METRICS and math.isfinite(m.value))
    return tuple(sorted(reported, key=lambda m: METRICS.index(m.name)))


def _ratio_measurements(unit: str, nats: Estimate) -> tuple[Measurement, Measurement]:
    """Bits per unit, and the perplexity exp(nats per unit) with the interval's ends mapped and a delta-method error."""
    ln2, ci = math.log(2), nats.ci95
    bits = Measurement(
        name=f"bits_per_{unit}",
        value=nats.value / ln2,
        unit=f"bits/{unit}",
        side="exact",
        stderr=None if nats.stderr is None else nats.stderr / ln2,
        ci95=None if ci is None else (max(0.0, ci[0]) / ln2, ci[1] / ln2),  # certain tokens cost nothing, none less
        n=nats.n,
        higher_is_better=False,
    )
    perplexity = _exp(nats.value)
    return bits, Measurement(
        name=f"{unit}_perplexity",
        value=perplexity,
        unit=f"1/probability per {unit}",
        side="exact",
        stderr=None if nats.stderr is None else _finite(perplexity * nats.stderr),
        ci95=None if ci is None or ci[1] >= MAX_EXPONENT else (_exp(max(0.0, ci[0])), _exp(ci[1])),
        n=nats.n,
        higher_is_better=False,
    )


def _exp(x: float) -> float:
    return math.exp(x) if x < MAX_EXPONENT else math.inf


def _ledger(
    model: CausalLM, windowing: Windowing, reading: _Reading, sums: tally.Tally, spread: tally.Spread
) -> dict[str, Any]:
    """What was scored and what was not, and how."""
    n_tokens, n_bytes, n_characters, n_words = (int(x) for x in sums.moments.total[1:])
    names = list(reading.inexact)
    return {
        "windows": {
            "context": windowing.context,
            "stride": windowing.stride,
            "bos_policy": windowing.bos,
            "bos_id": model.bos_id if windowing.bos != "none" else None,
            "n": sums.n_windows,
        },
        "n_documents": reading.n_documents,
        "n_documents_empty": reading.n_empty,
        "n_tokens_scored": n_tokens,
        "n_tokens_not_scored": reading.n_tokens - n_tokens,
        "n_bytes_scored": n_bytes,
        "n_bytes_not_scored": reading.n_bytes - n_bytes,
        "n_characters_scored": n_characters,
        "n_words_scored": n_words,
        "special_tokens_scored": 0,
        "text_transform": "none",
        "round_trip": {
            "exact": not names,
            "n_documents_not_exact": len(names),
            "first_document_not_exact": names[0] if names else None,
            "withheld": ["per byte", "per character", "per word"] if names else [],
        },
        "interval": {"method": spread.method, "n_units": spread.n, "block_length": spread.block_length},
        "n_documents_listed": min(sums.moments.n, MAX_LISTED_DOCUMENTS),
    }


def _provenance(
    model: CausalLM, corpus: Corpus, reading: _Reading, settings: Settings, place: Place, seconds: float
) -> dict[str, Any]:
    return {
        "task": "perplexity",
        "date": results.now(),
        "model": describe_model(model),
        "corpus": {
            "sources": list(corpus.sources),
            "sha256": reading.digest.hexdigest(),
            "n_bytes": reading.n_bytes,
        },
        "device": str(place.device),
        "n_processes": place.size,
        "n_threads": torch.get_num_threads(),
        "batch_size": settings.batch_size or "auto",
        "seed": settings.seed,
        "seconds": round(seconds, 3),
        "versions": results.versions(),
    }


def document_row(document: tally.DocumentSums) -> dict[str, Any]:
    """One document's sums and bits per byte, JSON-ready."""
    nats, n_tokens, n_bytes, n_characters, n_words = (float(x) for x in document.row)
    return {
        "name": document.name,
        "nll_nats": nats,
        "n_tokens": int(n_tokens),
        "n_bytes": int(n_bytes),
        "n_characters": int(n_characters),
        "n_words": int(n_words),
        "bits_per_byte": nats / n_bytes / math.log(2) if n_bytes else None,
        "token_perplexity": _finite(_exp(nats / n_tokens)),
        "word_perplexity": _finite(_exp(nats / n_words)) if n_words else None,
    }


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _position_row(found: tally.PositionBin) -> dict[str, Any]:
    """Bits per token and byte of targets with first <= input tokens before their own < stop."""
    nats, n_tokens, n_bytes = (float(x) for x in found.row[:3])
    return {
        "first": found.first,
        "stop": found.stop,
        "n_tokens": int(n_tokens),
        "bits_per_token": nats / n_tokens / math.log(2),
        "bits_per_byte": nats / n_bytes / math.log(2) if n_bytes else None,
    }
