from collections.abc import Callable

import numpy as np
import page_online
import pytest
from samples import PROSE, ROOT

from lmeval.compression.text.adaptive import Adaptive, adapt_known, learn, memory_bytes, open_adaptive, predict

ONE = 1 << 22
_RNG = np.random.default_rng(11)
_SENTENCE = b"It was a bright cold day, and the clocks were striking.\n"
TEXTS = {
    "scripts": "Ελληνικά и русский 日本語の 🙂🇺🇦 naïve café e\u0301. Прошу вас, 日本語の 🙂.\n".encode() * 2,
    "code": b"def f(x):\n    if x > 1:\n        return f(x - 1)\n\n\tfor Item in range(9):\n\t    g(Item)\n  Go(x)\n" * 2,
    "repeats": _SENTENCE * 3 + b"".join(_SENTENCE[:k] + b"#" for k in (9, 47, 12)) + _SENTENCE,
    "binary": b"odd \xff\xc3\x28 \xe2\x82 cut \xf0\x9f\x99\x82\xf0\x9f \x80\x80\x80\x80\x80\xc3 \xed\xa0\x80 sur" * 2
    + _RNG.bytes(99)
    + bytes(60),
}
LANES = [("full", 1), ("full", 5), ("full", 8), ("full", 64), ("light", 1), ("light", 5), ("light", 8), ("light", 64)]
SHAPES = [(8, 1), (8, 5), (8, 9), (8, 64), (9, 1), (9, 9), (16, 1), (16, 9)]  # depth, lanes
Given = np.ndarray


def _prose() -> Given:
    return np.frombuffer((ROOT / "compression" / "FORMAT.md").read_bytes()[:8000], dtype=np.uint8).astype(np.int64)


def _bits(ids: Given, depth: int) -> Given:
    return ids[:, None] >> np.arange(depth)[::-1] & 1


def _frequencies(ids: Given, depth: int, seed: int = 1) -> Given:
    """As of a language model that is right more often than not."""
    log_odds = np.random.default_rng(seed).normal(0, 2.5, (len(ids), depth)) + 2 * _bits(ids, depth) - 1
    return np.clip((ONE / (1 + np.exp(-log_odds))).astype(np.int64), 1, ONE - 1)


def _tokens(depth: int, n: int = 250) -> Given:
    """Tokens of which few are frequent, with a part that comes again."""
    rng = np.random.default_rng(depth)
    ids = (2 ** (depth * rng.random(n) ** 1.5) - 1).astype(np.int64)
    ids[n // 2 : n // 2 + 80] = ids[:80]
    ids[n // 2 + 40] = 3
    return ids


def _symbols(depth: int) -> Given:
    return np.frombuffer((PROSE * 2).encode()[:303], dtype=np.uint8).astype(np.int64) if depth == 8 else _tokens(depth)


def _adapted(level: str, depth: int, lanes: int, ids: Given, frequencies: Given, *, use_model: bool = True) -> Given:
    return adapt_known(open_adaptive(level, depth, len(ids), lanes, use_model=use_model), frequencies, ids)


def _cost(found: Given, ids: Given) -> Given:
    """Bits of each symbol."""
    ones = found / ONE
    return -np.log2(np.where(_bits(ids, found.shape[1]) == 1, ones, 1 - ones)).sum(axis=1)


def _from_page(level: str, depth: int, lanes: int, ids: Given, frequencies: Given | None) -> Given:
    given = None if frequencies is None else frequencies.tolist()
    return np.array(page_online.adapt(level, depth, lanes, ids.tolist(), given))


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize(("level", "lanes"), LANES)
def test_bytes_have_the_frequencies_of_the_page(name: str, level: str, lanes: int):
    ids = np.frombuffer(TEXTS[name], dtype=np.uint8).astype(np.int64)
    frequencies = _frequencies(ids, 8)
    np.testing.assert_array_equal(_adapted(level, 8, lanes, ids, frequencies), _from_page(level, 8, lanes, ids, frequencies))


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("depth", [3, 9, 16])
@pytest.mark.parametrize("lanes", [1, 9])
def test_tokens_have_the_frequencies_of_the_page(level: str, depth: int, lanes: int):
    ids = _tokens(depth)
    frequencies = _frequencies(ids, depth)
    found = _adapted(level, depth, lanes, ids, frequencies)
    np.testing.assert_array_equal(found, _from_page(level, depth, lanes, ids, frequencies))


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("name", TEXTS)
def test_bytes_without_a_language_model_have_the_frequencies_of_the_page(level: str, name: str):
    ids = np.frombuffer(TEXTS[name], dtype=np.uint8).astype(np.int64)
    ignored = _frequencies(ids, 8)
    found = _adapted(level, 8, 1, ids, ignored, use_model=False)
    np.testing.assert_array_equal(found, _from_page(level, 8, 1, ids, None))


@pytest.mark.parametrize("level", ["light", "full"])
def test_what_has_been_used_often_still_has_the_frequencies_of_the_page(level: str):
    # Averages, maps and runs stop counting: after 60, 120, 250 and 900 uses.
    ids = np.full(1000, 5, dtype=np.int64)
    ids[500::100] = 4
    frequencies = _frequencies(ids, 3)
    np.testing.assert_array_equal(_adapted(level, 3, 1, ids, frequencies), _from_page(level, 3, 1, ids, frequencies))


def _follow(state: Adaptive, lanes: int, frequencies: Given, decide: Callable[[int, int, Given], Given]) -> Given:
    """All frequencies as a decoder comes to them; `decide` gives the bits of a step's decision, which has frequencies."""
    n_tokens, depth = frequencies.shape
    found = np.zeros_like(frequencies)
    for first in range(0, n_tokens, lanes):
        step = slice(first, min(first + lanes, n_tokens))
        for d in range(depth):
            found[step, d] = predict(state, np.ascontiguousarray(frequencies[step, d]))
            learn(state, decide(first, d, found[step, d]).astype(np.int32))
    return found


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize(("depth", "lanes"), SHAPES)
@pytest.mark.parametrize("use_model", [True, False])
def test_a_decoder_comes_to_the_encoders_frequencies(level: str, depth: int, lanes: int, use_model: bool):
    ids = _symbols(depth)
    assert lanes == 1 or len(ids) % lanes  # the last step has fewer lanes
    frequencies, bits = _frequencies(ids, depth), _bits(ids, depth)
    state = open_adaptive(level, depth, len(ids), lanes, use_model=use_model)
    found = _follow(state, lanes, frequencies, lambda first, d, given: bits[first : first + len(given), d])
    np.testing.assert_array_equal(found, _adapted(level, depth, lanes, ids, frequencies, use_model=use_model))


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize(("depth", "lanes"), SHAPES)
def test_no_bit_changes_the_frequencies_of_its_decision_or_earlier_ones(level: str, depth: int, lanes: int):
    ids, rng = _symbols(depth), np.random.default_rng(3)
    frequencies = _frequencies(ids, depth)
    before = _adapted(level, depth, lanes, ids, frequencies)
    for step, d in ((0, 0), (2, 1), (len(ids) // lanes // 2, 0), (len(ids) // lanes // 2, depth - 1)):
        first, stop = step * lanes, (step + 1) * lanes
        other, given = ids.copy(), frequencies.copy()
        other[first:] = rng.integers(0, 1 << depth, len(ids) - first)
        given[stop:] = rng.integers(1, ONE, given[stop:].shape)
        given[first:stop, d + 1 :] = 77
        kept = (1 << depth) - (1 << (depth - d))  # the step's bits before this decision
        other[first:stop] = (ids[first:stop] & kept) | (~ids[first:stop] & ~kept & (1 << depth) - 1)
        after = _adapted(level, depth, lanes, other, given)
        np.testing.assert_array_equal(after[:first], before[:first])
        np.testing.assert_array_equal(after[first:stop, : d + 1], before[first:stop, : d + 1])
        assert (after[stop:] != before[stop:]).any()


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize(("depth", "lanes"), [(8, 1), (8, 64), (16, 9)])
def test_two_passes_are_equal(level: str, depth: int, lanes: int):
    ids = _symbols(depth)
    frequencies = _frequencies(ids, depth)
    once, twice = (_adapted(level, depth, lanes, ids, frequencies) for _ in range(2))
    np.testing.assert_array_equal(once, twice)


@pytest.mark.parametrize("use_model", [True, False])
def test_blocks_that_are_open_at_a_time_learn_nothing_of_each_other(use_model: bool):
    ids = _symbols(8)
    frequencies, bits = _frequencies(ids, 8), _bits(ids, 8)
    alone = _adapted("full", 8, 5, ids, frequencies, use_model=use_model)
    first, second = (open_adaptive("full", 8, len(ids), 5, use_model=use_model) for _ in range(2))

    def decide(at: int, d: int, given: Given) -> Given:
        # The other block reads the opposite bits between this one's decisions.
        predict(second, ONE - frequencies[at : at + len(given), d])
        learn(second, (1 - bits[at : at + len(given), d]).astype(np.int32))
        return bits[at : at + len(given), d]

    np.testing.assert_array_equal(_follow(first, 5, frequencies, decide), alone)
    np.testing.assert_array_equal(_adapted("full", 8, 5, ids, frequencies, use_model=use_model), alone)


def _adversaries(n: int) -> dict[str, tuple[Given, Given]]:
    rng, constant = np.random.default_rng(5), np.full(n, 255, dtype=np.int64)
    anything = rng.integers(0, 256, n)
    extremes = rng.choice(np.array([1, 2, ONE // 2, ONE - 2, ONE - 1]), (n, 8))
    wrong = np.where(_bits(anything, 8) == 1, 1, ONE - 1)
    return {
        "random bits, extreme frequencies": (anything, extremes),
        "random bits, frequencies always wrong": (anything, wrong),
        "random bits, any frequency": (anything, rng.integers(1, ONE, (n, 8))),
        "constant, frequencies right": (constant, np.full((n, 8), ONE - 1)),
        "constant, frequencies wrong": (constant, np.full((n, 8), 1)),
        "constant zero, frequencies wrong": (constant - 255, np.full((n, 8), ONE - 1)),
        "constant for long, then not": (np.where(np.arange(n) < n - 99, 0, 255), np.full((n, 8), ONE // 2)),
    }


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("name", _adversaries(1))
def test_every_frequency_can_be_coded(level: str, name: str):
    ids, frequencies = _adversaries(20_000)[name]
    found = _adapted(level, 8, 1 if level == "full" else 64, ids, frequencies)
    assert found.min() >= 1
    assert found.max() <= ONE - 1


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("use_model", [True, False])
def test_random_bytes_hardly_grow(level: str, use_model: bool):
    ids = np.random.default_rng(6).integers(0, 256, 20_000)
    found = _adapted(level, 8, 1, ids, np.full((len(ids), 8), ONE // 2), use_model=use_model)
    assert 8 <= _cost(found, ids).mean() < 8 * 1.02


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("use_model", [True, False])
def test_a_text_costs_much_less_the_second_time(level: str, use_model: bool):
    text = _prose()[:3000]
    ids = np.concatenate([text, text])
    cost = _cost(_adapted(level, 8, 1, ids, np.full((len(ids), 8), ONE // 2), use_model=use_model), ids)
    assert cost[:3000].sum() < 0.75 * 8 * 3000
    assert cost[3000:].sum() < 0.15 * cost[:3000].sum()


@pytest.mark.parametrize("level", ["light", "full"])
def test_a_text_costs_much_less_when_another_lane_has_read_it(level: str):
    prose = _prose()
    text, one, two = prose[:2000], prose[3000:5000], prose[6000:8000]
    ids = np.stack([np.concatenate([text, one]), np.concatenate([two, text])], axis=1).reshape(-1)
    cost = _cost(_adapted(level, 8, 2, ids, np.full((len(ids), 8), ONE // 2)), ids).reshape(-1, 2)
    assert cost[2000:, 1].sum() < 0.2 * cost[:2000, 0].sum()


@pytest.mark.parametrize("level", ["light", "full"])
def test_what_a_good_language_model_says_is_not_spoilt(level: str):
    ids = np.random.default_rng(7).integers(0, 256, 5000)
    frequencies = np.where(_bits(ids, 8) == 1, int(0.99 * ONE), int(0.01 * ONE))
    assert _cost(_adapted(level, 8, 1, ids, frequencies), ids).sum() < 1.02 * _cost(frequencies, ids).sum()


@pytest.mark.parametrize("level", ["light", "full"])
def test_a_language_model_that_is_sure_and_wrong_is_corrected(level: str):
    ids = np.tile(np.arange(65, 91), 100)
    frequencies = np.where(_bits(ids, 8) == 1, int(0.01 * ONE), int(0.99 * ONE))
    assert _cost(_adapted(level, 8, 1, ids, frequencies), ids)[1000:].mean() < 0.1


def test_progress_is_told_of_every_symbol():
    ids, told = _symbols(8), []
    adapt_known(open_adaptive("light", 8, len(ids), 3), _frequencies(ids, 8), ids, told.append)
    assert sum(told) == len(ids)
    assert min(told) > 0


def _size(part: object) -> int:
    if isinstance(part, np.ndarray):
        return part.nbytes
    return sum(map(_size, part)) if isinstance(part, tuple) else 0


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize(("depth", "lanes"), [(8, 1), (8, 256), (16, 64), (16, 4096)])
@pytest.mark.parametrize("n_tokens", [256, 100_000, 1 << 22])
def test_the_memory_of_a_block_is_known_beforehand(level: str, depth: int, lanes: int, n_tokens: int):
    size = _size(open_adaptive(level, depth, n_tokens, lanes).state)
    bound = memory_bytes(level, depth, n_tokens, lanes)
    assert size <= bound
    if n_tokens >= 100_000:
        assert bound < 1.4 * size
