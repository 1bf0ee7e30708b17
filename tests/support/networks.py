"""Tiny random networks of every kind that compiled steps cover, and their log-probabilities by either road."""

from typing import Any

import numpy as np
import torch
import transformers
from samples import gpt2_config, llama_config, network

from lmeval.models import CausalLM, from_pair
from lmeval.models.toys import byte_tokenizer

_ROTARY: dict[str, Any] = {
    "vocab_size": 257,
    "hidden_size": 36,
    "intermediate_size": 50,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "bos_token_id": 256,
    "eos_token_id": 256,
}


def _of(config_class: Any, **changes: Any) -> Any:
    return config_class(**(_ROTARY | changes))


CONFIGS: dict[str, Any] = {
    "llama": lambda: llama_config(),
    "llama, heads of 8, tied": lambda: llama_config(num_attention_heads=4, head_dim=8, tie_word_embeddings=True),
    "llama, biases": lambda: llama_config(attention_bias=True, mlp_bias=True),
    "llama, another base": lambda: llama_config(rope_theta=500.0, rms_norm_eps=1e-3),
    "mistral": lambda: _of(transformers.MistralConfig, head_dim=12, sliding_window=None),
    "mistral, a window that is long enough": lambda: _of(transformers.MistralConfig, head_dim=12, sliding_window=64),
    "qwen2": lambda: _of(transformers.Qwen2Config),
    "qwen3": lambda: _of(transformers.Qwen3Config, head_dim=20, num_attention_heads=6, num_key_value_heads=2),
    "qwen3, tied": lambda: _of(transformers.Qwen3Config, head_dim=64, num_attention_heads=2, tie_word_embeddings=True),
    "gpt2": lambda: gpt2_config(),
    "gpt2, untied, odd": lambda: gpt2_config(n_embd=33, n_head=3, n_inner=45, tie_word_embeddings=False),
    "gpt2, heads of 8": lambda: gpt2_config(n_embd=40, n_head=5, activation_function="gelu_pytorch_tanh"),
}


def shaken(made: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """The network with norms and biases that are not what every one of them begins as."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return made


def model_of(name: str) -> CausalLM:
    """A model of one of CONFIGS, whose vocabulary is bytes and a start token."""
    return from_pair(shaken(network(CONFIGS[name]())), byte_tokenizer(), name=name)


def some_ids(n_lanes: int, n_tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 257, (n_lanes, n_tokens))


def parallel_log_probs(model: CausalLM, ids: np.ndarray) -> np.ndarray:
    """After every token of every lane, by one pass of the network: [lanes, time, ids]."""
    with torch.inference_mode():
        return model.network(input_ids=torch.from_numpy(ids)).logits.double().log_softmax(-1).numpy()
