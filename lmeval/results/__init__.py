"""What a run reports, where its numbers come from, and the files that hold them."""

from lmeval.results.files import atomic_binary_writer, atomic_writer, check_writable, write_text
from lmeval.results.items import ItemMetric, ItemRecord, Items
from lmeval.results.measurement import Measurement, Side
from lmeval.results.provenance import files_sha256, now, provenance, text_sha256, versions
from lmeval.results.report import SCHEMA, Report, as_json, find, together, write_json
from lmeval.results.table import Column, Table

__all__ = [
    "SCHEMA",
    "Column",
    "ItemMetric",
    "ItemRecord",
    "Items",
    "Measurement",
    "Report",
    "Side",
    "Table",
    "as_json",
    "atomic_binary_writer",
    "atomic_writer",
    "check_writable",
    "files_sha256",
    "find",
    "now",
    "provenance",
    "text_sha256",
    "together",
    "versions",
    "write_json",
    "write_text",
]
