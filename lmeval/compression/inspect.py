"""What archives say of themselves, without a model."""

from typing import Any

from lmeval import results
from lmeval.compression.container import archive
from lmeval.compression.container.frame import Block
from lmeval.compression.container.kinds import kind_of
from lmeval.errors import CorruptArchive
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
    blocks = list(archive.Blocks(data, part.blocks_begin, part.header))
    if len(blocks) != len(part.entries):
        raise CorruptArchive("the archive's index does not fit its blocks")
    n_archive_bytes, n_bytes = part.stop - part.start, part.header.n_bytes
    ledger = {
        "format": "{}.{}".format(*part.header.version),
        **part.header.meta,
        "n_archive_bytes": n_archive_bytes,
        "n_header_bytes": part.blocks_begin - part.start,
        "n_framing_bytes": part.stop - part.blocks_begin - sum(len(block.payload) for block in blocks),
    }
    measurements = [Measurement("archive_bytes", n_archive_bytes, "bytes", "exact")]
    if n_bytes:
        measurements.insert(0, Measurement("bits_per_byte", 8 * n_archive_bytes / n_bytes, "bits/byte", "exact"))
    return Report("inspect", tuple(measurements), {"blocks": _block_table(blocks, part)}, ledger, provenance)


def _block_table(blocks: list[Block], part: archive.Part) -> Table:
    described = [kind_of(block.kind).describe(block) for block in blocks]
    named = dict.fromkeys(name for numbers in described for name in numbers)
    rows = tuple(
        {
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
        for i, (block, entry, numbers) in enumerate(zip(blocks, part.entries, described, strict=True))
    )
    columns = (count(name, TITLES.get(name, name.removeprefix("n_").replace("_", " "))) for name in named)
    return Table((*COLUMNS, *columns, *LAST_COLUMNS), rows)
