import numpy as np
import pytest

from lmeval.compression.text.decisions import code_length_nats, depth_of, path_bits


@pytest.mark.parametrize("depth", [1, 5, 8, 9, 16])
def test_path_bits_are_the_ids_in_binary(depth: int):
    ids = np.unique(np.random.default_rng(0).integers(0, 1 << depth, 300))
    assert ["".join(map(str, bits)) for bits in path_bits(ids, depth).tolist()] == [format(i, f"0{depth}b") for i in ids]


@pytest.mark.parametrize("depth", [1, 8, 9])
def test_a_fair_decision_costs_a_bit_and_one_that_is_certain_the_log_odds_against_it(depth: int):
    bits = path_bits(np.arange(1 << depth), depth)
    assert code_length_nats(np.zeros(bits.shape), bits) == pytest.approx(bits.size * np.log(2))
    sure = np.where(bits == 1, 50.0, -50.0)
    assert code_length_nats(sure, bits) < bits.size * 1e-21
    assert code_length_nats(-sure, bits) == pytest.approx(50 * bits.size)


def test_code_lengths_of_many_rows_are_their_sum(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(2)
    log_odds, bits = rng.normal(0, 4, (100, 8)), rng.integers(0, 2, (100, 8)).astype(np.int32)
    whole = code_length_nats(log_odds, bits)
    monkeypatch.setattr("lmeval.compression.text.decisions._AT_ONCE", 7)
    assert code_length_nats(log_odds, bits) == pytest.approx(whole, rel=1e-14)
    assert whole == pytest.approx(np.log1p(np.exp(np.where(bits == 1, -log_odds, log_odds))).sum())


def test_depth_tells_all_ids_apart():
    for n_ids in range(2, 600):
        assert 1 << (depth_of(n_ids) - 1) < n_ids <= 1 << depth_of(n_ids)
