"""Sets of images as an archive: bits-back coding with a density whose networks run in exact integers."""
