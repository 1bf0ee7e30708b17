"""What a report of a scored corpus says beside its figures: ledger, tables and items."""

from collections.abc import Sequence
from typing import Any

from lmeval.models import CausalLM
from lmeval.models.text_units import UNITS
from lmeval.perplexity.corpus import CorpusStats
from lmeval.perplexity.measures import bits_per, item_metrics, perplexity_per
from lmeval.perplexity.tally import DocumentSums, PositionBin, Row, Spread, Tally, named
from lmeval.results import ItemRecord, Items
from lmeval.results.table import Column, Table, count, words
from lmeval.scoring import Windowing

MAX_LISTED_DOCUMENTS = 1000
FEWEST_PAIRED_DOCUMENTS = 30  # from here to MAX_LISTED_DOCUMENTS, documents are a report's items; else blocks of bytes are
COUNTS = ("tokens", *UNITS)


def ledger(model: CausalLM, windowing: Windowing, corpus: CorpusStats, tally: Tally, spread: Spread) -> dict[str, Any]:
    """What was scored and what was not, and how."""
    scored = {name: int(n) for name, n in named(tally.moments.total).items() if name in COUNTS}
    return {
        "windows": {
            "context": windowing.context,
            "stride": windowing.stride,
            "bos_policy": windowing.bos,
            "bos_id": model.bos_id if windowing.bos != "none" else None,
            "n": tally.n_windows,
        },
        "n_documents": corpus.n_documents,
        "n_documents_empty": corpus.n_empty,
        **{f"n_{name}_scored": n for name, n in scored.items()},
        "n_tokens_not_scored": corpus.n_tokens - scored["tokens"],
        "n_bytes_not_scored": corpus.n_bytes - scored["bytes"],
        "special_tokens_scored": 0,
        "text_transform": "none",
        "round_trip": {
            "exact": not corpus.n_inexact,
            "n_documents_not_exact": corpus.n_inexact,
            "first_document_not_exact": corpus.first_inexact,
            "withheld": ["per byte", "per character", "per word"] if corpus.n_inexact else [],
        },
        "interval": {"method": spread.method, "n_units": spread.n, "block_length": spread.block_length},
        "n_documents_listed": min(tally.moments.n, MAX_LISTED_DOCUMENTS),
    }


def position_table(bins: Sequence[PositionBin]) -> Table:
    """Bits per token and byte of targets with first <= input tokens before their own < stop."""
    columns = (
        count("first"),
        count("stop"),
        count("n_tokens", "tokens scored"),
        Column("bits_per_token", "bits/token", "bits/token", digits=4),
        Column("bits_per_byte", "bits/byte", "bits/byte", digits=4),
    )
    rows = []
    for first, stop, row in bins:
        sums = named(row)
        rows.append(
            {
                "first": first,
                "stop": stop,
                "n_tokens": int(sums["tokens"]),
                "bits_per_token": bits_per(sums["nats"], sums["tokens"]),
                "bits_per_byte": bits_per(sums["nats"], sums["bytes"]),
            }
        )
    return Table(columns, tuple(rows))


def document_table(documents: Sequence[DocumentSums]) -> Table:
    """Sums and figures of each document."""
    columns = (
        words("name", "document"),
        Column("nll_nats", "nats", "nats", digits=1),
        *(count(f"n_{name}", name) for name in COUNTS),
        Column("bits_per_byte", "bits/byte", "bits/byte", digits=4),
        Column("token_perplexity", "token perplexity", digits=4),
        Column("word_perplexity", "word perplexity", digits=4),
    )
    return Table(columns, tuple(_document_row(document) for document in documents))


def _document_row(document: DocumentSums) -> dict[str, Any]:
    sums = named(document.row)
    return {
        "name": document.name,
        "nll_nats": sums["nats"],
        **{f"n_{name}": int(sums[name]) for name in COUNTS},
        "bits_per_byte": bits_per(sums["nats"], sums["bytes"]),
        "token_perplexity": perplexity_per(sums["nats"], sums["tokens"]),
        "word_perplexity": perplexity_per(sums["nats"], sums["words"]),
    }


class DocumentRecords:
    """Makes an item of each document of one run; a name that comes back gets its number, so that items have names apart."""

    def __init__(self, model: CausalLM) -> None:
        self._of = {"model": model.name}
        self._times: dict[str, int] = {}

    def record(self, document: DocumentSums) -> ItemRecord:
        """The item of the next document."""
        times = self._times[document.name] = self._times.get(document.name, 0) + 1
        item = document.name if times == 1 else f"{document.name} #{times}"
        return ItemRecord(item, self._of, _values(document.row))


def paired_items(model: CausalLM, corpus: CorpusStats, tally: Tally, listed: Sequence[DocumentSums]) -> Items:
    """What two reports on the same text are paired over: documents where there are enough of them and not too many, else
    blocks of bytes, the same whatever the tokenizer."""
    metrics = item_metrics(exact=not corpus.n_inexact)
    if FEWEST_PAIRED_DOCUMENTS <= tally.moments.n <= MAX_LISTED_DOCUMENTS:
        records = DocumentRecords(model)
        return Items(metrics, tuple(records.record(document) for document in listed))
    of = {"model": model.name, "corpus": f"sha256 {corpus.sha256[:16]}"}
    blocks = tally.blocks.blocks()
    return Items(
        metrics, tuple(ItemRecord(f"bytes {b.first} to {b.stop}", of, _values(b.row)) for b in blocks), ordered=True
    )


def _values(row: Row) -> dict[str, float]:
    sums = named(row)
    return {"nll_nats": sums["nats"], **{f"n_{name}": sums[name] for name in COUNTS}}
