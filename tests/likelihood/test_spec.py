"""Specs: what is filled in, what is refused, and that nothing but an error of ours ever comes out."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from samples import ROOT

from lmeval.errors import InputNotFound, LmevalError, TaskFileError
from lmeval.likelihood.spec import BoundSpec, ImagesSpec, KdeSpec, ModelSpec, is_spec, read_spec, spec_path

SHIPPED = ("bbans", "digits", "mnist")
FULL = """\
likelihood: all of it
data:
  images: some.npy
  split: test
  limit: 7
  shape: [4, 4]
  binarise: {seed: 3}
models:
  - name: one
    model: folder/one
    bounds:
      - elbo
      - iwae: 50
      - iwae: {particles: 5000}
      - smc: {particles: 8, gap: 0.1, start: prior}
      - ais: {temperatures: 100, schedule: linear, leapfrogs: 5}
      - smc
    sandwich: 9
  - model: folder/two.yaml
    kde:
      samples: 99
      bandwidths: [2, 0.5, 2]
      held_out: {images: others.npy, limit: 5}
seed: 4
paired: two
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str) -> str:
    path = write(folder, text)
    with pytest.raises(TaskFileError) as caught:
        read_spec(path)
    message = str(caught.value)
    assert message.splitlines() == [message]
    assert message.startswith(f"{path}:")
    return message.removeprefix(f"{path}:").strip()


def test_every_key_is_read(tmp_path: Path):
    found = read_spec(write(tmp_path, FULL))
    assert (found.name, found.seed, found.paired) == ("all of it", 4, "two")
    assert found.data.images == ImagesSpec("some.npy", "test", 7)
    assert (found.data.binarise_seed, found.data.threshold, found.data.shape) == (3, None, (4, 4))
    one, two = found.models
    assert (one.name, one.model, one.sandwich, one.kde) == ("one", "folder/one", 9, None)
    assert one.bounds == (
        BoundSpec("elbo", {}),
        BoundSpec("iwae", {"particles": 50}),
        BoundSpec("iwae", {"particles": 5000}),
        BoundSpec("smc", {"particles": 8, "gap": 0.1, "start": "prior"}),
        BoundSpec("ais", {"particles": 16, "temperatures": 100, "schedule": "linear", "leapfrogs": 5}),
        BoundSpec("smc", {"particles": 16, "temperatures": 30}),
    )
    labels = ["ELBO", "IWAE-50", "IWAE-5000", "SMC 8, gap 0.1", "AIS 16 x 100", "SMC 16 x 30"]
    assert one.bounds and [bound.label for bound in one.bounds] == labels
    assert two == ModelSpec("two", "folder/two.yaml", None, 0, KdeSpec(99, (0.5, 2.0), ImagesSpec("others.npy", None, 5)))


def test_what_a_spec_leaves_out(tmp_path: Path):
    path = write(tmp_path, "likelihood:\ndata: {images: digits}\nmodels: [{model: m, kde: }, {name: n, model: m}]\n")
    found = read_spec(path)
    assert found.data.images == ImagesSpec("digits", None, None)
    assert found[0:2] == ("spec", path) and found[4:] == (0, None, None, {})
    assert found.models == (ModelSpec("m", "m", None, 0, KdeSpec()), ModelSpec("n", "m"))
    assert found.data[1:] == (None, None, None, None)


def test_a_seed_of_binarisation_is_0_where_it_is_not_given(tmp_path: Path):
    found = read_spec(write(tmp_path, FULL.replace("{seed: 3}", "{}")))
    assert found.data.binarise_seed == 0


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("likelihood: all", "likelihod: all", 1, "unknown key 'likelihod' (did you mean 'likelihood'?)"),
        ("split: test", "spilt: test", 4, "unknown key 'spilt' in data (did you mean 'split'?)"),
        ("{seed: 3}", "{sed: 3}", 7, "unknown key 'sed' in data.binarise"),
        ("sandwich: 9", "sandwhich: 9", 18, "unknown key 'sandwhich' in models[0] (did you mean 'sandwich'?)"),
        ("- iwae: 50\n", "- iwea: 50\n", 13, "unknown key 'iwea' in models[0].bounds[1] (did you mean 'iwae'?)"),
        ("start: prior", "begin: prior", 15, "unknown key 'begin' in models[0].bounds[3].smc"),
        ("{particles: 5000}", "{leapfrogs: 3}", 14, "unknown key 'leapfrogs' in models[0].bounds[2].iwae"),
        ("samples: 99", "sample: 99", 21, "unknown key 'sample' in models[1].kde (did you mean 'samples'?)"),
        ("limit: 5}", "limits: 5}", 23, "unknown key 'limits' in models[1].kde.held_out (did you mean 'limit'?)"),
        ("- elbo", "- elba", 12, "not 'elba' (did you mean 'elbo'?)"),
        (
            "- elbo",
            "- [elbo]",
            12,
            "models[0].bounds[0] must be one of elbo, iwae, ais, smc, or a mapping from one of them to its settings, not [",
        ),
        ("- elbo", "- {elbo: 1, iwae: 2}", 12, "bounds[0] must be one of"),
        ("- elbo", "- 3", 12, "bounds[0] must be one of"),
        ("images: some.npy", "images: 3", 3, "images must be text"),
        ("images: some.npy", "images: ''", 3, "images must be text"),
        ("  images: some.npy\n", "", 2, "key 'images' must be given"),
        ("limit: 7", "limit: 0", 5, "limit must be a whole number of at least 1, not 0"),
        ("limit: 7", "limit: true", 5, "limit must be a whole number"),
        ("limit: 7", "limit: 1.5", 5, "limit must be a whole number"),
        ("shape: [4, 4]", "shape: [4, -4]", 6, "shape must be a list of whole numbers"),
        ("shape: [4, 4]", "shape: 4", 6, "shape must be a list of whole numbers"),
        ("shape: [4, 4]", "threshold: 0", 6, "threshold must be a whole number of at least 1"),
        ("shape: [4, 4]", "threshold: 100", 6, "threshold and binarise both make images binary"),
        ("{seed: 3}", "3", 7, "binarise must be a mapping, not 3"),
        ("{seed: 3}", "{seed: -3}", 7, "seed must be a whole number of at least 0, not -3"),
        ("name: one", "name: two", 19, "two models are called two"),
        ("model: folder/one", "model: ", 9, "key 'model' must be given"),
        (
            "iwae: 50\n",
            "iwae: 0\n",
            13,
            "iwae must be the number of particles, a whole number of at least 1, or a mapping of settings, not 0",
        ),
        ("iwae: 50\n", "iwae: many\n", 13, "or a mapping of settings, not 'many'"),
        ("iwae: 50\n", "iwae: 5000\n", 14, "IWAE-5000 is given twice"),
        ("gap: 0.1", "gap: 0", 15, "gap must be a number above 0, not 0"),
        ("gap: 0.1", "gap: .inf", 15, "gap must be a number above 0, not inf"),
        ("gap: 0.1", "gap: 0.1, temperatures: 5", 15, "give gap or temperatures, not both"),
        (
            "start: prior",
            "start: prio",
            15,
            "start must be one of auto, pilot, encoder, prior, not 'prio' (did you mean 'prior'?)",
        ),
        ("schedule: linear", "schedule: cubic", 16, "schedule must be one of thermodynamic, sigmoid, linear, not 'cubic'"),
        ("temperatures: 100", "temperatures: 0", 16, "temperatures must be a whole number of at least 1"),
        ("sandwich: 9", "sandwich: -1", 18, "sandwich must be a whole number of at least 0"),
        ("samples: 99", "samples: 1", 21, "samples must be a whole number of at least 2"),
        ("[2, 0.5, 2]", "[]", 22, "bandwidths must be a list of numbers above 0"),
        ("[2, 0.5, 2]", "[2, .nan]", 22, "bandwidths must be a list of numbers above 0"),
        ("[2, 0.5, 2]", "0.5", 22, "bandwidths must be a list of numbers above 0, not 0.5"),
        ("{images: others.npy, limit: 5}", "others.npy", 23, "held_out must be a mapping"),
        ("seed: 4", "seed: -4", 24, "seed must be a whole number of at least 0, not -4"),
        ("paired: two", "paired: tow", 25, "no model is called 'tow' (did you mean 'two'?)"),
        ("seed: 4", "paired: one", 25, "key 'paired' is given twice"),
        ("seed: 4", "seed: &a 4\n3: x", 25, "unknown key '3'"),
        ("seed: 4", "seed: !me 4", 24, "!me is a tag"),
        ("seed: 4", "? [a]\n: 4", 24, "a key must be a word"),
        ("seed: 4", "seed: [", 26, "expected"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, old: str, new: str, line: int, says: str):
    assert FULL.count(old) >= 1
    found = refusal(tmp_path, FULL.replace(old, new, 1))
    assert found.startswith(f"line {line}: "), found
    assert says in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task: x\n", "unknown key 'task'"),
        ("data: {images: digits}\nmodels: [{model: m}]\n", "lacks the key 'likelihood' (lmeval run scores task files)"),
        ("likelihood: x\ndata: {images: digits}\n", "key 'models' must be given"),
        ("likelihood: x\ndata: {images: digits}\nmodels: []\n", "models must be a list with at least one entry"),
        ("likelihood: x\ndata: {images: digits}\nmodels: [m]\n", "must be a mapping, not 'm'"),
        ("likelihood: x\nmodels: [{model: m}]\n", "key 'data' must be given"),
        ("likelihood: x\nmodels: &a [*a]\n", "an alias"),
        ("- a\n", "not a spec: that is a YAML mapping with keys such as likelihood, data, models"),
        ("", "not a spec: that is a YAML mapping with keys such as likelihood, data, models"),
        ("seed: 2024-02-31\n", "line 1: day"),
        ("likelihood: " + "[" * 3000, "nested too deeply"),
    ],
)
def test_what_is_no_spec(tmp_path: Path, text: str, says: str):
    assert says in refusal(tmp_path, text)


def test_words_are_words_and_aliases_are_what_they_name(tmp_path: Path):
    text = "likelihood: no\ndata: {images: &a on, split: *a}\nmodels: [{name: yes, model: off}]\npaired: yes\n"
    found = read_spec(write(tmp_path, text))
    assert (found.name, found.data.images, found.paired) == ("no", ImagesSpec("on", "on"), "yes")
    assert found.models == (ModelSpec("yes", "off"),)


def test_files_that_are_no_text_or_not_there(tmp_path: Path):
    path = tmp_path / "spec.yaml"
    path.write_bytes(b"likelihood: \xff\n")
    with pytest.raises(TaskFileError, match="not UTF-8 text"):
        read_spec(path)
    for missing in (tmp_path / "none.yaml", Path("nul\0l.yaml")):
        with pytest.raises(InputNotFound, match="no such spec"):
            read_spec(missing)


def test_specs_that_ship():
    for name in SHIPPED:
        path = spec_path(name)
        assert path == ROOT / "tasks" / f"{name}.yaml" and is_spec(path)
        found = read_spec(path)
        assert found.name == name and found.models
    assert not is_spec(spec_path("sentiment"))
    assert len(read_spec(spec_path("digits")).models) == 4


def test_names_of_specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert spec_path("any/where.yaml") == Path("any/where.yaml")
    with pytest.raises(InputNotFound, match="did you mean 'digits'"):
        spec_path("digit")
    (tmp_path / "digits").mkdir()
    with pytest.raises(InputNotFound, match="hidden by a file or folder"):
        spec_path("digits")


def test_files_are_looked_for_beside_the_spec_then_here_then_in_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for folder in ("beside", "here", "data"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    spec = write(tmp_path / "beside", 'likelihood: s\ndata: {images: x}\nmodels: [{model: m}, {model: "nul\\0l"}]\n')
    assert read_spec(spec, tmp_path / "data").files == {}
    for folder, path in (("data", tmp_path / "data/x"), ("here", Path("x")), ("beside", tmp_path / "beside/x")):
        (tmp_path / folder / "x").write_text("")
        assert read_spec(spec, tmp_path / "data").files == {"x": path}
    (tmp_path / "here" / "m").mkdir()
    assert read_spec(spec).files == {"x": tmp_path / "beside/x", "m": Path("m")}


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 50), st.floats(), st.text(max_size=5), st.lists(st.integers(), max_size=2)
)
KEYS = (
    "images",
    "split",
    "limit",
    "seed",
    "name",
    "model",
    "bounds",
    "sandwich",
    "kde",
    "iwae",
    "smc",
    "gap",
    "paired",
    "x",
)


@pytest.mark.slow
@given(seed=st.integers(0, 10**6), value=VALUES, key=st.sampled_from(KEYS))
def test_whatever_a_file_holds_it_is_a_spec_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, seed: int, value: Any, key: str
):
    rng, tree = random.Random(seed), copy.deepcopy(yaml.safe_load(FULL))
    node: Any = tree
    while True:  # a random way down, and a random change there
        inner = [child for child in (node.values() if isinstance(node, dict) else node) if isinstance(child, dict | list)]
        if not inner or rng.random() < 0.3:
            break
        node = rng.choice(inner)
    if isinstance(node, dict):
        node[rng.choice([key, *node])] = value
    else:
        node.append(rng.choice([value, {key: value}, key]))
    path = write(tmp_path_factory.mktemp("fuzz"), yaml.safe_dump(tree, sort_keys=False))
    try:
        assert read_spec(path).models
    except LmevalError as error:
        assert str(error).splitlines() == [str(error)]
