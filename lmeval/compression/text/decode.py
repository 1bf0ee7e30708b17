"""Payloads back to tokens: the lanes of several blocks in lockstep, one token a step."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Int64

from lmeval.compression.coding import coder, grid
from lmeval.compression.coding.stack import is_used_up, open_stack
from lmeval.compression.container.frame import Block, checked
from lmeval.compression.container.kinds import Lost
from lmeval.compression.text import adaptive, lanes
from lmeval.compression.text.byte_decoder import decode_step, open_cells
from lmeval.compression.text.byte_tree import MAX_DEPTH, fill_trees, open_trees
from lmeval.compression.text.encode import ADAPTED, EXTRA_SPACE
from lmeval.compression.text.model_header import ModelSettings
from lmeval.compression.text.text_model import TextModel
from lmeval.compression.text.windows import Windows, open_windows
from lmeval.compute.memory import MemoryLimit, compute_within_memory
from lmeval.errors import CorruptArchive, NumericalDrift


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
        self.stack = open_stack(block.payload[size:]) if settings.depth <= MAX_DEPTH else None
        self.bits = coder.BitReader(block.payload[size:]) if self.stack is None else None
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
        if not len(frequencies) or self.bits is None:
            return np.zeros(0, dtype=np.int32)
        if self.online is None:
            return self.bits.read(frequencies)
        bits = self.bits.read(adaptive.predict(self.online, frequencies))
        adaptive.learn(self.online, bits)
        return bits

    def tokens(self) -> Int64[np.ndarray, " tokens"]:
        """The ids in the order of the text."""
        return self.ids[lanes.coding_order(self.block.n_units, self.block.n_lanes)]

    @property
    def used_up(self) -> bool:
        """Whether the coder has given all that the block holds."""
        return self.bits.used_up() if self.bits is not None else self.stack is not None and is_used_up(self.stack)


def decode_blocks(
    model: TextModel,
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

    device = None if model.device == "cpu" else model.library().device
    parts = compute_within_memory(blocks, decode, MemoryLimit(), size=_count_lanes, too_large=too_large, device=device)
    return [data for part in parts for data in part]


def _count_lanes(blocks: Sequence[Block]) -> int:
    return sum(block.n_lanes for block in blocks)


def _decode_together(
    model: TextModel,
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
        with open_windows(model, settings, n_lanes, lanes_per_pass) as windows:
            _read_lanes(windows, settings, readers, progress)
    for reader in readers:
        decoded[reader.number] = _data(model, reader)
    return [data for data in decoded if data is not None]


def _read_lanes(
    windows: Windows, settings: ModelSettings, readers: list[_BlockReader], progress: Callable[[int], None] | None
) -> None:
    """Every token of every lane, into the readers' ids."""
    decoder = _bytes_decoder if settings.depth <= MAX_DEPTH else _any_decoder
    decode = decoder(settings, windows.n_lanes)
    for step in range(max(lanes.n_steps(reader.block.n_units, reader.block.n_lanes) for reader in readers)):
        ids = decode(windows.logits(), step, readers)
        for reader in readers:
            begin = step * reader.block.n_lanes
            reader.ids[begin : begin + reader.lanes.stop - reader.lanes.start] = ids[reader.lanes]
        windows.take(ids)
        if progress:
            progress(sum(reader.lanes.stop - reader.lanes.start for reader in readers))


_Decode = Callable[[Any, int, list[_BlockReader]], Int64[np.ndarray, " lanes"]]
"""From the logits of all lanes at a step to their ids."""


def _bytes_decoder(settings: ModelSettings, n_lanes: int) -> _Decode:
    """Of at most 256 ids: a compiled call for each block."""
    cells, trees = open_cells(settings.grid), open_trees(n_lanes, settings.depth)
    ids = np.zeros(n_lanes, dtype=np.int64)

    def decode(logits: Any, step: int, readers: list[_BlockReader]) -> Int64[np.ndarray, " lanes"]:
        if not isinstance(logits, np.ndarray):
            from lmeval.compression.text.library import as_array

            logits = as_array(logits)
        fill_trees(logits, trees)
        for reader in readers:
            assert reader.stack is not None
            phases = reader.begin(step)
            online = reader.online.state if reader.online else None
            ids[reader.lanes] = decode_step(reader.stack, cells, online, step, trees[reader.lanes], phases)
        return ids

    return decode


def _any_decoder(settings: ModelSettings, n_lanes: int) -> _Decode:
    """Of a vocabulary of any size: decision by decision."""
    from lmeval.compression.text.library import descend

    phase = np.zeros(n_lanes, dtype=np.int64)

    def decode(logits: Any, step: int, readers: list[_BlockReader]) -> Int64[np.ndarray, " lanes"]:
        for reader in readers:
            phases = reader.begin(step)
            phase[reader.lanes] = phases

        def decide(log_odds: Float64[np.ndarray, " lanes"]) -> Int32[np.ndarray, " lanes"]:
            frequencies = grid.frequencies(grid.edges_below(log_odds, settings.grid), phase, settings.grid.cells)
            bits = np.zeros(len(log_odds), dtype=np.int32)
            for reader in readers:
                bits[reader.lanes] = reader.read(frequencies[reader.lanes])
            return bits

        return descend(logits, settings.depth, decide)

    return decode


def _data(model: TextModel, reader: _BlockReader) -> bytes | Lost:
    block = reader.block
    data = model.unspell(reader.tokens())[block.flags & EXTRA_SPACE :]
    try:
        if not reader.used_up:
            raise CorruptArchive("a block holds more than its data")
        return checked(block, data)
    except CorruptArchive:
        where = f"bytes {block.offset:,} to {block.offset + block.n_bytes:,}"
        return Lost(NumericalDrift(f"{where} decode to something else than was encoded"))
