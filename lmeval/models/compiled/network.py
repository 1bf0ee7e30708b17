"""A decoder-only network as arrays, and one token of many lanes through all of it.

The same function as the library's modules compute, in float32, by other code: a language model of the kinds of Llama, Qwen,
Mistral (root mean square norms, rotary positions, gated inner layers) or GPT-2 (layer norms, learned positions). Its
results differ from the library's in the last digits, as those differ between kernels.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from lmeval.compute.compiled import compiled, compiled_reordering
from lmeval.models.compiled.functions import exp
from lmeval.models.compiled.products import PANEL, Rows, multiply, n_panels, panel_product

_f = np.float32
_ONE, _HALF = _f(1.0), _f(0.5)
_GELU, _CUBE = _f(0.7978845608028654), _f(0.044715)  # sqrt(2 / pi)
RMS_NORM, LAYER_NORM = 0, 1
SILU, GELU_TANH = 0, 1


class Network(NamedTuple):
    """Sizes, choices and weights. Matrices are packed (`products.pack`), one layer behind the other; biases that a network
    has not are zeros. `into` gives queries, keys and values of all heads, one behind the other; `up` gives the gate, if any,
    and behind it what the gate lets through. `head_norms` (queries', keys') are used where `norms_heads` is 1,
    `cosines` and `sines` where `rotates` is 1, `positions` where it is 0."""

    n_layers: int
    width: int
    n_heads: int
    n_groups: int  # of keys and values; each serves n_heads / n_groups heads
    head_width: int
    inner: int
    n_ids: int
    norm: int
    epsilon: np.float32
    activation: int
    gated: int
    rotates: int
    norms_heads: int
    scale: np.float32
    embedding: Float32[np.ndarray, "ids width"]
    positions: Float32[np.ndarray, "capacity width"]
    cosines: Float32[np.ndarray, "capacity head"]
    sines: Float32[np.ndarray, "capacity head"]
    norms: Float32[np.ndarray, "layers 2 width"]
    norm_biases: Float32[np.ndarray, "layers 2 width"]
    head_norms: Float32[np.ndarray, "layers 2 head"]
    into: Float32[np.ndarray, "layers panels width panel"]
    into_bias: Float32[np.ndarray, "layers n"]
    out: Float32[np.ndarray, "layers panels heads panel"]
    out_bias: Float32[np.ndarray, "layers n"]
    up: Float32[np.ndarray, "layers panels width panel"]
    up_bias: Float32[np.ndarray, "layers n"]
    down: Float32[np.ndarray, "layers panels inner panel"]
    down_bias: Float32[np.ndarray, "layers n"]
    last_norm: Float32[np.ndarray, " width"]
    last_bias: Float32[np.ndarray, " width"]
    head: Float32[np.ndarray, "1 panels width panel"]


class Cache(NamedTuple):
    """Keys and values of every lane, in panels of positions and of components: a query's product with the keys, and its
    weights' product with the values, read them as packed matrices."""

    keys: Float32[np.ndarray, "layers lanes groups panels head panel"]
    values: Float32[np.ndarray, "layers lanes groups panels capacity panel"]


def open_cache(network: Network, n_lanes: int, capacity: int) -> Cache:
    """An empty cache for lanes of at most `capacity` tokens."""
    lead = (network.n_layers, n_lanes, network.n_groups)
    keys = np.zeros((*lead, n_panels(capacity), network.head_width, PANEL), dtype=np.float32)
    return Cache(keys, np.zeros((*lead, n_panels(network.head_width), capacity, PANEL), dtype=np.float32))


def cache_bytes(network: Network, capacity: int) -> int:
    """Bytes that one lane of `open_cache` takes."""
    keys = n_panels(capacity) * network.head_width
    return 4 * PANEL * network.n_layers * network.n_groups * (keys + n_panels(network.head_width) * capacity)


@compiled
def read_tokens(
    network: Network,
    cache: Cache,
    position: int,
    ids: Int64[np.ndarray, " lanes"],
    first: int,
    stop: int,
    logits: Float32[np.ndarray, "lanes padded"],
    wanted: int,
) -> None:
    """Token number `position` of lanes [first, stop) through the network: their keys and values into the cache and, where
    `wanted` is 1, the logits after it into their rows of `logits`, whose rows hold whole panels."""
    n, width = stop - first, network.width
    x = np.zeros((n, n_panels(width) * PANEL), dtype=np.float32)
    normed = np.empty((n, width), dtype=np.float32)
    projected = np.empty((n, network.into.shape[1] * PANEL), dtype=np.float32)
    attended = np.empty((n, network.n_heads * network.head_width), dtype=np.float32)
    raised = np.empty((n, network.up.shape[1] * PANEL), dtype=np.float32)
    inner = np.empty((n, network.inner), dtype=np.float32)
    for r in range(n):
        for i in range(width):
            x[r, i] = network.embedding[ids[first + r], i]
        if not network.rotates:
            for i in range(width):
                x[r, i] += network.positions[position, i]
    for layer in range(network.n_layers):
        _normalise(network, x, network.norms[layer, 0], network.norm_biases[layer, 0], normed)
        multiply(normed, network.into, layer, projected, 0)
        _add_bias(projected, network.into_bias[layer])
        _attend(network, cache, layer, position, first, projected, attended)
        multiply(attended, network.out, layer, x, 1)
        _add_bias(x, network.out_bias[layer])
        _normalise(network, x, network.norms[layer, 1], network.norm_biases[layer, 1], normed)
        multiply(normed, network.up, layer, raised, 0)
        _add_bias(raised, network.up_bias[layer])
        _activate(network, raised, inner)
        multiply(inner, network.down, layer, x, 1)
        _add_bias(x, network.down_bias[layer])
    if wanted:
        _normalise(network, x, network.last_norm, network.last_bias, normed)
        multiply(normed, network.head, 0, logits[first:stop], 0)


@compiled
def _add_bias(x: Float32[np.ndarray, "rows n"], bias: Float32[np.ndarray, " n"]) -> None:
    for r in range(len(x)):
        for i in range(len(bias)):
            x[r, i] += bias[i]


@compiled_reordering
def _normalise(
    network: Network,
    x: Float32[np.ndarray, "rows n"],
    weights: Float32[np.ndarray, " width"],
    bias: Float32[np.ndarray, " width"],
    normed: Float32[np.ndarray, "rows width"],
) -> None:
    """Each row over its root mean square, or less its mean and over its standard deviation, times the weights."""
    width = len(weights)
    for r in range(len(normed)):
        row, mean, squares = x[r], _f(0.0), _f(0.0)
        if network.norm == LAYER_NORM:
            for i in range(width):
                mean += row[i]
            mean /= _f(width)
        for i in range(width):
            squares += (row[i] - mean) * (row[i] - mean)
        factor = _ONE / np.sqrt(squares / _f(width) + network.epsilon)
        for i in range(width):
            normed[r, i] = (row[i] - mean) * factor * weights[i] + bias[i]


@compiled
def _activate(network: Network, raised: Float32[np.ndarray, "rows n"], inner: Float32[np.ndarray, "rows inner"]) -> None:
    n = network.inner
    for r in range(len(raised)):
        for i in range(n):
            a = raised[r, i]
            if network.activation == SILU:
                inner[r, i] = a / (_ONE + exp(-a))
            else:  # a / 2 (1 + tanh(y)) = a / (1 + exp(-2 y))
                y = _GELU * (a + _CUBE * a * a * a)
                inner[r, i] = a / (_ONE + exp(-(y + y)))
        if network.gated:
            for i in range(n):
                inner[r, i] *= raised[r, n + i]


@compiled
def _attend(
    network: Network,
    cache: Cache,
    layer: int,
    position: int,
    first: int,
    projected: Float32[np.ndarray, "rows n"],
    attended: Float32[np.ndarray, "rows heads"],
) -> None:
    """Enter the rows' keys and values into the cache, and take the average of the values by the queries' weights."""
    width, groups, capacity = network.head_width, network.n_groups, cache.values.shape[4]
    shared, length = network.n_heads // groups, position + 1
    panels, parts = cache.keys.shape[3], cache.values.shape[3]
    scores = np.empty((shared, n_panels(length) * PANEL), dtype=np.float32)
    averages = np.empty((shared, parts * PANEL), dtype=np.float32)
    keys_at, values_at = network.n_heads * width, (network.n_heads + groups) * width
    for r in range(len(projected)):
        lane, row = first + r, projected[r]
        for head in range(network.n_heads + groups):
            _turn(network, row[head * width : (head + 1) * width], layer, 0 if head < network.n_heads else 1, position)
        for g in range(groups):
            for i in range(width):
                cache.keys[layer, lane, g, position // PANEL, i, position % PANEL] = row[keys_at + g * width + i]
                cache.values[layer, lane, g, i // PANEL, position, i % PANEL] = row[values_at + g * width + i]
            block = (layer * cache.keys.shape[1] + lane) * groups + g
            query = r * projected.shape[1] + g * shared * width
            for p in range(n_panels(length)):
                b = (block * panels + p) * width * PANEL
                to = Rows(scores, p * PANEL, scores.shape[1])
                panel_product(Rows(projected, query, width), cache.keys, b, width, to, shared, 0)
            for s in range(shared):
                _soften(scores[s], length, network.scale)
            for p in range(parts):
                b = (block * parts + p) * capacity * PANEL
                to = Rows(averages, p * PANEL, averages.shape[1])
                panel_product(Rows(scores, 0, scores.shape[1]), cache.values, b, length, to, shared, 0)
            for s in range(shared):
                begin = (g * shared + s) * width
                for i in range(width):
                    attended[r, begin + i] = averages[s, i]


@compiled_reordering
def _turn(network: Network, head: Float32[np.ndarray, " head"], layer: int, which: int, position: int) -> None:
    """A query (0) or key (1) in place: over its root mean square, where heads are normalised, and turned by its position."""
    width = len(head)
    if network.norms_heads:
        squares = _f(0.0)
        for i in range(width):
            squares += head[i] * head[i]
        factor = _ONE / np.sqrt(squares / _f(width) + network.epsilon)
        for i in range(width):
            head[i] = head[i] * factor * network.head_norms[layer, which, i]
    if network.rotates:
        half = width // 2
        for i in range(half):
            a, b = head[i], head[half + i]
            head[i] = a * network.cosines[position, i] - b * network.sines[position, i]
            head[half + i] = b * network.cosines[position, half + i] + a * network.sines[position, half + i]


@compiled_reordering
def _soften(scores: Float32[np.ndarray, " n"], length: int, scale: float) -> None:
    """Softmax of the first `length` scores times `scale`, in place."""
    largest, total = scores[0], _f(0.0)
    for i in range(length):
        largest = max(largest, scores[i])
    for i in range(length):
        scores[i] = exp((scores[i] - largest) * scale)
    for i in range(length):
        total += scores[i]
    share = _ONE / total
    for i in range(length):
        scores[i] *= share
