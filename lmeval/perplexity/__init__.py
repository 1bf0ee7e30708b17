"""Perplexity and bits per byte of text.

`corpus` reads and cuts it, `tally` keeps sums, `measures` makes figures of them, `summary` the rest of the report; `run` is
the way in.
"""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.perplexity.corpus import Documents
    from lmeval.perplexity.measures import METRICS
    from lmeval.perplexity.run import DEFAULT_CONTEXT, PerplexitySettings, perplexity, resolve
    from lmeval.perplexity.summary import MAX_LISTED_DOCUMENTS

__all__ = [
    "DEFAULT_CONTEXT",
    "MAX_LISTED_DOCUMENTS",
    "METRICS",
    "Documents",
    "PerplexitySettings",
    "perplexity",
    "resolve",
]

lazy.attach(__name__)
