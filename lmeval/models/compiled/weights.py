"""From configuration and tensors, by the names that transformers gives them, to the arrays of a compiled step."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from lmeval.models.compiled.network import GELU_TANH, LAYER_NORM, RMS_NORM, SILU, Network
from lmeval.models.compiled.products import PANEL, n_panels, pack

MOST_PARAMETERS = 200_000_000  # beyond it a step is busy with multiplying, which the library does as well
Tensors = Mapping[str, Float32[np.ndarray, "..."]]

_ROTARY = ("llama", "mistral", "qwen2", "qwen3")
_ACTIVATIONS = {"silu": SILU, "swish": SILU, "gelu_new": GELU_TANH, "gelu_pytorch_tanh": GELU_TANH}


class NotCovered(Exception):
    """The network computes something that the compiled step does not."""


class _Matrices(NamedTuple):
    """The matrices of one layer, inputs first, and their biases (None: there is none)."""

    into: list[str]
    out: str
    up: list[str]
    down: str


def build_network(
    config: Mapping[str, Any], tensors: Tensors, capacity: int, frequencies: Float32[np.ndarray, " half"] | None = None
) -> Network:
    """The arrays of a network.

    Args:
        config: The configuration, as config.json holds it.
        tensors: The weights by name.
        capacity: The most tokens that a lane will read.
        frequencies: Of the rotary positions, in radians a token; None takes those of the configuration.

    Raises:
        NotCovered: Its architecture, or an option of it, is none that the compiled step has; or it is too large.
    """
    kind = config.get("model_type")
    if sum(tensor.size for tensor in tensors.values()) > MOST_PARAMETERS:
        raise NotCovered(f"more than {MOST_PARAMETERS:,} parameters")
    if kind in _ROTARY:
        return _rotary(config, tensors, capacity, frequencies)
    if kind == "gpt2":
        return _gpt2(config, tensors, capacity)
    raise NotCovered(f"architecture {kind}")


def _rotary(config: Mapping[str, Any], tensors: Tensors, capacity: int, frequencies: Any) -> Network:
    """Llama, Mistral, Qwen2, Qwen3."""
    window = config.get("sliding_window")
    if window is not None and config.get("use_sliding_window", True) and capacity > window:
        raise NotCovered(f"a sliding window of {window} tokens, less than the {capacity} that a lane reads")
    layers, width, heads = config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]
    head_width = config.get("head_dim") or width // heads
    prefix = "model.layers.{}."
    names = _Matrices(
        [f"{prefix}self_attn.{part}_proj" for part in "qkv"],
        f"{prefix}self_attn.o_proj",
        [f"{prefix}mlp.{part}_proj" for part in ("gate", "up")],
        f"{prefix}mlp.down_proj",
    )
    norms = [f"{prefix}input_layernorm.weight", f"{prefix}post_attention_layernorm.weight"]
    own = [f"{prefix}self_attn.{part}_norm.weight" for part in "qk"]
    has_own = own[0].format(0) in tensors
    angles = _angles(config, capacity, head_width, frequencies)
    none = np.zeros((layers, 2, width), dtype=np.float32)
    embedding = tensors["model.embed_tokens.weight"]
    return Network(
        n_layers=layers,
        width=width,
        n_heads=heads,
        n_groups=config.get("num_key_value_heads") or heads,
        head_width=head_width,
        inner=config["intermediate_size"],
        n_ids=len(embedding),
        norm=RMS_NORM,
        epsilon=np.float32(config["rms_norm_eps"]),
        activation=_activation(config.get("hidden_act", "silu")),
        gated=1,
        rotates=1,
        norms_heads=int(has_own),
        scale=np.float32(head_width**-0.5),
        embedding=np.ascontiguousarray(embedding),
        positions=np.zeros((1, width), dtype=np.float32),
        cosines=np.cos(angles),
        sines=np.sin(angles),
        norms=_stacked(tensors, norms, layers),
        norm_biases=none,
        head_norms=_stacked(tensors, own, layers) if has_own else np.zeros((layers, 2, head_width), dtype=np.float32),
        **_matrices(tensors, names, layers, transposed=True),
        last_norm=tensors["model.norm.weight"],
        last_bias=np.zeros(width, dtype=np.float32),
        head=pack(np.ascontiguousarray(tensors.get("lm_head.weight", embedding).T))[None],
    )


def _gpt2(config: Mapping[str, Any], tensors: Tensors, capacity: int) -> Network:
    for option in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
        if config.get(option):
            raise NotCovered(f"GPT-2 with {option}")
    if not config.get("scale_attn_weights", True):
        raise NotCovered("GPT-2 without scale_attn_weights")
    layers, width, heads = config["n_layer"], config["n_embd"], config["n_head"]
    prefix = "transformer.h.{}."
    names = _Matrices([f"{prefix}attn.c_attn"], f"{prefix}attn.c_proj", [f"{prefix}mlp.c_fc"], f"{prefix}mlp.c_proj")
    embedding = tensors["transformer.wte.weight"]
    return Network(
        n_layers=layers,
        width=width,
        n_heads=heads,
        n_groups=heads,
        head_width=width // heads,
        inner=config.get("n_inner") or 4 * width,
        n_ids=len(embedding),
        norm=LAYER_NORM,
        epsilon=np.float32(config["layer_norm_epsilon"]),
        activation=_activation(config["activation_function"]),
        gated=0,
        rotates=0,
        norms_heads=0,
        scale=np.float32((width // heads) ** -0.5),
        embedding=np.ascontiguousarray(embedding),
        positions=np.ascontiguousarray(tensors["transformer.wpe.weight"][:capacity]),
        cosines=np.zeros((1, 1), dtype=np.float32),
        sines=np.zeros((1, 1), dtype=np.float32),
        norms=_stacked(tensors, [f"{prefix}ln_1.weight", f"{prefix}ln_2.weight"], layers),
        norm_biases=_stacked(tensors, [f"{prefix}ln_1.bias", f"{prefix}ln_2.bias"], layers),
        head_norms=np.zeros((layers, 2, 1), dtype=np.float32),
        **_matrices(tensors, names, layers, transposed=False),
        last_norm=tensors["transformer.ln_f.weight"],
        last_bias=tensors["transformer.ln_f.bias"],
        head=pack(np.ascontiguousarray(tensors.get("lm_head.weight", embedding).T))[None],
    )


def _activation(name: str) -> int:
    if name not in _ACTIVATIONS:
        raise NotCovered(f"activation {name}")
    return _ACTIVATIONS[name]


def _angles(
    config: Mapping[str, Any], capacity: int, head_width: int, frequencies: Float32[np.ndarray, " half"] | None
) -> Float32[np.ndarray, "capacity head"]:
    """Position times frequency, in float32 as the library computes it; a head's halves turn alike."""
    if frequencies is None:
        rotary = config.get("rope_parameters") or {"rope_theta": config.get("rope_theta", 10000.0)}
        if rotary.get("rope_type", "default") != "default" or config.get("rope_scaling"):
            raise NotCovered(f"rotary positions of the kind {rotary.get('rope_type')}")
        powers = np.arange(0, head_width, 2).astype(np.float32) / np.float32(head_width)
        frequencies = (1.0 / np.float32(rotary["rope_theta"]) ** powers).astype(np.float32)
    if 2 * len(frequencies) != head_width:
        raise NotCovered("rotary positions of a part of a head")
    turned = np.arange(capacity, dtype=np.float32)[:, None] * frequencies
    return np.concatenate([turned, turned], axis=1)


def _stacked(tensors: Tensors, names: list[str], layers: int) -> Float32[np.ndarray, "layers n width"]:
    return np.stack([[tensors[name.format(layer)] for name in names] for layer in range(layers)])


def _matrices(tensors: Tensors, names: _Matrices, layers: int, *, transposed: bool) -> dict[str, Float32[np.ndarray, "..."]]:
    """The packed matrices and the biases. `transposed`: the tensors are [outputs, inputs]."""
    arrays: dict[str, Float32[np.ndarray, ...]] = {}
    for field, parts in zip(_Matrices._fields, ([*names.into], [names.out], [*names.up], [names.down]), strict=True):
        packed, biases = [], []
        for layer in range(layers):
            found = [tensors[f"{part}.weight".format(layer)] for part in parts]
            matrix = np.concatenate([part.T for part in found] if transposed else found, axis=1)
            packed.append(pack(np.ascontiguousarray(matrix)))
            bias = np.zeros(n_panels(matrix.shape[1]) * PANEL, dtype=np.float32)
            if f"{parts[0]}.bias".format(layer) in tensors:
                held = [tensors.get(f"{part}.bias".format(layer), np.zeros(0, dtype=np.float32)) for part in parts]
                bias[: sum(map(len, held))] = np.concatenate(held)
            biases.append(bias)
        arrays[field], arrays[f"{field}_bias"] = np.stack(packed), np.stack(biases)
    return arrays
