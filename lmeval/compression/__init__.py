"""Lossless coding by probabilistic models: text by language models, images by bits-back; one container.

    bytes -> tokens -> lanes -> log-odds of decisions (encode: parallel; decode: stepwise) -> grid -> online models -> coder
    images -> latents popped from the stack -> networks in exact integers -> pixels and latents pushed (bitsback) -> archive

`grid` is where real numbers become integers on which encoder and decoder agree; what follows it is integers throughout
(`adaptive`: models that learn from the data as they pass). For images the networks themselves run in integers
(`fixed_point`). `archive` is the container.
"""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.compression.adapted import AdaptedLength, measure_adapted
    from lmeval.compression.benchmark.baselines import BASELINES, STANDARD_LIBRARY, CompressedSize, compressed_sizes
    from lmeval.compression.benchmark.run import benchmark
    from lmeval.compression.benchmark.scored import Scored, measure_scorer
    from lmeval.compression.benchmark.scorers import Scorer, as_scorer
    from lmeval.compression.compress import code_length, compress, compress_to
    from lmeval.compression.decompress import (
        DecompressSettings,
        Gap,
        decompress,
        decompress_range,
        decompress_to,
        salvage,
        usual_place,
    )
    from lmeval.compression.images.account import with_bound
    from lmeval.compression.images.bounds import bounded_images
    from lmeval.compression.images.encode import ImageSettings, compress_images_to
    from lmeval.compression.inspect import inspect
    from lmeval.compression.text.encode import CodeLength
    from lmeval.compression.text.loading import is_light, load_text_model
    from lmeval.compression.text.online.recipes import LEVELS
    from lmeval.compression.text.plan import CompressSettings
    from lmeval.compression.text.text_model import TextModel, of_library

__all__ = [
    "BASELINES",
    "LEVELS",
    "STANDARD_LIBRARY",
    "AdaptedLength",
    "CodeLength",
    "CompressSettings",
    "CompressedSize",
    "DecompressSettings",
    "Gap",
    "ImageSettings",
    "Scored",
    "Scorer",
    "TextModel",
    "as_scorer",
    "benchmark",
    "bounded_images",
    "code_length",
    "compress",
    "compress_images_to",
    "compress_to",
    "compressed_sizes",
    "decompress",
    "decompress_range",
    "decompress_to",
    "inspect",
    "is_light",
    "load_text_model",
    "measure_adapted",
    "measure_scorer",
    "of_library",
    "salvage",
    "usual_place",
    "with_bound",
]

lazy.attach(__name__)
