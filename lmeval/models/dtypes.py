"""Number formats that a network can be loaded in."""

DTYPES = ("float32", "bfloat16", "float64")
"""Names of them, which are torch's names."""
