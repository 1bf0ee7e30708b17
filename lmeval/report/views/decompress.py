"""View of `lmeval decompress`: what came out, and what is lost of a damaged archive."""

from lmeval.report.blocks import GAP, Block
from lmeval.report.cells import speed
from lmeval.results import Report
from lmeval.results.table import facts


def view(report: Report) -> list[Block]:
    """Sizes and speed; the gaps, where an archive was salvaged."""
    size = facts(
        ("archive", f"{report.ledger['n_archive_bytes']:,} bytes"),
        ("data", f"{report.ledger['n_bytes']:,} bytes"),
        ("speed", speed(report["decode_speed"])),
    )
    gaps = report.tables.get("gaps")
    return [size, GAP, gaps] if gaps else [size]
