import importlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba.core.caching
import numba.core.config
import pytest

module: Any = importlib.import_module("lmeval.compute.compiled")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package's sources that the module takes for its own; the user's cache is the folder `user` beside it."""
    folder = tmp_path / "online"
    folder.mkdir()
    for source in (Path(module.__file__).parent.parent / "compression" / "text" / "online").glob("*.py"):
        (folder / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(module, "package_folder", lambda: folder)
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    module._folder.cache_clear()
    module._announce.cache_clear()
    yield folder
    module._folder.cache_clear()
    module._announce.cache_clear()


def _folder() -> Path | None:
    module._folder.cache_clear()
    return module._folder()


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_machine_code_is_kept_in_the_users_cache(package: Path, tmp_path: Path):
    before = _files(package)
    folder = _folder()
    assert folder is not None
    assert folder.parent == tmp_path / "user" / "lmeval"
    assert module.compiled(_doubled)(21) == 42
    assert [name.split(".")[-1] for name in _files(folder)] == ["nbc", "nbi"]
    assert _files(package) == before


def test_nothing_is_written_before_a_function_is_called(package: Path, tmp_path: Path):
    doubled = module.compiled(_doubled)
    assert not (tmp_path / "user").exists()
    assert doubled(21) == 42
    assert (tmp_path / "user").exists()


def test_machine_code_is_read_back(package: Path):
    first, second = module.compiled(_doubled), module.compiled(_doubled)
    assert (first(21), second(21)) == (42, 42)
    assert sum(first.stats.cache_misses.values()) == 1 and not first.stats.cache_hits
    assert sum(second.stats.cache_hits.values()) == 1 and not second.stats.cache_misses


def test_a_folder_that_the_user_names_comes_first(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path / "named"))
    folder = _folder()
    assert folder is not None
    assert folder.parent == tmp_path / "named"
    (tmp_path / "file").write_text("a file stands here")
    monkeypatch.setattr(numba.core.config, "CACHE_DIR", str(tmp_path / "file"))
    folder = _folder()
    assert folder is not None
    assert folder.parent == tmp_path / "user" / "lmeval"


def test_machine_code_of_other_sources_is_kept_elsewhere(package: Path):
    found = [_folder()]
    for source in sorted(source for source in package.glob("*.py") if b"@compiled" in source.read_bytes()):
        source.write_bytes(source.read_bytes() + b"\n# changed\n")
        found.append(_folder())
    assert len(set(found)) == len(found) > 5


def test_machine_code_of_equal_sources_is_kept_in_one_place(package: Path):
    before = _folder()
    for source in package.glob("*.py"):
        source.write_bytes(source.read_bytes())
    (package / "notes.txt").write_text("no source")
    assert _folder() == before


def test_no_machine_code_is_kept_where_nothing_can_be_written(package: Path, tmp_path: Path):
    (tmp_path / "user").write_text("a file stands here")
    assert _folder() is None
    module._folder.cache_clear()
    assert module.compiled(_doubled)(21) == 42


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_first_compilation_is_announced_on_a_terminal(package: Path, monkeypatch: pytest.MonkeyPatch):
    screen, pipe = _Terminal(), io.StringIO()
    monkeypatch.setattr(module.sys, "stderr", screen)
    assert [module.compiled(_doubled)(21), module.compiled(_tripled)(14)] == [42, 42]
    [line] = screen.getvalue().splitlines()
    assert line == "lmeval: compiling, up to a minute (once on this machine)"
    module._announce.cache_clear()
    assert module.compiled(_doubled)(21) == 42  # read from disk: nothing to announce
    monkeypatch.setattr(module.sys, "stderr", pipe)
    assert module.compiled(_negated)(42) == -42
    assert [len(screen.getvalue().splitlines()), pipe.getvalue()] == [1, ""]


def test_what_cannot_be_kept_is_announced_as_such(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "user").write_text("a file stands here")
    monkeypatch.setattr(module.sys, "stderr", screen := _Terminal())
    assert module.compiled(_doubled)(21) == 42
    assert "in every run" in screen.getvalue() and "NUMBA_CACHE_DIR" in screen.getvalue()


def test_functions_run_without_a_place_for_machine_code(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "_folder", lambda: None)
    assert module.compiled(lambda x: 2 * x + 1)(20) == 41


def test_the_settings_of_others_stay_as_they_are(tmp_path: Path):
    config: Any = numba.core.config
    before = config.CACHE_DIR
    with module._kept_in(tmp_path):
        assert str(tmp_path) == config.CACHE_DIR
    assert before == config.CACHE_DIR


def test_damaged_machine_code_is_thrown_away(package: Path):
    folder = _folder()
    assert folder is not None
    (folder / "deeper").mkdir()
    damaged, whole = folder / "deeper" / "a.nbi", folder / "deeper" / "b.nbc"
    damaged.write_bytes(pickle.dumps("whole")[:-1])
    whole.write_bytes(pickle.dumps("whole"))
    assert _folder() == folder
    assert not damaged.exists()
    assert whole.exists()


def test_a_user_without_a_home_needs_none(package: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "expanduser", lambda path: _homeless(path))
    assert _folder() is None


def _homeless(path: Path) -> Path:
    if str(path).startswith("~"):
        raise RuntimeError("Could not determine home directory.")
    return path


@pytest.mark.parametrize("trouble", [EOFError, ValueError, OSError])
def test_code_that_cannot_be_kept_is_compiled_all_the_same(
    package: Path, monkeypatch: pytest.MonkeyPatch, trouble: type[Exception]
):
    def fails(*_: Any) -> None:
        raise trouble

    for name in ("load_overload", "save_overload"):
        monkeypatch.setattr(numba.core.caching.FunctionCache, name, fails)
    assert module.compiled(_doubled)(21) == 42


def _doubled(number: int) -> int:
    return 2 * number


def _tripled(number: int) -> int:
    return 3 * number


def _negated(number: int) -> int:
    return -number


@module.compiled
def _sum_in_order(a: float, b: float, c: float) -> float:
    return (a + b) - c


@module.compiled_reordering
def _sum_of_any_order(a: float, b: float, c: float) -> float:
    return _sum_in_order(a, b, c)


def test_what_a_reordering_function_calls_keeps_its_own_order(package: Path):
    """Whichever of the two is called first."""
    assert _sum_of_any_order(1e16, 1.0, 1e16) == 0.0
    code = _sum_in_order.inspect_llvm(_sum_in_order.signatures[0])
    assert "fadd double" in code and "reassoc" not in code
