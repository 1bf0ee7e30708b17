"""The account of a compression by a language model: blocks, bits and seconds, and the report that is made of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lmeval.compression.container.frame import Block
from lmeval.compression.container.kinds import REGISTRY
from lmeval.compression.text.encode import BY_MODEL, CodeLength
from lmeval.compression.text.model_header import ModelSettings, as_meta
from lmeval.compression.text.online_only import ONLINE
from lmeval.results import Column, Measurement, Report, Table
from lmeval.results.table import count, words

DECODED_TO_VERIFY = (*BY_MODEL, ONLINE)
"""Kinds of blocks that are decoded before they are written; general-purpose codecs are believed."""

BLOCK_COLUMNS = (words("kind"), count("blocks"))
OVERHEAD_COLUMNS = (
    words("what"),
    Column("bits", "bits", "bits", digits=0),
    Column("share", "over ideal", digits=3, style="percent"),
)


@dataclass
class Tally:
    """What is counted while blocks are coded and written: lines of the index, blocks by their kinds, the bits of the blocks
    that the model coded with their tokens and bytes of data, and seconds. `n_not_verified` counts blocks that a decoder here
    could not decode, which were then coded without the model. The header's size is 0 until it is known."""

    n_header_bytes: int = 0
    n_payload_bytes: int = 0
    n_tokens: int = 0
    model_bytes: int = 0
    n_not_verified: int = 0
    encode_seconds: float = 0.0
    verify_seconds: float = 0.0
    length: CodeLength = field(default_factory=lambda: CodeLength(0.0, 0.0, 0.0, 0.0, 0.0))
    lines: list[tuple[int, int]] = field(default_factory=list)
    n_blocks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REGISTRY, 0))

    @property
    def n_written(self) -> int:
        """Bytes of the archive so far."""
        return self.n_header_bytes + sum(stored for stored, _ in self.lines)

    def add(self, line: tuple[int, int], block: Block, length: CodeLength | None) -> None:
        """Count a block that was written.

        Args:
            line: Its line of the index.
            block: The block.
            length: Where its bits went, if the model coded it.
        """
        self.lines.append(line)
        self.n_blocks[block.kind] += 1
        self.n_payload_bytes += len(block.payload)
        if length is not None:
            self.length += length
            self.n_tokens += block.n_units
            self.model_bytes += block.n_bytes


def compression_report(
    tally: Tally,
    n_bytes: int,
    n_archive_bytes: int,
    settings: ModelSettings | None,
    ledger: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> Report:
    """The report of a compression.

    Args:
        tally: What was counted.
        n_bytes: Length of the input.
        n_archive_bytes: Length of the archive.
        settings: What the header says of the model; None where no block needs it.
        ledger: What else is to be told.
        provenance: By what and from what the archive was made.

    Returns:
        A report of kind "compress". Its measurements are the archive's size, its bits for each byte of the input (if there
        is one), the model's ideal code length for each byte of the data that it coded (if it coded any), and how fast blocks
        were encoded and verified. Tables: "blocks" counts them by kind; "overheads" says what the archive has beyond the
        ideal code, in bits and as a share of it.
    """
    of = {"model": str(provenance["models"][0]["name"])}
    results = [Measurement("archive_bytes", n_archive_bytes, "bytes", "exact", of=of)]
    if n_bytes:
        results.insert(0, Measurement("bits_per_byte", 8 * n_archive_bytes / n_bytes, "bits/byte", "exact", of=of))
    if tally.model_bytes:
        ideal = tally.length.ideal / tally.model_bytes
        results.append(Measurement("ideal_bits_per_byte", ideal, "bits/byte", "exact", of=of))
    verify_seconds = tally.verify_seconds if ledger["verified"] else None
    results += _speeds(n_bytes, ledger["survey_seconds"] + tally.encode_seconds, verify_seconds)
    n_framing_bytes = n_archive_bytes - tally.n_header_bytes - tally.n_payload_bytes
    blocks = tuple({"kind": kind, "blocks": n} for kind, n in tally.n_blocks.items() if n)
    tables = {"blocks": Table(BLOCK_COLUMNS, blocks)}
    if tally.model_bytes:
        tables["overheads"] = _overheads(tally, n_framing_bytes)
    counted = {
        "coder": "language model",
        "n_bytes": n_bytes,
        "n_archive_bytes": n_archive_bytes,
        "n_header_bytes": tally.n_header_bytes,
        "n_framing_bytes": n_framing_bytes,
        "n_payload_bytes": tally.n_payload_bytes,
        "n_tokens": tally.n_tokens,
        "model_bytes": tally.model_bytes,
        "length_bits": tally.length._asdict(),
        "n_blocks": dict(tally.n_blocks),
        "n_not_verified": tally.n_not_verified,
        "model": None if settings is None else as_meta(settings),
        "encode_seconds": tally.encode_seconds,
        "verify_seconds": tally.verify_seconds,
    }
    return Report("compress", tuple(results), tables, counted | dict(ledger), provenance)


def _speeds(n_bytes: int, encode_seconds: float, verify_seconds: float | None) -> list[Measurement]:
    seconds = {"encode_speed": encode_seconds} | ({} if verify_seconds is None else {"verify_speed": verify_seconds})
    return [
        Measurement(name, n_bytes / max(s, 1e-9), "bytes/s", "exact", higher_is_better=True) for name, s in seconds.items()
    ]


def _overheads(tally: Tally, n_framing_bytes: int) -> Table:
    length = tally.length
    adaptation = {"adaptation": length.adaptation} if tally.n_blocks["adapted"] else {}
    bits = {"grid": length.grid, "phases": length.phases, **adaptation, "coder": length.coder}
    bits |= {"framing": 8.0 * n_framing_bytes, "header": 8.0 * tally.n_header_bytes}
    rows = ({"what": what, "bits": n, "share": n / length.ideal} for what, n in bits.items())
    return Table(OVERHEAD_COLUMNS, tuple(rows))
