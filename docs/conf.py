"""How `scripts/docs` builds the documentation."""

from typing import Any

import lmeval

project = "lmeval"
author = "the lmeval authors"
version = release = lmeval.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
default_role = "code"  # docstrings write `name` for code, as Markdown does

html_theme = "furo"
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


def skip_member(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what says nothing (fields of named tuples, whose types the signature shows)."""
    text = getattr(obj, "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip_member)
