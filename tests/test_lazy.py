import ast
import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from samples import ROOT

import lmeval

PACKAGE = """
from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from {name} import inside
    from {name}.plan import Plan, plan
    from {name}.broken import trouble

lazy.attach(__name__)
"""
ATTACHED = sorted(
    ".".join(path.relative_to(ROOT).parent.parts)
    for path in (ROOT / "lmeval").rglob("__init__.py")
    if "lazy.attach(" in path.read_text(encoding="utf-8")
)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    """A package whose function `plan` is in the module `plan`."""
    name = f"toy_{request.node.name}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE.format(name=name))
    (folder / "plan.py").write_text("class Plan: ...\ndef plan(): return 'planned'\n")
    (folder / "inside.py").write_text("value = 1\n")
    (folder / "broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(name)


def loaded(package: ModuleType) -> list[str]:
    """Modules of the package that have been imported."""
    return sorted(
        name.removeprefix(f"{package.__name__}.") for name in sys.modules if name.startswith(package.__name__ + ".")
    )


def test_nothing_is_imported_before_it_is_asked_for(package: ModuleType):
    assert loaded(package) == []
    assert package.plan() == "planned"
    assert loaded(package) == ["plan"]
    assert package.inside.value == 1
    assert loaded(package) == ["inside", "plan"]


def test_a_name_is_the_same_object_everywhere(package: ModuleType):
    module = importlib.import_module(f"{package.__name__}.plan")
    assert package.plan is module.plan
    assert package.Plan is module.Plan


def test_a_function_hides_the_module_of_its_name(package: ModuleType):
    module = importlib.import_module(f"{package.__name__}.plan")  # binds the module to the package, as all imports do
    assert isinstance(module, ModuleType)
    assert package.plan() == "planned"
    sys.modules.pop(module.__name__)
    importlib.import_module(module.__name__)  # once more, now that the name is known
    assert package.plan() == "planned"


def test_names_can_be_replaced(package: ModuleType, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr(package, "plan", lambda: "patched")
        assert package.plan() == "patched"
    assert package.plan() == "planned"


def test_names_are_listed_before_they_are_imported(package: ModuleType):
    assert {"plan", "Plan", "inside", "trouble"} <= set(dir(package))
    assert loaded(package) == []


def test_an_unknown_name_is_no_attribute(package: ModuleType):
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'plann'"):
        _ = package.plann
    with pytest.raises(ImportError, match="cannot import name 'plann'"):
        exec(f"from {package.__name__} import plann")


def test_errors_of_an_import_are_told(package: ModuleType):
    with pytest.raises(ZeroDivisionError):
        _ = package.trouble


@pytest.mark.parametrize("name", ATTACHED)
def test_public_names_are_those_that_are_imported(name: str):
    package = importlib.import_module(name)
    assert sorted(vars(package)["_origins"]) == sorted(package.__all__)
    for public in package.__all__:
        assert getattr(package, public) is not None


def test_all_names_of_lmeval_resolve():
    assert "lmeval" in ATTACHED
    assert callable(lmeval.perplexity)
    assert isinstance(lmeval.densities, ModuleType) and isinstance(lmeval.likelihood, ModuleType)


def test_perplexity_stays_the_function():
    module = importlib.import_module("lmeval.perplexity")
    for inner in pkgutil.iter_modules(getattr(module, "__path__", [])):
        importlib.import_module(f"lmeval.perplexity.{inner.name}")
    assert isinstance(module, ModuleType)
    assert lmeval.perplexity is module.perplexity
    assert callable(lmeval.perplexity)


def test_importing_lmeval_imports_no_library():
    code = "import sys, lmeval; print([name for name in sys.modules if 'site-packages' in str(sys.modules[name])])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert not {"torch", "numpy", "transformers", "click"} & {name.split(".")[0] for name in ast.literal_eval(ran.stdout)}


def test_importing_lmeval_writes_nothing(tmp_path: Path):
    copy, home = tmp_path / "copy", tmp_path / "home"
    shutil.copytree(ROOT / "lmeval", copy / "lmeval", ignore=shutil.ignore_patterns("__pycache__", "reference"))
    home.mkdir()
    before = sorted(tmp_path.rglob("*"))
    code = "import lmeval.compression.text.online.state as state; print(state.__file__)"
    places = {"HOME": str(home), "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
    ran = subprocess.run([sys.executable, "-c", code], cwd=home, env=places, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()).is_relative_to(copy)
    assert sorted(tmp_path.rglob("*")) == before
