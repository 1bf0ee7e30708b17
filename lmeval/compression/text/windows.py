"""Lanes of a model read token by token: one window of context after the other, in lockstep."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Int64

from lmeval.compression.text.model_header import ModelSettings
from lmeval.compression.text.reads import Reads
from lmeval.compression.text.text_model import TextModel
from lmeval.models.compiled.lanes import advance_compiled, open_compiled, restart_compiled
from lmeval.models.compiled.network import Network, cache_bytes


class Windows:
    """What all lanes have read so far, and the logits for their next tokens."""

    def __init__(self, reads: Reads, settings: ModelSettings, n_lanes: int, n_ids: int) -> None:
        self.n_lanes, self.step = n_lanes, 0
        self._reads, self._layout, self._n_ids = reads, settings.layout, n_ids
        self._length = 0  # of the window, in tokens read
        self._recent = np.zeros((n_lanes, 0), dtype=np.int64)  # the last tokens of every lane: `overlap` of them, or one

    def logits(self) -> Any:
        """A window is full when it has read `window` tokens, the start token among them; the next begins with `overlap`."""
        window, overlap, start_id = self._layout
        if self.step and self._length < window:
            self._length += 1
            return self._reads.advance(self._recent[:, -1])
        start = np.full((self.n_lanes, 1), start_id, dtype=np.int64)
        context = self._recent[:, self._recent.shape[1] - min(self.step, overlap) :]
        self._length = 1 + context.shape[1]
        return self._reads.restart(np.concatenate([start, context], axis=1))

    def take(self, ids: Int64[np.ndarray, " lanes"]) -> None:
        """Go on by one token in every lane."""
        ids = np.minimum(ids, self._n_ids - 1)  # damaged data may spell an id that does not exist
        keep = max(1, self._layout.overlap)
        self._recent = np.concatenate([self._recent, ids[:, None]], axis=1)[:, -keep:]
        self.step += 1
        self._reads.lap(self.n_lanes)


@contextlib.contextmanager
def open_windows(
    model: TextModel, settings: ModelSettings, n_lanes: int, lanes_per_pass: int | None = None, *, steady: bool = False
) -> Iterator[Windows]:
    """Lanes that have read nothing.

    Args:
        model: The model.
        settings: The layout of its windows.
        n_lanes: How many lanes.
        lanes_per_pass: How many of them go through the library's network at a time; None for as many as memory suggests.
        steady: Whether the last digits must not depend on what else the machine does.
    """
    network = model.network(settings.layout.window)
    if isinstance(network, Network):
        yield Windows(_compiled_reads(network, settings, n_lanes), settings, n_lanes, model.n_ids)
        return
    from lmeval.compression.text.library import library_reads

    with library_reads(model.library(), settings, n_lanes, lanes_per_pass, steady=steady) as reads:
        yield Windows(reads, settings, n_lanes, model.n_ids)


def lane_bytes(model: TextModel, settings: ModelSettings) -> int:
    """Bytes of keys and values that one lane of a full window takes."""
    network = model.network(settings.layout.window)
    if isinstance(network, Network):
        return cache_bytes(network, settings.layout.window)
    from lmeval.models.stepwise import cache_bytes_per_token

    return cache_bytes_per_token(model.library()) * settings.layout.window


def _compiled_reads(network: Network, settings: ModelSettings, n_lanes: int) -> Reads:
    lanes = open_compiled(network, n_lanes, settings.layout.window)
    return Reads(lambda ids: restart_compiled(lanes, ids), lambda ids: advance_compiled(lanes, ids), lambda _: None)
