"""Where a number comes from: versions of libraries, the date, hashes of texts and files."""

import datetime
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the interpreter and of every library whose arithmetic or parsing a number depends on."""
    names = ("lmeval", "torch", "transformers", "tokenizers", "accelerate", "datasets")
    names += ("numpy", "scipy", "scikit-learn", "zuko")
    installed = {"python": platform.python_version()}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def now() -> str:
    """The present moment in UTC, ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def text_sha256(text: str) -> str:
    """SHA-256 of a text as UTF-8, in hex.

    Args:
        text: Any text that has a UTF-8 form.

    Returns:
        64 hexadecimal digits.

    Raises:
        UnicodeEncodeError: The text has a lone surrogate, and so no UTF-8 form.
    """
    return hashlib.sha256(text.encode()).hexdigest()


def files_sha256(paths: Sequence[str]) -> str:
    """SHA-256 of the bytes of files one after the other, in hex.

    Args:
        paths: The files, in the order in which their bytes are joined.

    Returns:
        64 hexadecimal digits, which depend on the order of the files and not on their names.

    Raises:
        OSError: A file cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with Path(path).open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def provenance(
    kind: str,
    *,
    inputs: Mapping[str, Any] | None = None,
    models: Sequence[Mapping[str, Any]] = (),
    place: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """By what, from what, when and where a report was made, JSON-ready; the one builder for every capability.

    Args:
        kind: The report's kind.
        inputs: What was read, such as {"corpus": {"sources", "sha256", "n_bytes"}}.
        models: A description of every model.
        place: Device, processes and threads (`compute.place.describe_place`); left out where no model computed.
        settings: The settings of the run, seeds included.
        seconds: How long it took.
    """
    return {
        "kind": kind,
        "date": now(),
        "inputs": dict(inputs or {}),
        "models": [dict(model) for model in models],
        **(place or {}),
        "settings": dict(settings or {}),
        "seconds": None if seconds is None else round(seconds, 3),
        "versions": versions(),
    }
