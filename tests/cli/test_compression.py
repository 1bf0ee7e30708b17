import importlib
import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands import Run, assert_one_line
from samples import PROSE, ROOT, babble, command, talker
from vaes import npy

from lmeval.compression.container import frame
from lmeval.models.toys import byte_tokenizer

BLOCKS = importlib.import_module("lmeval.compression.text.blocks")


def shown_json(run: Run, path: Path | str) -> dict[str, Any]:
    """What an archive says of itself, with its blocks."""
    ran = run("inspect", path, "--json", "-")
    assert ran.status == 0 and "payload" in ran.err
    data = json.loads(ran.out)
    assert (data["schema"], data["kind"]) == (2, "inspect")
    return data["ledger"] | {"blocks": data["tables"]["blocks"]["rows"]}


def test_a_file_comes_back(run: Run, model: Path, text: Path):
    before = text.read_bytes()
    ran = run("compress", text, "-m", model)
    assert (ran.status, ran.err) == (0, "")
    made = text.with_name("text.txt.lmz")
    assert f"{made.stat().st_size:,} bytes" in ran.out
    assert_one_line(run("decompress", made, "-m", model), "text.txt exists already", "--force")
    text.unlink()
    ran = run("decompress", made, "-m", model)
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert text.read_bytes() == before


@pytest.mark.slow
def test_standard_streams(model: Path, text: Path, tmp_path: Path):
    before = text.read_bytes()
    made = subprocess.run(command("compress", "-", "-m", str(model)), input=before, capture_output=True, check=True).stdout
    twice = subprocess.run(command("decompress", "-", "-m", str(model)), input=made + made, capture_output=True, check=True)
    assert (twice.stdout, twice.stderr) == (before + before, b"")


def test_a_range_is_a_slice(run: Run, model: Path, text: Path, tmp_path: Path):
    before = text.read_bytes()
    run("compress", text, "-m", model)
    for span, expected in (("10:20", before[10:20]), (":5", before[:5]), ("7:", before[7:]), ("3:3", b"")):
        ran = run("decompress", f"{text}.lmz", "-m", model, "--range", span, "-o", tmp_path / "part", "-f")
        assert (ran.status, (tmp_path / "part").read_bytes()) == (0, expected)
    for span in ("5", "9:3", "a:b", "-1:4", "0:999999"):
        assert_one_line(run("decompress", f"{text}.lmz", "--range", span, "-o", tmp_path / "part", "-f"), "range")


@pytest.mark.slow
def test_everything_is_shown(run: Run, text: Path):
    text.write_text(PROSE)
    ran = run("compress", text, "--lanes", 3, "--tolerance", "1e-3", "--adapt", "none")
    assert "1 model" in ran.out and "online" not in ran.out and "adaptation" not in ran.out
    shown = shown_json(run, f"{text}.lmz")
    assert shown["n_bytes"] == text.stat().st_size
    assert shown["model"]["epsilon_nats"] == 1e-3
    assert shown["n_archive_bytes"] == Path(f"{text}.lmz").stat().st_size
    payload = sum(block["payload_bytes"] for block in shown["blocks"])
    assert shown["n_header_bytes"] + shown["n_framing_bytes"] + payload == shown["n_archive_bytes"]
    table = run("inspect", f"{text}.lmz").out
    for word in ("weights_sha256", "epsilon_nats", "overlap", shown["sha256"]):
        assert word in table


@pytest.mark.parametrize("adapt", ["light", "full"])
def test_online_models_are_named(run: Run, text: Path, adapt: str):
    text.write_bytes(babble(800))
    talker().network.save_pretrained(text.parent / "talker")
    byte_tokenizer().save_pretrained(text.parent / "talker")
    chosen = ("-m", text.parent / "talker", "--lanes", 8)
    ran = run("compress", text, *chosen, *(() if adapt == "full" else ("--adapt", adapt)))
    for word in ("1 adapted", f"online models  {adapt}", "adaptation"):
        assert word in ran.out
    shown = shown_json(run, f"{text}.lmz")
    assert (shown["format"], shown["adapt"], shown["blocks"][0]["kind"]) == ("2.0", adapt, "adapted")
    assert run("decompress", f"{text}.lmz", "-m", text.parent / "talker", "-f") == (0, "", "")
    assert text.read_bytes() == babble(800)


def test_what_online_models_code_alone_needs_no_model(run: Run, text: Path, model: Path, monkeypatch: pytest.MonkeyPatch):
    stored = partial(frame.Block, "stored", 0, n_lanes=0, n_units=0, parameter=0)  # a codec may win otherwise
    monkeypatch.setattr(
        BLOCKS, "plain_block", lambda d, at: stored(offset=at, n_bytes=len(d), digest=frame.digest(d), payload=d)
    )
    before = b"".join(b"%d;%d\n" % (i, i * i % 97) for i in range(400))
    text.write_bytes(before)
    ran = run("compress", text, "-m", model, "--adapt", "light")
    assert ran.status == 0 and "ideal" not in ran.out and "1 online" in ran.out
    shown = shown_json(run, f"{text}.lmz")
    assert "model" not in shown and shown["blocks"][0]["level"] == "light"
    assert "level" in run("inspect", f"{text}.lmz").out
    assert run("decompress", f"{text}.lmz", "-f") == (0, "", "")
    assert text.read_bytes() == before


@pytest.mark.slow
def test_damage_is_named_and_salvaged(run: Run, text: Path, tmp_path: Path):
    before = os.urandom(3 << 20)  # three stored blocks
    text.write_bytes(before)
    run("compress", text, "--adapt", "none")
    made = bytearray(Path(f"{text}.lmz").read_bytes())
    made[len(made) // 2] ^= 1
    Path(f"{text}.lmz").write_bytes(made)
    out = tmp_path / "out"
    assert_one_line(run("decompress", f"{text}.lmz", "-o", out), "damaged")
    assert not out.exists()
    ran = run("decompress", f"{text}.lmz", "-o", out, "--salvage")
    assert_one_line(ran, "lost")
    first, stop = (int(word.replace(",", "")) for word in ran.err.split(": ")[-1].split(" to "))
    found = out.read_bytes()
    assert 0 < first < stop < len(before) and stop - first < 2 << 20
    assert found == before[:first] + bytes(stop - first) + before[stop:]


@pytest.mark.slow
def test_random_bytes_hardly_grow(run: Run, text: Path):
    before = os.urandom(100_000)
    text.write_bytes(before)
    run("compress", text)
    assert Path(f"{text}.lmz").stat().st_size <= 1.001 * len(before) + 1024


@pytest.mark.slow
def test_mistakes_are_one_line(run: Run, model: Path, text: Path, tmp_path: Path):
    assert_one_line(run("compress", tmp_path / "none"), "no file")
    assert_one_line(run("compress", tmp_path), "folder")
    assert_one_line(run("compress", text, "--context", 100_000), "context")
    assert_one_line(run("compress", text, "--overlap", 2000), "overlap")
    assert_one_line(run("compress", text, "-o", text, "-f"), "input")
    assert_one_line(run("decompress", text), ".lmz")
    assert_one_line(run("decompress", text, "-o", tmp_path / "x"), "not an lmeval archive")
    assert_one_line(run("inspect", text), "not an lmeval archive")
    text.write_text(PROSE)
    run("compress", text)
    assert_one_line(run("decompress", f"{text}.lmz", "-m", model, "-o", tmp_path / "x"), "weights", "lmeval-bytes-4m-v2")
    assert not (tmp_path / "x").exists()


def digits(tmp_path: Path) -> Path:
    from sklearn.datasets import load_digits

    path = tmp_path / "digits.npy"
    path.write_bytes(npy(load_digits().images[-60:].astype("u1")))  # pyright: ignore[reportAttributeAccessIssue]
    return path


def test_images_come_back(run: Run, tmp_path: Path):
    path = digits(tmp_path)
    before = path.read_bytes()
    ran = run("compress", path, "-m", "lmeval-digits-vae-v1")
    assert (ran.status, ran.err) == (0, "")
    made = path.with_name("digits.npy.lmz")
    for word in (f"{made.stat().st_size:,} bytes", "60 images of 64", "initial bits", "net", "-ELBO", "-IWAE, 16 samples"):
        assert word in ran.out
    path.unlink()
    assert run("decompress", made) == (0, "", "")
    assert path.read_bytes() == before
    assert "network_sha256" in run("inspect", made).out
    shown = shown_json(run, made)
    assert shown["blocks"][1]["n_images"] == 60
    ran = run("decompress", made, "--range", "500:900", "-o", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == before[500:900]


def test_images_by_a_density_file_whose_weights_lie_elsewhere(run: Run, tmp_path: Path):
    path, reference = digits(tmp_path), ROOT / "lmeval" / "reference" / "lmeval-digits-vae-v1"
    (tmp_path / "data").mkdir()
    (tmp_path / "mine.yaml").write_text((reference / "density.yaml").read_text())
    (tmp_path / "data" / "model.safetensors").write_bytes((reference / "model.safetensors").read_bytes())
    mine = ("-m", tmp_path / "mine.yaml")
    ran = run("compress", path, *mine, "--data-dir", tmp_path / "data", "--no-verify", "--particles", 1)
    assert ran.status == 0 and "not verified" in ran.out and "excess" in ran.out and "IWAE" not in ran.out
    ran = run("decompress", f"{path}.lmz", *mine, "--data-dir", tmp_path / "data", "-o", tmp_path / "back")
    assert (ran.status, (tmp_path / "back").read_bytes()) == (0, path.read_bytes())
    assert_one_line(run("decompress", f"{path}.lmz", *mine, "-o", tmp_path / "x"), "model.safetensors")


def test_mistakes_with_images_are_one_line(run: Run, text: Path, tmp_path: Path):
    path, density = digits(tmp_path), ("-m", "lmeval-digits-vae-v1")
    for option in (
        ("--lanes", 2),
        ("--tolerance", 0.1),
        ("--context", 5),
        ("--overlap", 1),
        ("--dtype", "float64"),
        ("--adapt", "full"),
    ):
        assert_one_line(run("compress", path, *density, *option), option[0], "language models")
    assert_one_line(run("compress", path, *density, "--device", "cpu"), "--device")
    assert_one_line(run("compress", text, "--particles", 2), "--particles", "densities")
    assert_one_line(run("compress", text, "--data-dir", tmp_path), "--data-dir")
    assert_one_line(run("compress", path, *density, "--particles", 3), "power of two")
    assert_one_line(run("compress", text, *density), ".npy")
    assert_one_line(run("compress", path, "-m", "lmeval-mnist-vae-v1"), "784 numbers")
    assert_one_line(run("compress", path, "-m", "lmeval-digits-flow-v1"), "kind flow")
    assert not path.with_name("digits.npy.lmz").exists()


def test_results_are_json_where_they_are_asked_for(run: Run, text: Path, model: Path, tmp_path: Path):
    text.write_text(PROSE)
    coded, back = tmp_path / "c.json", tmp_path / "d.json"
    ran = run("compress", text, "-m", model, "--adapt", "none", "--json", coded)
    assert ran.status == 0 and "archive" in ran.out
    data = json.loads(coded.read_text())
    n_archive_bytes = Path(f"{text}.lmz").stat().st_size
    assert (data["schema"], data["kind"]) == (2, "compress")
    assert data["ledger"]["n_archive_bytes"] == n_archive_bytes
    by_name = {m["name"]: m for m in data["results"]}
    assert by_name["archive_bytes"]["value"] == n_archive_bytes
    assert by_name["bits_per_byte"]["of"] == {"model": str(model), "file": str(text)}
    assert data["provenance"]["inputs"]["data"]["n_bytes"] == len(PROSE.encode())
    ran = run("decompress", f"{text}.lmz", "-m", model, "-f", "--json", "-")
    assert ran.status == 0 and json.loads(ran.out)["kind"] == "decompress"
    run("decompress", f"{text}.lmz", "-m", model, "-f", "--json", back)
    assert json.loads(back.read_text())["ledger"]["n_bytes"] == len(PROSE.encode())
    assert_one_line(run("compress", text, "-m", model, "-o", "-", "--json", "-"), "--json -", "standard output")


def test_a_density_finds_its_weights_by_the_environment(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, reference = digits(tmp_path), ROOT / "lmeval" / "reference" / "lmeval-digits-vae-v1"
    (tmp_path / "data").mkdir()
    (tmp_path / "mine.yaml").write_text((reference / "density.yaml").read_text())
    (tmp_path / "data" / "model.safetensors").write_bytes((reference / "model.safetensors").read_bytes())
    monkeypatch.setenv("LMEVAL_DATA", str(tmp_path / "data"))
    assert run("compress", path, "-m", tmp_path / "mine.yaml", "--particles", 1, "--no-verify").status == 0
    ran = run("decompress", f"{path}.lmz", "-m", tmp_path / "mine.yaml", "-o", tmp_path / "back")
    assert (ran.status, (tmp_path / "back").read_bytes()) == (0, path.read_bytes())
