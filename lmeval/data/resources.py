"""Where the project's data folders lie: beside the package in a checkout, inside it when installed from a wheel."""

import json
import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent

BUNDLED_MODEL = "lmeval-bytes-4m-v2"
"""Folder name of the default model. It carries a version: a better model gets a new name and never replaces this one."""


BUNDLED_FOR_TASKS = "lmeval-reviews-4m-v1"
"""Folder name of the default model of prompted tasks: the one above, taught further on labelled reviews."""


def package_folder() -> Path:
    """Folder of lmeval's own source."""
    return _PACKAGE


def reference_folder(name: str = BUNDLED_MODEL) -> Path:
    """Folder of a model that ships with the package."""
    return _PACKAGE / "reference" / name


def bundled_names() -> tuple[str, ...]:
    """Names of the language models that ship with the package."""
    return tuple(sorted(path.parent.name for path in (_PACKAGE / "reference").glob("*/config.json")))


def bundled_densities() -> tuple[str, ...]:
    """Names of the densities of images that ship with the package."""
    return tuple(sorted(path.parent.name for path in (_PACKAGE / "reference").glob("*/density.yaml")))


def bundled_by_fingerprint(weights_sha256: str) -> str | None:
    """Folder of the bundled model with this fingerprint, or None. What it once encoded stays decodable: models are added to
    reference/fingerprints.json and never taken away."""
    known = json.loads((_PACKAGE / "reference" / "fingerprints.json").read_text(encoding="utf-8"))
    name = known.get(weights_sha256)
    return None if name is None else str(reference_folder(name))


def user_cache() -> Path:
    """The folder `lmeval` in the user's cache, for what can be made again. It need not exist.

    Raises RuntimeError for a user without a home.
    """
    named = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    caches = Path(named or ("~/Library/Caches" if sys.platform == "darwin" else "~/.cache"))
    return caches.expanduser() / "lmeval"


def data_folder(name: str) -> Path:
    """A data folder ("tasks" or "compression"): the wheel carries it as lmeval/_data/NAME, a checkout as NAME."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def metric_module(name: str) -> Path:
    """Path of an `evaluate` module ("bits_per_byte" or "corpus_perplexity"), for `evaluate.load(str(path))`.

    Args:
        name: The module's name. It is not checked here: `evaluate.load` refuses a path where nothing is.

    Returns:
        The path of the module's file inside the installed package.
    """
    return _PACKAGE / "metrics" / f"{name}.py"
