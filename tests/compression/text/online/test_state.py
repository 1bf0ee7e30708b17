import numpy as np
import pytest

from lmeval.compression.text.online.recipes import recipe_for
from lmeval.compression.text.online.state import State, decide_step, learn_step, open_state
from lmeval.compression.text.online.tables import ONE, tables


def _open(n_tokens: int = 40, n_lanes: int = 3, *, use_model: bool = True, depth: int = 8) -> State:
    return open_state(recipe_for("full", depth, n_lanes), depth, n_tokens, n_lanes, use_model=use_model)


def _arrays(part: object) -> list[np.ndarray]:
    if isinstance(part, np.ndarray):
        return [part]
    return [array for one in part for array in _arrays(one)] if isinstance(part, tuple) else []


def _read(state: State, bits: np.ndarray) -> np.ndarray:
    """All frequencies of a block with these bits [steps, decisions, lanes], all lanes full."""
    found = np.zeros(bits.shape, dtype=np.int64)
    given = np.full(bits.shape[2], ONE // 3, dtype=np.int32)
    for step, decision in np.ndindex(bits.shape[:2]):
        adapted = np.empty_like(given)
        decide_step(state, step, decision, given, adapted)
        learn_step(state, step, decision, bits[step, decision])
        found[step, decision] = adapted
    return found


def test_blocks_share_no_memory_but_the_constant_tables():
    one, two = _open(), _open()
    constant = {id(array) for array in _arrays(tables())}
    ours, theirs = ([a for a in _arrays(state) if id(a) not in constant and a.size] for state in (one, two))
    assert len(ours) > 30
    for a in ours:
        assert not any(np.may_share_memory(a, b) for b in theirs)
    for i, a in enumerate(ours):
        assert not any(np.may_share_memory(a, b) for b in ours[i + 1 :])


def test_a_new_block_is_as_the_first_one_was():
    bits = np.random.default_rng(1).integers(0, 2, (10, 8, 3))
    before, first = [array.copy() for array in _arrays(_open())], _read(_open(), bits)
    assert all((a == b).all() for a, b in zip(before, _arrays(_open()), strict=True))
    np.testing.assert_array_equal(_read(_open(), bits), first)


def test_constant_tables_stay_as_they_are():
    before = [array.copy() for array in _arrays(tables())]
    _read(_open(), np.random.default_rng(2).integers(0, 2, (10, 8, 3)))
    assert all((a == b).all() for a, b in zip(before, _arrays(tables()), strict=True))


@pytest.mark.parametrize("depth", [8, 11])
def test_the_symbols_are_put_together_from_their_bits(depth: int):
    bits = np.random.default_rng(3).integers(0, 2, (12, depth, 3))
    state = _open(36, depth=depth)
    _read(state, bits)
    weights = 1 << np.arange(depth)[::-1]
    assert state.ids.tolist() == np.einsum("sdl,d->sl", bits, weights).reshape(-1).tolist()


def test_predicting_again_changes_nothing():
    state, given = _open(), np.full(3, ONE // 3, dtype=np.int32)
    _read(state, np.random.default_rng(4).integers(0, 2, (10, 8, 3)))
    found = [np.empty_like(given) for _ in range(2)]
    decide_step(state, 10, 0, given, found[0])
    learn_step(state, 10, 0, np.array([1, 0, 1]))
    for one in found:
        decide_step(state, 10, 1, given, one)
    np.testing.assert_array_equal(found[0], found[1])


def test_a_language_model_that_is_not_used_is_not_read():
    bits = np.random.default_rng(5).integers(0, 2, (10, 8, 3))
    one, two = _open(use_model=False), _open(use_model=False)
    for step, decision in np.ndindex(10, 8):
        found = [np.empty(3, dtype=np.int32) for _ in range(2)]
        decide_step(one, step, decision, np.full(3, 1, dtype=np.int32), found[0])
        decide_step(two, step, decision, np.full(3, ONE - 1, dtype=np.int32), found[1])
        np.testing.assert_array_equal(found[0], found[1])
        for state in (one, two):
            learn_step(state, step, decision, bits[step, decision])
