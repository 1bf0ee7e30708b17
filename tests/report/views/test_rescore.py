import re

from commands import text_of
from items import ACC, LOSS, item, report_with

from lmeval.report.views import view
from lmeval.results import Items, Report
from lmeval.results.records import records_of
from lmeval.results.reduction import rescore_items


def test_every_group_of_items_has_its_metrics():
    records = tuple(
        item(f"i{i}", {"acc": float(i % 2), "log_loss": 0.5 * i}, of={"model": model})
        for model in ("a", "[b]")
        for i in range(4)
    )
    [made] = records_of(Report("likelihood", items=Items((ACC, LOSS), records)))
    text = text_of(view(rescore_items(made)))
    assert "records of  likelihood" in text and re.search(r"^items +4 *$", text, re.M)
    for name in ("model a", "model [b]"):
        assert len(re.findall(rf"^{re.escape(name)} *\n+metric .*\nacc +0.5000 .*\nlog_loss +0.7500", text, re.M)) == 1


def test_a_bound_is_not_shown_as_the_value():
    [made] = records_of(report_with({"log_loss": [1.0, 2.0]}, [LOSS._replace(side="lower")]))
    assert "log_loss, at least" in text_of(view(rescore_items(made)))
