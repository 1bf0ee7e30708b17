"""Prompted tasks: which answer does the model find likeliest?

`task` reads a task file, `rows` its data, `shots` chooses few-shot examples, `prompts` writes the texts, `asking` puts them
together, `encoding` makes token ids of them, `run` scores them; `records` keeps what was found, `rules`, `measures` and
`summary` make the report of it; `runs` and `compare` set two runs side by side.
"""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.prompting.asking import RunSettings
    from lmeval.prompting.records import Record, RecordSet, ScoredChoice, read_records, write_records
    from lmeval.prompting.run import TaskRun, run_task, task_path
    from lmeval.prompting.runs import compare_runs
    from lmeval.prompting.summary import summarise
    from lmeval.prompting.task import Task, read_task


__all__ = [
    "Record",
    "RecordSet",
    "RunSettings",
    "ScoredChoice",
    "Task",
    "TaskRun",
    "compare_runs",
    "read_records",
    "read_task",
    "run_task",
    "summarise",
    "task_path",
    "write_records",
]

lazy.attach(__name__)
