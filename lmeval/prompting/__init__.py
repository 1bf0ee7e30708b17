"""Prompted tasks: which answer does the model find likeliest?

`task` reads a task file, `shots` chooses few-shot examples, `prompts` writes the texts, `instances` puts together all that
is to be scored, `encoding` makes token ids of it, `run` scores it; `records` keeps what each item gave, `rules`, `measures`
and `summary` make the report of it, and `rescoring` makes it again from a records file.
"""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.prompting.instances import RunSettings
    from lmeval.prompting.records import Record, ScoredChoice, records_of_items
    from lmeval.prompting.rescoring import read_old_records, rescore
    from lmeval.prompting.rules import RULES, Rule
    from lmeval.prompting.run import run_task
    from lmeval.prompting.summary import summarise
    from lmeval.prompting.task import STRATEGIES, Task, read_task, task_path

__all__ = [
    "RULES",
    "STRATEGIES",
    "Record",
    "Rule",
    "RunSettings",
    "ScoredChoice",
    "Task",
    "read_old_records",
    "read_task",
    "records_of_items",
    "rescore",
    "run_task",
    "summarise",
    "task_path",
]

lazy.attach(__name__)
