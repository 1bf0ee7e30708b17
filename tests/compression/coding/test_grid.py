import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmeval.compression.coding import coder, grid
from lmeval.compression.coding.grid import (
    FREQUENCY_BITS,
    HAZARDS_PER_GROUP,
    LOG_ODDS_LIMIT,
    MAX_CELLS,
    PHASES,
    Grid,
    choose_phases,
    edges_below,
    frequencies,
    grid_for_margin,
    phase_of,
)

ONE = 1 << FREQUENCY_BITS
MARGINS = st.floats(-10, math.log10(0.3)).map(lambda exponent: 10.0**exponent)
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, 15.0, -15.0, 15.0 - 1e-9, 14.9, 1e300, -1e300, 1e-12, 3.0, -3.0])


def decisions(seed: int, tokens: int, depth: int) -> np.ndarray:
    """Log-odds of all scales: tiny, ordinary, saturated, equal, infinite."""
    rng = np.random.default_rng(seed)
    scales = rng.choice([1e-7, 1e-3, 0.3, 2.0, 6.0, 40.0, 1e4], size=(tokens, 1))
    found = rng.normal(size=(tokens, depth)) * scales
    found = np.where(rng.random(found.shape) < 0.1, rng.choice(SPECIAL, found.shape), found)
    if seed % 5 == 0:
        found[:] = found[0, 0]
    return found


def phase_per_token(phases: grid.Phases, n: int) -> np.ndarray:
    return phase_of(phases.ranks)[np.arange(n) // phases.group_tokens][:, None]


def coded(log_odds: np.ndarray, phase: np.ndarray, chosen: Grid) -> np.ndarray:
    return frequencies(edges_below(log_odds, chosen), np.broadcast_to(phase, log_odds.shape), chosen.cells)


def edge(number: np.ndarray, chosen: Grid) -> np.ndarray:
    """Log-odds of a fine edge."""
    x = number / (chosen.cells * PHASES)
    with np.errstate(divide="ignore"):
        return 3.0 * (np.log(x) - np.log1p(-x))


def towards_the_nearest_edge(log_odds: np.ndarray, phase: np.ndarray, chosen: Grid) -> np.ndarray:
    number, log_odds = edges_below(log_odds, chosen), np.clip(log_odds, -1e6, 1e6)
    lower = number - (number - phase) % PHASES
    below = log_odds - edge(np.maximum(lower, 0), chosen)
    above = edge(np.minimum(lower + PHASES, chosen.cells * PHASES), chosen) - log_odds
    return np.where(below < above, -chosen.margin, chosen.margin)


def changes(log_odds: np.ndarray, phase: np.ndarray, chosen: Grid, seed: int) -> dict[str, np.ndarray]:
    rng, margin = np.random.default_rng(seed + 1), chosen.margin
    return {
        "none": np.zeros_like(log_odds),
        "all up": np.full_like(log_odds, margin),
        "all down": np.full_like(log_odds, -margin),
        "uniform": rng.uniform(-margin, margin, log_odds.shape),
        "small": rng.uniform(-margin, margin, log_odds.shape) * 1e-3,
        "either end": margin * rng.choice([-1.0, 1.0], log_odds.shape),
        "to the nearest edge": towards_the_nearest_edge(log_odds, phase, chosen),
        "from the nearest edge": -towards_the_nearest_edge(log_odds, phase, chosen),
    }


@given(
    seed=st.integers(0, 2**32), tokens=st.integers(1, 300), depth=st.integers(1, 17), margin=MARGINS, same=st.booleans(),
    cells=st.integers(1, MAX_CELLS),
)  # fmt: skip
@example(seed=5, tokens=300, depth=16, margin=1e-10, same=True, cells=1)
@example(seed=1, tokens=300, depth=16, margin=0.3, same=True, cells=1)
def test_whatever_lies_within_the_margin_gets_the_same_integers(
    seed: int, tokens: int, depth: int, margin: float, same: bool, cells: int
):
    chosen = grid_for_margin(margin) if same else Grid(cells, margin)
    log_odds = decisions(seed, tokens, depth)
    phases = choose_phases(log_odds, chosen)
    if phases is None:
        return
    assert 1 <= phases.group_tokens <= tokens
    assert len(phases.ranks) == -(-tokens // phases.group_tokens)
    assert ((phases.ranks >= 0) & (phases.ranks < PHASES)).all()
    phase = phase_per_token(phases, tokens)
    expected = coded(log_odds, phase, chosen)
    assert expected.min() >= 1
    assert expected.max() <= ONE - 1
    for kind, change in changes(log_odds, phase, chosen, seed).items():
        assert np.array_equal(coded(log_odds + change, phase, chosen), expected), kind


@given(seed=st.integers(0, 2**32), margin=st.floats(-10, -1.5).map(lambda exponent: 10.0**exponent))
def test_a_grid_that_fits_its_margin_always_finds_phases(seed: int, margin: float):
    assert choose_phases(decisions(seed, 200, 8), grid_for_margin(margin)) is not None


def test_more_than_the_margin_does_change_integers():
    log_odds, chosen = np.random.default_rng(0).normal(0, 3, (400, 8)), grid_for_margin(1e-3)
    phases = choose_phases(log_odds, chosen)
    assert phases is not None
    phase = phase_per_token(phases, 400)
    change = 20 * towards_the_nearest_edge(log_odds, phase, chosen)
    differing = (coded(log_odds + change, phase, chosen) != coded(log_odds, phase, chosen)).mean()
    assert 0.02 < differing < 0.5  # 3,200 decisions, of which about 5 a group are within reach of the margin itself


def unsafe_phases(log_odds: np.ndarray, chosen: Grid) -> set[int]:
    """By the definition, edge for edge."""
    found: set[int] = set()
    low, high = (edges_below(log_odds + sign * chosen.margin, chosen).ravel().tolist() for sign in (-1, 1))
    for first, last in zip(low, high, strict=True):
        found |= {number % PHASES for number in range(first + 1, min(last, first + PHASES) + 1)}
    return found


@pytest.mark.parametrize("seed", range(1, 5))
@pytest.mark.parametrize("margin", [1e-4, 3e-3, 0.1])
def test_each_group_takes_the_first_safe_rank(seed: int, margin: float):
    log_odds, chosen = decisions(seed, 60, 8), grid_for_margin(margin)
    phases = choose_phases(log_odds, chosen)
    assert phases is not None
    for i, rank in enumerate(phases.ranks):
        unsafe = unsafe_phases(log_odds[i * phases.group_tokens : (i + 1) * phases.group_tokens], chosen)
        before = phase_of(np.arange(rank + 1)).tolist()
        assert before[-1] not in unsafe
        assert set(before[:-1]) <= unsafe


def test_more_groups_than_are_dealt_with_at_once(monkeypatch: pytest.MonkeyPatch):
    log_odds, chosen = np.random.default_rng(0).normal(0, 3, (999, 8)), grid_for_margin(0.02)
    expected = choose_phases(log_odds, chosen)
    assert expected is not None
    assert len(expected.ranks) > 30
    for at_once in (1, 7, 10_000):
        monkeypatch.setattr(grid, "_GROUPS_AT_ONCE", at_once)
        found = choose_phases(log_odds, chosen)
        assert found is not None
        assert found.group_tokens == expected.group_tokens
        assert np.array_equal(found.ranks, expected.ranks)


def test_ranks_stand_for_all_phases_and_neighbours_lie_far_apart():
    phases = phase_of(np.arange(PHASES))
    assert sorted(phases.tolist()) == list(range(PHASES))
    steps = np.diff(phases) % PHASES
    assert np.minimum(steps, PHASES - steps).min() > PHASES // 4
    first = np.sort(phases[:64])
    assert np.diff(first).max() < 3 * PHASES / 64  # the first few are spread over the whole circle


@pytest.mark.parametrize("margin", [1e-4, 1e-3])
def test_a_group_has_about_as_many_hazards_as_it_should(margin: float):
    log_odds, chosen = np.random.default_rng(1).normal(0, 3, (20_000, 8)), grid_for_margin(margin)
    phases = choose_phases(log_odds, chosen)
    assert phases is not None
    low, high = (edges_below(log_odds + sign * margin, chosen) for sign in (-1, 1))
    hazards = (high - low).sum(axis=1) / PHASES
    per_group = np.add.reduceat(hazards, np.arange(0, len(hazards), phases.group_tokens))[:-1]
    assert abs(per_group.mean() - HAZARDS_PER_GROUP) < 0.5
    # A rank is safe with probability exp(-5), so the first safe one is geometric, with mean exp(5).
    assert 0.6 < phases.ranks[:-1].mean() / math.exp(HAZARDS_PER_GROUP) < 1.6
    assert 8 * len(coder.encode_ranks(phases.ranks)) / len(phases.ranks) < 10.5


def test_a_group_without_a_safe_phase_is_halved():
    chosen = Grid(64, 1e-3)
    # 640 decisions whose intervals follow each other around the circle of phases: together they leave no phase safe.
    low, high = (edges_below(np.array([sign * 1e-3]), chosen)[0] for sign in (-1, 1))
    numbers = 32 * PHASES + (np.arange(640) * int(high - low) * 3 // 4) % PHASES
    log_odds = edge(numbers, chosen)[:, None]
    few = PHASES // (int(high - low) * 3 // 4)
    at_first = int(HAZARDS_PER_GROUP * 640 / (640 * float(high - low) / PHASES))
    phases = choose_phases(log_odds, chosen)
    assert phases is not None
    assert unsafe_phases(log_odds[:few], chosen) >= set(range(0, PHASES, 8))
    assert phases.group_tokens < min(few, at_first / 2)
    lengths = [at_first]
    while lengths[-1] > phases.group_tokens:
        lengths.append((lengths[-1] + 1) // 2)
    assert lengths[-1] == phases.group_tokens
    for longer in lengths[:-1]:  # no more often than it must be
        groups = [unsafe_phases(log_odds[i : i + longer], chosen) for i in range(0, 640, longer)]
        assert max(map(len, groups)) == PHASES


def test_one_group_where_there_is_no_danger():
    phases = choose_phases(np.full((500, 8), 20.0), grid_for_margin(1e-6))
    assert phases is not None
    assert phases.group_tokens == 500
    assert phases.ranks.tolist() == [0]


@pytest.mark.parametrize(
    ("log_odds", "chosen"),
    [
        (np.zeros((1, 1)), Grid(MAX_CELLS, 0.3)),
        (np.zeros((40, 8)), Grid(MAX_CELLS, 0.01)),
        (np.linspace(-0.4, 0.4, 200)[None, :], Grid(30, 0.01)),
        (np.concatenate([np.full((50, 8), 20.0), np.zeros((1, 8)), np.full((50, 8), 20.0)]), Grid(MAX_CELLS, 0.01)),
    ],
    ids=["one decision", "many", "one token of many decisions", "one token of many"],
)
def test_an_impossible_margin_is_none(log_odds: np.ndarray, chosen: Grid):
    assert choose_phases(log_odds, chosen) is None


def test_a_finer_margin_never_has_a_coarser_grid():
    cells = [grid_for_margin(margin).cells for margin in np.logspace(-13, 1, 400)]
    assert cells == sorted(cells, reverse=True)
    assert cells[0] == MAX_CELLS
    assert cells[-1] == 2
    assert all(grid_for_margin(margin).margin == margin for margin in (1e-5, 0.1))


@given(seed=st.integers(0, 2**32), cells=st.integers(1, MAX_CELLS), phase=st.integers(0, PHASES - 1))
def test_integers_grow_with_log_odds(seed: int, cells: int, phase: int):
    log_odds = np.sort(decisions(seed, 100, 6), axis=None)
    log_odds = np.sort(np.concatenate([log_odds, np.linspace(-16, 16, 400)]))
    assert (np.diff(coded(log_odds, np.array(phase), Grid(cells, 0.0))) >= 0).all()


def test_the_table_is_exact():
    table = grid.frequency_table().tolist()
    assert len(table) == 1 << 16
    for j, found in enumerate(table):
        x = Fraction(2 * j + 1, 1 << 17)
        probability = x**3 / (x**3 + (1 - x) ** 3)
        assert found == min(ONE - 1, max(1, math.floor(probability * ONE + Fraction(1, 2))))
    assert table == sorted(table)
    assert all(abs(a + b - ONE) <= 1 for a, b in zip(table, reversed(table), strict=True))


@given(
    edges=st.integers(0, MAX_CELLS * PHASES - 1),
    cells=st.one_of(st.integers(1, 4), st.integers(1, MAX_CELLS)),
    phase=st.integers(0, PHASES - 1),
)
def test_an_integer_is_the_table_at_the_middle_of_its_cell(edges: int, cells: int, phase: int):
    n = cells * PHASES
    edges = edges % n
    cuts = sorted({0, n, *range(phase, n, PHASES)})
    lower = max(cut for cut in cuts if cut <= edges)
    upper = min(cut for cut in cuts if cut > edges)
    expected = grid.frequency_table()[math.floor(Fraction(lower + upper, 2 * n) * (1 << 16))]
    assert frequencies(np.array([edges]), np.array([phase]), cells)[0] == expected


@given(log_odds=st.floats(-14, 14), cells=st.integers(2, 500), phase=st.integers(0, PHASES - 1))
def test_an_integer_is_about_the_probability(log_odds: float, cells: int, phase: int):
    found = int(coded(np.array([log_odds]), np.array([phase]), Grid(cells, 0.0))[0])
    x = 1 / (1 + math.exp(-log_odds / 3))
    low, high = (min(1 - 1e-9, max(1e-9, x + sign / cells)) for sign in (-1, 1))
    low, high = (a**3 / (a**3 + (1 - a) ** 3) for a in (low, high))
    assert low * ONE - 2 <= found <= high * ONE + 2


@given(log_odds=st.floats(-20, 20), cells=st.integers(1, MAX_CELLS), phase=st.integers(0, PHASES - 1), nudge=st.floats(0, 1))
def test_no_and_yes_are_treated_alike(log_odds: float, cells: int, phase: int, nudge: float):
    """Turned round, a cell of phase k is one of phase -k."""
    chosen, table = Grid(cells, 0.0), grid.frequency_table()
    one = int(coded(np.array([log_odds]), np.array([phase]), chosen)[0])
    other = int(coded(np.array([-log_odds]), np.array([-phase % PHASES]), chosen)[0])
    number = edges_below(np.array([log_odds]), chosen)[0]
    if (number - phase) % PHASES not in (0, PHASES - 1):  # not in the fine cells beside an edge
        place = int(np.searchsorted(table, one))
        step = int(table[min(len(table) - 1, place + 1)] - table[max(0, place - 1)])
        assert abs(one + other - ONE) <= step + 1


@pytest.mark.parametrize("cells", [1, 2, 45, MAX_CELLS])
def test_beyond_the_limit_all_decisions_are_alike(cells: int):
    chosen = Grid(cells, 0.0)
    high = edges_below(np.array([LOG_ODDS_LIMIT, LOG_ODDS_LIMIT + 1e-9, 700.0, 1e300, np.inf]), chosen)
    low = edges_below(-np.array([LOG_ODDS_LIMIT, LOG_ODDS_LIMIT + 1e-9, 700.0, 1e300, np.inf]), chosen)
    assert len(set(high.tolist())) == len(set(low.tolist())) == 1
    assert 0 <= low[0] < high[0] < cells * PHASES
    assert low[0] == math.floor(cells * PHASES / (1 + math.exp(5)))
    assert edges_below(np.array([0.0]), chosen)[0] == cells * PHASES // 2
