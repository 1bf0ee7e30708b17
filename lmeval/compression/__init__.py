"""Text as compressed bytes. `baselines` are the general-purpose compressors that a language model is set beside."""

from lmeval.compression.baselines import BASELINES, CompressedSize, compressed_sizes

__all__ = ["BASELINES", "CompressedSize", "compressed_sizes"]
