import json
from pathlib import Path

import pytest
from commands import Run, assert_one_line
from samples import PROSE


def test_a_benchmark_needs_a_file(run: Run):
    assert_one_line(run("benchmark"), "no file")


@pytest.mark.slow
def test_the_benchmark_proves_every_row(run: Run, text: Path, tmp_path: Path):
    text.write_text(PROSE)
    ran = run("benchmark", text, "--json", tmp_path / "b.json")
    assert (ran.status, ran.err) == (0, "")
    found = json.loads((tmp_path / "b.json").read_text())
    rows = found["benchmark"]
    assert len(rows) == 8 and all(row["verified"] for row in rows) and found["ledger"]["verified"]
    assert ran.out.count("equal") == 8
    assert [row["compressor"] for row in rows[:2]] == ["lmeval-bytes-4m-v1", "lmeval-bytes-4m-v1 + full"]
    assert rows[0]["overhead"] > 0 and rows[1]["overhead"] is None
    assert rows[0]["total_bytes"] > rows[0]["archive_bytes"] + 10_000
    assert rows[0]["ideal_bits_per_byte"] < rows[0]["bits_per_byte"]
    assert {"name", "value", "unit", "side"} <= set(found["results"][0])


def test_the_benchmark_has_a_row_for_every_level(run: Run, text: Path, model: Path, tmp_path: Path):
    text.write_text(PROSE)
    ran = run("benchmark", text, "-m", model, "--adapt", "light", "--adapt", "none", "--json", tmp_path / "b.json")
    assert (ran.status, ran.err) == (0, "")
    rows = json.loads((tmp_path / "b.json").read_text())["benchmark"]
    assert [row["compressor"] for row in rows[:3]] == [f"{model} + light", str(model), "gzip -9"]
    assert all(row["verified"] for row in rows)
    assert run("benchmark", text, "--adapt", "fuller").status == 2
