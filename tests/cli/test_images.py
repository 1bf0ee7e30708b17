import hashlib
import json
from pathlib import Path

import numpy as np
from commands import Run, assert_one_line
from samples import shared
from vaes import npy

GREY = np.random.default_rng(0).integers(0, 256, (30, 4, 5)).astype(np.uint8)


def test_a_binary_set_is_made_of_a_grey_one(run: Run, tmp_path: Path):
    (tmp_path / "grey.npy").write_bytes(npy(GREY))
    ran = run("images", tmp_path / "grey.npy", "-o", tmp_path / "b.npy", "--binarise", 3)
    made = np.load(tmp_path / "b.npy")
    assert (ran.status, ran.err) == (0, "")
    assert made.shape == (30, 4, 5) and made.dtype == np.uint8 and set(np.unique(made)) == {0, 1}
    for word in ("30 of 4 x 5", "2 levels, sampled (seed 3)", hashlib.sha256(made.tobytes()).hexdigest()):
        assert word in ran.out
    run("images", tmp_path / "grey.npy", "-o", tmp_path / "few.npy", "--binarise", 3, "--limit", 7)
    assert np.array_equal(np.load(tmp_path / "few.npy"), made[:7])  # a part of the whole's draws
    run("images", tmp_path / "grey.npy", "-o", tmp_path / "t.npy", "--threshold", 128)
    assert np.array_equal(np.load(tmp_path / "t.npy"), GREY >= 128)


def test_digits_and_the_data_folder(run: Run, tmp_path: Path):
    assert run("images", "digits", "--split", "test", "-o", tmp_path / "d.npy").status == 0
    assert np.load(tmp_path / "d.npy").shape == (360, 8, 8)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.npy").write_bytes(npy(GREY))
    ran = run("images", "x.npy", "--data-dir", tmp_path / "data", "-o", tmp_path / "y.npy")
    assert ran.status == 0 and (tmp_path / "y.npy").read_bytes() == npy(GREY)


def test_a_set_of_images_has_a_report(run: Run, tmp_path: Path):
    (tmp_path / "grey.npy").write_bytes(npy(GREY))
    output, as_json = tmp_path / "t.npy", tmp_path / "t.json"
    ran = run("images", tmp_path / "grey.npy", "-o", output, "--threshold", 128, "--limit", 20, "--json", as_json)
    report = json.loads(as_json.read_text())
    made = np.load(output)
    assert (ran.status, report["schema"], report["kind"]) == (0, 2, "images")
    [mean] = report["results"]
    assert (mean["name"], mean["value"], mean["of"]) == ("mean_level", made.mean(), {"file": str(output)})
    assert f"{made.mean():.6g}" in ran.out
    assert (report["ledger"]["n_images"], report["ledger"]["n_source"]) == (20, 30)
    assert report["ledger"]["tags"]["at"] == 128 and report["provenance"]["settings"]["threshold"] == 128
    assert report["ledger"]["sha256"] == hashlib.sha256(made.tobytes()).hexdigest()


def test_mistakes_are_one_line(run: Run, tmp_path: Path):
    source, out = tmp_path / "grey.npy", tmp_path / "out.npy"
    source.write_bytes(npy(GREY))
    assert_one_line(run("images", source, "-o", out, "--binarise", 0, "--threshold", 5), "exclude")
    assert_one_line(run("images", source, "-o", tmp_path / "out.txt"), ".npy")
    assert_one_line(run("images", source, "-o", source), "exists already")
    assert_one_line(run("images", source, "-o", source, "-f"), "input")
    assert_one_line(run("images", tmp_path / "none.npy", "-o", out), "no file")
    assert_one_line(run("images", source, "-o", out, "--shape", "4by5"), "28x28")
    assert_one_line(run("images", source, "-o", out, "--threshold", 300), "threshold")
    (tmp_path / "b.npy").write_bytes(npy(GREY // 128))
    assert_one_line(run("images", tmp_path / "b.npy", "-o", out, "--binarise", 0), "binary already")
    assert_one_line(run("images", source, "-o", out, "--json", out), "output")
    assert not out.exists()


def test_the_binarisation_of_the_anchors(run: Run, tmp_path: Path):
    source = shared("images/mnist/t10k-images-idx3-ubyte.gz")
    assert run("images", source, "-o", tmp_path / "b.npy", "--binarise", 0).status == 0
    made = np.load(tmp_path / "b.npy").reshape(10_000, 784)
    digest = hashlib.sha256(np.packbits(made, axis=1).tobytes()).hexdigest()
    assert digest == "90bfcb1e870be9fb315a152fabfd4759b3171dd6b7ef4d15573353aa13307193"
