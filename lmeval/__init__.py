"""lmeval: evaluation of models that assign probabilities.

>>> import lmeval
>>> report = lmeval.perplexity("bundled", ["The quick brown fox jumps over the lazy dog."])
>>> 0 < report["bits_per_byte"] < 8
True
"""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval import densities, likelihood
    from lmeval.compression import CompressSettings, DecompressSettings, compress, compress_to, decompress, decompress_to
    from lmeval.data.documents import Corpus, Document, file_corpus, text_corpus
    from lmeval.data.resources import metric_module
    from lmeval.errors import LmevalError
    from lmeval.models import CausalLM, ModelLike, from_pair, load_model
    from lmeval.perplexity import PerplexitySettings, perplexity
    from lmeval.prompting import RunSettings, Task, run_task
    from lmeval.results import Measurement, Report, find, write_json
    from lmeval.results.compare import compare_reports
    from lmeval.results.reading import read_results
    from lmeval.scoring import Request, score

__version__ = "0.1.0"

__all__ = [
    "CausalLM",
    "CompressSettings",
    "Corpus",
    "DecompressSettings",
    "Document",
    "LmevalError",
    "Measurement",
    "ModelLike",
    "PerplexitySettings",
    "Report",
    "Request",
    "RunSettings",
    "Task",
    "compare_reports",
    "compress",
    "compress_to",
    "decompress",
    "decompress_to",
    "densities",
    "file_corpus",
    "find",
    "from_pair",
    "likelihood",
    "load_model",
    "metric_module",
    "perplexity",
    "read_results",
    "run_task",
    "score",
    "text_corpus",
    "write_json",
]

lazy.attach(__name__)
