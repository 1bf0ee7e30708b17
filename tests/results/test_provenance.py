import hashlib
from pathlib import Path

from lmeval.results import (
    files_sha256,
    provenance,
    text_sha256,
    versions,
)


def test_versions_name_every_library():
    found = versions()
    assert {"python", "torch", "transformers", "tokenizers", "numpy"} <= set(found)
    assert "not installed" not in found.values()


def test_hashes_are_those_of_the_bytes(tmp_path: Path):
    (tmp_path / "text").write_bytes("größe\r\n".encode())
    (tmp_path / "more").write_bytes(b"more")
    names = [str(tmp_path / name) for name in ("text", "more")]
    assert files_sha256(names[:1]) == text_sha256("größe\r\n") == hashlib.sha256("größe\r\n".encode()).hexdigest()
    assert files_sha256(names) == text_sha256("größe\r\nmore") != files_sha256(names[::-1])


def test_every_report_tells_by_what_and_when_it_was_made():
    made = provenance("run", inputs={"task": "t"}, models=[{"name": "m"}], place={"device": "cpu"}, seconds=1.23456)
    assert list(made) == ["kind", "date", "inputs", "models", "device", "settings", "seconds", "versions"]
    assert made["seconds"] == 1.235
    assert made["versions"] == versions()
    assert provenance("compare")["seconds"] is None
