import io
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from samples import ROOT, tiny_gpt2

from lmeval.cli import COMMANDS, SECTIONS, commands
from lmeval.cli.shared import loading
from lmeval.prompting import RunSettings, run_task
from lmeval.results.records import records_of, write_records

HEAVY = {"accelerate", "datasets", "evaluate", "matplotlib", "numba", "sklearn", "torch", "transformers", "zuko"}
LISTED = """
import contextlib, io, sys
from lmeval.__main__ import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    try:
        main()
    except SystemExit as stop:
        status = stop.code
    else:
        status = 0
print(status, *sorted(sys.modules))
"""
INTERRUPTED = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from lmeval.__main__ import main
main()
"""
STARTED = """
from lmeval import interrupts
interrupts.install()
print("started", flush=True)
from lmeval.__main__ import main
main()
"""
ARCHIVE = ROOT / "compression" / "golden" / "v2.0-online-table.lmz"


def modules_of(*arguments: str | Path) -> tuple[int, set[str]]:
    """Status of a command, and the modules that it had imported in the end."""
    ran = subprocess.run([sys.executable, "-c", LISTED, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    status, *modules = ran.stdout.split()
    return int(status), set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--hlep"], ["inspct"], []], ids=" ".join)
def test_help_and_mistakes_need_no_library_but_click(arguments: list[str]):
    status, modules = modules_of(*arguments)
    assert status == (0 if arguments in (["--help"], ["--version"]) else 2)
    assert not modules & (HEAVY | {"jinja2", "numpy", "rich", "scipy", "yaml"})
    assert "click" in modules


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_needs_no_model(name: str):
    status, modules = modules_of(name, "--help")
    assert status == 0
    assert not modules & (HEAVY | {"numpy", "scipy"})


@pytest.mark.parametrize(
    "arguments, expected", [([ARCHIVE], 0), ([ARCHIVE, "--json", "-"], 0), (["--jsn"], 2), (["none"], 1)], ids=str
)
def test_archives_are_inspected_without_a_library_of_numbers(arguments: list[str | Path], expected: int):
    status, modules = modules_of("inspect", *arguments)
    assert status == expected
    assert not modules & (HEAVY | {"numpy", "scipy"})


def test_results_are_read_without_a_model(tmp_path: Path):
    records = tmp_path / "records.jsonl"
    write_records(records_of(run_task("sentiment", tiny_gpt2(), RunSettings(limit=8))), records)
    for arguments in (["rescore", records], ["compare", records, records]):
        status, modules = modules_of(*arguments)
        assert status == 0
        assert not modules & HEAVY


def test_help_lists_each_command_once_in_its_section():
    text = commands.get_help(click.Context(commands, info_name="lmeval", terminal_width=80))
    places = [text.index(f"\n{title}:\n") for title in SECTIONS]
    assert places == sorted(places)
    lines = text[places[0] :].splitlines()
    for title, section in SECTIONS.items():
        first = lines.index(f"{title}:") + 1
        assert [line.split()[0] for line in lines[first : first + len(section)]] == list(section)
        assert all(line.endswith(".") for line in lines[first : first + len(section)]), "one line a command"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_is_listed_is_there(name: str):
    command = commands.get_command(click.Context(commands), name)
    assert command is not None
    assert command.name == name
    assert command.help
    assert "\\" not in command.help


@pytest.mark.parametrize("typed, near", [("inspct", "inspect"), ("perplexty", "perplexity"), ("comprss", "compress")])
def test_the_nearest_command_is_named(typed: str, near: str):
    with pytest.raises(click.UsageError, match=rf"no command '{typed}' \(did you mean '{near}'\?\)"):
        commands.main([typed], standalone_mode=False)


def test_all_commands_are_named_where_none_is_near():
    with pytest.raises(click.UsageError, match=r"no command 'zzzzzz': known are benchmark, compare, .*, run$"):
        commands.main(["zzzzzz"], standalone_mode=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["click", "lmeval.cli.shared", "rich", "rich.progress", "yaml", "torch", "numpy", "ctypes"])
def test_an_interruption_while_modules_are_imported_is_one_line(name: str, tmp_path: Path):
    (tmp_path / "text.txt").write_text("a few words")
    arguments = ["perplexity", "text.txt", "--json", "out.json"]
    code = INTERRUPTED.format(name=name)
    ran = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "lmeval: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.1, 0.4, 1.0, 3.0])
def test_an_interruption_at_any_time_is_one_line(seconds: float, tmp_path: Path):
    (tmp_path / "text.txt").write_text("a few words " * 200_000)  # longer than the test waits, on any machine
    arguments = ["perplexity", "text.txt", "--json", "out.json"]
    with subprocess.Popen(
        [sys.executable, "-c", STARTED, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "started\n"
        time.sleep(seconds)
        process.send_signal(2)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "lmeval: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_loading_is_told_on_a_terminal_and_taken_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", terminal := _Terminal())
    with pytest.raises(ValueError, match="a model that is none"), loading("model m"):
        assert terminal.getvalue() == "loading model m ..."
        raise ValueError("a model that is none")
    line, blank, end = terminal.getvalue().split("\r")
    assert (line, blank, end) == ("loading model m ...", " " * len(line), "")


@pytest.mark.parametrize("rank, terminal", [("0", io.StringIO()), ("1", _Terminal())], ids=["a file", "another process"])
def test_loading_is_silent_elsewhere(rank: str, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("RANK", rank)
    with loading("model m"):
        pass
    assert terminal.getvalue() == ""


def test_commands_are_known_by_one_name():
    assert sum(map(len, SECTIONS.values())) == len(COMMANDS)
