"""How an input is divided: into blocks that end at good places, and those into lanes."""

import math
from collections.abc import Iterator
from typing import NamedTuple

from lmeval.compression.container import frame
from lmeval.compression.text.online.recipes import LEVELS
from lmeval.compression.text.survey import COLD_START_SHARE, Survey
from lmeval.compute.memory import LANES, at_once, fastest
from lmeval.compute.place import Place
from lmeval.errors import InputError

BLOCK_LANES = 128
LANE_TOKENS = 8192  # of a lane in a large input: its cold start then costs next to nothing
BLOCK_DECISIONS = 1 << 22  # 24 bytes of memory for each while a block is coded
CUT_BYTES = 256  # how far before its goal a block may end
PLAIN_BLOCK_BYTES = 1 << 20  # where no model codes
# Online models begin anew in every block and learn from all its lanes, so adapted blocks are large, and few lanes know more
# than many do: each has the others' past, but not what they read in the same step.
ADAPTED_BLOCK_DECISIONS = 1 << 24
ADAPTED_LANE_TOKENS = 4096  # at least, in a lane: shorter ones cost little in prose, but a tenth in repetitive code or JSON
# Of an input of this size, for which somebody waits: more lanes are faster, and smaller ones are fast enough.
SMALL, SMALL_LANE_TOKENS = range(1 << 15, 1 << 16), 2048
PROCESSOR_LANES = 64  # on a CPU more are no faster
ADAPTED_LANES = 128
ADAPTED_FULL_LANES = 256  # of a block that is as large as it may be


class CompressSettings(NamedTuple):
    """How to compress. None means chosen: `lanes` from the input's size, `tolerance` (nats) from a measurement, `context`
    (input tokens of a window) and `overlap` from the model. `verify` decodes every block before it is written. `adapt` is
    the level of the online models that follow the language model: "full", "light" (faster) or "none"."""

    lanes: int | None = None
    tolerance: float | None = None
    context: int | None = None
    overlap: int | None = None
    verify: bool = True
    lanes_per_pass: int | None = None
    adapt: str = "full"

    @property
    def adapting(self) -> bool:
        """Whether there are online models at all."""
        return self.adapt != "none"


def check_settings(settings: CompressSettings) -> None:
    """Raises InputError for what cannot be, but for what only the model knows (context and overlap)."""
    for name in ("lanes", "context", "lanes_per_pass"):
        value = getattr(settings, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number of at least 1, or None, not {value!r}")
    if settings.lanes is not None and settings.lanes > frame.MAX_LANES:
        raise InputError(f"{settings.lanes:,} lanes are more than the {frame.MAX_LANES:,} that an archive can hold")
    if settings.tolerance is not None and not 0 <= settings.tolerance <= 1:
        raise InputError(f"tolerance {settings.tolerance!r} must lie between 0 and 1 nat")
    if settings.adapt not in LEVELS:
        raise InputError(f"adapt must be one of {', '.join(LEVELS)}, not {settings.adapt!r}")


class Plan(NamedTuple):
    """Bytes and lanes of a block, and how many blocks are coded and verified together."""

    block_bytes: int
    n_lanes: int
    blocks_at_once: int


def plan_blocks(surveyed: Survey | None, n_bytes: int, settings: CompressSettings, place: Place) -> Plan:
    """As many lanes as decode fast together, if their cold starts allow it, in as few blocks as hold them.

    Blocks and lanes follow from the input, the model and the sort of device. Memory decides only how many blocks are coded
    at once, so that an archive does not depend on what happens to be free.
    """
    if settings.adapting:
        return _adapted_plan(surveyed, n_bytes, settings.lanes, place)
    if surveyed is None:
        n_blocks = max(1, -(-n_bytes // PLAIN_BLOCK_BYTES))
        return Plan(-(-n_bytes // n_blocks), 1, 1)
    lanes, n_tokens = settings.lanes, n_bytes / surveyed.bytes_per_token
    together = fastest(LANES, place, surveyed.lane_bytes)
    fitting = at_once(LANES, place, surveyed.lane_bytes)
    shortest = max(
        2 * surveyed.settings.layout.window, surveyed.cold_start_bits / (COLD_START_SHARE * surveyed.bits_per_token)
    )
    length = min(max(shortest, n_tokens / together), max(shortest, LANE_TOKENS))
    per_block = min(BLOCK_LANES, together) if lanes is None else lanes
    in_bounds = min(frame.MAX_BLOCK_UNITS / 2, frame.MAX_BLOCK_BYTES / 2 / surveyed.bytes_per_token)
    most = min(per_block * length, in_bounds, BLOCK_DECISIONS / surveyed.settings.depth)
    n_blocks = max(1, math.ceil(n_tokens / most))
    if lanes is not None:  # as asked for, in blocks no smaller than they would be otherwise
        n_blocks = max(1, math.ceil(n_tokens / min(in_bounds, max(most, BLOCK_LANES * length))))
        return Plan(-(-n_bytes // n_blocks), lanes, max(1, fitting // lanes))
    chosen = max(1, min(per_block, int(n_tokens / n_blocks / length)))
    return Plan(-(-n_bytes // n_blocks), chosen, max(1, fitting // chosen))


def _adapted_plan(surveyed: Survey | None, n_bytes: int, lanes: int | None, place: Place) -> Plan:
    """One block at a time, as large as may be: each has online models of its own, and takes the memory that they do. Whether
    the language model or bytes alone are coded, a block has no more decisions than ADAPTED_BLOCK_DECISIONS."""
    most = min(ADAPTED_BLOCK_DECISIONS / 8, float(frame.MAX_BLOCK_UNITS))
    if surveyed is None:
        n_blocks = max(1, math.ceil(n_bytes / most))
        return Plan(-(-n_bytes // n_blocks), 1, 1)
    n_tokens = min(ADAPTED_BLOCK_DECISIONS / surveyed.settings.depth, frame.MAX_BLOCK_UNITS / 2)
    n_blocks = max(1, math.ceil(n_bytes / min(most, n_tokens * surveyed.bytes_per_token)))
    block_bytes = -(-n_bytes // n_blocks)
    if lanes is not None:
        return Plan(block_bytes, lanes, 1)
    most_lanes = ADAPTED_LANES if n_blocks == 1 else ADAPTED_FULL_LANES
    limit = min(most_lanes if place.on_accelerator else PROCESSOR_LANES, fastest(LANES, place, surveyed.lane_bytes))
    usual = SMALL_LANE_TOKENS if n_bytes in SMALL else ADAPTED_LANE_TOKENS
    shortest = max(usual, 2 * surveyed.settings.layout.window)
    return Plan(block_bytes, max(1, min(limit, int(block_bytes / surveyed.bytes_per_token / shortest))), 1)


class Cut(NamedTuple):
    """Bytes [first, stop) of the input."""

    first: int
    stop: int


def cuts(data: memoryview, block_bytes: int) -> Iterator[Cut]:
    """Blocks of about `block_bytes`, cut after a line or before a space where one is near, else between characters."""
    first = 0
    for goal in (*range(block_bytes, len(data), max(1, block_bytes)), len(data)):
        stop = _good_cut(data, first, goal)
        if stop > first:
            yield Cut(first, stop)
        first = stop


def _good_cut(data: memoryview, first: int, goal: int) -> int:
    """The best place in (first, goal] to end a block at."""
    if goal == len(data):
        return goal
    tail = bytes(data[max(first, goal - CUT_BYTES) : goal])
    begin = goal - len(tail)
    if b"\n" in tail:
        return begin + tail.rfind(b"\n") + 1
    if b" " in tail[1:]:
        return begin + tail.rfind(b" ")
    return next((place for place in range(goal, max(first, goal - 4), -1) if data[place] & 0xC0 != 0x80), goal)


def grouped(all_cuts: Iterator[Cut], size: int) -> Iterator[list[Cut]]:
    """`size` of them at a time."""
    group: list[Cut] = []
    for cut in all_cuts:
        group.append(cut)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
