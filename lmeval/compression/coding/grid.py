"""The tolerant grid: real log-odds, known to a margin, become integers on which both ends agree.

A decision has log-odds z = ln(P(1) / P(0)). Its place on the grid is x = sigmoid(z / 3) in (0, 1), cut into `cells` equal
cells. In log-odds a cell is 12 cosh^2(z / 6) / cells wide: narrow where the decision is open, wide where it is nearly
certain. (The code that a cell of width w wastes grows as P(0) P(1) w^2 and the chance that z lies within the margin of its
edge as 1 / w, so the best width grows as (P(0) P(1))^(-1/3), which is e^(|z| / 3) in the tails.)

The whole grid can be shifted by a phase of k / PHASES of a cell. The encoder takes, for each group of consecutive tokens,
a phase at which no decision of the group lies within the margin of an edge; so whoever computes the same z to within the
margin finds the same cell, and with it the same integer probability. All that follows from a cell is integer arithmetic,
equal on every machine. Definition: compression/FORMAT.md.
"""

import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Int64

PHASES = 4096
PHASE_STRIDE = 2531  # rank r stands for phase r * PHASE_STRIDE mod PHASES: ranks that follow each other lie far apart
LOG_ODDS_LIMIT = 15.0  # beyond it all decisions are alike
FREQUENCY_BITS = 22
MAX_CELLS = 4096
TABLE_BITS = 16
HAZARDS_PER_GROUP = 5.0  # decisions that a random phase endangers: a safe phase is then the exp(5)-th tried, on average
_GROUPS_AT_ONCE = 64
_TOKENS_AT_ONCE = 1 << 16  # where memory would be spent on temporary arrays


class Grid(NamedTuple):
    """`cells` across (0, 1); `margin` (nats) is how far the other end's log-odds may be off."""

    cells: int
    margin: float


class Phases(NamedTuple):
    """Tokens [g * group_tokens, (g + 1) * group_tokens) of a block, counted in coding order, use the phase of ranks[g]."""

    group_tokens: int
    ranks: Int64[np.ndarray, " groups"]


def grid_for_margin(margin: float) -> Grid:
    """The grid on which quantisation and phases together cost least, for decisions as language models make them.

    The exponent is that of the optimum above; the factor is its value for z = 0, raised by what was measured on text.

    >>> [grid_for_margin(margin).cells for margin in (1e-10, 1e-4, 1e-2, 1.0)]
    [4096, 45, 10, 2]
    """
    return Grid(min(MAX_CELLS, max(2, round(2.1 * margin ** (-1 / 3)))), margin)


def edges_below(log_odds: Float64[np.ndarray, "*shape"], grid: Grid) -> Int64[np.ndarray, "*shape"]:
    """Number of the fine edge below each decision: floor(x * cells * PHASES). Phase k uses the fine edges = k mod PHASES."""
    x = 1.0 / (1.0 + np.exp(np.clip(log_odds, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT) * (-1.0 / 3.0)))
    return (x * (grid.cells * PHASES)).astype(np.int64)


def frequencies(
    edges: Int64[np.ndarray, "*shape"], phase: Int64[np.ndarray, "*shape"], cells: int
) -> Int64[np.ndarray, "*shape"]:
    """Integer probability of bit 1 in units of 2^-FREQUENCY_BITS, of the cell that holds the fine edge: exact."""
    lower = edges - (edges - phase) % PHASES
    upper = np.minimum(lower + PHASES, cells * PHASES)
    middle = np.maximum(lower, 0) + upper
    return frequency_table()[(middle << (TABLE_BITS - 1)) // (cells * PHASES)]


@functools.cache
def frequency_table() -> Int64[np.ndarray, " x"]:
    """P(1) at x = (j + 1/2) / 2^TABLE_BITS: x^3 / (x^3 + (1 - x)^3), rounded, in [1, 2^FREQUENCY_BITS - 1]."""
    one = 1 << FREQUENCY_BITS
    table = []
    for j in range(1 << TABLE_BITS):
        a, b = (2 * j + 1) ** 3, ((2 << TABLE_BITS) - 2 * j - 1) ** 3
        table.append(min(one - 1, max(1, (2 * one * a + a + b) // (2 * (a + b)))))
    return np.array(table, dtype=np.int64)


def phase_of(ranks: Int64[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
    """The phases that ranks stand for."""
    return ranks * PHASE_STRIDE % PHASES


def choose_phases(log_odds: Float64[np.ndarray, "tokens decisions"], grid: Grid) -> Phases | None:
    """For each group of tokens the first rank whose phase endangers none of its decisions; None where even single tokens
    have no such phase. Groups are as long as HAZARDS_PER_GROUP allows: half as long, as often as one has no safe phase."""
    n = len(log_odds)
    low, high = (_shifted_edges(log_odds, sign * grid.margin, grid) for sign in (-1, 1))
    hazards = float((high - low).sum(dtype=np.int64)) / PHASES
    group = n if hazards <= HAZARDS_PER_GROUP else max(1, int(HAZARDS_PER_GROUP * n / hazards))
    while True:
        ranks = _safe_ranks(low, high, group)
        if ranks is not None:
            return Phases(group, ranks)
        if group == 1:
            return None
        group = (group + 1) // 2


def _shifted_edges(
    log_odds: Float64[np.ndarray, "tokens decisions"], shift: float, grid: Grid
) -> Int32[np.ndarray, "tokens decisions"]:
    """`edges_below` of log-odds that are off by `shift`: they are below 2^24."""
    edges = np.empty(log_odds.shape, dtype=np.int32)
    for first in range(0, len(edges), _TOKENS_AT_ONCE):
        part = slice(first, first + _TOKENS_AT_ONCE)
        edges[part] = edges_below(log_odds[part] + shift, grid)
    return edges


def block_frequencies(
    log_odds: Float64[np.ndarray, "tokens decisions"], phases: Phases, grid: Grid
) -> Int32[np.ndarray, "tokens decisions"]:
    """Integer probabilities of all decisions of a block, tokens in coding order."""
    in_order = np.empty(log_odds.shape, dtype=np.int32)
    ranks = phase_of(phases.ranks)
    for first in range(0, len(in_order), _TOKENS_AT_ONCE):
        part = slice(first, first + _TOKENS_AT_ONCE)
        edges = edges_below(log_odds[part], grid)
        phase = ranks[(first + np.arange(len(edges))) // phases.group_tokens]
        in_order[part] = frequencies(edges, np.broadcast_to(phase[:, None], edges.shape), grid.cells)
    return in_order


def _safe_ranks(
    low: Int[np.ndarray, "tokens decisions"], high: Int[np.ndarray, "tokens decisions"], group: int
) -> Int64[np.ndarray, " groups"] | None:
    """First safe rank of each group; phases k with an edge in (low, high] are unsafe."""
    n_groups = -(-len(low) // group)
    order = phase_of(np.arange(PHASES))
    chosen = []
    for first in range(0, n_groups, _GROUPS_AT_ONCE):
        part = slice(first * group, (first + _GROUPS_AT_ONCE) * group)
        unsafe = _unsafe(low[part], high[part], group)[:, order]
        ranks = unsafe.argmin(axis=1)
        if unsafe[np.arange(len(ranks)), ranks].any():
            return None
        chosen.append(ranks)
    return np.concatenate(chosen) if chosen else np.zeros(0, dtype=np.int64)


def _unsafe(
    low: Int[np.ndarray, "tokens decisions"], high: Int[np.ndarray, "tokens decisions"], group: int
) -> Bool[np.ndarray, "groups phases"]:
    """Which phases have an edge inside some decision's interval: intervals on a circle of PHASES, laid out twice."""
    n_groups, circle = -(-len(low) // group), 2 * PHASES
    tokens, decisions = np.nonzero(high > low)
    begin = (low[tokens, decisions] + 1) % PHASES
    length = np.minimum(high[tokens, decisions] - low[tokens, decisions], PHASES)
    base = tokens // group * (circle + 1) + begin
    size = n_groups * (circle + 1)
    change = np.bincount(base, minlength=size) - np.bincount(base + length, minlength=size)
    covered = change.reshape(n_groups, circle + 1).cumsum(axis=1)[:, :circle]
    return (covered[:, :PHASES] + covered[:, PHASES:]) > 0
