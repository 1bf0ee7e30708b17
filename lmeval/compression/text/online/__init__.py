"""Online models: they know nothing of a file at first and learn it while it is coded, in integers that are equal everywhere.

    contexts -> counters ┐
    matches ─────────────┼-> mixing (weights, then maps) -> frequency of the next decision
    the language model ──┘

`state` puts them together for one block; `recipes` says which there are; `tables` holds the fixed-point functions.
"""
