"""Results for people: aligned tables on a terminal. Reads reports, never a model."""

from lmeval.report.compression import benchmark_table, compression_table, inspect_table, running_rate
from lmeval.report.demo import DemoRow, demo_table, demo_task_table
from lmeval.report.perplexity import perplexity_tables, withheld_notice
from lmeval.report.tasks import compare_table, task_tables

__all__ = [
    "DemoRow",
    "benchmark_table",
    "compare_table",
    "compression_table",
    "demo_table",
    "demo_task_table",
    "inspect_table",
    "perplexity_tables",
    "running_rate",
    "task_tables",
    "withheld_notice",
]
