"""Payloads back to tokens: the lanes of several blocks in lockstep, one token a step, with a key-value cache."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Int32, Int64
from torch import Tensor

from lmeval.compression.coding import coder, grid
from lmeval.compression.container.frame import Block, checked
from lmeval.compression.container.kinds import Lost
from lmeval.compression.text import adaptive, lanes, tree
from lmeval.compression.text.encode import ADAPTED, EXTRA_SPACE
from lmeval.compression.text.model_header import ModelSettings
from lmeval.compute.memory import MemoryLimit, compute_within_memory
from lmeval.compute.threads import half_the_threads, tuned_threads
from lmeval.errors import CorruptArchive, NumericalDrift
from lmeval.models import CausalLM
from lmeval.models.spelling import decode_bytes
from lmeval.models.stepwise import advance, open_lanes, restart, stepping


class _BlockReader:
    """One block on its way: its coder, the phases of its tokens, where its lanes stand among all lanes, and the online
    models of an adapted block."""

    def __init__(self, block: Block, first_lane: int, settings: ModelSettings, number: int = 0) -> None:
        n_groups = -(-block.n_units // block.parameter)
        ranks, size = coder.decode_ranks(block.payload, n_groups)
        self.block = block
        self.number = number  # among the blocks that are decoded together
        self.online = None
        if block.kind == ADAPTED:
            if settings.adapt == "none":
                raise CorruptArchive("the archive has adapted blocks, but its header names no level of adaptation")
            self.online = adaptive.open_adaptive(settings.adapt, settings.depth, block.n_units, block.n_lanes)
        self.phases = grid.phase_of(ranks)
        self.bits = coder.BitReader(block.payload[size:])
        self.first_lane = first_lane
        self.ids = np.empty(block.n_units, dtype=np.int64)  # in coding order
        self.lanes = slice(first_lane, first_lane)  # that have a token at the present step

    def begin(self, step: int) -> Int64[np.ndarray, " active"]:
        """Go to a step; the phases of its tokens."""
        active = lanes.n_active(step, self.block.n_units, self.block.n_lanes)
        self.lanes = slice(self.first_lane, self.first_lane + active)
        numbers = step * self.block.n_lanes + np.arange(active)
        return self.phases[numbers // self.block.parameter]

    def read(self, frequencies: Int64[np.ndarray, " active"]) -> Int32[np.ndarray, " active"]:
        """One decision of every active lane."""
        if not len(frequencies):
            return np.zeros(0, dtype=np.int32)
        if self.online is None:
            return self.bits.read(frequencies)
        bits = self.bits.read(adaptive.predict(self.online, frequencies))
        adaptive.learn(self.online, bits)
        return bits

    def tokens(self) -> Int64[np.ndarray, " tokens"]:
        """The ids in the order of the text."""
        return self.ids[lanes.coding_order(self.block.n_units, self.block.n_lanes)]


def decode_blocks(
    model: CausalLM,
    settings: ModelSettings,
    blocks: Sequence[Block],
    lanes_per_pass: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[bytes | Lost]:
    """Decode blocks that a language model coded, all of their lanes together, or half of the blocks where memory runs out.

    Args:
        model: The model that encoded.
        settings: What the archive's header says of it.
        blocks: Blocks of the kinds "model" and "adapted".
        lanes_per_pass: How many lanes go through the network at a time; None for as many as memory suggests.
        progress: Called with the number of tokens that were decoded.

    Returns:
        The data of each block; Lost where its payload cannot be an encoder's (CorruptArchive), or where its data do not
        match their checksum: as the payload's did, the model's numbers here must have gone astray (NumericalDrift).

    Raises:
        OutOfMemory: The lanes of a single block do not fit.
    """

    def decode(part: Sequence[Block]) -> list[bytes | Lost]:
        return _decode_together(model, settings, part, lanes_per_pass, progress)

    def too_large(part: Sequence[Block]) -> str:
        return (
            f"the {part[0].n_lanes:,} lanes of one block do not fit into the memory of {model.device}: "
            "free some, compute on another device, or compress in fewer --lanes"
        )

    parts = compute_within_memory(blocks, decode, MemoryLimit(), size=_count_lanes, too_large=too_large, device=model.device)
    return [data for part in parts for data in part]


def _count_lanes(blocks: Sequence[Block]) -> int:
    return sum(block.n_lanes for block in blocks)


def _decode_together(
    model: CausalLM,
    settings: ModelSettings,
    blocks: Sequence[Block],
    lanes_per_pass: int | None,
    progress: Callable[[int], None] | None,
) -> list[bytes | Lost]:
    """What `decode_blocks` gives, with the lanes of all blocks in memory at once."""
    readers: list[_BlockReader] = []
    decoded: list[bytes | Lost | None] = [None] * len(blocks)
    n_lanes = 0
    for i, block in enumerate(blocks):
        try:
            readers.append(_BlockReader(block, n_lanes, settings, i))
        except CorruptArchive as error:
            decoded[i] = Lost(error)
            continue
        n_lanes += block.n_lanes
    if readers:
        _read_lanes(_Lanes(model, settings, n_lanes, lanes_per_pass), readers, progress)
    for reader in readers:
        decoded[reader.number] = _data(model, reader)
    return [data for data in decoded if data is not None]


def _read_lanes(state: "_Lanes", readers: list[_BlockReader], progress: Callable[[int], None] | None) -> None:
    """Every token of every lane, into the readers' ids."""
    phase = np.zeros(state.n_lanes, dtype=np.int64)
    with stepping(state.model), tuned_threads(state.model.device) as tuner:
        for _ in range(max(lanes.n_steps(reader.block.n_units, reader.block.n_lanes) for reader in readers)):
            state.take(_decode_step(state, readers, phase))
            n_decoded = sum(reader.lanes.stop - reader.lanes.start for reader in readers)
            tuner.lap(n_decoded)
            if progress:
                progress(n_decoded)


def _decode_step(
    state: "_Lanes", readers: list[_BlockReader], phase: Int64[np.ndarray, " lanes"]
) -> Int64[np.ndarray, " lanes"]:
    """One token of every lane."""
    settings = state.settings
    for reader in readers:
        phases = reader.begin(state.step)
        phase[reader.lanes] = phases

    def decide(log_odds: Float64[np.ndarray, " lanes"]) -> Int32[np.ndarray, " lanes"]:
        frequencies = grid.frequencies(grid.edges_below(log_odds, settings.grid), phase, settings.grid.cells)
        bits = np.zeros(len(log_odds), dtype=np.int32)
        for reader in readers:
            bits[reader.lanes] = reader.read(frequencies[reader.lanes])
        return bits

    ids = tree.descend(state.logits(), settings.depth, decide)
    for reader in readers:
        begin = state.step * reader.block.n_lanes
        reader.ids[begin : begin + reader.lanes.stop - reader.lanes.start] = ids[reader.lanes]
    return ids


class _Lanes:
    """What all lanes have read so far, and the logits for their next tokens."""

    def __init__(self, model: CausalLM, settings: ModelSettings, n_lanes: int, lanes_per_pass: int | None) -> None:
        self.model = model
        self.settings = settings
        self.n_lanes = n_lanes
        self.step = 0
        self._cache = open_lanes(model, n_lanes, settings.layout.window, lanes_per_pass)
        self._recent = np.zeros((n_lanes, 0), dtype=np.int64)  # the last tokens of every lane: `overlap` of them, or one

    def logits(self) -> Float[Tensor, "lanes vocabulary"]:
        """A window is full when it has read `window` tokens, the start token among them; the next begins with `overlap`."""
        window, overlap, start_id = self.settings.layout
        if self.step and self._cache.length < window:
            return advance(self.model, self._cache, self._tensor(self._recent[:, -1]))
        start = np.full((self._cache.n_lanes, 1), start_id, dtype=np.int64)
        context = self._recent[:, self._recent.shape[1] - min(self.step, overlap) :]
        return restart(self.model, self._cache, self._tensor(np.concatenate([start, context], axis=1)))

    def take(self, ids: Int64[np.ndarray, " lanes"]) -> None:
        """Go on by one token in every lane."""
        ids = np.minimum(ids, self.model.vocab_size - 1)  # damaged data may spell an id that does not exist
        keep = max(1, self.settings.layout.overlap)
        self._recent = np.concatenate([self._recent, ids[:, None]], axis=1)[:, -keep:]
        self.step += 1

    def _tensor(self, ids: Int64[np.ndarray, "*shape"]) -> Int64[Tensor, "*shape"]:
        return torch.from_numpy(np.ascontiguousarray(ids)).to(self.model.device)


def _data(model: CausalLM, reader: _BlockReader) -> bytes | Lost:
    block = reader.block
    data = decode_bytes(model.encoder, reader.tokens())[block.flags & EXTRA_SPACE :]
    try:
        if not reader.bits.used_up():
            raise CorruptArchive("a block holds more than its data")
        return checked(block, data)
    except CorruptArchive:
        where = f"bytes {block.offset:,} to {block.offset + block.n_bytes:,}"
        return Lost(NumericalDrift(f"{where} decode to something else than was encoded"))


def stepwise_log_odds(
    model: CausalLM,
    settings: ModelSettings,
    ids: Int64[np.ndarray, " tokens"],
    n_lanes: int,
    lanes_per_pass: int | None = None,
) -> Float64[np.ndarray, "tokens depth"]:
    """Log-odds of every decision of given tokens, in coding order, as a decoder computes them; lanes of equal length."""
    state = _Lanes(model, settings, n_lanes, lanes_per_pass)
    log_odds = []
    with stepping(model), half_the_threads(model.device):
        for targets in ids.reshape(n_lanes, -1).T:
            chosen = torch.from_numpy(np.ascontiguousarray(targets)).to(model.device)
            log_odds.append(tree.path_log_odds(state.logits(), chosen, settings.depth).cpu().numpy())
            state.take(targets)
    return np.concatenate(log_odds)
