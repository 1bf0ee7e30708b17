"""Results for people: aligned tables on a terminal. Reads reports, never a model."""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.report.figures import check_folder, save_figures


__all__ = [
    "check_folder",
    "save_figures",
]

lazy.attach(__name__)
