"""What a user writes in YAML: files that name tasks, comparisons, densities and corpora, and the templates in task files.

`reader` reads all of these files, strictly and in one dialect. Each kind of file has one table of `keys`, from which follow
the keys that are known, what their values must be, and every message about them.
"""
