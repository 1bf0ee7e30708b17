"""How `scripts/docs` builds the documentation."""

import re
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import lmeval

sys.path.insert(0, str(Path(__file__).parent))
from mentioned_types import mentioned_types
from module_map import module_map

project = "lmeval"
author = "the lmeval authors"
version = release = lmeval.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
default_role = "code"  # docstrings write `name` for code, as Markdown does
smartquotes = False  # two hyphens are two hyphens

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_title = f"lmeval {version}"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Only names of lmeval are links: a build needs no network, so it does not know the pages of other libraries.
nitpick_ignore_regex = [(r"py:.*", r"(?!lmeval\.).*")]


API = Path(__file__).parent / "reference" / "api"
PROPERTIES: dict[str, list[str]] = {}  # their docstrings, before napoleon reads them
UNCLOSED_STAR = re.compile(r"(?<=[\s,(\[])\*(?=\w)(?![^*]*\*)")
CODE = re.compile(r"(`[^`]*`)")


def skip_member(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out fields of named tuples, which the signature shows, and on a package's page what is on that of `lmeval`."""
    if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number"):
        return True
    page = app.env.docname
    if what == "module" and name in lmeval.__all__ and page.startswith("reference/api/") and page != "reference/api/lmeval":
        return True
    return None


def insert_generated(app: Sphinx, name: str, source: list[str]) -> None:
    """Put what is generated from the code where a page asks for it."""
    if "<!-- module map -->" in source[0]:
        source[0] = source[0].replace("<!-- module map -->", module_map())
    if "<!-- mentioned types -->" in source[0]:
        pages = [page.stem for page in API.glob("*.md") if page.stem not in ("index", "types")]
        packages = ["lmeval" if page == "lmeval" else f"lmeval.{page}" for page in pages]
        entries = [f".. autoclass:: {kind}" for kind in mentioned_types(packages)]
        source[0] = source[0].replace("<!-- mentioned types -->", "\n".join(["```{eval-rst}", *entries, "```"]))


def plain_to_rst(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text for people: make literal blocks of their indented ones, and no markup of lone signs."""
    made: list[str] = []
    above, literal = "", False  # the last line that is not empty, and whether a block has begun
    for line in lines:
        if line.startswith("    ") and made and not made[-1] and above and not above.startswith(" "):
            made += ["::", ""]
            literal = True
        elif line and not line.startswith(" "):
            literal = False
        made.append(line if literal or line.lstrip().startswith(">>>") else "".join(map(_escaped, CODE.split(line))))
        above = line or above
    lines[:] = made
    if what == "property":
        PROPERTIES[name] = made


def keep_colons(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Undo what napoleon does to a property's first sentence: what stands before a colon is no type."""
    if what == "property":
        lines[:] = PROPERTIES.pop(name)


def parse_factories(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """Make the signature of a dataclass with default factories one that Sphinx can parse."""
    return (signature.replace("<factory>", "..."), returns) if signature else None


def _escaped(text: str) -> str:
    return text if text.startswith("`") else UNCLOSED_STAR.sub(r"\\*", text).replace("|", r"\|")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", insert_generated)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", plain_to_rst, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", keep_colons, priority=600)
    app.connect("autodoc-process-signature", parse_factories)
