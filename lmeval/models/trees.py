"""Rows of tokens that are trees, and prefixes that many rows share: one forward pass for many related sequences.

A row holds the tokens of a tree in depth-first order. Each token sees its ancestors and itself (by a mask) and stands at its
depth (by position ids), so it gets the hidden state that it would get at the end of its own path alone. Below a prefix that
has been read before, a row also sees the prefix's keys and values, which exist once for all rows.

Not every network heeds masks and positions in this way, so `supports_tree` finds out by trying.
"""

import inspect
import weakref
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from lmeval.compute.memory import is_out_of_memory
from lmeval.models.causal import CausalLM
from lmeval.models.logprobs import Head, depends_on_batch

# Bytes of the dtype -> root mean square error at a position, relative to its hidden state. 16 layers with loud weights round
# to 7e-6 in float32 and 5e-2 in bfloat16. Positions that are not heeded make 7e-3 with untrained weights and 1.4 with loud
# ones, a mask that is not heeded 0.4 or more.
_TOLERANCE = {8: 1e-8, 4: 1e-4, 2: 0.1}
_ARGUMENTS = {"attention_mask", "position_ids", "past_key_values"}
# What networks of another interface raise.
_FOREIGN = (TypeError, ValueError, AttributeError, RuntimeError, IndexError, KeyError, AssertionError)
_PROBE_BRANCH = 5


class CachedPrefix(NamedTuple):
    """Keys and values [1, heads, length, width] of every layer for the first `length` tokens of many sequences."""

    length: int
    layers: list[tuple[Tensor, Tensor]]


class _PrefixLayer(DynamicLayer):
    """Hands out a prefix's keys and values, expanded over the rows, in front of the new ones. Stores what it hands out only
    where asked to `keep`: otherwise what the rows add is gone with the pass."""

    def __init__(self, prefix: tuple[Tensor, Tensor] | None, length: int, keep: bool) -> None:
        super().__init__()
        self.prefix, self.length, self.keep = prefix, length, keep

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys, values = key_states, value_states
        if self.prefix is not None:
            rows = (len(key_states), -1, -1, -1)
            pairs = zip(self.prefix, (keys, values), strict=True)
            keys, values = (torch.cat([before.expand(rows), new], dim=2) for before, new in pairs)
        if self.keep:
            self.keys, self.values = keys, values
        return keys, values

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0


def _layers(model: CausalLM, prefix: CachedPrefix | None, keep: bool) -> list[_PrefixLayer]:
    held = prefix.layers if prefix else [None] * len(DynamicCache(config=model.network.config).layers)
    return [_PrefixLayer(layer, prefix.length if prefix else 0, keep) for layer in held]


def read_prefix(model: CausalLM, parent: CachedPrefix | None, ids: Int64[Tensor, " time"]) -> CachedPrefix:
    """Read `ids` after the parent (None: from the beginning) and keep the keys and values of both together."""
    layers, time = _layers(model, parent, keep=True), len(ids)
    cache = Cache(layers=[*layers])
    inputs: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
    if parent:
        inputs |= tree_inputs(model, parent, torch.arange(time, device=ids.device)[None] + parent.length, None)
        inputs["past_key_values"] = cache
    with torch.inference_mode():
        model.network.base_model(input_ids=ids.unsqueeze(0), **inputs)
    kept = [(layer.keys, layer.values) for layer in layers if layer.keys is not None and layer.values is not None]
    assert len(kept) in (0, len(layers)), "some layers keep nothing"
    return CachedPrefix(time + (parent.length if parent else 0), kept)


def tree_inputs(
    model: CausalLM,
    prefix: CachedPrefix | None,
    depth: Int64[Tensor, "rows time"],
    end: Int64[Tensor, "rows time"] | None,
) -> dict[str, Any]:
    """Arguments of the trunk for rows of trees below a prefix.

    `depth` is each token's position in its sequence, counted from the sequence's (the prefix's) beginning. `end` is the
    place in the row after the last of a token's descendants, so that token j is an ancestor of i where j <= i < end[j];
    padding is its own tree (end = its place + 1). None where every row is one chain, padded on the right with anything.
    """
    if prefix is None and end is None:  # causal attention does it, with the fast kernels
        return {}
    time, place = depth.shape[1], torch.arange(depth.shape[1], device=depth.device)
    sees = (place[:, None] >= place[None])[None]
    if end is not None:
        sees = sees & (place[None, :, None] < end[:, None, :])
    length = prefix.length if prefix else 0
    mask = torch.zeros((len(sees), 1, time, length + time), dtype=model.dtype, device=depth.device)
    mask[..., length:].masked_fill_(~sees.unsqueeze(1), torch.finfo(model.dtype).min)
    inputs: dict[str, Any] = {"attention_mask": mask.expand(len(depth), -1, -1, -1), "position_ids": depth}
    if prefix is not None:
        inputs |= {"past_key_values": Cache(layers=[*_layers(model, prefix, keep=False)]), "use_cache": True}
    return inputs


_proven: "weakref.WeakKeyDictionary[torch.nn.Module, tuple[str, int, int]]" = weakref.WeakKeyDictionary()


def supports_tree(model: CausalLM, longest: int = 32, row: int = 64) -> bool:
    """Whether the network gives a tree's tokens the hidden states that it gives to each path alone, with sequences of up to
    `longest` tokens and rows of up to `row`: found out by trying, once for a model and these sizes.

    A network that attends over a window of places, or changes its positions beyond some length, is told by a probe of
    the real size alone, so ask for the sizes that will be used.
    """
    if model.head is Head.WHOLE or not _keeps_everything(model, longest) or depends_on_batch(model.network, longest):
        return False
    known = inspect.signature(model.network.base_model.forward).parameters
    if model.dtype.itemsize < 4 and not _ARGUMENTS.issubset(known):
        return False  # it may swallow what it does not know, and rounding would hide that
    kind = str(model.network.config._attn_implementation)
    before, tried, wide = _proven.get(model.network, (kind, 0, 0))
    if before != kind:  # another kernel, another answer
        tried = wide = 0
    if tried < 0:
        return False
    if longest <= tried and row <= wide:
        return True
    longest, row = max(longest, tried, 2 * _PROBE_BRANCH), max(row, wide, 4 * _PROBE_BRANCH)
    try:
        proven = _probe(model, min(longest, model.context_length or longest), row)
    except (*_FOREIGN, MemoryError) as error:
        if is_out_of_memory(error):
            return False  # for now; it says nothing of the network
        proven = False
    _proven[model.network] = (kind, longest, row) if proven else (kind, -1, -1)
    return proven


def _keeps_everything(model: CausalLM, longest: int) -> bool:
    """All layers attend to all positions: no state-space layers, and no sliding windows shorter than the sequences."""
    try:
        layers = DynamicCache(config=model.network.config).layers
    except AttributeError:  # a configuration that does not know of layers
        return False
    sliding = [layer for layer in layers if type(layer) is DynamicSlidingWindowLayer]
    if any(layer.sliding_window < longest for layer in sliding):
        return False
    return len(layers) > 0 and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _probe(model: CausalLM, longest: int, row: int) -> bool:
    """A prefix read in two steps, and below it a stem with as many branches as fill the row, against each path alone."""
    if longest < 5:
        return False
    first, second, stem = max(1, longest // 8), max(1, longest // 8), max(1, longest // 4)
    branch = longest - first - second - stem
    n = max(2, -(-(row - stem) // branch))
    vocab, device = model.vocab_size, model.device
    made = torch.randint(vocab, (longest + n * branch,), generator=torch.Generator().manual_seed(0)).to(device)
    trunk, branches = made[: first + second + stem], made[longest : longest + n * branch].view(n, branch)
    branches[:, 0] = torch.arange(n, device=device) % vocab  # they part at their first tokens
    with torch.inference_mode():
        prefix = read_prefix(model, read_prefix(model, None, trunk[:first]), trunk[first : first + second])
        places = torch.arange(stem + n * branch, device=device)
        depth = torch.cat([places[:stem], (places[:branch] + stem).repeat(n)]) + prefix.length
        ends = torch.full_like(places, len(places))
        ends[stem:] = (torch.arange(n, device=device).repeat_interleave(branch) + 1) * branch + stem
        bare = depth - prefix.length  # the same row below no prefix
        for held, at in ((prefix, depth), (None, bare)):
            inputs = {"use_cache": False} | tree_inputs(model, held, at.unsqueeze(0), ends.unsqueeze(0))
            ids = torch.cat([trunk[first + second :], branches.flatten()]).unsqueeze(0)
            in_tree = model.network.base_model(input_ids=ids, **inputs).last_hidden_state[0]
            for i in (0, n - 1):
                path = torch.cat([trunk if held else trunk[first + second :], branches[i]]).unsqueeze(0)
                alone = model.network.base_model(input_ids=path, use_cache=False).last_hidden_state[0]
                skip = held.length if held else 0
                mine = torch.cat([in_tree[:stem], in_tree[stem + i * branch : stem + (i + 1) * branch]])
                if not _alike(mine, alone[skip:], model.dtype):
                    return False
    return True


def _alike(a: Float[Tensor, "time width"], b: Float[Tensor, "time width"], dtype: torch.dtype) -> bool:
    """Equal at every position up to what a network's rounding makes of different orders of summation."""
    a, b = a.double(), b.double()
    error = (a - b).square().mean(dim=1).sqrt() / b.square().mean(dim=1).sqrt().clamp_min(1e-30)
    return bool((error <= _TOLERANCE[dtype.itemsize]).all())
