"""Corpora x compressors: size, speed and proof of the round trip, for language models and general-purpose compressors."""

import hashlib
import io
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lmeval.compression.benchmark.baselines import BASELINES, measure_baseline
from lmeval.compression.benchmark.corpora import KnownCorpus, identify
from lmeval.compression.benchmark.decoder_size import model_bytes, source_bytes
from lmeval.compression.compress import compress_to
from lmeval.compression.container.archive import KINDS
from lmeval.compression.decompress import DecompressSettings, decompress_to
from lmeval.compression.text.account import Compression
from lmeval.compression.text.plan import CompressSettings
from lmeval.errors import EmptyInput
from lmeval.models import CausalLM
from lmeval.results import Measurement, Report, now, versions
from lmeval.results.table import untyped


class Row(NamedTuple):
    """What one compressor made of one corpus.

    `ideal_bits_per_byte` is the model's own code length in the pass that encoded; `overhead` is what the archive without
    its header takes beyond it, as a share, where no online models adapt it. `total_bytes` counts, as the Hutter Prize does,
    all that a decoder needs: the archive, the model's files, and lmeval's source, compressed (not Python and its libraries).
    None for programs that everyone has. `published` marks figures of others, which were not measured here; `note` is their
    source, or how many blocks of an archive were coded by the model and how many, where that was shorter, without it.
    """

    corpus: str
    compressor: str
    n_bytes: int
    archive_bytes: int
    bits_per_byte: float
    ideal_bits_per_byte: float | None
    overhead: float | None
    total_bytes: int | None
    encode_bytes_per_second: float | None
    decode_bytes_per_second: float | None
    verified: bool
    published: bool
    note: str


Progress = Callable[[str, int], None]
"""Called with what is being done, and the number of bytes just dealt with."""


def benchmark(
    corpora: Sequence[tuple[str, bytes]],
    models: Sequence[CausalLM],
    settings: CompressSettings = CompressSettings(),  # noqa: B008 (immutable)
    progress: Progress | None = None,
    *,
    levels: Sequence[str] = ("none", "full"),
) -> Report:
    """Compress every corpus with every model, at every one of the `levels` of its online models, and with every baseline;
    decode, and compare byte for byte.

    `settings.verify` is not used: the decoding that is timed is the verification; nor is `settings.adapt`. Results published
    by others follow for corpora that are known by their size and checksum. Raises EmptyInput and InputError.
    """
    began = time.perf_counter()
    rows: list[Row] = []
    for name, data in corpora:
        if not data:
            raise EmptyInput(f"{name} is empty: bits per byte are not defined")
        ways = [settings._replace(verify=False, adapt=level) for level in levels]
        rows += [_model_row(name, data, model, way, progress) for model in models for way in ways]
        for baseline in BASELINES.values():
            if progress:
                progress(f"{name}: {baseline.name}", 0)
            rows.append(_baseline_row(name, measure_baseline(baseline, data)))
        known = identify(len(data), hashlib.sha256(data).hexdigest())
        rows += [] if known is None else _published_rows(known)
    return Report(
        kind="benchmark",
        results=tuple(m for row in rows if not row.published for m in _measurements(row)),
        ledger={
            "n_bytes": {name: len(data) for name, data in corpora},
            "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in corpora},
            "verified": all(row.verified for row in rows if not row.published),
            "decoder_source_bytes": source_bytes(),
        },
        provenance={
            "task": "benchmark",
            "date": now(),
            "models": [_describe(model) for model in models],
            "seconds": round(time.perf_counter() - began, 3),
            "versions": versions(),
        },
        tables={"benchmark": untyped([row._asdict() for row in rows])},
    )


def _model_row(name: str, data: bytes, model: CausalLM, settings: CompressSettings, progress: Progress | None) -> Row:
    compressor = f"{model.name} + {settings.adapt}" if settings.adapting else model.name

    def on_encoding(_: str, n: int, __: int) -> None:
        if progress:
            progress(f"{name}: {compressor}: encoding", n)

    def on_decoding(n: int) -> None:
        if progress:
            progress(f"{name}: {compressor}: decoding", n)

    out, back = io.BytesIO(), io.BytesIO()
    began = time.perf_counter()
    found = compress_to(out, memoryview(data), model, settings, progress=on_encoding)
    encoded = time.perf_counter()
    lanes = DecompressSettings(lanes_per_pass=settings.lanes_per_pass)
    decompress_to(back, memoryview(out.getvalue()), model, lanes, progress=on_decoding)
    decoded = time.perf_counter()
    ideal, overhead = _against_ideal(found)
    return Row(
        corpus=name,
        compressor=compressor,
        n_bytes=len(data),
        archive_bytes=found.n_archive_bytes,
        bits_per_byte=found.bits_per_byte,
        ideal_bits_per_byte=ideal,
        overhead=overhead,
        total_bytes=found.n_archive_bytes + model_bytes(model) + source_bytes(),
        encode_bytes_per_second=len(data) / (encoded - began),
        decode_bytes_per_second=len(data) / (decoded - encoded),
        verified=back.getvalue() == data,
        published=False,
        note=", ".join(f"{n} {kind}" for kind, n in zip(KINDS, found.n_blocks, strict=True) if n),
    )


def _against_ideal(found: Compression) -> tuple[float | None, float | None]:
    """Ideal bits per byte of the model-coded part, and the overhead of archives that the model alone coded throughout."""
    if not found.model_bytes:
        return None, None
    whole = found.model_bytes == found.n_bytes and found.adapt == "none"
    coded = 8 * (found.n_archive_bytes - found.n_header_bytes)
    return found.length.ideal / found.model_bytes, coded / found.length.ideal - 1 if whole else None


def _baseline_row(name: str, found: Any) -> Row:
    return Row(
        corpus=name,
        compressor=found.name,
        n_bytes=found.n_bytes_in,
        archive_bytes=found.n_bytes_out,
        bits_per_byte=found.bits_per_byte,
        ideal_bits_per_byte=None,
        overhead=None,
        total_bytes=None,
        encode_bytes_per_second=found.n_bytes_in / max(found.encode_seconds, 1e-9),
        decode_bytes_per_second=found.n_bytes_in / max(found.decode_seconds, 1e-9),
        verified=found.verified,
        published=False,
        note="",
    )


def _published_rows(known: KnownCorpus) -> list[Row]:
    return [
        Row(
            corpus=known.name,
            compressor=found.program,
            n_bytes=known.n_bytes,
            archive_bytes=found.n_bytes_out or round(found.bits_per_byte * known.n_bytes / 8),
            bits_per_byte=found.bits_per_byte,
            ideal_bits_per_byte=None,
            overhead=None,
            total_bytes=found.total_bytes,
            encode_bytes_per_second=None,
            decode_bytes_per_second=None,
            verified=False,
            published=True,
            note=f"{found.source}, {found.date}",
        )
        for found in known.published
    ]


def _measurements(row: Row) -> list[Measurement]:
    values = {
        "bits_per_byte": (row.bits_per_byte, "bits/byte", False),
        "ideal_bits_per_byte": (row.ideal_bits_per_byte, "bits/byte", False),
        "encode_speed": (row.encode_bytes_per_second, "bytes/s", True),
        "decode_speed": (row.decode_bytes_per_second, "bytes/s", True),
    }
    return [
        Measurement(f"{name}[{row.corpus}][{row.compressor}]", float(value), unit, "exact", None, None, 1, better)
        for name, (value, unit, better) in values.items()
        if value is not None
    ]


def _describe(model: CausalLM) -> dict[str, Any]:
    return {
        "name": model.name,
        "n_parameters": model.n_parameters,
        "weights_sha256": model.weights_sha256,
        "model_bytes": model_bytes(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
    }
