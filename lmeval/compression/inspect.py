"""What archives say of themselves, without a model."""

from typing import Any

from lmeval import results
from lmeval.compression.container import archive
from lmeval.compression.container.kinds import kind_of
from lmeval.results import Column, Measurement, Report, Table
from lmeval.results.report import together
from lmeval.results.table import count, words

COLUMNS = (
    Column("block", "block", align="left"),
    count("position"),
    count("offset", "data from"),
    count("n_bytes", "bytes"),
    Column("kind", "kind"),
    count("payload_bytes", "payload"),
)
LAST_COLUMNS = (Column("bits_per_byte", "bits/byte", "bits/byte", digits=4), words("digest"))
TITLES = {"group_tokens": "group"}


def inspect(data: memoryview) -> Report:
    """Read all that an archive says of itself, and check every checksum but those of the data.

    Args:
        data: The archive, or several one after the other.

    Returns:
        A report of kind "inspect"; of several archives, one with a part for each. The ledger holds the format's version, the
        header and the sizes of the archive's parts; the table "blocks" has a row for each block, with its place, size, kind,
        and the numbers that its kind names.

    Raises:
        NotAnArchive: The bytes are no archive.
        CorruptArchive: A checksum does not match, or a length cannot be.
    """
    provenance = results.provenance("inspect", inputs={"archive": {"n_bytes": len(data)}})
    parts = tuple(_inspected(data, part, provenance) for part in archive.read_index(data))
    return together("inspect", parts, provenance)


def _inspected(data: memoryview, part: archive.Part, provenance: dict[str, Any]) -> Report:
    table = _block_table(data, part)
    n_archive_bytes, n_bytes = part.stop - part.start, part.header.n_bytes
    ledger = {
        "format": "{}.{}".format(*part.header.version),
        **part.header.meta,
        "n_archive_bytes": n_archive_bytes,
        "n_header_bytes": part.blocks_begin - part.start,
        "n_framing_bytes": part.stop - part.blocks_begin - sum(row["payload_bytes"] for row in table),
    }
    measurements = [Measurement("archive_bytes", n_archive_bytes, "bytes", "exact")]
    if n_bytes:
        measurements.insert(0, Measurement("bits_per_byte", 8 * n_archive_bytes / n_bytes, "bits/byte", "exact"))
    return Report("inspect", tuple(measurements), {"blocks": table}, ledger, provenance)


def _block_table(data: memoryview, part: archive.Part) -> Table:
    """A row for each block; one block is held at a time."""
    rows, named = [], {}
    for i, entry in enumerate(part.entries):
        block = archive.read_entry(data, entry, part.header)
        numbers = kind_of(block.kind).describe(block)
        named |= dict.fromkeys(numbers)
        row = {
            "block": i,
            "position": entry.position,
            "offset": block.offset,
            "n_bytes": block.n_bytes,
            "kind": block.kind,
            "payload_bytes": len(block.payload),
            **numbers,
            "bits_per_byte": 8 * len(block.payload) / block.n_bytes if block.n_bytes else None,
            "digest": block.digest.hex(),
        }
        rows.append(row)
    columns = (count(name, TITLES.get(name, name.removeprefix("n_").replace("_", " "))) for name in named)
    return Table((*COLUMNS, *columns, *LAST_COLUMNS), tuple(rows))
