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
    assert (found["schema"], found["kind"]) == (2, "demo")
    rows, (task,) = found["tables"]["texts"]["rows"], found["tables"]["task"]["rows"]
    assert (task["task"], task["n_items"]) == ("sentiment", 380)
    assert "sentiment" in ran.out
    assert [row["text"] for row in rows] == ["Python manual (pydoc_data.topics)", str(text)]
    assert all(row["decoded"] for row in rows) and found["ledger"]["decoded_and_equal"]
    compressors = ["archive", "gzip -9", "bzip2 -9", "xz -9e"]
    of_text = [m for m in found["results"] if m["of"].get("corpus") == str(text)]
    assert [m["of"].get("compressor") for m in of_text] == [None, *compressors]
    assert [m["value"] for m in of_text] == [rows[1][name] for name in ("score", *compressors)]
