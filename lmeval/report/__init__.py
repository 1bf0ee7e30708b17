"""Results for people: aligned tables on a terminal. Reads reports, never a model."""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.report.compression import (
        Bound,
        image_compression_table,
        images_table,
        running_rate,
    )
    from lmeval.report.figures import check_folder, save_figures
    from lmeval.report.tasks import compare_table, task_tables


__all__ = [
    "Bound",
    "check_folder",
    "compare_table",
    "image_compression_table",
    "images_table",
    "running_rate",
    "save_figures",
    "task_tables",
]

lazy.attach(__name__)
