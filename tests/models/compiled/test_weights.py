from typing import Any

import numpy as np
import pytest
import transformers
from networks import CONFIGS, model_of, shaken
from samples import llama_config, network

from lmeval.models.compiled.network import Network
from lmeval.models.compiled.weights import NotCovered, build_network


def tensors_of(made: Any) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in made.state_dict().items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_frequencies_of_the_configuration_are_those_of_the_network(name: str):
    """So a network can be built without transformers."""
    made = model_of(name).network
    rotary = getattr(getattr(made, "model", None), "rotary_emb", None)
    config, tensors = made.config.to_dict(), tensors_of(made)
    by_config = build_network(config, tensors, 40)
    by_network = build_network(config, tensors, 40, None if rotary is None else rotary.inv_freq.float().numpy())
    for field, a, b in zip(Network._fields, by_config, by_network, strict=True):
        if field in ("cosines", "sines"):
            assert np.abs(a - b).max() < 1e-5
        else:
            assert np.array_equal(a, b), field


def test_arrays_stand_in_one_order_whatever_the_network():
    """Compiled code is compiled for kinds of arrays: others would take a minute again."""
    kinds = set()
    for name in CONFIGS:
        made = model_of(name).network
        built = build_network(made.config.to_dict(), tensors_of(made), 40)
        kinds.add(
            tuple((p.dtype, p.ndim, p.flags.c_contiguous, p.flags.writeable) for p in built if isinstance(p, np.ndarray))
        )
    assert len(kinds) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "of the kind linear"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "of the kind"),
        ({"hidden_act": "relu"}, "activation relu"),
        ({"model_type": "mamba"}, "architecture mamba"),
        ({"sliding_window": 39}, "a sliding window of 39 tokens"),
    ],
)
def test_options_that_change_the_function_are_refused(changes: dict[str, Any], words: str):
    made = network(llama_config())
    with pytest.raises(NotCovered, match=words):
        build_network(made.config.to_dict() | changes, tensors_of(made), 40)


def test_a_window_that_is_switched_off_does_not_matter():
    made = shaken(network(transformers.Qwen2Config(**llama_config().to_dict() | {"model_type": "qwen2"})))
    config: Any = made.config
    described = config.to_dict() | {"sliding_window": 4, "use_sliding_window": False}
    assert isinstance(build_network(described, tensors_of(made), 40), Network)
