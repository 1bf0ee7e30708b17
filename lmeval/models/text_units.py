"""What text is counted in: the columns of `TokenRun.units`, in their order. `tokens` counts them."""

UNITS = ("bytes", "characters", "words")
BYTES, CHARACTERS, WORDS = range(len(UNITS))
