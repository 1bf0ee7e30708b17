from pathlib import Path

import pytest
from samples import ROOT

from lmeval.data.locate import check_model_name, exists, find_in, find_spec, named_spec, shipped_specs
from lmeval.data.resources import bundled_densities, bundled_names
from lmeval.errors import InputNotFound, ModelNotFound

IMPOSSIBLE = ("nul\0l", "n" * 5000)


def test_the_first_folder_that_has_a_file_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folders = [tmp_path / name for name in ("one", "two", "here")]
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(tmp_path / "here")
    places = [tmp_path / "one", None, str(tmp_path / "two"), Path()]
    assert find_in(places, "x") is None
    (tmp_path / "here" / "x").write_text("")
    assert find_in(places, "x") == Path("x")
    (tmp_path / "two" / "x").write_text("")
    assert find_in(places, "x") == tmp_path / "two" / "x"
    (tmp_path / "one" / "x").mkdir()
    assert find_in(places, "x") == tmp_path / "one" / "x"
    assert find_in(places, "x", Path.is_file) == tmp_path / "two" / "x"
    assert find_in([Path()], tmp_path / "two" / "x") == tmp_path / "two" / "x"  # an absolute path


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_name_that_no_file_can_have_is_not_there(tmp_path: Path, name: str):
    assert find_in([tmp_path, Path()], name) is None and find_in([tmp_path], name, Path.is_file) is None
    assert not exists(tmp_path / name) and exists(tmp_path)
    assert find_spec(name) is None
    with pytest.raises(InputNotFound):
        named_spec(name, "task", shipped_specs())


def test_a_yaml_file_stands_for_itself_and_a_name_for_one_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert find_spec("x/y.yaml") == Path("x/y.yaml") and find_spec("y.yml") == Path("y.yml")
    assert find_spec("digits") == ROOT / "tasks" / "digits.yaml" == shipped_specs()["digits"]
    assert [find_spec(name) for name in ("text.txt", "no-such-task", "_blimp", "")] == [None] * 4
    assert "_blimp" not in shipped_specs()


def test_what_stands_in_the_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputNotFound, match=r"no task digit: give a YAML file, .* in tasks/ \(did you mean 'digits'\?\)"):
        named_spec("digit", "task", ["digits", "mnist"])
    (tmp_path / "digits").mkdir()
    assert find_spec("digits") is None
    with pytest.raises(InputNotFound, match="spec digits is hidden by a file or folder of that name here"):
        named_spec("digits", "spec", ["digits", "mnist"])


@pytest.mark.parametrize("name", ["bundle", "bundeld", "Bundled", "lmeval-bytes-4m", "lmeval-mnist-vae-v2"])
def test_a_misspelt_bundled_model_is_not_looked_for_elsewhere(name: str):
    with pytest.raises(ModelNotFound, match=rf"no model {name} \(did you mean '(bundled|lmeval-\w+-[\w-]+)'"):
        check_model_name(name)


@pytest.mark.parametrize("name", ["gpt2", "distilgpt2", "bert-base-uncased", "org/bundle", "./bundle", "", "x" * 5000, "\0"])
def test_other_names_of_models_are_for_a_library_to_find(name: str):
    check_model_name(name)


def test_names_that_are_there_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("bundled", *bundled_names(), *bundled_densities()):
        check_model_name(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").mkdir()
    check_model_name("bundle")
