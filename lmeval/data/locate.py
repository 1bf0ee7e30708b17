"""Where a file lies that a name stands for: in one of several folders, among the YAML files that ship in tasks/, or among
the models that ship with the package."""

from collections.abc import Callable, Iterable
from pathlib import Path

from lmeval.data.resources import bundled_densities, bundled_names, data_folder
from lmeval.errors import InputNotFound, ModelNotFound
from lmeval.messages import near, nearest, shown


def find_in(
    folders: Iterable[str | Path | None], name: str | Path, is_there: Callable[[Path], bool] = Path.exists
) -> Path | None:
    """The file `name` of the first folder that has it.

    Args:
        folders: Where to look, in this order; None stands for a folder that was not named.
        name: A file's name, or its path from the folder. An absolute path is the same in every folder.
        is_there: What counts: `Path.exists`, `Path.is_file` or `Path.is_dir`.

    Returns:
        The path, or None where no folder has it. A name that no file can have (too long, a null character) is not there.
    """
    for folder in folders:
        try:
            if folder is not None and is_there(path := Path(folder) / name):
                return path
        except OSError:  # a name that is too long; pathlib itself answers for a null character
            continue
    return None


def exists(path: Path) -> bool:
    """Whether there is such a file or folder."""
    return find_in([Path()], path) is not None


def shipped_specs() -> dict[str, Path]:
    """The YAML files that ship in tasks/, by name. An underscore marks what they include, and is none of them."""
    return {path.stem: path for path in sorted(data_folder("tasks").glob("[!_]*.yaml"))}


def find_spec(name: str) -> Path | None:
    """The YAML file that `name` stands for: the file itself, or one that ships in tasks/; None if neither."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return path
    hidden = exists(path) or name.startswith("_")
    return None if hidden else find_in([data_folder("tasks")], f"{name}.yaml")


def named_spec(name: str, what: str, known: Iterable[str]) -> Path:
    """The YAML file that `name` stands for.

    Args:
        name: A path, or the name of a file that ships in tasks/.
        what: What it is in messages, such as "task".
        known: Names of the shipped files that it may stand for.

    Raises:
        InputNotFound: There is none, or a file or folder of that name in the working folder hides it.
    """
    path = find_spec(name)
    if path is not None:
        return path
    shipped = list(known)
    if name in shipped:
        raise InputNotFound(f"{what} {name} is hidden by a file or folder of that name here: start lmeval elsewhere")
    raise InputNotFound(f"no {what} {shown(name)}: give a YAML file, or the name of one in tasks/{nearest(name, shipped)}")


def check_model_name(name: str) -> None:
    """Refuse a misspelt name of a model that ships with the package, which a library would look for on the hub.

    Args:
        name: What was given as a model. What is a path, or has a slash as hub ids have, passes.

    Raises:
        ModelNotFound: There is nothing of that name here, and a bundled model has a similar one.
    """
    known = ("bundled", *bundled_names(), *bundled_densities())
    if name in known or "/" in name or exists(Path(name)):
        return
    if close := near(name, known):
        raise ModelNotFound(f"no model {shown(name)} (did you mean '{close}'?): give a folder, a hub id, or 'bundled'")
