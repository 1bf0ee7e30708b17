import json
from pathlib import Path

import pytest
from commands import Run, assert_one_line
from samples import PROSE

from lmeval.compression.benchmark import run as module
from lmeval.compression.benchmark.corpora import known_corpora
from lmeval.results.records import read_records


def test_a_benchmark_needs_a_file(run: Run):
    assert_one_line(run("benchmark"), "no file")


@pytest.mark.slow
def test_the_benchmark_proves_every_row(run: Run, text: Path, tmp_path: Path):
    text.write_text(PROSE)
    ran = run("benchmark", text, "--json", tmp_path / "b.json")
    assert (ran.status, ran.err) == (0, "")
    report = json.loads((tmp_path / "b.json").read_text())
    rows = report["tables"]["benchmark"]["rows"]
    assert (report["schema"], report["kind"]) == (2, "benchmark")
    assert len(rows) == 8 and all(row["verified"] for row in rows) and report["ledger"]["verified"]
    assert ran.out.count("equal") == 8
    assert [row["compressor"] for row in rows[:2]] == ["lmeval-bytes-4m-v2", "lmeval-bytes-4m-v2 + full"]
    assert rows[0]["overhead"] > 0 and rows[1]["overhead"] is None
    assert rows[0]["total_bytes"] > rows[0]["archive_bytes"] + 10_000
    assert rows[0]["ideal_bits_per_byte"] < rows[0]["bits_per_byte"]
    assert report["results"][0]["of"] == {"corpus": text.name, "compressor": "lmeval-bytes-4m-v2"}


def test_the_benchmark_has_a_row_for_every_level(run: Run, text: Path, model: Path, tmp_path: Path):
    text.write_text(PROSE)
    ran = run("benchmark", text, "-m", model, "--adapt", "light", "--adapt", "none", "--json", tmp_path / "b.json")
    assert (ran.status, ran.err) == (0, "")
    rows = json.loads((tmp_path / "b.json").read_text())["tables"]["benchmark"]["rows"]
    assert [row["compressor"] for row in rows[:3]] == [f"{model} + light", str(model), "gzip -9"]
    assert all(row["verified"] for row in rows)
    assert run("benchmark", text, "--adapt", "fuller").status == 2


@pytest.mark.slow
def test_records_pair_two_benchmarks_by_file(run: Run, text: Path, model: Path, tmp_path: Path):
    text.write_text(PROSE)
    (tmp_path / "other").mkdir()
    twin = tmp_path / "other" / text.name  # another file of the same name
    twin.write_text(PROSE[::-1])
    ran = run("benchmark", text, twin, "-m", model, "--adapt", "none", "--records", tmp_path / "b.jsonl")
    assert (ran.status, ran.err) == (0, "")
    [of_run] = read_records(tmp_path / "b.jsonl")
    assert of_run.header.report == "benchmark"
    assert {record.item for record in of_run.records} == {str(text), str(twin)}
    assert len(of_run.records) == 2 * 7
    first = of_run.records[0]
    assert first.of == {"compressor": str(model)}
    assert first.values["n_bytes"] == len(PROSE) < 8 * first.values["archive_bytes"]


def test_a_known_corpus_is_shown_beside_what_others_published(
    run: Run, text: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "identify", lambda n_bytes, sha256: known_corpora()[0])
    text.write_text(PROSE)
    ran = run("benchmark", text, "-m", model, "--adapt", "none")
    measured, published = ran.out.split("published, not measured here")
    assert "cmix" not in measured and "cmix" in published and "https://" in published
