import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from samples import ROOT

from lmeval.compression.coding import coder, grid
from lmeval.compression.coding.grid import PHASES, Grid
from lmeval.compression.coding.stack import is_used_up, open_stack
from lmeval.compression.text import adaptive, byte_decoder, byte_tree, decisions, lanes, tree
from lmeval.compression.text.byte_decoder import decode_step, open_cells
from lmeval.compression.text.online.recipes import LEVELS

GRIDS = [grid.grid_for_margin(margin) for margin in (1e-10, 1e-5, 1e-2, 1.0)]
_RNG = np.random.default_rng(5)
_WORDS = _RNG.integers(0, 256, 400, dtype=np.uint8).tobytes()
WORDS = {
    "random": _WORDS,
    "few": _WORDS[:40],
    "cut within a word": _WORDS[:43],
    "one": b"\x01\x00\x00\x00",
    "less than one": b"ab",
    "none": b"",
    "ones": b"\xff" * 400,
    "nearly zeros": b"\0" * 399 + b"\x01",
}


class Text(NamedTuple):
    """Logits of every step, phases of every token, in coding order, and the online models' level."""

    logits: list[np.ndarray]
    phases: np.ndarray
    n_lanes: int
    depth: int
    level: str


def some_text(n_tokens: int, n_lanes: int, level: str, *, size: int = 257, depth: int = 8, scale: float = 4.0) -> Text:
    rng = np.random.default_rng(n_tokens)
    active = [lanes.n_active(step, n_tokens, n_lanes) for step in range(lanes.n_steps(n_tokens, n_lanes))]
    logits = [rng.normal(0, scale, (n, size)).astype(np.float32) for n in active]
    phases = rng.integers(0, PHASES, n_tokens)
    phases[: n_tokens // 3] = (0, PHASES - 1)[n_tokens % 2]
    return Text(logits, phases, n_lanes, depth, level)


def opened(text: Text) -> adaptive.Adaptive | None:
    if text.level == "none":
        return None
    return adaptive.open_adaptive(text.level, text.depth, len(text.phases), text.n_lanes)


class Decoded(NamedTuple):
    """Ids in coding order, words that are left, the coder's state, whether all is read, the online models."""

    ids: list[int]
    left: int
    state: int
    used_up: bool
    online: adaptive.Adaptive | None


def decoded_as_any_vocabulary(text: Text, data: bytes, chosen: Grid) -> Decoded:
    """Decision by decision: the tree, the grid, the coder and the online models one after the other."""
    reader, online, ids = coder.BitReader(data), opened(text), []
    for logits in text.logits:
        phase = text.phases[len(ids) : len(ids) + len(logits)]

        def decide(log_odds: np.ndarray, phase: np.ndarray = phase) -> np.ndarray:
            frequencies = grid.frequencies(grid.edges_below(log_odds, chosen), phase, chosen.cells)
            if online is None:
                return reader.read(frequencies)
            bits = reader.read(adaptive.predict(online, frequencies))
            adaptive.learn(online, bits)
            return bits

        ids += tree.descend(torch.from_numpy(logits), text.depth, decide).tolist()
    left, state = reader._coder.pos()
    return Decoded(ids, left, state, reader.used_up(), online)


def decoded_as_bytes(text: Text, data: bytes, chosen: Grid) -> Decoded:
    stack, cells, online, ids = open_stack(data), open_cells(chosen), opened(text), []
    space = byte_tree.open_trees(text.n_lanes, text.depth)
    state = online.state if online else None
    for step, logits in enumerate(text.logits):
        trees = space[: len(logits)]
        byte_tree.fill_trees(logits, trees)
        phases = text.phases[len(ids) : len(ids) + len(logits)]
        ids += decode_step(stack, cells, state, step, trees, phases).tolist()
    return Decoded(ids, int(stack.left[0]), int(stack.state[0]), is_used_up(stack), online)


def same(text: Text, data: bytes, chosen: Grid) -> bool:
    expected, decoded = decoded_as_any_vocabulary(text, data, chosen), decoded_as_bytes(text, data, chosen)
    if decoded.online and expected.online:
        pairs = zip(_arrays(decoded.online.state), _arrays(expected.online.state), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    return decoded[:-1] == expected[:-1]


def _arrays(part: Any) -> list[np.ndarray]:
    """All that online models have learnt."""
    if isinstance(part, tuple):
        return [array for inner in part for array in _arrays(inner)]
    return [np.asarray(part)]


@pytest.mark.parametrize("chosen", GRIDS)
@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("n_lanes", [1, 3, 16])
def test_any_words_give_the_ids_of_the_readable_road(n_lanes: int, words: str, chosen: Grid):
    for n_tokens in (1, 29, 64):
        if n_tokens >= n_lanes:
            assert same(some_text(n_tokens, n_lanes, "none"), WORDS[words], chosen)


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("words", ["random", "few", "none"])
@pytest.mark.parametrize(("n_tokens", "n_lanes"), [(23, 1), (50, 3), (70, 16)])
def test_online_models_learn_what_they_learn_on_the_readable_road(n_tokens: int, n_lanes: int, words: str, level: str):
    assert same(some_text(n_tokens, n_lanes, level), WORDS[words], GRIDS[1])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("size", "depth"), [(256, 8), (300, 8), (130, 8), (100, 7), (3, 2)])
def test_vocabularies_of_other_sizes(size: int, depth: int, level: str):
    assert same(some_text(40, 7, level, size=size, depth=depth), WORDS["random"], GRIDS[1])


@pytest.mark.parametrize("scale", [1e-6, 40.0, 1e4])
def test_decisions_of_any_certainty(scale: float):
    for chosen in GRIDS:
        assert same(some_text(200, 9, "none", scale=scale), WORDS["random"], chosen)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(("n_tokens", "n_lanes"), [(1, 1), (47, 1), (301, 8)])
def test_what_was_encoded_comes_back(n_tokens: int, n_lanes: int, level: str):
    text, chosen = some_text(n_tokens, n_lanes, level), GRIDS[1]
    ids = np.random.default_rng(n_tokens).integers(0, 256, n_tokens)
    log_odds = np.empty((n_tokens, 8))
    byte_tree.path_log_odds(np.concatenate(text.logits), ids, log_odds)
    frequencies = grid.frequencies(grid.edges_below(log_odds, chosen), text.phases[:, None], chosen.cells)
    online, bits = opened(text), decisions.path_bits(ids, 8)
    if online:
        frequencies = adaptive.adapt_known(online, frequencies, ids)
    parts = (
        [part[first : first + n_lanes].T.reshape(-1) for first in range(0, n_tokens, n_lanes)]
        for part in (bits, frequencies)
    )
    decoded = decoded_as_bytes(text, coder.encode_bits(*map(np.concatenate, parts)), chosen)
    assert decoded.ids == ids.tolist()
    assert decoded.used_up


@pytest.mark.parametrize("chosen", GRIDS)
def test_every_place_has_the_frequency_of_the_grid(chosen: Grid):
    """Places below, at and above fine edges, in the phases that have a cell's edge there, and in others."""
    cells, fine = open_cells(chosen), chosen.cells * PHASES
    places = np.concatenate(
        [np.random.default_rng(0).integers(1, fine, 60), [1, PHASES - 1, PHASES, fine - PHASES, fine - 1]]
    )
    log_odds = 3.0 * (np.log(places) - np.log(fine - places))
    log_odds = np.concatenate([log_odds - 1e-8, log_odds + 1e-8, [0.0, -0.0, 15.0, -15.0, 700.0, -700.0]])
    for phase in np.array([0, 1, PHASES - 1, *places[:9] % PHASES]):
        expected = grid.frequencies(grid.edges_below(log_odds, chosen), np.full(len(log_odds), phase), chosen.cells)
        assert [byte_decoder._frequency(cells, phase, value) for value in log_odds] == expected.tolist()


def test_no_lane_may_have_a_token():
    cells, stack = open_cells(GRIDS[0]), open_stack(_WORDS)
    none = np.zeros(0, dtype=np.int64)
    for level in LEVELS:
        online = opened(some_text(5, 2, level))
        assert len(decode_step(stack, cells, online and online.state, 0, byte_tree.open_trees(0), none)) == 0
    assert stack.left[0] == 98


def test_neither_pytorch_nor_transformers_is_imported():
    code = (
        "import sys\n"
        "from lmeval.compression.text import adaptive, byte_decoder, byte_tree\n"
        "print(*{'torch', 'transformers', 'constriction'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (ran.stdout.strip(), ran.returncode) == ("", 0), ran.stderr
