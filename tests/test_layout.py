import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from samples import ROOT

PACKAGE = ROOT / "lmeval"
# A module may import those of lower layers, and inside its own folder. Equal layers do not import each other.
LAYERS = {
    "errors": 0,
    "interrupts": 0,
    "lazy": 0,
    "messages": 0,
    "progress": 0,
    "stats": 1,
    "results": 2,
    "data": 2,
    "compute": 3,
    "specs": 4,
    "models": 5,
    "scoring": 6,
    "densities": 7,
    "perplexity": 8,
    "prompting": 8,
    "compression": 8,
    "likelihood": 8,
    "report": 9,
    "cli": 10,
    "__init__": 11,
    "__main__": 12,
    "metrics": 12,  # evaluate's modules: they stand outside and use the public names
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
SCREEN = 25  # public names of a module
LINES, LINES_OF_A_FUNCTION, PARAMETERS = 400, 60, 8
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
TREES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def test_imports_point_downwards():
    offenders = []
    for path in MODULES:
        mine = layer_of(name_of(path))
        assert mine in LAYERS, f"give {mine} a layer"
        for other in imports_of(path):
            if layer_of(other) != mine and LAYERS[layer_of(other)] >= LAYERS[mine]:
                offenders.append(f"{name_of(path)} imports {other}")
    assert offenders == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {name_of(path): imports_of(path) & NAMES for path in MODULES}
    # What imports nothing that is left cannot be in a circle: take such modules away until none is left, or only circles.
    while free := [name for name, others in graph.items() if not others & graph.keys()]:
        for name in free:
            del graph[name]
    assert graph == {}


def test_rooms_of_compression_import_no_others():
    offenders = []
    for room, allowed in ROOMS.items():
        for path in (PACKAGE / "compression" / room).rglob("*.py"):
            inside = [other.split(".") for other in imports_of(path) if other.startswith("lmeval.compression")]
            offenders += [
                (name_of(path), other) for other in inside if other[2:3] not in ([name] for name in {room, *allowed})
            ]
    assert offenders == []


def test_no_import_is_relative():
    nodes = [(name, node) for name, tree in TREES.items() for node in ast.walk(tree)]
    assert [name for name, node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


def test_only_gather_knows_accelerate():
    knowing = [name_of(path) for path in MODULES if "accelerate" in external_imports(path)]
    assert knowing == ["lmeval.compute.gather"]


def external_imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(TREES[name_of(path)]):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_arithmetic_knows_no_models_and_no_files():
    files = [path for pattern in PURE for path in PACKAGE.glob(pattern)]
    beyond = {"torch", "transformers", "datasets", "pathlib", "os", "sys"}
    assert {path.name: external_imports(path) & beyond for path in files if external_imports(path) & beyond} == {}


def test_public_names_of_a_module_fit_on_a_screen():
    public = {
        name: [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
        for name, tree in TREES.items()
    }
    assert {name: len(nodes) for name, nodes in public.items() if len(nodes) > SCREEN} == {}


def test_modules_stay_small():
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{name}.{node.name}", node


def test_functions_stay_small():
    def length(node: ast.FunctionDef) -> int:
        first = node.body[0].end_lineno if ast.get_docstring(node) else node.lineno
        return (node.end_lineno or 0) - (first or 0)

    assert {name: length(node) for name, node in functions() if length(node) > LINES_OF_A_FUNCTION} == {}


def test_signatures_stay_short():
    def n_parameters(node: ast.FunctionDef) -> int:
        return len(
            [a for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if a.arg not in ("self", "cls")]
        )

    outside = [(name, node) for name, node in functions() if layer_of(name) not in ("cli", "metrics")]  # click's, evaluate's
    # Numba wants the arguments of an intrinsic one by one.
    outside = [(name, node) for name, node in outside if "intrinsic" not in map(ast.unparse, node.decorator_list)]
    assert {name: n_parameters(node) for name, node in outside if n_parameters(node) > PARAMETERS} == {}


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
        special = {"docs.py", "laws.py", "layout.py", "lm_eval_parity.py", "roundtrip.py", "format.py"}
        known = (PACKAGE / inside).is_file() or inside.name in special or (PACKAGE / inside.with_suffix("")).is_dir()
        assert known or (ROOT / "scripts" / inside.name).is_file(), f"{path.name} tests nothing that is there"
