"""Model folders whose weights are packed: how they are made, and made ready for transformers, in the user's cache."""

import atexit
import functools
import hashlib
import json
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lmeval.data.resources import user_cache
from lmeval.errors import ModelNotFound, OutputError
from lmeval.models.fingerprints import arrays_sha256
from lmeval.models.packed import PACKED_NAME, as_arrays, packed_sha256, read_packed, to_packed
from lmeval.models.weight_grid import find_grids, quantise
from lmeval.results.files import atomic_binary_writer, write_text

WEIGHTS_NAME = "model.safetensors"
COPIED = (".json", ".md", ".model", ".txt")  # endings of files with configuration, tokenizer, card and loss curve
_METADATA = {"format": "pt"}  # without it transformers refuses the file


def pack_folder(folder: Path, out: Path, bits: int | None = None) -> str:
    """Make a folder with packed weights of one in Hugging Face format.

    Args:
        folder: The model; its weights are in safetensors files.
        out: Where the packed weights go, with a copy of everything else. It is made if it is not there.
        bits: Every matrix is rounded to a grid of so many bits first; without it, every matrix must lie on one.

    Returns:
        The fingerprint of the packed weights.

    Raises:
        ModelNotFound: There are no weights.
        ModelError: They cannot be packed: the first matrix that lies on no grid is named.
    """
    from safetensors.torch import load_file  # NumPy has no bfloat16

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelNotFound(f"{folder} holds no weights: a model folder has {WEIGHTS_NAME} beside config.json")
    arrays = {name: tensor.float().numpy() for file in files for name, tensor in load_file(file).items()}
    packed = to_packed(find_grids(arrays) if bits is None else quantise(arrays, bits))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"dtype": "float32"}
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path.suffix in COPIED and not path.name.endswith(".safetensors.index.json"):
            shutil.copyfile(path, out / path.name)
    write_text(json.dumps(config, indent=2) + "\n", out / "config.json")
    _write(out / PACKED_NAME, packed)
    return packed_sha256(out / PACKED_NAME)


def transformers_folder(folder: Path) -> Path:
    """A folder with the same model, for `AutoModelForCausalLM.from_pretrained` and whatever else knows no packed weights.

    It lies in the user's cache, and every file of it is checked at every call: what is missing or damaged is written. Files
    are replaced whole, and any process would write the same, so several may call this at once. Where the cache cannot be
    written, the folder is a temporary one that goes when the process ends.

    Args:
        folder: A model's folder, for example `reference_folder()`.

    Returns:
        The folder with weights as float32 in model.safetensors; `folder` itself where no packed weights are in it, or others
        beside them.

    Raises:
        ModelError: The packed weights are damaged.
    """
    if not (folder / PACKED_NAME).is_file() or (folder / WEIGHTS_NAME).is_file():
        return folder
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    digest = hashlib.sha256(
        "".join(f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in contents.items()).encode()
    )
    del contents[PACKED_NAME]
    name = f"{folder.resolve().name}-{digest.hexdigest()[:16]}"
    reason = "there is no home folder"
    with suppress(RuntimeError):
        target = user_cache() / "models" / name
        try:
            _fill(target, contents, folder / PACKED_NAME)
        except (OSError, OutputError) as error:
            reason = str(error)
        else:
            return target
    _announce(folder.name, reason)
    target = _temporary() / name
    _fill(target, contents, folder / PACKED_NAME)
    return target


def _fill(target: Path, contents: dict[str, bytes], packed: Path) -> None:
    """Write what is missing or damaged in a folder: files with these contents, and the unpacked weights."""
    target.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        if not (target / name).is_file() or (target / name).read_bytes() != data:
            _write(target / name, data)
    if not _holds(target / WEIGHTS_NAME, packed_sha256(packed)):
        _write(target / WEIGHTS_NAME, save(as_arrays(read_packed(packed)), _METADATA))


def _write(path: Path, data: bytes) -> None:
    with atomic_binary_writer(path) as stream:
        stream.write(data)


def _holds(path: Path, weights_sha256: str) -> bool:
    """Whether a file has the weights with this fingerprint, in the form that transformers reads."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return file.metadata() == _METADATA and arrays_sha256(arrays) == weights_sha256
    except (SafetensorError, OSError, TypeError):
        return False


@functools.cache
def _temporary() -> Path:
    """Removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="lmeval-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def _announce(name: str, reason: str) -> None:
    """Say once, on a terminal, that the cache is of no use."""
    if sys.stderr.isatty():
        print(f"lmeval: {name} is unpacked anew in every run, as it cannot be kept ({reason})", file=sys.stderr)
