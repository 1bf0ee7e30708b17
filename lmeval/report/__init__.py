"""Results for people: aligned tables on a terminal. Reads reports, never a model."""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.report.compression import (
        Bound,
        benchmark_table,
        compression_table,
        image_compression_table,
        images_table,
        inspect_table,
        running_rate,
    )
    from lmeval.report.demo import DemoRow, demo_table, demo_task_table
    from lmeval.report.figures import check_folder, save_figures
    from lmeval.report.perplexity import perplexity_tables, withheld_notice
    from lmeval.report.tasks import compare_table, task_tables


__all__ = [
    "Bound",
    "DemoRow",
    "benchmark_table",
    "check_folder",
    "compare_table",
    "compression_table",
    "demo_table",
    "demo_task_table",
    "image_compression_table",
    "images_table",
    "inspect_table",
    "perplexity_tables",
    "running_rate",
    "save_figures",
    "task_tables",
    "withheld_notice",
]

lazy.attach(__name__)
