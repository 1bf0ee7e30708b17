"""Functions compiled by Numba: loops at the speed of C, their machine code kept in the user's cache."""

import functools
import hashlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numba  # pyright: ignore[reportMissingTypeStubs]
import numba.core.caching  # pyright: ignore[reportMissingTypeStubs]
import numba.core.config  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from lmeval.data.resources import package_folder, user_cache

Int = int | np.int64
"""A whole number inside compiled code, where all of them have 64 bits."""

_MARK = b"@compiled"


def compiled(function: Callable[..., Any]) -> Any:
    """The function, compiled when it is first called. Its machine code is kept on disk where it may be."""
    # Unless it is said, Numba compiles a function by the rules of the one that happens to call it first.
    return _dispatcher(function, numba.njit(nogil=True, error_model="numpy", fastmath=False))


def compiled_reordering(function: Callable[..., Any]) -> Any:
    """As `compiled`, but sums of floating-point numbers may be taken in any order, and a product and a sum in one rounding:
    so they become sums of vectors. For numbers that need not be the same on every machine."""
    return _dispatcher(function, numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"}))


def _dispatcher(function: Callable[..., Any], compile_when_called: Callable[..., Any]) -> Any:
    dispatcher = compile_when_called(function)
    dispatcher._cache = _LenientCache(function)
    return dispatcher


class _LenientCache(numba.core.caching._Cache):
    """Machine code of one function on disk. It is looked for when the function is first called, not when it is defined.

    Code that cannot be read is compiled again, and code that cannot be written is forgotten: Numba would give up.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @functools.cached_property
    def _files(self) -> Any:
        folder = _folder()
        if folder is None:
            return numba.core.caching.NullCache()
        with _kept_in(folder):
            return numba.core.caching.FunctionCache(self._function)

    @property
    def cache_path(self) -> Any:
        return self._files.cache_path

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        loaded = None
        with suppress(Exception):  # whatever unpickling may raise
            loaded = self._files.load_overload(sig, target_context)
        if loaded is None:
            _announce()
        return loaded

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(Exception):  # a full disk, or an index that cannot be read
            self._files.save_overload(sig, data)

    def enable(self) -> None:
        self._files.enable()

    def disable(self) -> None:
        self._files.disable()

    def flush(self) -> None:
        self._files.flush()


@functools.cache
def _announce() -> None:
    """Say once, on a terminal, why the first call takes a while."""
    if sys.stderr.isatty():
        often = (
            "once on this machine" if _folder() else "in every run, as no cache can be written; NUMBA_CACHE_DIR names one"
        )
        print(f"lmeval: compiling, up to a minute ({often})", file=sys.stderr)


@functools.cache
def _folder() -> Path | None:
    """The folder of machine code, made where it is missing: in NUMBA_CACHE_DIR, else in the user's cache, else nowhere.

    There is no third place: Numba would run what others can put into a folder for temporary files. Numba looks only at the
    file of a function for changes, not at those of the functions that it calls. So the folder's name is a digest of all the
    files that have compiled functions: code that an older version compiled is never run.
    """
    texts = [source.read_bytes() for source in sorted(package_folder().rglob("*.py"))]
    digest = hashlib.sha256(b"\0".join(text for text in texts if _MARK in text)).hexdigest()[:16]
    for parent in _caches():
        folder = parent / f"numba-{digest}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            _drop_damaged(folder)
        except OSError:  # not to be written to
            continue
        return folder
    return None


def _caches() -> Iterator[Path]:
    """Folders that may hold machine code, the best first."""
    config: Any = numba.core.config
    if config.CACHE_DIR:
        yield Path(config.CACHE_DIR)
    with suppress(RuntimeError):  # a user without a home
        yield user_cache()


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
