"""Perplexity and bits per byte of text: `run` scores a corpus, `tally` keeps its sums."""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.perplexity.run import (
        DEFAULT_CONTEXT,
        MAX_EXPONENT,
        MAX_LISTED_DOCUMENTS,
        METRICS,
        UNITS,
        Documents,
        Settings,
        Watch,
        document_row,
        perplexity,
        resolve,
    )


__all__ = [
    "DEFAULT_CONTEXT",
    "MAX_EXPONENT",
    "MAX_LISTED_DOCUMENTS",
    "METRICS",
    "UNITS",
    "Documents",
    "Settings",
    "Watch",
    "document_row",
    "perplexity",
    "resolve",
]

lazy.attach(__name__)
