"""Results for people: aligned tables on a terminal. Reads reports, never a model."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from lmeval.compression import CompressedSize, Compression
from lmeval.compression.archive import KINDS
from lmeval.results import Measurement, Report, find


class DemoRow(NamedTuple):
    """One text: its name, the model's score, the archive's size and whether it decoded to the same bytes, and the sizes
    that general-purpose compressors make of it."""

    name: str
    report: Report
    archive_bytes: int
    decoded: bool
    sizes: Sequence[CompressedSize]

    @property
    def archive_bits_per_byte(self) -> float:
        """Bits of the archive for each byte of text."""
        return 8 * self.archive_bytes / self.report.ledger["n_bytes_scored"]


def perplexity_tables(report: Report) -> RenderableType:
    """What was scored, every measurement with its interval, and bits by the amount of context."""
    ledger, model = report.ledger, report.provenance["model"]
    windows = ledger["windows"]
    head = _plain_table("", "")
    head.add_row("text", escape(", ".join(report.provenance["corpus"]["sources"])))
    counts = f"{ledger['n_bytes_scored']:,} bytes, {ledger['n_tokens_scored']:,} tokens in {windows['n']:,} windows"
    head.add_row("scored", f"{_count(ledger['n_documents'], 'document')}, {counts}")
    left_out = _left_out(report)
    if left_out:
        head.add_row("not scored", left_out)
    name = f"{model['name']}, {model['n_parameters']:,} parameters, {model['dtype']} on {report.provenance['device']}"
    head.add_row("model", escape(name))
    bos = {"window": "at every window", "document": "at document starts", "none": "nowhere"}[windows["bos_policy"]]
    head.add_row("windows", f"context {windows['context']:,}, stride {windows['stride']:,}, BOS {bos}")
    head.add_row("interval", _interval_method(report))
    return Group(head, "", _measurement_table(report.results), "", _position_table(report))


def withheld_notice(report: Report) -> str | None:
    """One line where figures per byte, character and word had to be withheld, else None."""
    trip = report.ledger["round_trip"]
    if trip["exact"]:
        return None
    return (
        f"the tokenizer does not give back the text of {_count(trip['n_documents_not_exact'], 'document')} (first: "
        f"{trip['first_document_not_exact']}): figures per byte, character and word are withheld, those per token stand"
    )


def demo_table(rows: Sequence[DemoRow]) -> RenderableType:
    """Bits per byte: the model's score with its 95% interval, its archive, general-purpose compressors; smallest in bold."""
    model = rows[0].report.provenance["model"]["name"]
    columns = [size.name for size in rows[0].sizes]
    windows = rows[0].report.ledger["windows"]
    title = f"bits per byte ({model}, context {windows['context']:,}, stride {windows['stride']:,})"
    table = _plain_table("text", "bytes", "score", "95% interval", "archive", "decoded", *columns, title=title)
    for row in rows:
        score = find(row.report, "bits_per_byte")
        values = [row.archive_bits_per_byte, *(size.bits_per_byte for size in row.sizes)]
        cells = [f"[bold]{value:.3f}[/bold]" if value == min(values) else f"{value:.3f}" for value in values]
        decoded = "equal" if row.decoded else "DIFFERENT"
        n_bytes = f"{row.report.ledger['n_bytes_scored']:,}"
        table.add_row(escape(row.name), n_bytes, f"{score.value:.3f}", _interval(score, 3), cells[0], decoded, *cells[1:])
    return table


def _plain_table(*columns: str, title: str | None = None) -> Table:
    table = Table(
        title=title, title_justify="left", box=None, show_header=any(columns), pad_edge=False, padding=(0, 2, 0, 0)
    )
    for i, column in enumerate(columns):
        left = i == 0 or not any(columns)
        table.add_column(column, justify="left" if left else "right", no_wrap=True, overflow="ignore")
    return table


def _measurement_table(measurements: Sequence[Measurement]) -> Table:
    table = _plain_table("metric", "value", "95% interval", "standard error")
    for m in measurements:
        digits = 1 if m.name == "nll_nats" else 4
        error = "" if m.stderr is None else _number(m.stderr, digits)
        table.add_row(m.name, _number(m.value, digits), _interval(m, digits), error)
    return table


def _interval(m: Measurement, digits: int) -> str:
    return "" if m.ci95 is None else f"{_number(m.ci95[0], digits)} to {_number(m.ci95[1], digits)}"


def _number(x: float, digits: int) -> str:
    return f"{x:,.{digits}f}" if abs(x) < 1e9 else f"{x:.{digits}e}"


def _position_table(report: Report) -> Table:
    exact = report.ledger["round_trip"]["exact"]
    table = _plain_table("tokens before", "tokens scored", "bits/token", *(["bits/byte"] if exact else []))
    for row in report.tables["by_position"]:
        last = min(row["stop"], report.ledger["windows"]["context"]) - 1
        span = f"{row['first']}" if last == row["first"] else f"{row['first']} to {last}"
        cells = [f"{row['bits_per_token']:.4f}"]
        if exact:
            cells.append("" if row["bits_per_byte"] is None else f"{row['bits_per_byte']:.4f}")
        table.add_row(span, f"{row['n_tokens']:,}", *cells)
    return table


def _left_out(report: Report) -> str:
    ledger = report.ledger
    parts = []
    if ledger["n_tokens_not_scored"]:
        parts.append(f"{_count(ledger['n_tokens_not_scored'], 'token')} with nothing before them")
    if ledger["n_documents_empty"]:
        parts.append(_count(ledger["n_documents_empty"], "empty document"))
    return ", ".join(parts)


def _interval_method(report: Report) -> str:
    interval = report.ledger["interval"]
    if interval["method"] == "documents":
        return f"ratio estimator over {interval['n_units']:,} documents"
    if interval["method"] == "blocks":
        blocks = f"blocks of {interval['block_length']:,} of {interval['n_units']:,} pieces of text"
        return f"block bootstrap, {blocks}"
    return "none: one short document says nothing about spread"


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def running_rate(n_archive_bytes: int, n_bytes: int) -> str:
    """Bits per byte so far, for a progress bar."""
    return f"{8 * n_archive_bytes / n_bytes:.3f} bits/byte" if n_bytes and n_archive_bytes else ""


def compression_table(name: str, found: Compression) -> RenderableType:
    """Size and speed of one compression, and where the bits went."""
    table = _plain_table("", "")
    rate = f"  {found.bits_per_byte:.4f} bits/byte" if found.n_bytes else ""
    table.add_row("input", f"{escape(name)}  {found.n_bytes:,} bytes")
    table.add_row("archive", f"{found.n_archive_bytes:,} bytes{rate}")
    kinds = [f"{n:,} {kind}" for kind, n in zip(KINDS, found.n_blocks, strict=True) if n]
    table.add_row("blocks", ", ".join(kinds) or "none")
    if found.settings is not None and found.model_bytes:
        settings, length = found.settings, found.length
        table.add_row("model", escape(f"{settings.name}, {settings.dtype}"))
        lanes = f"{found.n_lanes:,} lanes, context {settings.layout.window:,}, overlap {settings.layout.overlap:,}"
        table.add_row("layout", lanes)
        table.add_row("tolerance", f"{settings.epsilon:.2g} nats beyond a drift of {settings.drift:.2g} between passes here")
        table.add_row("ideal", f"{length.ideal / 8:,.0f} bytes  {length.ideal / found.model_bytes:.4f} bits/byte")
        extras = [("grid", length.grid), ("phases", length.phases), ("coder", length.coder)]
        extras += [("framing", 8.0 * found.n_framing_bytes), ("header", 8.0 * found.n_header_bytes)]
        table.add_row("on top", ", ".join(f"{what} {100 * bits / length.ideal:.3f}%" for what, bits in extras))
    encode = found.n_bytes / max(found.survey_seconds + found.encode_seconds, 1e-9)
    verify = f", verified {_speed(found.n_bytes / found.verify_seconds)}" if found.verified else ", not verified"
    table.add_row("speed", f"encoded {_speed(encode)}{verify}")
    return table


def _speed(bytes_per_second: float | None) -> str:
    if bytes_per_second is None:
        return ""
    return f"{bytes_per_second / 1e6:,.2f} MB/s" if bytes_per_second >= 1e5 else f"{bytes_per_second / 1e3:,.2f} kB/s"


def inspect_table(archives: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Headers and blocks of the archives of a file."""
    return Group(*(part for found in archives for part in _inspected(found)))


def _inspected(found: Mapping[str, Any]) -> list[RenderableType]:
    head = _plain_table("", "")
    for key, value in found.items():
        if key == "blocks":
            continue
        for name, cell in value.items() if isinstance(value, Mapping) else [("", value)]:
            label = f"{key}.{name}" if name else key
            head.add_row(escape(label), escape(f"{cell:,}" if isinstance(cell, int) else str(cell)))
    blocks = _plain_table(
        "block", "position", "data from", "bytes", "kind", "payload", "lanes", "tokens", "group", "bits/byte"
    )
    for i, block in enumerate(found["blocks"]):
        numbers = [f"{block[key]:,}" if key in block else "" for key in ("n_lanes", "n_tokens", "group_tokens")]
        places = [f"{block[key]:,}" for key in ("position", "offset", "n_bytes")]
        rate = 8 * block["payload_bytes"] / block["n_bytes"]
        blocks.add_row(str(i), *places, block["kind"], f"{block['payload_bytes']:,}", *numbers, f"{rate:.4f}")
    return [head, "", blocks, ""]


def benchmark_table(report: Report) -> RenderableType:
    """One table for all corpora and compressors; then what others have published about the same files."""
    names = (
        "corpus",
        "compressor",
        "bytes",
        "archive",
        "bits/byte",
        "ideal",
        "overhead",
        "total",
        "encode",
        "decode",
        "decoded",
        "blocks",
    )
    measured = _plain_table(*names)
    published = _plain_table(
        "corpus", "compressor", "archive", "bits/byte", "total", "source", title="published, not measured here"
    )
    last = ""
    for row in report.tables["benchmark"]:
        if row["published"]:
            total = "" if row["total_bytes"] is None else f"{row['total_bytes']:,}"
            cells = (f"{row['archive_bytes']:,}", f"{row['bits_per_byte']:.3f}", total, escape(row["note"]))
            published.add_row(escape(row["corpus"]), escape(row["compressor"]), *cells)
            continue
        if last and last != row["corpus"]:
            measured.add_row()
        last = row["corpus"]
        measured.add_row(*_benchmark_cells(row))
    notes = [
        "ideal: the model's own code length; overhead: of the archive without its header over it",
        "total: archive, model files and lmeval's compressed source, as the Hutter Prize counts",
    ]
    return Group(measured, "", *notes, *(["", published] if published.row_count else []))


def _benchmark_cells(row: Mapping[str, Any]) -> list[str]:
    ideal = "" if row["ideal_bits_per_byte"] is None else f"{row['ideal_bits_per_byte']:.4f}"
    overhead = "" if row["overhead"] is None else f"{100 * row['overhead']:.2f}%"
    total = "" if row["total_bytes"] is None else f"{row['total_bytes']:,}"
    speeds = [_speed(row[f"{way}_bytes_per_second"]) for way in ("encode", "decode")]
    size = [f"{row['n_bytes']:,}", f"{row['archive_bytes']:,}", f"{row['bits_per_byte']:.4f}"]
    decoded = "equal" if row["verified"] else "DIFFERENT"
    return [escape(row["corpus"]), escape(row["compressor"]), *size, ideal, overhead, total, *speeds, decoded, row["note"]]
