"""The file format: how the blocks of an archive and its header are laid out in bytes."""
