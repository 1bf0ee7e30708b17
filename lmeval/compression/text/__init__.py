"""Text as an archive: what a causal language model, or the online models alone, make of its bytes."""
