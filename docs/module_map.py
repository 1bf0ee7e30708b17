"""A table of every folder of the package: its modules, and the first sentence of each module's docstring."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "lmeval"


def module_map() -> str:
    """The tables as Markdown, a heading for each folder."""
    folders = sorted({path.parent for path in PACKAGE.rglob("*.py") if "_data" not in path.parts})
    return "\n".join(_section(folder) for folder in folders)


def _section(folder: Path) -> str:
    name = folder.relative_to(PACKAGE.parent).as_posix()
    modules = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    rows = [f"| `{path.name}` | {_first_sentence(path)} |" for path in modules]
    table = ["", "| module | |", "| --- | --- |", *rows] if rows else []
    return "\n".join([f"## {name}/", "", _first_sentence(folder / "__init__.py"), *table, ""])


def _first_sentence(path: Path) -> str:
    """Up to the first full stop or blank line, on one line; signs that Markdown would take for its own are escaped."""
    text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") if path.exists() else ""
    sentence = re.split(r"(?<=[.?])\s", " ".join(text.split("\n\n")[0].split()))[0].rstrip(":")
    return re.sub(r"([\\|*_\[\]<>])", r"\\\1", sentence)
