import importlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from commands import Run, assert_one_line
from processes import LAUNCH
from samples import PROSE, ROOT, command, network, save_pair, stories_folder, tinystories, wordpiece_tokenizer

from lmeval.models import load_model
from lmeval.models.toys import byte_tokenizer
from lmeval.perplexity import PerplexitySettings, perplexity
from lmeval.results import as_json
from lmeval.results.records import read_records

NOT_OF_THE_NUMBERS = ("date", "seconds", "n_processes")


def read(path: Path) -> dict:
    """A results file less what may differ between two equal runs."""
    found = json.loads(path.read_text())
    for key in NOT_OF_THE_NUMBERS:
        del found["provenance"][key]
    return found


def figures(data: dict) -> list[dict]:
    """The results of a results file, less what they are of."""
    return [{key: value for key, value in result.items() if key != "of"} for result in data["results"]]


def test_the_command_writes_what_the_function_returns(run: Run, model: Path, text: Path, tmp_path: Path):
    ran = run("perplexity", "--model", model, text, "--stride", 32, "--json", tmp_path / "out.json", "--device", "cpu")
    assert (ran.status, ran.err) == (0, "")
    found = perplexity(load_model(str(model)), text, PerplexitySettings(stride=32), place="cpu")
    written = json.loads((tmp_path / "out.json").read_text())
    assert (written["schema"], written["kind"]) == (2, "perplexity")
    assert all(result["of"]["corpus"] == str(text) for result in written["results"])
    expected = json.loads(json.dumps(as_json(found)))
    ours = read(tmp_path / "out.json")
    assert ours["results"] == expected["results"]
    assert ours["ledger"] == expected["ledger"]
    assert ours["tables"] == expected["tables"]
    assert ours["items"] == expected["items"]


def test_the_table_shows_every_result(run: Run, model: Path, text: Path):
    ran = run("perplexity", "-m", model, text)
    found = perplexity(load_model(str(model)), text)
    for measurement in found.results:
        assert re.search(rf"^{measurement.name} ", ran.out, re.MULTILINE)
    assert f"{found['bits_per_byte']:.4f}" in ran.out


def test_options_reach_the_run(run: Run, model: Path, text: Path, tmp_path: Path):
    options = ["--context=16", "--stride=8", "--bos=document", "--batch-size=3", "--dtype=float64", "--seed=5"]
    assert run("perplexity", "-m", model, text, *options, "--json", tmp_path / "o.json").status == 0
    found = read(tmp_path / "o.json")
    windows = found["ledger"]["windows"]
    assert (windows["context"], windows["stride"], windows["bos_policy"]) == (16, 8, "document")
    provenance = found["provenance"]
    (described,), settings = provenance["models"], provenance["settings"]
    assert (settings["batch_size"], settings["seed"], described["dtype"]) == (3, 5, "float64")


def test_standard_input_is_text(run: Run, model: Path, text: Path, tmp_path: Path):
    for name, arguments, stdin in (("a", ["-"], text.read_bytes()), ("b", [text], b"")):
        assert run("perplexity", "-m", model, *arguments, "--json", tmp_path / name, stdin=stdin).status == 0
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    assert figures(a) == figures(b)
    assert a["provenance"]["inputs"]["corpus"]["sha256"] == b["provenance"]["inputs"]["corpus"]["sha256"]


def test_a_column_of_a_table_is_text(run: Run, model: Path, tmp_path: Path):
    (tmp_path / "t.jsonl").write_text('{"body": "one"}\n{"body": "two 🙂"}\n')
    assert (
        run("perplexity", "-m", model, tmp_path / "t.jsonl", "--text-column", "body", "--json", tmp_path / "o").status == 0
    )
    expected = json.loads(json.dumps(as_json(perplexity(str(model), ["one", "two 🙂"]))))
    assert figures(read(tmp_path / "o")) == figures(expected)


def test_a_task_names_its_text(run: Run, model: Path, tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text('{"page": "one"}\n')
    (tmp_path / "task.yaml").write_text(
        "task: tiny\noutput_type: loglikelihood_rolling\ndataset_path: json\n"
        "dataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\ndoc_to_target: page\n"
    )
    assert run("perplexity", "-m", model, tmp_path / "task.yaml", "--json", tmp_path / "o").status == 0
    assert read(tmp_path / "o")["provenance"]["inputs"]["corpus"]["sources"] == ["tiny"]


def test_each_document_can_be_had_as_a_record(run: Run, model: Path, tmp_path: Path):
    (tmp_path / "texts").mkdir()
    for name in ("a", "b"):
        (tmp_path / "texts" / name).write_text(name * 100)
    options = ["--records", tmp_path / "r.jsonl", "--json", tmp_path / "o.json"]
    assert run("perplexity", "-m", model, tmp_path / "texts", *options).status == 0
    ((_, records),) = read_records(tmp_path / "r.jsonl")
    rows = json.loads((tmp_path / "o.json").read_text())["tables"]["documents"]["rows"]
    assert [(record.item, record.values["nll_nats"]) for record in records] == [(r["name"], r["nll_nats"]) for r in rows]


def test_a_limit_scores_the_first_documents(run: Run, model: Path, tmp_path: Path):
    (tmp_path / "t.jsonl").write_text('{"body": "one"}\n{"body": "two"}\n{"body": "three"}\n')
    options = ["--text-column", "body", "--limit", "2", "--json", tmp_path / "o"]
    assert run("perplexity", "-m", model, tmp_path / "t.jsonl", *options).status == 0
    assert figures(read(tmp_path / "o")) == figures(json.loads(json.dumps(as_json(perplexity(str(model), ["one", "two"])))))


def test_mistakes_that_need_no_model_are_told_before_it_loads(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(importlib.import_module("lmeval.models"), "load_model", fail)
    (tmp_path / "binary").write_bytes(b"abc\xff")
    (tmp_path / "table.jsonl").write_text('{"text": "one"}\n')
    for arguments, message in (
        ((tmp_path / "binary",), "is not UTF-8 text"),
        ((tmp_path / "table.jsonl", "--text-column", "words"), "no column 'words'"),
        ((tmp_path / "binary", "-m", "bundel"), "did you mean 'bundled'?"),
    ):
        ran = run("perplexity", *arguments)
        assert ran.status == 1
        assert message in ran.err


def test_a_memory_budget_reaches_the_run(run: Run, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    places = []
    inner = importlib.import_module("lmeval.perplexity").perplexity
    watched = lambda *a, **k: (places.append(k["place"]), inner(*a, **k))[1]  # noqa: E731
    monkeypatch.setattr(importlib.import_module("lmeval.perplexity"), "perplexity", watched)
    assert run("perplexity", "-m", model, text, "--memory", "5MB").status == 0
    monkeypatch.setenv("LMEVAL_MEMORY", "7 KiB")
    assert run("perplexity", "-m", model, text).status == 0
    assert [place.memory for place in places] == [5_000_000, 7168]


def test_a_tokenizer_that_loses_text_is_said_on_standard_error(run: Run, tmp_path: Path):
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    network(config).save_pretrained(tmp_path / "lossy")
    wordpiece_tokenizer().save_pretrained(tmp_path / "lossy")
    (tmp_path / "t").write_text("Upper Case\n")
    ran = run("perplexity", "-m", tmp_path / "lossy", tmp_path / "t", "--context", "32")
    assert ran.status == 0
    assert ran.err.startswith("lmeval: the tokenizer does not give back the text of 1 document")
    assert len(ran.err.splitlines()) == 1
    assert "bits_per_byte" not in ran.out


def damaged(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    save_pair(folder)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without(folder: Path, pattern: str) -> Path:
    save_pair(folder)
    for path in folder.glob(pattern):
        path.unlink()
    return folder


def truncated(folder: Path) -> Path:
    data = (save_pair(folder) / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:5000])
    return folder


def bidirectional(folder: Path) -> Path:
    config = transformers.BertConfig(
        vocab_size=257, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    network(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


BAD_MODELS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no folder": (lambda f: f / "absent", "no model folder"),
    "no config": (lambda f: without(f, "config.json"), "no config.json"),
    "no weights": (lambda f: without(f, "*.safetensors"), "no weights"),
    "no tokenizer": (lambda f: without(f, "tokenizer*"), "no tokenizer"),
    "truncated weights": (truncated, "cannot load model"),
    "a missing tensor": (lambda f: damaged(f, lambda w: w.pop("model.norm.weight")), "no weights for model.norm.weight"),
    "NaN weights": (lambda f: damaged(f, lambda w: w["model.norm.weight"].fill_(torch.nan)), "gives NaN"),
    "not causal": (bidirectional, "sees later tokens"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_a_bad_model_is_one_line(run: Run, text: Path, tmp_path: Path, kind: str):
    make, message = BAD_MODELS[kind]
    ran = run("perplexity", "-m", make(tmp_path / "model"), text, "--json", tmp_path / "out.json")
    assert_one_line(ran, message)
    assert not (tmp_path / "out.json").exists()


BAD_TEXTS: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "no such file or folder"),
    "empty": (b"", "is empty (0 bytes)"),
    "undecodable": (b"a" * 3000 + b"\xfc", "byte 0xfc at offset 3,000"),
    "cut short": (b"fine, then \xe2\x82", "byte 0xe2 at offset 11"),
}


@pytest.mark.parametrize("kind", BAD_TEXTS)
def test_a_bad_text_is_one_line_and_leaves_no_file(run: Run, model: Path, tmp_path: Path, kind: str):
    data, message = BAD_TEXTS[kind]
    if data is not None:
        (tmp_path / "bad").write_bytes(data)
    options = ["--json", tmp_path / "o.json", "--records", tmp_path / "d.jsonl"]
    assert_one_line(run("perplexity", "-m", model, tmp_path / "bad", *options), message)
    assert [path.name for path in tmp_path.iterdir() if path.name != "bad"] == []


BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "a context longer than the model": (["--context", "65"], "context 65 is more than the 64 tokens"),
    "a stride longer than the context": (
        ["--context", "10", "--stride", "11"],
        "stride 11 must lie between 1 and the context",
    ),
    "no context": (["--context", "0"], "'--context'"),
    "no number": (["--batch-size", "many"], "'--batch-size'"),
    "no memory": (["--memory", "lots"], "'--memory'"),
    "no such dtype": (["--dtype", "int8"], "'--dtype'"),
    "no such device": (["--device", "toaster"], "unknown device 'toaster'"),
    "a device that is not here": (["--device", f"cuda:{torch.cuda.device_count()}"], "is not here"),
    "another kind of device": (["--device", "meta"], "meta"),
    "no such option": (["--contxt", "5"], "No such option"),
    "results into no folder": (["--json", "nowhere/out.json"], "there is no folder nowhere"),
    "records on standard output": (["--records", "-"], "records go to a file, not to standard output: name one"),
    "records into no folder": (["--records", "nowhere/d.jsonl"], "there is no folder nowhere"),
    "a data set and paths": (["--dataset", "x/y"], "--dataset stands alone"),
    "a column that is not there": (["--text-column", "body"], "no column 'body'"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_a_bad_option_is_one_line(
    run: Run, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    options, message = BAD_OPTIONS[kind]
    monkeypatch.chdir(tmp_path)
    assert_one_line(run("perplexity", "-m", model, text, *options), message)
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_no_text_at_all_is_one_line(run: Run, model: Path):
    assert_one_line(run("perplexity", "-m", model), "no text given")
    assert_one_line(run("perplexity", "-m", model, "-", stdin=b""), "nothing to score in -")


def test_a_data_set_that_cannot_be_had_is_one_line(run: Run, model: Path):
    ran = run("perplexity", "-m", model, "--dataset", "nobody/nothing", "--text-column", "text")
    assert_one_line(ran, "cannot load data set nobody/nothing")


def test_a_mistake_in_a_task_file_is_one_line_with_its_place(run: Run, model: Path, tmp_path: Path):
    (tmp_path / "t.yaml").write_text("task: t\noutput_tpye: loglikelihood_rolling\n")
    ran = run("perplexity", "-m", model, tmp_path / "t.yaml")
    assert_one_line(ran, "line 2: unknown key 'output_tpye' (did you mean 'output_type'?)")


def test_an_interruption_is_one_line_and_leaves_no_file(
    run: Run, model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("lmeval.perplexity"), "perplexity", interrupted)
    ran = run("perplexity", "-m", model, text, "--json", tmp_path / "o.json", "--records", tmp_path / "d.jsonl")
    assert ran == (130, "", "lmeval: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_an_unknown_command_is_one_line(run: Run):
    assert_one_line(run("perplexty"), "perplexty")


def test_a_failure_half_way_leaves_the_files_of_an_earlier_run(run: Run, model: Path, tmp_path: Path):
    (tmp_path / "o.json").write_text("old")
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "1").write_text("fine " * 2000)
    (tmp_path / "texts" / "2").write_bytes(b"\xff")
    ran = run(
        "perplexity", "-m", model, tmp_path / "texts", "--json", tmp_path / "o.json", "--records", tmp_path / "d.jsonl"
    )
    assert_one_line(ran, "is not UTF-8 text")
    assert (tmp_path / "o.json").read_text() == "old"
    assert not (tmp_path / "d.jsonl").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["perplexity", "--help"]])
def test_help_is_help(run: Run, arguments: list[str]):
    ran = run(*arguments)
    assert ran.status == 0
    assert "lmeval" in ran.out


def test_the_command_is_a_process_that_ends_with_its_status(tmp_path: Path):
    ran = subprocess.run(
        command("perplexity", "no-such-file"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "lmeval: no such file or folder: no-such-file\n"


@pytest.mark.slow
def test_two_processes_write_what_one_writes(tmp_path: Path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a").write_text(tinystories(30_000), encoding="utf-8")
    (tmp_path / "texts" / "b").write_text(PROSE, encoding="utf-8")
    arguments = ["perplexity", "--model", str(stories_folder()), "texts", "--device", "cpu", "--stride", "256"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    shown = []
    for name, launch in (("one", command()), ("two", [*LAUNCH, *command()[1:]])):
        ran = subprocess.run(
            [*launch, *arguments, "--json", name, "--records", f"{name}.jsonl"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert ran.returncode == 0, ran.stderr
        shown.append(ran.stdout)
    assert read(tmp_path / "one") == read(tmp_path / "two")
    assert json.loads((tmp_path / "two").read_text())["provenance"]["n_processes"] == 2
    one, two = (read_records(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    assert [records for _, records in one] == [records for _, records in two]
    assert shown[0] == shown[1]  # one table, by the first process alone


def test_an_output_never_overwrites_an_input_or_a_pipe(run: Run, model: Path, text: Path, tmp_path: Path):
    before, pipe = text.read_bytes(), tmp_path / "pipe"
    os.mkfifo(pipe)  # stands for a device too: a failing test must not destroy one
    for target in (text, pipe):
        assert_one_line(run("perplexity", "-m", str(model), str(text), "--json", str(target)), "cannot write")
    assert text.read_bytes() == before and pipe.is_fifo()


def test_numbers_are_never_cropped(run: Run, model: Path, text: Path, monkeypatch: pytest.MonkeyPatch):
    wide = run("perplexity", "-m", str(model), str(text)).out
    monkeypatch.setenv("COLUMNS", "20")
    assert run("perplexity", "-m", str(model), str(text)).out == wide


def coded_bits(run: Run, path: Path, model: Path, level: str) -> int:
    """Of the blocks' payloads, of an archive that `compress` makes."""
    ran = run("compress", path, "-m", model, "--adapt", level, "--no-verify", "-o", path.with_suffix(".lmz"), "-f")
    assert ran.status == 0
    found = json.loads(run("inspect", path.with_suffix(".lmz"), "--json", "-").out)["ledger"]
    return 8 * (found["n_archive_bytes"] - found["n_header_bytes"] - found["n_framing_bytes"])


@pytest.mark.slow
@pytest.mark.parametrize("level", ["light", "full"])
def test_the_adapted_code_length_is_that_of_the_archive(run: Run, model: Path, text: Path, tmp_path: Path, level: str):
    ran = run("perplexity", text, "-m", model, "--adapt", level, "--json", tmp_path / "p.json")
    assert (ran.status, ran.err) == (0, "")
    found = read(tmp_path / "p.json")
    bits = coded_bits(run, text, model, level)
    (adapted,) = (m for m in found["results"] if m["name"] == "adapted_bits_per_byte")
    assert (adapted["value"], adapted["unit"], adapted["side"]) == (bits / text.stat().st_size, "bits/byte", "exact")
    assert found["ledger"]["adapted"]["n_payload_bytes"] * 8 == bits
    assert f"online models ({level})" in ran.out and "not the model's perplexity" in ran.out
    plain = read_without_adapt(run, model, text, tmp_path)
    assert [m for m in found["results"] if m != adapted] == plain["results"]


def read_without_adapt(run: Run, model: Path, text: Path, tmp_path: Path) -> dict:
    assert run("perplexity", text, "-m", model, "--json", tmp_path / "q.json").status == 0
    found = read(tmp_path / "q.json")
    assert "adapted" not in found["ledger"]
    return found


@pytest.mark.slow
def test_every_document_is_coded_on_its_own(run: Run, model: Path, tmp_path: Path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, words in (("a.txt", PROSE), ("b.txt", ""), ("c.txt", PROSE[:100])):
        (folder / name).write_text(words, newline="")
    ran = run("perplexity", folder, "-m", model, "--adapt", "light", "--json", tmp_path / "p.json")
    assert ran.status == 0
    found = read(tmp_path / "p.json")["ledger"]["adapted"]
    bits = sum(coded_bits(run, folder / name, model, "light") for name in ("a.txt", "c.txt"))
    assert (found["n_documents"], found["n_bytes"]) == (2, len((PROSE + PROSE[:100]).encode()))
    assert found["n_payload_bytes"] * 8 == bits


def test_a_pipe_can_be_coded_too(run: Run, model: Path, text: Path, tmp_path: Path):
    for name, arguments, stdin in (("a", ["-"], text.read_bytes()), ("b", [text], b"")):
        ran = run("perplexity", "-m", model, *arguments, "--adapt", "light", "--json", tmp_path / name, stdin=stdin)
        assert ran.status == 0
    assert figures(read(tmp_path / "a")) == figures(read(tmp_path / "b"))
