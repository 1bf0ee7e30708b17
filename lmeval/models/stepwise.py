"""Logits one token at a time, for many lanes in lockstep.

The key-value cache is allocated once, for the longest context. (A cache that is concatenated at every step, as the library's
own is, copies all keys and values each time: quadratic in the window's length.) Lanes go through the network in passes of a
chosen number, so memory for activations is bounded whatever the number of lanes.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lmeval.compute.memory import PASS_TOKENS, at_once
from lmeval.compute.place import Place, alone, is_cpu
from lmeval.errors import NoCache, first_line
from lmeval.models.causal import CausalLM

_ATTENTION = "lmeval_lanes"


@dataclass
class LaneCache:
    """What `n_lanes` lanes have read so far: `length` tokens each, of at most `capacity`. A pass over the network takes at
    most `pass_tokens` input tokens, and `lanes_per_pass` lanes where that is set."""

    n_lanes: int
    capacity: int
    lanes_per_pass: int | None
    pass_tokens: int
    length: int
    rows: slice  # the lanes that the pass in progress works on
    own: Cache | None  # ours, preallocated for all lanes
    native_caches: list[tuple[slice, Any]]  # for architectures with a cache class of their own: one a pass


class _PreallocatedLayer(DynamicLayer):
    """Keys and values of one layer, for all lanes and the whole capacity; handed out as views."""

    def __init__(self, lanes: LaneCache) -> None:
        super().__init__()
        self.lanes = lanes

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            torch.empty((self.lanes.n_lanes, s.shape[1], self.lanes.capacity, s.shape[3]), dtype=s.dtype, device=s.device)
            for s in (key_states, value_states)
        )
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        first, rows = self.lanes.length, self.lanes.rows
        stop = first + key_states.shape[2]
        self.keys[rows, :, first:stop] = key_states
        self.values[rows, :, first:stop] = value_states
        return self.keys[rows, :, :stop], self.values[rows, :, :stop]

    def get_seq_length(self) -> int:
        return self.lanes.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.lanes.length + query_length, 0


@contextlib.contextmanager
def stepping(model: CausalLM) -> Iterator[None]:
    """While tokens are read one by one: attention in the form that is fastest for that (`_lanes_attention`)."""
    network = model.network
    before = network.config._attn_implementation
    if not is_cpu(model.device) or before != "sdpa":
        yield
        return
    network.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        network.set_attn_implementation(before)


def _lanes_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention. Where several query heads share a key-value head and there is one query token, the
    heads of a group are taken for that many query tokens of one head: same numbers, keys and values read once (PyTorch's
    `enable_gqa` takes twice as long on a CPU)."""
    batch, heads, time, width = query.shape
    groups = key.shape[1]
    special = (
        options.get("softcap") is not None or options.get("position_bias") is not None or options.get("s_aux") is not None
    )
    if time != 1 or heads == groups or attention_mask is not None or special:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    folded = query.reshape(batch, groups, heads // groups, width)
    attended = functional.scaled_dot_product_attention(folded, key, value, scale=options.get("scaling"))
    return attended.reshape(batch, 1, heads, value.shape[-1]), None


AttentionInterface.register(_ATTENTION, _lanes_attention)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


def open_lanes(
    model: CausalLM, n_lanes: int, capacity: int, lanes_per_pass: int | None = None, place: Place | None = None
) -> LaneCache:
    """An empty cache for `n_lanes` lanes of at most `capacity` tokens; `restart` fills it for the first time.

    A pass takes as many input tokens as the place allows, and at most `lanes_per_pass` lanes where that is given.
    """
    pass_tokens = at_once(PASS_TOKENS, place or alone(model.device), model.activation_bytes)
    lanes = LaneCache(n_lanes, capacity, lanes_per_pass, pass_tokens, 0, slice(0, n_lanes), None, [])
    try:
        layers = DynamicCache(config=model.network.config).layers
    except AttributeError:  # a configuration that does not know of layers
        layers = []
    if layers and all(_is_plain(layer, capacity) for layer in layers):
        lanes.own = Cache(layers=[_PreallocatedLayer(lanes) for _ in layers])
    return lanes


def _is_plain(layer: Any, capacity: int) -> bool:
    """Keys and values of every position are kept: ordinary attention, or a sliding window that holds the capacity."""
    if type(layer) is DynamicSlidingWindowLayer:
        return capacity <= layer.sliding_window
    return type(layer) is DynamicLayer


def restart(model: CausalLM, lanes: LaneCache, ids: Int64[Tensor, "lanes time"]) -> Float[Tensor, "lanes vocabulary"]:
    """Forget everything, read `ids` (the same number in every lane) in parallel, return the logits after the last."""
    lanes.length = 0
    lanes.native_caches = []
    return _read(model, lanes, ids)


def advance(model: CausalLM, lanes: LaneCache, ids: Int64[Tensor, " lanes"]) -> Float[Tensor, "lanes vocabulary"]:
    """Read one more token in every lane, return the logits after it."""
    return _read(model, lanes, ids.unsqueeze(1))


def cache_bytes_per_token(model: CausalLM) -> int:
    """Bytes of keys and values that one token of one lane takes, all layers: found by reading one token."""
    lanes = open_lanes(model, 1, 1)
    restart(model, lanes, torch.zeros(1, 1, dtype=torch.int64, device=model.device))
    if lanes.own is None:
        return 0
    layers = [layer for layer in lanes.own.layers if isinstance(layer, _PreallocatedLayer)]
    tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


def _read(model: CausalLM, lanes: LaneCache, ids: Int64[Tensor, "lanes time"]) -> Float[Tensor, "lanes vocabulary"]:
    time = ids.shape[1]
    most = min(lanes.lanes_per_pass or lanes.n_lanes, max(1, lanes.pass_tokens // time))
    if lanes.own is None and lanes.native_caches:  # its passes were laid down when it was filled
        cuts = [rows for rows, _ in lanes.native_caches]
    else:
        cuts = [slice(i, min(i + most, lanes.n_lanes)) for i in range(0, lanes.n_lanes, most)]
    logits = []
    with torch.inference_mode():
        for i, rows in enumerate(cuts):
            lanes.rows = rows
            held = (
                lanes.own if lanes.own is not None else lanes.native_caches[i][1] if i < len(lanes.native_caches) else None
            )
            output = _forward(model, ids[rows], held)
            if lanes.own is None and i >= len(lanes.native_caches):
                lanes.native_caches.append((rows, _returned_cache(output, model)))
            logits.append(output.logits[:, -1])
    lanes.length += time
    return logits[0] if len(logits) == 1 else torch.cat(logits)


def _forward(model: CausalLM, ids: Int64[Tensor, "rows time"], held: Any) -> Any:
    """The network's own forward, so that whatever hooks its owner put on it are obeyed."""
    keep = (
        {"logits_to_keep": 1}
        if _takes_logits_to_keep(getattr(model.network.forward, "__func__", model.network.forward))
        else {}
    )
    try:
        return model.network(input_ids=ids, past_key_values=held, use_cache=True, **keep)
    except (TypeError, ValueError, AttributeError) as error:  # an architecture with another interface
        raise NoCache(f"{model.name} cannot be read token by token with a cache: {first_line(error)}") from error


@functools.lru_cache(16)
def _takes_logits_to_keep(forward: Callable[..., Any]) -> bool:
    """Asked at every step: to read a signature takes longer than many a small operation."""
    return "logits_to_keep" in inspect.signature(forward).parameters


def _returned_cache(output: Any, model: CausalLM) -> Any:
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise NoCache(
            f"{model.name} returns no key-value cache ({type(model.network).__name__}): it cannot be read by steps"
        )
    return cache
