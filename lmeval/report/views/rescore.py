"""View of `lmeval rescore` for records of a capability whose own tables need more than records: its metrics."""

from lmeval.report.blocks import GAP, Block, Note
from lmeval.report.measurements import measurement_table
from lmeval.results import Report
from lmeval.results.measurement import label
from lmeval.results.table import facts


def view(report: Report) -> list[Block]:
    """What the records are of, and every metric with its interval, group by group."""
    n_items = len({record.item for record in report.items.records}) if report.items else 0
    blocks: list[Block] = [facts(("records of", report.ledger["rescored"]), ("items", f"{n_items:,}"))]
    for of in dict.fromkeys(label(m.of) for m in report.results):
        own = [m for m in report.results if label(m.of) == of]
        blocks += [GAP, *([Note(of)] if of else []), measurement_table(own, lower_words=True)]
    return blocks
