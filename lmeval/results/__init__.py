"""What a run reports, where its numbers come from, and the files that hold them."""

from lmeval.results.files import atomic_binary_writer, atomic_writer, check_writable, write_text
from lmeval.results.measurement import Measurement, Side
from lmeval.results.provenance import files_sha256, now, text_sha256, versions
from lmeval.results.report import SCHEMA, Report, as_json, find, several_as_json, write_json

__all__ = [
    "SCHEMA",
    "Measurement",
    "Report",
    "Side",
    "as_json",
    "atomic_binary_writer",
    "atomic_writer",
    "check_writable",
    "files_sha256",
    "find",
    "now",
    "several_as_json",
    "text_sha256",
    "versions",
    "write_json",
    "write_text",
]
