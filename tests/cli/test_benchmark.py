import hashlib
import json
import sys
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


SCORERS = """
import numpy as np

def even(past):
    return np.full(256, 1 / 256)

def counts():
    counts = np.ones(256)
    while True:
        byte = yield counts / counts.sum()
        counts[byte] += 1

def cached(past):
    return np.full(256, 277 / 256 if len(past) == 1234 else 1 / 256)
"""


@pytest.fixture
def scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with scorers in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "claims", raising=False)
    (tmp_path / "claims.py").write_text(SCORERS)
    return "claims"


def test_a_scorer_has_a_row_beside_the_baselines(run: Run, text: Path, scorers: str, tmp_path: Path):
    text.write_text(PROSE * 8)
    ran = run(
        "benchmark", text, "--scorer", f"{scorers}:counts", "--scorer", f"{scorers}:cached", "--json", tmp_path / "b.json"
    )
    assert (ran.status, ran.err) == (0, "")
    assert "sums to 277 at byte 1,234" in ran.out and ran.out.count("equal") == 7
    report = json.loads((tmp_path / "b.json").read_text())
    rows = report["tables"]["benchmark"]["rows"]
    assert [row["compressor"] for row in rows[:3]] == ["claims:counts", "claims:cached", "gzip -9"]  # and no model
    assert rows[0]["verified"] and 0 < rows[0]["overhead"] < 0.01 and rows[0]["total_bytes"] is None
    assert rows[1]["verified"] is None and "bits_per_byte" not in rows[1]
    assert report["ledger"]["refused"] == [
        {"corpus": text.name, "compressor": "claims:cached", "reason": "sums to 277 at byte 1,234"}
    ]
    of = {"corpus": text.name, "compressor": "claims:counts"}
    measured = {m["name"]: m["value"] for m in report["results"] if m["of"] == of}
    assert measured["ideal_bits_per_byte"] < measured["bits_per_byte"] == rows[0]["bits_per_byte"]
    assert {m["of"]["compressor"] for m in report["results"]} & {"claims:cached"} == set()
    [first, second] = report["provenance"]["inputs"]["scorers"]
    assert first["file_sha256"] == second["file_sha256"] == hashlib.sha256(SCORERS.encode()).hexdigest()
    assert (first["n_ids"], first["tolerance"]) == (256, 1e-6)


def test_a_benchmark_of_refused_scorers_alone_fails_after_its_table(run: Run, text: Path, scorers: str, tmp_path: Path):
    text.write_text(PROSE * 8)
    ran = run("benchmark", text, "--scorer", f"{scorers}:cached", "--json", tmp_path / "b.json")
    assert ran.status == 1
    assert ran.err.splitlines() == [
        f"lmeval: nothing that was asked for has a score: on {text.name}, claims:cached sums to 277 at byte 1,234"
    ]
    assert "refused" in ran.out and "gzip -9" in ran.out
    assert json.loads((tmp_path / "b.json").read_text())["ledger"]["refused"]


def test_the_first_bytes_of_every_file_may_be_enough(run: Run, text: Path, scorers: str, tmp_path: Path):
    text.write_text(PROSE * 8)
    ran = run("benchmark", text, "--scorer", f"{scorers}:cached", "--limit", "1000", "--json", tmp_path / "b.json")
    assert (ran.status, ran.err) == (0, "")  # what is wrong comes later
    rows = json.loads((tmp_path / "b.json").read_text())["tables"]["benchmark"]["rows"]
    assert {(row["corpus"], row["n_bytes"]) for row in rows} == {(f"{text.name}[:1000]", 1000)}


def test_mistakes_with_scorers_are_one_line(run: Run, text: Path, scorers: str):
    assert_one_line(run("benchmark", text, "--scorer", scorers), "'claims' is not of the form MODULE:FUNCTION")
    assert_one_line(run("benchmark", text, "--scorer", f"{scorers}:evn"), "no 'evn' (did you mean 'even'?)")
    assert_one_line(run("benchmark", text, "--scorer", f"{scorers}:np"), "claims:np is no function")
    assert_one_line(run("benchmark", text, "--scorer", "no_such_module:even"), "no module no_such_module in this folder")


def test_a_known_corpus_is_shown_beside_what_others_published(
    run: Run, text: Path, model: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "identify", lambda n_bytes, sha256: known_corpora()[0])
    text.write_text(PROSE)
    ran = run("benchmark", text, "-m", model, "--adapt", "none")
    measured, published = ran.out.split("published, not measured here")
    assert "cmix" not in measured and "cmix" in published and "https://" in published
