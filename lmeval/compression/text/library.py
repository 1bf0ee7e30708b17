"""A model read by the library's modules: in steps, and by the parallel pass over whole windows."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64

from lmeval.compression.text import lanes, tree
from lmeval.compression.text.model_header import ModelSettings
from lmeval.compression.text.reads import Ids, Reads
from lmeval.compute.place import alone
from lmeval.compute.threads import half_the_threads, tuned_threads
from lmeval.models import CausalLM
from lmeval.models.logprobs import logit_slices
from lmeval.models.stepwise import advance, open_lanes, restart, stepping
from lmeval.scoring.batching import batching_at, plan_batches


@contextlib.contextmanager
def library_reads(
    model: CausalLM, settings: ModelSettings, n_lanes: int, lanes_per_pass: int | None, *, steady: bool
) -> Iterator[Reads]:
    """Steps by the library's modules (see `windows.open_windows`)."""
    cache = open_lanes(model, n_lanes, settings.layout.window, lanes_per_pass)

    def tensor(ids: Ids) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(ids)).to(model.device)

    def start(ids: Ids) -> torch.Tensor:
        return restart(model, cache, tensor(ids))

    def go_on(ids: Ids) -> torch.Tensor:
        return advance(model, cache, tensor(ids))

    with stepping(model):
        if steady:
            with half_the_threads(model.device):
                yield Reads(start, go_on, lambda _: None)
        else:
            with tuned_threads(model.device) as tuner:
                yield Reads(start, go_on, tuner.lap)


def path_log_odds(logits: object, ids: Int64[np.ndarray, " lanes"], depth: int) -> Float64[np.ndarray, "lanes depth"]:
    """Log-odds on the way to each lane's id, for a vocabulary of any size."""
    rows = _rows(logits)
    return tree.path_log_odds(rows, torch.from_numpy(np.ascontiguousarray(ids)).to(rows.device), depth).cpu().numpy()


def descend(
    logits: object, depth: int, decide: Callable[[Float64[np.ndarray, " lanes"]], Int32[np.ndarray, " lanes"]]
) -> Int64[np.ndarray, " lanes"]:
    """Ids found by walking down the tree (`tree.descend`), for a vocabulary of any size."""
    return tree.descend(_rows(logits), depth, decide)


def as_array(logits: object) -> np.ndarray:
    """Logits as an array of float32 or float64."""
    if isinstance(logits, np.ndarray):
        return logits
    rows = _rows(logits)
    return (rows if rows.dtype == torch.float64 else rows.float()).cpu().numpy()


def _rows(logits: object) -> torch.Tensor:
    return torch.from_numpy(logits) if isinstance(logits, np.ndarray) else logits  # pyright: ignore[reportReturnType]


def parallel_log_odds(
    model: CausalLM,
    settings: ModelSettings,
    ids: Int64[np.ndarray, " tokens"],
    n_lanes: int,
    progress: Callable[[int], None] | None = None,
) -> Float64[np.ndarray, "tokens depth"]:
    """Log-odds of every decision of a block, tokens in coding order, by the parallel pass."""
    log_odds = np.empty((len(ids), settings.depth))
    order = lanes.coding_order(len(ids), n_lanes)
    bounds = lanes.lane_bounds(len(ids), n_lanes)
    windows = [
        lanes.Span(*(int(first) + place for place in span))
        for first, length in zip(bounds, np.diff(bounds), strict=False)
        for span in lanes.spans(int(length), settings.layout)
    ]
    for batch in plan_batches([span.stop - span.begin for span in windows], batching_at(alone(model.device), model)):
        members = [windows[i] for i in batch]
        part = _window_log_odds(model, settings, ids, members)
        log_odds[np.concatenate([order[span.first : span.stop] for span in members])] = part
        if progress:
            progress(len(part))
    return log_odds


def _window_log_odds(
    model: CausalLM,
    settings: ModelSettings,
    ids: Int64[np.ndarray, " tokens"],
    windows: list[lanes.Span],
) -> Float64[np.ndarray, "tokens depth"]:
    """One forward pass. A window's inputs are the start token and its tokens but the last; it codes `first` and on."""
    time = max(span.stop - span.begin for span in windows)
    inputs = np.full((len(windows), time), settings.layout.start_id, dtype=np.int64)
    positions = []
    for row, span in enumerate(windows):
        inputs[row, 1 : span.stop - span.begin] = ids[span.begin : span.stop - 1]
        positions.append(row * time + np.arange(span.first - span.begin, span.stop - span.begin))
    targets = np.concatenate([ids[span.first : span.stop] for span in windows])
    tensors = [torch.from_numpy(a).to(model.device) for a in (inputs, np.concatenate(positions), targets)]
    out = torch.empty((len(targets), settings.depth), dtype=torch.float64, device=model.device)
    with torch.inference_mode():
        for part, logits in logit_slices(model.network, model.head, tensors[0], tensors[1]):
            out[part] = tree.path_log_odds(logits, tensors[2][part], settings.depth)
    return out.cpu().numpy()
