import os
from pathlib import Path

import pytest

from lmeval.errors import OutputError
from lmeval.results import (
    atomic_writer,
    check_writable,
    write_text,
)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "out.json"
    write_text("old", path)
    with pytest.raises(RuntimeError, match="half way"), atomic_writer(path) as stream:
        stream.write("new")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]  # noqa: PTH208


def test_nothing_is_there_before_all_is_there(tmp_path: Path):
    with atomic_writer(tmp_path / "out") as stream:
        stream.write("text")
        stream.flush()
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out").read_text() == "text"


def test_a_written_file_has_ordinary_permissions(tmp_path: Path):
    (tmp_path / "plain").write_text("")
    write_text("", tmp_path / "ours")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path):
    with pytest.raises(OutputError, match="there is no folder"):
        check_writable(tmp_path / "no" / "out.json")
    with pytest.raises(OutputError, match="not an ordinary file"):
        check_writable(tmp_path)
    check_writable(tmp_path / "out.json")
    assert list(tmp_path.iterdir()) == []
