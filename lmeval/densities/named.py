"""What names a density, told without reading weights and without PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lmeval.data.locate import find_in
from lmeval.data.resources import bundled_densities, reference_folder
from lmeval.specs.reader import has_key

if TYPE_CHECKING:
    from lmeval.densities.kinds import Density

FILE_NAME = "density.yaml"


class LoadedDensity(NamedTuple):
    """A density read from a density file.

    `name` is what the caller asked for, `kind` one of KINDS, `levels` the number of levels of a pixel, `shape` an image's,
    `binarisation` how two levels were made of more (None where they were not), `weights_sha256` the fingerprint of the
    weights (`models.fingerprints.tensors_sha256`), `path` the density file.
    """

    name: str
    kind: str
    model: "Density"
    levels: int
    shape: tuple[int, ...]
    binarisation: str | None
    weights_sha256: str
    path: Path


def is_density(name: str) -> bool:
    """Whether a name stands for a density, told by the density file alone: no weights are read.

    Args:
        name: What a caller gave as a model.

    Returns:
        True for the name of a bundled density, a folder with density.yaml, and a .yaml file with the key `density` at its
        top; False for all else, such as a file that cannot be read.
    """
    path = density_path(name)
    return path is not None and (path.name == FILE_NAME or has_key(path, "density"))


def names_density(model: Any) -> bool:
    """Whether this is a loaded density, or stands for one as `is_density` says."""
    return isinstance(model, LoadedDensity) or (isinstance(model, str | Path) and is_density(str(model)))


def density_path(name: str) -> Path | None:
    """The density file that a name stands for, None where it stands for none."""
    path = Path(name)
    if name in bundled_densities():  # as for language models, whatever lies in the current folder
        return reference_folder(name) / FILE_NAME
    return find_in([Path()], path if path.suffix in (".yaml", ".yml") else path / FILE_NAME, Path.is_file)
