"""Corpora x compressors: size, speed and proof of the round trip, for language models, scorers of others, and codecs."""

import hashlib
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lmeval.compression.benchmark.baselines import BASELINES, Baseline, measure_baseline
from lmeval.compression.benchmark.corpora import identify
from lmeval.compression.benchmark.decoder_size import model_bytes, source_bytes
from lmeval.compression.benchmark.scored import HEADER, measure_scorer
from lmeval.compression.benchmark.scorers import Scorer, ScorerLike, as_scorer, source_of
from lmeval.compression.benchmark.summary import Corpus, Refusal, Result, summary
from lmeval.compression.compress import compress_to
from lmeval.compression.decompress import DecompressSettings, decompress_to
from lmeval.compression.text.plan import CompressSettings
from lmeval.compute.gather import as_place
from lmeval.compute.place import Place, describe_place
from lmeval.errors import EmptyInput, InputError, ModelError
from lmeval.models import CausalLM, ModelLike, as_model
from lmeval.models.causal import describe_model
from lmeval.progress import SILENT, Progress
from lmeval.results import Report, provenance
from lmeval.results.provenance import files_sha256


def benchmark(
    corpora: Sequence[tuple[str, bytes]],
    models: Sequence[ModelLike] = ("bundled",),
    settings: CompressSettings = CompressSettings(),  # noqa: B008 (immutable)
    *,
    levels: Sequence[str] = ("none", "full"),
    scorers: Sequence[ScorerLike] = (),
    dtype: str = "float32",
    place: Place | str = "auto",
    progress: Progress = SILENT,
) -> Report:
    """Compress every corpus with every model, every scorer and every baseline, decode, and compare byte for byte.

    Args:
        corpora: Names and bytes of what is compressed; the names must differ.
        models: Language models, or their names.
        settings: How the models compress. `verify` is not used, since the decoding that is timed verifies; nor is `adapt`.
        levels: The levels of online models with which every model compresses: "none", "light", "full".
        scorers: Programs of others that claim probabilities, or their names ("module:function"): `scorers` says what they
            may be. One whose distributions are none gets no score but the reason, in the row's "refused".
        dtype: Precision of the networks that are loaded by name.
        place: Where the networks compute, and in how much memory; a model that is given loaded stays where it is.
        progress: Hears stages such as "enwik8: xz -9e", in bytes of the corpus.

    Returns:
        A report of kind "benchmark". It has bits per byte and speeds of every corpus and compressor, the same as the table
        "benchmark", and an item for each. Where size and checksum say that a corpus is a known one, what others have
        published about it is the table "published".

    Raises:
        EmptyInput: A corpus holds no bytes.
        InputError: Two corpora have one name, the settings do not fit a model, or there is no such scorer.
        ModelError: A model cannot be loaded, or cannot code.
    """
    began = time.perf_counter()
    _check_corpora(corpora)
    programs = [as_scorer(scorer) for scorer in scorers]
    here = as_place(place)
    loaded = [as_model(model, here.device, dtype) for model in models]
    read: list[Corpus] = []
    results: list[Result | Refusal] = []
    for name, data in corpora:
        corpus = Corpus(name, len(data), hashlib.sha256(data).hexdigest())
        read.append(corpus)
        ways = [settings._replace(verify=False, adapt=level) for level in levels]
        for model in loaded:
            results += [_compressed_by_model(corpus, data, model, way, here, progress) for way in ways]
        results += [_coded_by_scorer(corpus, data, scorer, progress) for scorer in programs]
        results += [_compressed_by_baseline(corpus, data, baseline, progress) for baseline in BASELINES.values()]
    origin = provenance(
        "benchmark",
        inputs={
            "corpora": [{"name": c.name, "n_bytes": c.n_bytes, "sha256": c.sha256} for c in read],
            "scorers": [_described(scorer) for scorer in programs],
        },
        models=[describe_model(model) | {"model_bytes": model_bytes(model)} for model in loaded],
        place=describe_place(here),
        settings={"levels": list(levels), "lanes": settings.lanes, "lanes_per_pass": settings.lanes_per_pass},
        seconds=time.perf_counter() - began,
    )
    known = [corpus for part in read if (corpus := identify(part.n_bytes, part.sha256))]
    return summary(read, results, known, source_bytes(), origin)


def _check_corpora(corpora: Sequence[tuple[str, bytes]]) -> None:
    names = [name for name, _ in corpora]
    for name, data in corpora:
        if not data:
            raise EmptyInput(f"{name} is empty: bits per byte are not defined")
        if names.count(name) > 1:
            raise InputError(f"{names.count(name)} corpora are called {name}: give each a name of its own")


def _compressed_by_model(
    corpus: Corpus, data: bytes, model: CausalLM, settings: CompressSettings, place: Place, progress: Progress
) -> Result:
    compressor = f"{model.name} + {settings.adapt}" if settings.adapting else model.name
    archive, decoded = io.BytesIO(), io.BytesIO()
    labelled = _Labelled(progress, f"{corpus.name}: {compressor}")
    began = time.perf_counter()
    ledger = compress_to(archive, memoryview(data), model, settings, place=place, progress=labelled).ledger
    encoded = time.perf_counter()
    lanes = DecompressSettings(lanes_per_pass=settings.lanes_per_pass)
    decompress_to(decoded, memoryview(archive.getvalue()), model, lanes, place=place, progress=labelled)
    ended = time.perf_counter()
    ideal, overhead = _against_ideal(ledger)
    return Result(
        corpus=corpus,
        compressor=compressor,
        archive_bytes=ledger["n_archive_bytes"],
        ideal_bits_per_byte=ideal,
        overhead=overhead,
        total_bytes=ledger["n_archive_bytes"] + model_bytes(model) + source_bytes(),
        encode_seconds=encoded - began,
        decode_seconds=ended - encoded,
        verified=decoded.getvalue() == data,
        n_blocks={kind: n for kind, n in ledger["n_blocks"].items() if n},
    )


def _described(scorer: Scorer) -> dict[str, Any]:
    source = source_of(scorer)
    return {
        "name": scorer.name,
        "n_ids": len(scorer.vocabulary),
        "tolerance": scorer.tolerance,
        "file_sha256": files_sha256([str(source)]) if source else None,
    }


def _coded_by_scorer(corpus: Corpus, data: bytes, scorer: Scorer, progress: Progress) -> Result | Refusal:
    try:
        scored = measure_scorer(scorer, data, _Labelled(progress, f"{corpus.name}: {scorer.name}"))
    except ModelError as error:
        return Refusal(corpus, scorer.name, str(error))
    coded_bits = 8 * (scored.archive_bytes - HEADER.size)
    return Result(
        corpus=corpus,
        compressor=scorer.name,
        archive_bytes=scored.archive_bytes,
        ideal_bits_per_byte=scored.ideal_bits / len(data),
        overhead=coded_bits / scored.ideal_bits - 1 if scored.ideal_bits else None,
        total_bytes=None,
        encode_seconds=scored.encode_seconds,
        decode_seconds=scored.decode_seconds,
        verified=scored.verified,
        n_blocks={},
    )


class _Labelled:
    """A progress whose stages are named after what they are stages of."""

    def __init__(self, progress: Progress, label: str) -> None:
        self.progress, self.label = progress, label

    def stage(self, name: str, total: int | None, unit: str) -> None:
        self.progress.stage(f"{self.label}: {name}", total, unit)

    def advance(self, n: int, note: str = "") -> None:
        self.progress.advance(n, note)


def _against_ideal(ledger: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Ideal bits per byte of the model-coded part, and the overhead of archives that the model alone coded throughout."""
    model_bytes, ideal_bits = ledger["model_bytes"], ledger["length_bits"]["ideal"]
    if not model_bytes:
        return None, None
    by_model_alone = model_bytes == ledger["n_bytes"] and ledger["adapt"] == "none"
    coded_bits = 8 * (ledger["n_archive_bytes"] - ledger["n_header_bytes"])
    return ideal_bits / model_bytes, coded_bits / ideal_bits - 1 if by_model_alone else None


def _compressed_by_baseline(corpus: Corpus, data: bytes, baseline: Baseline, progress: Progress) -> Result:
    progress.stage(f"{corpus.name}: {baseline.name}", len(data), "bytes")
    measured = measure_baseline(baseline, data)
    progress.advance(len(data))
    return Result(
        corpus=corpus,
        compressor=measured.name,
        archive_bytes=measured.n_bytes_out,
        ideal_bits_per_byte=None,
        overhead=None,
        total_bytes=None,
        encode_seconds=max(measured.encode_seconds, 1e-9),
        decode_seconds=max(measured.decode_seconds, 1e-9),
        verified=measured.verified,
        n_blocks={},
    )
