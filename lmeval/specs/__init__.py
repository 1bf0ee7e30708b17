"""Spec files: YAML that names tasks, comparisons, densities and corpora.

`reader` reads all of them, strictly and in one dialect. Each kind of file has one table of keys, from which follow the keys
that are known, what their values must be, and every message about them.
"""
