"""Log-odds of all decisions of given tokens: by steps, as a decoder computes them, or by the library's parallel pass."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

from lmeval.compression.text import byte_tree, lanes
from lmeval.compression.text.model_header import ModelSettings
from lmeval.compression.text.text_model import TextModel
from lmeval.compression.text.windows import open_windows
from lmeval.models.compiled.network import Network

FEW_LANES, LARGE_NETWORK = 8, 1 << 25  # numbers: few lanes do not pay for reading so many weights at every step

Progress = Callable[[int], None] | None


def block_log_odds(
    model: TextModel, settings: ModelSettings, ids: Int64[np.ndarray, " tokens"], n_lanes: int, progress: Progress = None
) -> Float64[np.ndarray, "tokens depth"]:
    """Log-odds of every decision of a block, tokens in coding order, in the way that is fastest: compiled steps where there
    are any, which is then just what a decoder computes, else the parallel pass. `progress` is told of tokens."""
    network = model.network(settings.layout.window)
    if isinstance(network, Network) and (n_lanes >= FEW_LANES or n_weights(network) <= LARGE_NETWORK):
        return stepwise_log_odds(model, settings, ids, n_lanes, progress=progress)
    from lmeval.compression.text.library import parallel_log_odds

    return parallel_log_odds(model.library(), settings, ids, n_lanes, progress)


def n_weights(network: Network) -> int:
    """Numbers that a step reads, beside keys and values."""
    return sum(part.size for part in (network.into, network.out, network.up, network.down, network.head))


def stepwise_log_odds(
    model: TextModel,
    settings: ModelSettings,
    ids: Int64[np.ndarray, " tokens"],
    n_lanes: int,
    lanes_per_pass: int | None = None,
    progress: Progress = None,
) -> Float64[np.ndarray, "tokens depth"]:
    """Log-odds of every decision of given tokens, in coding order, as a decoder computes them."""
    log_odds = np.empty((len(ids), settings.depth))
    in_order = np.empty_like(ids)
    in_order[lanes.coding_order(len(ids), n_lanes)] = ids
    row = np.zeros(n_lanes, dtype=np.int64)
    with open_windows(model, settings, n_lanes, lanes_per_pass, steady=True) as windows:
        for first in range(0, len(ids), n_lanes):
            part = slice(first, min(first + n_lanes, len(ids)))
            row[: part.stop - first] = in_order[part]
            _fill(windows.logits()[: part.stop - first], in_order[part], log_odds[part])
            windows.take(row)
            if progress:
                progress(part.stop - first)
    return log_odds


def _fill(logits: object, ids: Int64[np.ndarray, " lanes"], log_odds: Float64[np.ndarray, "lanes depth"]) -> None:
    if log_odds.shape[1] <= byte_tree.MAX_DEPTH and isinstance(logits, np.ndarray):
        byte_tree.path_log_odds(logits, ids, log_odds)
        return
    from lmeval.compression.text.library import path_log_odds

    log_odds[...] = path_log_odds(logits, ids, log_odds.shape[1])
