"""What a decoder needs beside an archive, in bytes: the files of the model, and lmeval's own source."""

import zlib
from pathlib import Path

from lmeval.data.resources import bundled_names, package_folder, reference_folder
from lmeval.models import CausalLM
from lmeval.models.packed import PACKED_NAME

PARTS = (".json", ".model", ".txt")  # endings of files with a model's configuration and tokenizer
WEIGHTS = ("*.safetensors", "*.bin", PACKED_NAME)  # files with weights: the first kind that a folder has is loaded


def model_bytes(model: CausalLM) -> int:
    """Bytes that a decoder needs of a model.

    Args:
        model: A model under the name that it was loaded by.

    Returns:
        The size of the files with its configuration, weights and tokenizer; where the name leads to no files (a network that
        was made in memory), the size of its parameters as they are held.
    """
    folder = model_folder(model.name)
    n_bytes = 0 if folder is None else sum(file.stat().st_size for file in _files(folder))
    return n_bytes or sum(p.numel() * p.element_size() for p in model.network.parameters())


def model_folder(name: str) -> Path | None:
    """The folder with the files of the model that `load_model` loads by this name.

    Args:
        name: The name of a bundled model, a folder, or the id of a model on the hub.

    Returns:
        The folder, for a hub id that of its cached files; None where there is none on this machine.
    """
    if name in bundled_names():
        return reference_folder(name)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # the name of a network in memory
        return None
    return Path(config).parent if isinstance(config, str) else None


def _files(folder: Path) -> list[Path]:
    """The files of a model folder that are read when it is loaded."""
    files = [file for file in folder.iterdir() if file.is_file()]
    by_kind = ([file for file in files if file.match(pattern)] for pattern in WEIGHTS)
    return [file for file in files if file.suffix in PARTS] + next(filter(None, by_kind), [])


def source_bytes() -> int:
    """Bytes of lmeval's own Python source, all files one after the other, compressed by zlib."""
    source = b"".join(file.read_bytes() for file in sorted(package_folder().rglob("*.py")))
    return len(zlib.compress(source, 9))
