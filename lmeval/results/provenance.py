"""Where a number comes from: versions of libraries, the date, hashes of texts and files."""

import datetime
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the interpreter and of every library whose arithmetic or parsing a number depends on."""
    names = ("lmeval", "torch", "transformers", "tokenizers", "accelerate", "datasets")
    names += ("numpy", "scipy", "scikit-learn", "zuko")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def now() -> str:
    """The present moment in UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def text_sha256(text: str) -> str:
    """SHA-256 of a text as UTF-8, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def files_sha256(paths: Sequence[str]) -> str:
    """SHA-256 of the bytes of files one after the other, in hex."""
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()
