import pytest
import torch
from samples import talker

from lmeval.compression.text.bundled import bundled_text_model
from lmeval.compression.text.loading import LIGHT_BYTES, is_light, load_text_model
from lmeval.compression.text.text_model import of_library
from lmeval.compute.place import Place, Processor, alone, on_processor
from lmeval.data.resources import BUNDLED_MODEL, reference_folder


@pytest.mark.parametrize("name", ["bundled", BUNDLED_MODEL, str(reference_folder())])
def test_the_bundled_model_is_light_by_any_name(name: str, monkeypatch: pytest.MonkeyPatch):
    for place in ("cpu", "auto", alone(), on_processor()):
        assert is_light(name, place, "float32", LIGHT_BYTES - 1)
        model, where = load_text_model(name, place)
        assert model is bundled_text_model() and not where.on_accelerator
    assert is_light(name, "cpu", "float32", LIGHT_BYTES)
    assert not is_light(name, "auto", "float32", LIGHT_BYTES)  # worth the time to look for an accelerator
    assert not is_light(name, "cpu", "float64", 1)
    assert not is_light(name, "cuda", "float32", 1)
    assert not is_light(name, Place(0, 1, torch.device("cuda")), "float32", 1)
    monkeypatch.setenv("LMEVAL_COMPILED", "0")
    assert not is_light(name, "cpu", "float32", 1)
    monkeypatch.delenv("LMEVAL_COMPILED")
    monkeypatch.setenv("RANK", "0")
    assert not is_light(name, "cpu", "float32", 1)


def test_other_models_are_the_librarys():
    assert not is_light("lmeval-reviews-4m-v1", "cpu", "float32", 1)
    assert not is_light(talker(), "cpu", "float32", 1)
    model, place = load_text_model(talker(), "cpu")
    assert model.library() is talker()
    assert place.device == talker().device and model.known_drift is None


def test_what_is_ready_stays_as_it_is():
    assert load_text_model(bundled_text_model(), "auto")[0] is bundled_text_model()
    assert isinstance(load_text_model(bundled_text_model(), "auto")[1].device, Processor)
    model, place = of_library(talker()), alone()._replace(memory=10**9)
    assert load_text_model(model, place) == (model, place)
