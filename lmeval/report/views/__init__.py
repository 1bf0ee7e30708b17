"""One view a kind of report: report -> blocks, as data. Registered here, imported when asked for."""

import importlib

from lmeval.errors import InputError
from lmeval.messages import nearest
from lmeval.report.blocks import Block, Note
from lmeval.results import Report

VIEWS: dict[str, str] = {
    "benchmark": "lmeval.report.views.benchmark",
    "compare": "lmeval.report.views.compare",
    "compress": "lmeval.report.views.compress",
    "decompress": "lmeval.report.views.decompress",
    "demo": "lmeval.report.views.demo",
    "images": "lmeval.report.views.images",
    "inspect": "lmeval.report.views.inspect",
    "likelihood": "lmeval.report.views.likelihood",
    "perplexity": "lmeval.report.views.perplexity",
    "rescore": "lmeval.report.views.rescore",
    "run": "lmeval.report.views.run",
}
"""The module of each kind's `view(report) -> list[Block]`."""


def view(report: Report) -> list[Block]:
    """The blocks that show a report to people; those of its parts under each other.

    Raises:
        InputError: No view is registered for the report's kind.
    """
    if report.parts:
        blocks = [[*view(part), Note()] for part in report.parts]
        return [block for part in blocks for block in part][:-1]
    if report.kind not in VIEWS:
        raise InputError(f"no view of a report of kind {report.kind}{nearest(report.kind, VIEWS)}")
    return importlib.import_module(VIEWS[report.kind]).view(report)
