import numpy as np

from lmeval.compression.text.online.runs import LONGEST, Runs, expect_runs, find_runs, learn_runs, lengthen_runs, open_runs
from lmeval.compression.text.online.tables import NAT, tables

DEPTH = 4
HERE, ELSEWHERE = 12345 << 32 | 77 << 8, 12345 << 32 | 78 << 8  # the same cell, another check


def _runs() -> Runs:
    return open_runs([0], 10, 1)


def _entered(runs: Runs, symbols: list[int], base: int = HERE) -> None:
    for symbol in symbols:
        find_runs(runs, np.array([[base]], dtype=np.uint64), 1)
        lengthen_runs(runs, np.array([symbol], dtype=np.int64))


def _said(runs: Runs, node: int = 1, decision: int = 0, base: int = HERE) -> int:
    inputs = np.zeros((1, 2), dtype=np.int32)
    find_runs(runs, np.array([[base]], dtype=np.uint64), 1)
    expect_runs(runs, tables(), np.array([node]), decision, DEPTH, 1, inputs, 1)
    return int(inputs[0, 1])


def test_nothing_is_said_where_nothing_was_seen():
    runs = _runs()
    assert _said(runs) == 0
    assert _said(runs, base=0) == 0  # a check of 0, as that of an empty cell
    _entered(runs, [0])
    assert _said(runs) != 0
    assert _said(runs, base=ELSEWHERE) == 0


def test_the_last_symbol_is_expected_until_a_bit_differs():
    runs = _runs()
    _entered(runs, [0b1010])
    assert _said(runs, 0b1, 0) > 0
    assert _said(runs, 0b11, 1) < 0
    assert _said(runs, 0b10, 1) == 0
    assert _said(runs, 0b1101, 3) < 0
    assert _said(runs, 0b1100, 3) == 0


def test_longer_runs_are_surer_up_to_a_length():
    runs, said = _runs(), []
    for _ in range(LONGEST + 5):
        _entered(runs, [15])
        said.append(_said(runs))
    assert (np.diff(said[:LONGEST]) > 0).all()
    assert set(said[LONGEST:]) == {said[LONGEST - 1]}


def test_a_context_that_has_seen_others_is_told_apart():
    runs = _runs()
    _entered(runs, [15])
    _said(runs)
    pure = runs.row[0, 0]
    _entered(runs, [14, 15])
    _said(runs)
    assert runs.row[0, 0] == pure + 16 * LONGEST
    _entered(runs, [15], base=ELSEWHERE)
    _entered(runs, [15])
    _said(runs)
    assert runs.row[0, 0] == pure  # another context had taken the place


def test_what_runs_said_is_corrected():
    runs = _runs()
    _entered(runs, [15])
    before = _said(runs)
    assert before > NAT // 2
    for _ in range(200):
        _said(runs)
        learn_runs(runs, tables(), np.array([0]), 1)
    assert _said(runs) < -3 * NAT
    assert runs.used.max() == 60
