"""Whether a model is read by a compiled step: found out by trying it beside the network itself."""

import numpy as np
import torch

from lmeval.compute.place import is_cpu
from lmeval.models.causal import CausalLM
from lmeval.models.compiled.lanes import open_compiled, restart_compiled
from lmeval.models.compiled.network import Network
from lmeval.models.compiled.setting import compiled_steps_allowed
from lmeval.models.compiled.weights import NotCovered, build_network

AGREEMENT = 1e-3  # nats: a network of another kind is off by far more, rounding by far less
_PROBE_LANES, _PROBE_TOKENS = 2, 24


def compiled_network(model: CausalLM, capacity: int) -> Network | str:
    """The arrays of a model for lanes of at most `capacity` tokens; or why it is read by the library's modules: in words."""
    reason = _not_plain(model)
    if reason:
        return reason
    network = model.network
    tensors = {name: tensor.detach().numpy() for name, tensor in network.state_dict().items()}
    rotary = getattr(getattr(network, "model", None), "rotary_emb", None)
    frequencies = None
    if rotary is not None:
        if getattr(rotary, "attention_scaling", 1.0) != 1.0 or "dynamic" in getattr(rotary, "rope_type", ""):
            return "rotary positions that are scaled as they grow"
        frequencies = rotary.inv_freq.detach().float().numpy()
    try:
        built = build_network(network.config.to_dict(), tensors, capacity, frequencies)
    except (NotCovered, KeyError, TypeError, ValueError) as error:
        return f"not covered: {error}"
    off = _difference(model, built, min(capacity, _PROBE_TOKENS))
    return built if off <= AGREEMENT else f"differs from the network by {off:.2g} nats"


def _not_plain(model: CausalLM) -> str:
    network = model.network
    if not compiled_steps_allowed():
        return "turned off by LMEVAL_COMPILED"
    if not is_cpu(model.device):
        return f"on {model.device}"
    if any(parameter.dtype != torch.float32 for parameter in network.parameters()):
        return f"in {str(model.dtype).removeprefix('torch.')}"
    if not type(network).__module__.startswith("transformers."):
        return "a class of its own"
    if any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in network.modules()):
        return "hooks on its modules"
    return ""


def _difference(model: CausalLM, network: Network, n_tokens: int) -> float:
    """Largest difference (nats) of a log-probability, on ids spread over the vocabulary."""
    ids = np.linspace(0, network.n_ids - 1, _PROBE_LANES * n_tokens).astype(np.int64)
    ids = (ids * 31 % network.n_ids).reshape(_PROBE_LANES, n_tokens)
    here = restart_compiled(open_compiled(network, _PROBE_LANES, n_tokens), ids)
    with torch.inference_mode():
        there = model.network(input_ids=torch.from_numpy(ids)).logits[:, -1].float()
        off = torch.log_softmax(there, -1) - torch.log_softmax(torch.from_numpy(here.copy()), -1)
    return float(off.abs().max())
