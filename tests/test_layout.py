import ast
import subprocess
import sys
from pathlib import Path

import pytest
from samples import ROOT

PACKAGE = ROOT / "lmeval"
# A module may import those of lower layers, and inside its own folder. Equal layers do not import each other.
LAYERS = {
    "errors": 0,
    "messages": 0,
    "progress": 0,
    "stats": 1,
    "results": 2,
    "data": 2,
    "compute": 2,
    "specs": 3,
    "models": 4,
    "scoring": 5,
    "densities": 6,
    "perplexity": 7,
    "prompting": 7,
    "compression": 7,
    "likelihood": 7,
    "report": 8,
    "cli": 9,
    "__init__": 10,
    "__main__": 11,
    "metrics": 11,  # evaluate's modules: they stand outside and use the public names
}
# The rooms of compression and the others that each may import. Its other modules are the front doors.
ROOMS: dict[str, set[str]] = {
    "container": set(),
    "coding": set(),
    "text": {"container", "coding"},
    "images": {"container", "coding"},
    "benchmark": {"container", "coding", "text", "images", "compress", "decompress", "inspect"},
}
PURE = ("errors.py", "messages.py", "stats/*.py", "perplexity/tally.py")  # no model, no file, no network: numbers alone
SCREEN = 25
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "_data" not in path.parts)


def name_of(path: Path) -> str:
    parts = ["lmeval", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imports_of(path: Path) -> set[str]:
    """Modules of lmeval that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "lmeval"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lmeval":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner != "lmeval.__version__":
                    found.add(inner if inner in NAMES else node.module)
    return {"lmeval.__init__" if name == "lmeval" else name for name in found}


def layer_of(name: str) -> str:
    return name.split(".")[1]


NAMES = {name_of(path) for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_downwards(path: Path):
    mine = layer_of(name_of(path))
    assert mine in LAYERS, f"give {mine} a layer"
    for other in map(layer_of, imports_of(path)):
        assert other == mine or LAYERS[other] < LAYERS[mine], f"{name_of(path)} imports {other}"


def test_no_two_modules_import_each_other():
    graph = {name_of(path): imports_of(path) for path in MODULES}
    assert [(a, b) for a in graph for b in graph[a] if a in graph.get(b, ())] == []


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_of_compression_import_no_others(room: str):
    for path in (PACKAGE / "compression" / room).rglob("*.py"):
        for other in imports_of(path):
            if other.startswith("lmeval.compression"):
                assert other.split(".")[2:3] in ([name] for name in {room, *ROOMS[room]}), f"{name_of(path)} imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_import_is_relative(path: Path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def test_only_gather_knows_accelerate():
    for path in MODULES:
        if name_of(path) != "lmeval.compute.gather":
            assert "accelerate" not in external_imports(path), path


def external_imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("pattern", PURE)
def test_arithmetic_knows_no_models_and_no_files(pattern: str):
    paths = list(PACKAGE.glob(pattern))
    assert paths
    for path in paths:
        assert not external_imports(path) & {"torch", "transformers", "datasets", "pathlib", "os", "sys"}, path


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_of_a_module_fit_on_a_screen(path: Path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = [node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len([name for name in named if not name.startswith("_")]) <= SCREEN


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_stay_small(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
            assert (node.end_lineno or 0) - (first or 0) <= 60, f"{node.name} is long"


@pytest.mark.parametrize("folder", ["tasks", "compression"])
def test_folders_of_data_hold_no_python(folder: str):
    # Python 3.14's standard library has a package `compression`: code in a folder of that name would break gzip.
    assert list((ROOT / folder).rglob("*.py")) == []


def test_no_file_outside_the_package_shadows_the_standard_library():
    # Files in scripts/ and tests/ are found by their bare stem when one of them is run; those in lmeval/ never are.
    stems = {path.stem for folder in ("scripts", "tests") for path in (ROOT / folder).glob("*.py")}
    assert not stems & (set(sys.stdlib_module_names) | {"compression"})
    assert not list(ROOT.glob("*.py"))


def test_the_standard_library_works_from_the_root():
    code = "import gzip, bz2, lzma, zipfile, tarfile, shutil; gzip.decompress(gzip.compress(b'x'))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_every_error_is_in_the_tree_that_is_drawn():
    from lmeval import errors

    classes = {c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LmevalError)}
    drawn = errors.__doc__ or ""
    for kind in classes:
        assert f"{kind.__name__}" in drawn
        assert kind.__doc__
    words = {line.split("── ")[1].split()[0] for line in drawn.splitlines() if "── " in line}
    assert words | {"LmevalError"} == {kind.__name__ for kind in classes}


def test_the_public_names_are_what_they_say():
    import lmeval

    assert list(lmeval.__all__) == sorted(lmeval.__all__)
    assert all(hasattr(lmeval, name) for name in lmeval.__all__)


def test_tests_mirror_the_package():
    for path in (ROOT / "tests").rglob("test_*.py"):
        inside = path.relative_to(ROOT / "tests").with_name(path.name.removeprefix("test_"))
        special = {"laws.py", "layout.py", "lm_eval_parity.py", "roundtrip.py", "format.py"}
        known = (PACKAGE / inside).is_file() or inside.name in special or (PACKAGE / inside.with_suffix("")).is_dir()
        assert known or (ROOT / "scripts" / inside.name).is_file(), f"{path.name} tests nothing that is there"
