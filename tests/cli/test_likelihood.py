"""`lmeval likelihood` as a user meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Ran, Run, assert_one_line
from processes import LAUNCH
from samples import ROOT, shared
from small_densities import weights_of, write_density, write_images, write_spec

from lmeval.likelihood.compare import compare
from lmeval.likelihood.prepare import prepare
from lmeval.likelihood.spec import read_spec
from lmeval.results import as_json
from lmeval.results.records import read_records

BOUNDS = ["elbo", {"iwae": 20}, {"smc": {"particles": 4, "temperatures": 3}}]
VAE = {"name": "VAE", "model": "latent", "bounds": BOUNDS, "sandwich": 4}
MADE = {"name": "MADE", "model": "made"}
SAMPLER = {"name": "sampler", "model": "implicit", "kde": {"samples": 50, "bandwidths": [0.5]}}
MODELS = [VAE, MADE, SAMPLER]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with densities, images and a spec.yaml of them."""
    for kind in ("latent", "made", "implicit"):
        write_density(tmp_path / kind, kind, 2)
    write_images(tmp_path / "images.npy")
    write_spec(tmp_path / "spec.yaml", MODELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def succeeded(ran: Ran) -> str:
    assert ran.status == 0, ran.err
    lines = ran.out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert lines[0] and lines[-1]
    return ran.out


def without_times(data: Any) -> Any:
    """The same data less what differs between two equal runs."""
    if isinstance(data, dict):
        left_out = ("seconds", "date", "n_processes", "n_threads")
        return {key: without_times(value) for key, value in data.items() if key not in left_out}
    return [without_times(entry) for entry in data] if isinstance(data, list | tuple) else data


@pytest.mark.slow
def test_the_command_writes_what_the_functions_return(run: Run, here: Path):
    options = ("--limit", "7", "--seed", "5", "--device", "cpu")
    ran = run("likelihood", "spec.yaml", *options, "--json", "o.json", "--records", "r.jsonl", "--figures", "figures")
    succeeded(ran)
    first = {"images": "images.npy", "binarise": {"seed": 0}, "limit": 7}
    spec = read_spec(write_spec(here / "other.yaml", MODELS, first, seed=5))
    expected = compare(prepare(spec))
    ours, theirs = json.loads((here / "o.json").read_text()), json.loads(json.dumps(as_json(expected)))
    for data in (ours, theirs):
        data["provenance"]["inputs"].pop("spec")
    assert without_times(ours) == without_times(theirs)
    [written] = read_records(here / "r.jsonl")
    assert (written.header.report, written.header.ledger["n"]) == ("likelihood", 7)
    assert written.items == expected.items and len(written.records) == 5 * 7
    assert {path.name for path in (here / "figures").iterdir()} >= {"bits_per_dim.png", "bits_per_dim.svg", "ess.png"}


def test_results_keep_to_the_contract(run: Run, here: Path):
    succeeded(run("likelihood", "spec.yaml", "--json", "o.json"))
    found = json.loads((here / "o.json").read_text())
    assert list(found) == ["schema", "kind", "results", "ledger", "provenance", "tables", "items"]
    assert (found["schema"], found["kind"]) == (2, "likelihood")
    assert list(found["tables"]) == ["bounds", "sandwiches", "differences"]
    for result in found["results"]:
        assert {"of", "name", "value", "unit", "side", "stderr", "ci95", "n"} < result.keys()
        assert result["of"].keys() == {"model", "bound", "data"}
        assert result["ci95"] is None or result["ci95"][0] <= result["value"] <= result["ci95"][1]
        assert result["n"] == 12
    sides = {(r["of"]["model"], r["name"]): r["side"] for r in found["results"]}
    assert sides["VAE", "log_likelihood_nats"] == "lower" and sides["VAE", "bits_per_dim"] == "upper"
    assert sides["MADE", "bits_per_dim"] == "exact" and sides["sampler", "bits_per_dim"] == "estimate"
    assert {"inputs", "models", "versions", "settings", "device", "date"} <= found["provenance"].keys()
    assert found["ledger"]["tags"]["binarisation"] == "sampled"


def test_the_table_shows_what_was_found(run: Run, here: Path):
    ran = run("likelihood", "spec.yaml", "--json", "o.json")
    out, found = succeeded(ran), json.loads((here / "o.json").read_text())
    for row in found["tables"]["bounds"]["rows"]:
        [line] = [
            line
            for line in out.splitlines()
            if line.startswith(row["model"]) and f" {row['bound']} " in line and row["kind"] in line
        ]
        assert f"{row['nats']:.3f}" in line and f"{row['bits_per_dim']:.4f}" in line and row["side"] in line
    assert "VAE (SMC 4 x 3, lower) - MADE (exact)" in out or "VAE (IWAE-20, lower) - MADE (exact)" in out
    assert "can order models wrongly" in out and "a proxy, not a bound" in out
    planned = ran.err.splitlines()
    assert planned[0] == "VAE: ELBO: 12 data x 1 draws = 12 decoder evaluations" and len(planned) == 6


def test_costs_are_said_before_the_work(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lmeval.likelihood.compare.compare", stopped)
    ran = run("likelihood", "spec.yaml", "--json", "o.json")
    assert ran.status == 130 and "VAE: SMC 4 x 3: 12 data x 4 particles" in ran.err
    assert ran.err.splitlines()[-1] == "lmeval: interrupted"
    assert not (here / "o.json").exists()


def test_a_gap_is_planned(run: Run, here: Path):
    write_spec(here / "gap.yaml", [VAE | {"bounds": [{"smc": {"particles": 4, "gap": 0.5}}], "sandwich": 0}])
    ran = run("likelihood", "gap.yaml", "--json", "o.json")
    assert "SMC 4 x" in succeeded(ran) and "planned for a gap of 0.5 nats, about" in ran.err
    [row] = json.loads((here / "o.json").read_text())["tables"]["bounds"]["rows"]
    assert row["details"]["plan"]["wanted_gap_nats"] == 0.5
    assert row["bound"] == f"SMC 4 x {row['details']['settings']['temperatures']}, gap 0.5"


def test_files_from_the_data_folder(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch):
    (here / "data").mkdir()
    (here / "images.npy").rename(here / "data/images.npy")
    assert_one_line(run("likelihood", "spec.yaml"), "no file images.npy")
    succeeded(run("likelihood", "spec.yaml", "--data-dir", "data"))
    monkeypatch.setenv("LMEVAL_DATA", "data")
    succeeded(run("likelihood", "spec.yaml"))


BAD_DATA = {"images": "images.npy"}


@pytest.mark.parametrize(
    ("models", "data", "words"),
    [
        ([MADE | {"model": "maid"}], None, ["no density maid"]),
        ([MADE | {"mdoel": "made"}], None, ["line", "unknown key 'mdoel'", "did you mean 'model'"]),
        (MODELS, BAD_DATA, ["VAE is a model of images of 2 levels, sampled", "the data are of 256 levels"]),
        (MODELS, {"images": "none.npy"}, ["no file none.npy"]),
        (MODELS, {"images": "empty.npy", "binarise": {}}, ["empty.npy", "no images"]),
        (MODELS, {"images": "images.npy", "limit": 0}, ["limit must be a whole number of at least 1"]),
        (MODELS, {"images": "images.npy", "binarise": {}, "threshold": 9}, ["both make images binary"]),
        ([MADE | {"sandwich": 3}], None, ["sandwich is for a latent variable model"]),
        ([VAE | {"model": "bad"}], None, ["VAE: "]),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    run: Run, here: Path, models: list[dict[str, Any]], data: dict[str, Any] | None, words: list[str]
):
    np.save(here / "empty.npy", np.zeros((0, 3, 3), np.uint8))
    weights = weights_of("latent", 2)
    weights |= {name: weights[name] * 1e20 for name in ("d.weight", "e.weight")}  # finite; decoded images are not
    write_density(here / "bad", "latent", 2, weights)
    write_spec(here / "wrong.yaml", models, data)
    before = sorted(here.iterdir())
    ran = run("likelihood", "wrong.yaml", "--json", "o.json", "--records", "r.jsonl", "--figures", "figures")
    assert_one_line(ran, *words)
    assert sorted(here.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-spec"], ["no spec no-such-spec"]),
        (["nothing.yaml"], ["no such spec: nothing.yaml"]),
        (["sentiment"], ["unknown key 'task'"]),
        (["spec.yaml", "--limit", "0"], ["--limit"]),
        (["spec.yaml", "--seed", "-1"], ["--seed"]),
        (["spec.yaml", "--device", "cuda:99"], ["cuda:99"]),
        (["spec.yaml", "--json", "spec.yaml"], ["it is an input or another output"]),
        (["spec.yaml", "--records", "images.npy"], ["it is an input or another output"]),
        (["spec.yaml", "--json", "o", "--records", "o"], ["it is an input or another output"]),
        (["spec.yaml", "--json", "no/o.json"], ["there is no folder no"]),
        (["spec.yaml", "--figures", "images.npy"], ["it is no folder"]),
        (["spec.yaml", "--figures", "no/such"], ["there is no folder no"]),
    ],
)
def test_arguments_that_cannot_be_used(run: Run, here: Path, arguments: list[str], words: list[str]):
    assert_one_line(run("likelihood", *arguments), *words)


def test_specs_and_task_files_are_told_apart(run: Run, here: Path):
    (here / "task.yaml").write_text("data: {images: x}\nmodels: [{model: m}]\n")
    assert_one_line(run("likelihood", "task.yaml"), "lacks the key 'likelihood'", "lmeval run scores task files")
    assert_one_line(run("run", "spec.yaml"), "likelihood")


@pytest.mark.slow
def test_processes_give_what_one_gives(here: Path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    found = []
    for prefix, name in (([sys.executable], "one.json"), (LAUNCH, "two.json")):
        call = [*prefix, "-m", "lmeval", "likelihood", "spec.yaml", "--device", "cpu", "--json", name]
        done = subprocess.run(call, cwd=here, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("spec  small") == 1 and done.stderr.count("VAE: ELBO: ") == 1
        found.append(json.loads((here / name).read_text()))
    one, two = found
    assert two["provenance"]["n_processes"] == 2
    for ours, theirs in zip(one["results"], two["results"], strict=True):
        assert ours | {"value": 0, "stderr": 0, "ci95": 0} == theirs | {"value": 0, "stderr": 0, "ci95": 0}
        assert ours["value"] == pytest.approx(theirs["value"], abs=1e-4)


@pytest.mark.slow
def test_the_published_vae_and_the_standard_of_5000_samples(run: Run, tmp_path: Path):
    folder = shared("models/bbans_binary_vae").parents[1]
    shared("images/mnist/t10k-images-idx3-ubyte.gz")
    succeeded(run("likelihood", "bbans", "--data-dir", folder, "--json", tmp_path / "o.json"))
    found = json.loads((tmp_path / "o.json").read_text())
    by_bound = {row["bound"]: row for row in found["tables"]["bounds"]["rows"]}
    iwae, smc = by_bound["IWAE-5000"], by_bound["SMC 16 x 100"]
    assert iwae["nats"] == pytest.approx(-97.683, abs=0.25) and iwae["flag"] == "bound, not converged"
    assert smc["nats"] - iwae["nats"] > 1.1 and smc["nats"] == pytest.approx(-96.33, abs=0.1)
    [sandwich] = found["tables"]["sandwiches"]["rows"]
    assert 0 < sandwich["gap_nats"] < 0.15
