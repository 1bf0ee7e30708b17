import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from commands import Ran, Run
from samples import PROSE, random_text, save_pair

from lmeval import cli


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`lmeval` with these arguments, in this process."""

    keyboard = tempfile.TemporaryFile()  # noqa: SIM115
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=keyboard))

    def called(*arguments: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "argv", ["lmeval", *map(str, arguments)])
        keyboard.write(stdin)
        keyboard.seek(-len(stdin), io.SEEK_CUR)
        capsys.readouterr()
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    yield called
    keyboard.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes((PROSE + random_text(1000) + "é🙂\r\n").encode())
    return path
