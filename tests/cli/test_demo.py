import json
from pathlib import Path

import pytest
from commands import Run
from samples import PROSE

from lmeval.data.documents import text_corpus


@pytest.mark.slow
def test_the_demo_runs_on_a_file(run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lmeval.cli.demo.python_manual", lambda: text_corpus([PROSE]))  # the whole manual takes minutes
    ran = run("demo", text, "--json", tmp_path / "o.json")
    assert (ran.status, ran.err) == (0, "")
    assert str(text) in ran.out and "equal" in ran.out
    found = json.loads((tmp_path / "o.json").read_text())
    rows, task = found["texts"], found["task"]
    assert (task["provenance"]["task"], task["ledger"]["n_items_scored"]) == ("sentiment", 380)
    assert "sentiment" in ran.out
    assert [size["name"] for size in rows[1]["baselines"]] == ["gzip -9", "bzip2 -9", "xz -9e"]
    assert all(row["archive"]["decoded_and_equal"] for row in rows)
