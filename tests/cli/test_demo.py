import json
from pathlib import Path

import pytest
from commands import Run, assert_one_line, text_of

from lmeval.cli import demo
from lmeval.report.views import view
from lmeval.results.reading import read_results


@pytest.fixture(autouse=True)
def _a_short_manual(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "MANUAL_BYTES", 400)
    monkeypatch.setattr(demo, "FILE_BYTES", 300)
    monkeypatch.setattr(demo, "N_IMAGES", 2)


@pytest.mark.slow
def test_the_demo_runs_on_files(run: Run, text: Path, tmp_path: Path):
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    ran = run("demo", text, tmp_path / "binary", "--json", tmp_path / "o.json")
    assert (ran.status, ran.err) == (0, "")
    assert f"{text}, the first 300 of its {text.stat().st_size:,} bytes" in ran.out
    assert ran.out.count("to the same bytes") == 4  # the first line, and three archives
    assert "not UTF-8" in ran.out
    assert ran.out.count("the model does not shorten it") == 1  # the binary file
    report = json.loads((tmp_path / "o.json").read_text())
    assert (report["schema"], report["kind"]) == (2, "demo")
    steps = report["tables"]["texts"]["rows"]
    of_text = [step for step in steps if step["text"] == str(text)]
    assert [step["what"] for step in of_text] == ["score", "archive", "decoded", "gzip -9", "bzip2 -9", "xz -9e"]
    assert report["ledger"]["decoded_and_equal"] is True
    for step in of_text:
        if step["n_bytes"] is not None:
            assert step["bits_per_byte"] == 8 * step["n_bytes"] / 300
    measured = {m["of"]["what"]: m["value"] for m in report["results"] if m["of"].get("corpus") == str(text)}
    assert measured == {step["what"]: step["bits_per_byte"] for step in of_text if step["bits_per_byte"] is not None}
    assert {m["name"] for m in report["results"]} >= {"acc", "log_loss", "log_likelihood_nats", "bits_per_dim"}
    whole = text_of(view(read_results(tmp_path / "o.json")))
    for step in of_text:
        assert step["bits_per_byte"] is None or f"{step['what']:<10}{step['bits_per_byte']:>9.3f}" in whole
    for line in ran.out.splitlines()[-3:]:
        assert line.startswith("  lmeval ")


def test_a_file_that_is_missing_is_named_before_anything_is_done(run: Run, text: Path):
    assert_one_line(run("demo", text, text.parent / "none"), "none")
    assert_one_line(run("demo", text.parent), str(text.parent))


@pytest.mark.parametrize("n", range(1, 9))
def test_a_cut_leaves_no_half_character(n: int):
    cut = demo._whole_characters("aä€😀".encode()[:n])
    assert "aä€😀".encode().startswith(cut) and cut.decode()
    assert len(cut) > n - 4
    assert demo._whole_characters(b"\xff\xfe" * n) == b"\xff\xfe" * n
