"""Functions compiled by Numba: loops over lanes and contexts at the speed of C, in integers alone.

Numba's integers wrap around like the hardware's, so a compiled function computes the same on every platform. Hashes are
unsigned 64-bit numbers and never meet signed ones in one operation (Numba would go over to floating point).
"""

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numba  # pyright: ignore[reportMissingTypeStubs]
import numba.core.config  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

Int = int | np.int64
"""A whole number inside compiled code, where all of them have 64 bits."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(29)


def compiled(function: Callable[..., Any]) -> Any:
    """The function, compiled when it is first called; the machine code is kept on disk where there is a place for it."""
    folder = _folder()
    with _kept_in(folder):
        found: Any = numba.njit(cache=folder is not None, nogil=True, error_model="numpy")(function)
    if folder is not None:
        _forgive(found._cache)
    return found


def _forgive(cache: Any) -> None:
    """Let code that cannot be read be compiled again, and code that cannot be written be forgotten: Numba would give up."""
    load, save = cache.load_overload, cache.save_overload

    def loaded(*given: Any) -> Any:
        try:
            return load(*given)
        except Exception:  # whatever unpickling may raise
            return None

    def saved(*given: Any) -> None:
        with suppress(Exception):  # a full disk, or an index that cannot be read
            save(*given)

    cache.load_overload, cache.save_overload = loaded, saved


@functools.cache
def _folder() -> Path | None:
    """Where machine code is kept: beside Python's own, or in the user's cache.

    Numba looks only at the file of a function for changes, not at those of the functions that it calls. So the folder's
    name is a digest of all the files: code that an older version compiled is never run.
    """
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    user = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    for parent in (Path(__file__).parent / "__pycache__", Path(user) / "lmeval"):
        try:
            folder = parent.expanduser() / f"numba-{digest}"
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            _drop_damaged(folder)
        except (OSError, RuntimeError):  # not to be written to, or a user without a home
            continue
        return folder
    return None


def _drop_damaged(folder: Path) -> None:
    """Remove files that a full disk, say, has cut off: Numba would stumble over them for ever. They are pickles: the last
    byte of a whole one is a full stop."""
    for file in folder.rglob("*.nb[ic]"):
        if not file.read_bytes().endswith(b"."):
            file.unlink(missing_ok=True)


@contextmanager
def _kept_in(folder: Path | None) -> Iterator[None]:
    config: Any = numba.core.config
    before = config.CACHE_DIR
    if folder is not None:
        config.CACHE_DIR = str(folder)
    try:
        yield
    finally:
        config.CACHE_DIR = before


@compiled
def fold(hashed: np.uint64, value: Int) -> np.uint64:
    """A hash with one more number in it: h = (hashed + value) 0x9E3779B97F4A7C15 mod 2^64, then h xor (h >> 29)."""
    found = (hashed + np.uint64(value)) * _MULTIPLIER
    return found ^ (found >> _HALF)
