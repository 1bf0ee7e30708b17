from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from networks import CONFIGS, model_of
from samples import babble, gpt2_config, llama_config, network, talker

from lmeval.compression import CompressSettings, compress, decompress
from lmeval.models import CausalLM, from_pair
from lmeval.models.compiled import choice
from lmeval.models.compiled.choice import compiled_network
from lmeval.models.compiled.network import Network
from lmeval.models.toys import byte_tokenizer

CAPACITY = 32


class OwnLlama(transformers.LlamaForCausalLM):
    """A class that transformers knows nothing of: its forward might be anything."""


def of_config(config: Any, dtype: torch.dtype = torch.float32) -> CausalLM:
    return from_pair(network(config, dtype=dtype), byte_tokenizer(), name="tiny")


def hooked() -> CausalLM:
    model = of_config(llama_config())
    model.network.get_submodule("model.layers.1.mlp").register_forward_hook(lambda module, inputs, output: output * 1.5)
    return model


def replaced_forward() -> CausalLM:
    model = of_config(llama_config())
    inner: Any = model.network.get_submodule("model.layers.0.mlp")
    forward = inner.forward
    inner.forward = lambda x: forward(x) * 1.5
    return model


def own_class() -> CausalLM:
    return from_pair(OwnLlama(llama_config()).eval(), byte_tokenizer(), name="own")


def scaled(kind: str, **options: Any) -> CausalLM:
    return of_config(llama_config(rope_parameters={"rope_type": kind, "rope_theta": 1e4, **options}))


NOT_COVERED: dict[str, tuple[Callable[[], CausalLM], str]] = {
    "a sliding window": (
        lambda: of_config(
            transformers.MistralConfig(**llama_config().to_dict() | {"model_type": "mistral", "sliding_window": 12})
        ),
        "a sliding window of 12 tokens, less than the 32",
    ),
    "another activation": (lambda: of_config(llama_config(hidden_act="relu")), "activation relu"),
    "another activation of GPT-2": (lambda: of_config(gpt2_config(activation_function="gelu")), "activation gelu"),
    "another scale in every layer": (
        lambda: of_config(gpt2_config(scale_attn_by_inverse_layer_idx=True)),
        "scale_attn_by_inverse_layer_idx",
    ),
    "an unknown architecture": (
        lambda: of_config(
            transformers.GPTNeoXConfig(
                vocab_size=257, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
            )
        ),
        "architecture gpt_neox",
    ),
    "hooks": (hooked, "hooks on its modules"),
    "another forward": (replaced_forward, "hooks on its modules"),
    "float64": (lambda: of_config(llama_config(), torch.float64), "in float64"),
    "bfloat16": (lambda: of_config(llama_config(), torch.bfloat16), "in bfloat16"),
    "a class of its own": (own_class, "a class of its own"),
    "positions that grow": (
        lambda: scaled("dynamic", factor=2.0, original_max_position_embeddings=16),
        "rotary positions that are scaled",
    ),
    "scaled attention": (
        lambda: scaled("yarn", factor=4.0, original_max_position_embeddings=16),
        "rotary positions that are scaled",
    ),
}


@pytest.mark.parametrize("name", NOT_COVERED)
def test_what_is_not_covered_is_said_in_words(name: str):
    made, words = NOT_COVERED[name]
    reason = compiled_network(made(), CAPACITY)
    assert isinstance(reason, str) and words in reason


@pytest.mark.parametrize("name", ["hooks", "another activation", "float64", "positions that grow", "a sliding window"])
def test_archives_of_what_is_not_covered_are_made_by_the_library(name: str):
    model = NOT_COVERED[name][0]()
    settings = CompressSettings(adapt="light", context=CAPACITY, lanes=3)
    data = babble(300)
    assert decompress(compress(data, model, settings), model) == data


def test_compiled_steps_can_be_turned_off(monkeypatch: pytest.MonkeyPatch):
    assert isinstance(compiled_network(talker(), CAPACITY), Network)
    monkeypatch.setenv("LMEVAL_COMPILED", "0")
    assert compiled_network(talker(), CAPACITY) == "turned off by LMEVAL_COMPILED"


def test_positions_that_are_scaled_evenly_are_covered():
    assert isinstance(compiled_network(scaled("linear", factor=4.0), CAPACITY), Network)


def test_a_large_network_is_not_covered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lmeval.models.compiled.weights.MOST_PARAMETERS", 10_000)
    assert compiled_network(talker(), CAPACITY) == "not covered: more than 10,000 parameters"


@pytest.mark.parametrize("change", [{"epsilon": np.float32(0.3)}, {"scale": np.float32(0.2)}, {"norms_heads": 1}])
def test_a_network_that_computes_something_else_is_found_out(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """As where a version of transformers gives an option another meaning."""
    build = choice.build_network
    monkeypatch.setattr(choice, "build_network", lambda *arguments: build(*arguments)._replace(**change))
    reason = compiled_network(talker(), CAPACITY)
    assert isinstance(reason, str) and reason.startswith("differs from the network by ")


def test_tensors_by_other_names_are_not_covered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lmeval.models.compiled.weights._ROTARY", ("llama", "gpt2"))
    reason = compiled_network(of_config(gpt2_config()), CAPACITY)
    assert isinstance(reason, str) and reason.startswith("not covered")


def test_every_kind_that_is_meant_to_be_covered_is():
    assert all(isinstance(compiled_network(model_of(name), CAPACITY), Network) for name in CONFIGS)
