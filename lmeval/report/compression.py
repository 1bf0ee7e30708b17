"""Tables of compression: one archive, what it says of itself, the benchmark."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape

from lmeval.compression import Compression
from lmeval.compression.archive import KINDS
from lmeval.report.tables import plain_table, speed
from lmeval.results import Report


def running_rate(n_archive_bytes: int, n_bytes: int) -> str:
    """Bits per byte so far, for a progress bar."""
    return f"{8 * n_archive_bytes / n_bytes:.3f} bits/byte" if n_bytes and n_archive_bytes else ""


def compression_table(name: str, found: Compression) -> RenderableType:
    """Size and speed of one compression, and where the bits went."""
    table = plain_table("", "")
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
    verify = f", verified {speed(found.n_bytes / found.verify_seconds)}" if found.verified else ", not verified"
    table.add_row("speed", f"encoded {speed(encode)}{verify}")
    return table


def inspect_table(archives: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Headers and blocks of the archives of a file."""
    return Group(*(part for found in archives for part in _inspected(found)))


def _inspected(found: Mapping[str, Any]) -> list[RenderableType]:
    head = plain_table("", "")
    for key, value in found.items():
        if key == "blocks":
            continue
        for name, cell in value.items() if isinstance(value, Mapping) else [("", value)]:
            label = f"{key}.{name}" if name else key
            head.add_row(escape(label), escape(f"{cell:,}" if isinstance(cell, int) else str(cell)))
    blocks = plain_table(
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
    measured = plain_table(*names)
    published = plain_table(
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
    speeds = [speed(row[f"{way}_bytes_per_second"]) for way in ("encode", "decode")]
    size = [f"{row['n_bytes']:,}", f"{row['archive_bytes']:,}", f"{row['bits_per_byte']:.4f}"]
    decoded = "equal" if row["verified"] else "DIFFERENT"
    return [escape(row["corpus"]), escape(row["compressor"]), *size, ideal, overhead, total, *speeds, decoded, row["note"]]
