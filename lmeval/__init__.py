"""lmeval: evaluation of models that assign probabilities."""

__version__ = "0.1.0"
