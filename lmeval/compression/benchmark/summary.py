"""What a benchmark measured, as a report: results, tables and items."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lmeval.compression.benchmark.corpora import KnownCorpus
from lmeval.results import Column, ItemMetric, ItemRecord, Items, Measurement, Report, Table
from lmeval.results.table import count, words


class Corpus(NamedTuple):
    """A corpus that was compressed; `sha256` is of its bytes."""

    name: str
    n_bytes: int
    sha256: str


class Result(NamedTuple):
    """What one compressor made of one corpus, measured here.

    Attributes:
        corpus: What was compressed.
        compressor: A model with its level of online models, a scorer, or a command.
        archive_bytes: Size of the whole archive, header, framing and checksums included.
        ideal_bits_per_byte: The model's own code length in the pass that encoded; None for baselines.
        overhead: What the archive without its header takes beyond that, as a share; None where online models adapt it.
        total_bytes: All that a decoder needs, as the Hutter Prize counts: the archive, the model's files, and lmeval's
            source, compressed (not Python and its libraries). None for programs that everyone has.
        encode_seconds: Wall-clock time of compressing.
        decode_seconds: Wall-clock time of decompressing.
        verified: Whether the corpus came back byte for byte.
        n_blocks: How many blocks of the archive are of which kind; empty for baselines.
    """

    corpus: Corpus
    compressor: str
    archive_bytes: int
    ideal_bits_per_byte: float | None
    overhead: float | None
    total_bytes: int | None
    encode_seconds: float
    decode_seconds: float
    verified: bool
    n_blocks: Mapping[str, int]

    @property
    def bits_per_byte(self) -> float:
        """Bits of the archive for each byte of the corpus."""
        return 8 * self.archive_bytes / self.corpus.n_bytes

    @property
    def encode_speed(self) -> float:
        """Bytes of the corpus that are compressed in a second."""
        return self.corpus.n_bytes / self.encode_seconds

    @property
    def decode_speed(self) -> float:
        """Bytes of the corpus that are decompressed in a second."""
        return self.corpus.n_bytes / self.decode_seconds


class Refusal(NamedTuple):
    """A scorer that gets no score on a corpus; `reason` goes on from its name: "sums to 277 at byte 12,345"."""

    corpus: Corpus
    compressor: str
    reason: str


COLUMNS = (
    words("corpus"),
    Column("compressor", "compressor", style="words"),
    count("n_bytes", "bytes", "bytes"),
    count("archive_bytes", "archive", "bytes"),
    Column("bits_per_byte", "bits/byte", "bits/byte", digits=4),
    Column("ideal_bits_per_byte", "ideal", "bits/byte", digits=4),
    Column("overhead", "overhead", digits=2, style="percent"),
    count("total_bytes", "total", "bytes"),
    Column("encode_speed", "encode", "bytes/s", style="speed"),
    Column("decode_speed", "decode", "bytes/s", style="speed"),
    Column("verified", "decoded"),
    Column("blocks", "blocks", style="words"),
)
NOTES = (
    "ideal: the model's own code length; overhead: of the archive without its header over it, where nothing is adapted",
    "total: archive, model files and lmeval's compressed source, as the Hutter Prize counts",
)
REFUSED = words("refused", "no score, because it")
"""The last column of the table where a scorer was refused."""
PUBLISHED_COLUMNS = (
    words("corpus"),
    Column("compressor", "compressor", style="words"),
    count("archive_bytes", "archive", "bytes"),
    Column("bits_per_byte", "bits/byte", "bits/byte", digits=3),
    count("total_bytes", "total", "bytes"),
    Column("decoded", "decoded"),
    Column("source", "source", style="words"),
)
PUBLISHED_NOTES = ("decoded: by the source's account; empty where it says nothing",)
BITS_PER_BYTE = ItemMetric("bits_per_byte", "bits/byte", numerator="archive_bytes", denominator="n_bytes", scale=8.0)


def summary(
    corpora: Sequence[Corpus],
    results: Sequence[Result | Refusal],
    known: Sequence[KnownCorpus],
    n_source_bytes: int,
    provenance: Mapping[str, Any],
) -> Report:
    """The report of a benchmark.

    Args:
        corpora: What was compressed.
        results: What every compressor made of every corpus, or why it has no score there.
        known: The corpora among them about which others have published results.
        n_source_bytes: Size of lmeval's compressed source, as the totals count it.
        provenance: Of the run.
    """
    measured = [result for result in results if isinstance(result, Result)]
    refused = [result for result in results if isinstance(result, Refusal)]
    columns = (*COLUMNS, REFUSED) if refused else COLUMNS
    tables = {"benchmark": Table(columns, tuple(map(_row, results)), notes=NOTES)}
    if known:
        rows = tuple(row for corpus in known for row in _published(corpus))
        tables["published"] = Table(PUBLISHED_COLUMNS, rows, title="published, not measured here", notes=PUBLISHED_NOTES)
    return Report(
        kind="benchmark",
        results=tuple(measurement for result in measured for measurement in _measurements(result)),
        tables=tables,
        ledger={
            "n_bytes": {corpus.name: corpus.n_bytes for corpus in corpora},
            "sha256": {corpus.name: corpus.sha256 for corpus in corpora},
            "verified": all(result.verified for result in measured),
            "refused": [{"corpus": r.corpus.name, "compressor": r.compressor, "reason": r.reason} for r in refused],
            "decoder_source_bytes": n_source_bytes,
        },
        provenance=provenance,
        items=Items((BITS_PER_BYTE,), tuple(map(_item, measured))),
    )


def _row(result: Result | Refusal) -> dict[str, Any]:
    of = {"corpus": result.corpus.name, "compressor": result.compressor, "n_bytes": result.corpus.n_bytes}
    if isinstance(result, Refusal):
        return {**of, "verified": None, "refused": result.reason}
    return {
        **of,
        "archive_bytes": result.archive_bytes,
        "bits_per_byte": result.bits_per_byte,
        "ideal_bits_per_byte": result.ideal_bits_per_byte,
        "overhead": result.overhead,
        "total_bytes": result.total_bytes,
        "encode_speed": result.encode_speed,
        "decode_speed": result.decode_speed,
        "verified": result.verified,
        "blocks": ", ".join(f"{n} {kind}" for kind, n in result.n_blocks.items()),
    }


def _published(corpus: KnownCorpus) -> Iterator[dict[str, Any]]:
    for result in corpus.published:
        yield {
            "corpus": corpus.name,
            "compressor": result.program,
            "archive_bytes": result.n_bytes_out or round(result.bits_per_byte * corpus.n_bytes / 8),
            "bits_per_byte": result.bits_per_byte,
            "total_bytes": result.total_bytes,
            "decoded": result.decoded,
            "source": f"{result.source}, {result.date}",
        }


def _measurements(result: Result) -> Iterator[Measurement]:
    of = {"corpus": result.corpus.name, "compressor": result.compressor}
    yield Measurement("bits_per_byte", result.bits_per_byte, "bits/byte", "exact", of=of)
    if result.ideal_bits_per_byte is not None:
        yield Measurement("ideal_bits_per_byte", result.ideal_bits_per_byte, "bits/byte", "exact", of=of)
    yield Measurement("encode_speed", result.encode_speed, "bytes/s", "exact", higher_is_better=True, of=of)
    yield Measurement("decode_speed", result.decode_speed, "bytes/s", "exact", higher_is_better=True, of=of)


def _item(result: Result) -> ItemRecord:
    values: dict[str, float] = {
        "archive_bytes": result.archive_bytes,
        "n_bytes": result.corpus.n_bytes,
        "encode_seconds": result.encode_seconds,
        "decode_seconds": result.decode_seconds,
    }
    detail = {"sha256": result.corpus.sha256, "verified": result.verified}
    return ItemRecord(result.corpus.name, {"compressor": result.compressor}, values, detail=detail)
