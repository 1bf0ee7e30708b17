import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmeval.compression.coding.grid import LOG_ODDS_LIMIT
from lmeval.compression.text import tree
from lmeval.compression.text.decisions import code_length_nats, depth_of, path_bits
from lmeval.compression.text.masses import LEAST_LOGIT
from lmeval.compression.text.tree import bucket_masses, descend, path_log_odds
from lmeval.compute.memory import MASS_ROWS, Most
from lmeval.compute.place import alone
from lmeval.errors import NonFiniteScore

SIZES = (2, 3, 256, 257, 512, 600, 1000, 5000, 50257)
SMALL = (2, 3, 256, 257, 512, 600, 1000)
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def random_logits(rows: int, size: int, dtype: str = "float64", scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, (rows, size))).to(DTYPES[dtype])


def some_ids(rows: int, size: int) -> np.ndarray:
    """The first and last ids, and others."""
    ids = np.random.default_rng(size).integers(0, size, rows)
    ids[:3] = (0, size - 1, size // 2)
    return ids


def found_log_odds(logits: torch.Tensor, ids: np.ndarray, depth: int) -> np.ndarray:
    return path_log_odds(logits, torch.from_numpy(ids), depth).numpy()


def by_definition(logits: torch.Tensor, ids: np.ndarray, depth: int) -> np.ndarray:
    """ln(mass of the ids with bit 1 / mass of those with bit 0), each mass a sum over ids of the subtree; an empty one has
    the log-mass -1000."""
    rows = logits[:, : 1 << depth].double().numpy()
    rows = np.maximum(rows - rows.max(axis=1, keepdims=True), LEAST_LOGIT)
    found = np.empty((len(ids), depth))
    for row, (values, i) in enumerate(zip(rows, ids.tolist(), strict=True)):
        for level in range(depth):
            width = 1 << (depth - 1 - level)
            first = i // (2 * width) * 2 * width
            halves = [values[first : first + width], values[first + width : first + 2 * width]]
            masses = [np.logaddexp.reduce(half) if len(half) else -1000.0 for half in halves]
            found[row, level] = masses[1] - masses[0]
    return found


def limited(log_odds: np.ndarray) -> np.ndarray:
    return np.clip(log_odds, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_log_odds_are_those_of_the_definition(size: int, dtype: str):
    logits, ids, depth = random_logits(12, size, dtype), some_ids(12, size), depth_of(size)
    found, expected = found_log_odds(logits, ids, depth), by_definition(logits, ids, depth)
    assert found.shape == (12, depth)
    assert found.dtype == np.float64
    # A large vocabulary's masses are float32, its sums are not.
    assert np.abs(limited(found) - limited(expected)).max() < (1e-11 if size <= 4096 or dtype == "float64" else 3e-6)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_subtree_without_ids_is_beyond_the_grid(size: int):
    logits, depth = random_logits(2, size), depth_of(size)
    ids = np.array([size - 1, size - 1])
    found = found_log_odds(logits, ids, depth)
    width = 1 << depth
    for level in range(depth):
        width //= 2
        begin = (size - 1) // width * width
        if begin % (2 * width) == 0 and begin + width >= size:  # the other half lies behind the last id
            assert (found[:, level] < -LOG_ODDS_LIMIT - 1).all()


@pytest.mark.parametrize("depth_less", [0, 1])
@pytest.mark.parametrize("size", SIZES)
def test_decisions_multiply_to_the_softmax(size: int, depth_less: int):
    """With a depth that is less than the vocabulary has, to the softmax over the ids below 2^depth."""
    depth = max(1, depth_of(size) - depth_less)
    below = min(size, 1 << depth)
    logits, ids = random_logits(12, size), some_ids(12, below)
    log_odds = found_log_odds(logits, ids, depth)
    log_probs = -np.logaddexp(0, np.where(path_bits(ids, depth) == 1, -log_odds, log_odds)).sum(axis=1)
    expected = logits[:, :below].log_softmax(dim=1).numpy()[np.arange(12), ids]
    assert np.abs(log_probs - expected).max() < 1e-10
    assert code_length_nats(log_odds, path_bits(ids, depth)) == pytest.approx(-expected.sum(), abs=1e-9)


@pytest.mark.parametrize("size", SMALL)
def test_probabilities_of_all_ids_sum_to_one(size: int):
    depth, ids = depth_of(size), np.arange(size)
    logits = random_logits(1, size).expand(size, size)
    log_odds = found_log_odds(logits, ids, depth)
    log_probs = -np.logaddexp(0, np.where(path_bits(ids, depth) == 1, -log_odds, log_odds)).sum(axis=1)
    assert np.exp(log_probs).sum() == pytest.approx(1.0, abs=1e-12)


def walk(logits: torch.Tensor, ids: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The ids that descend finds if it is told their bits, and the log-odds that it asks about."""
    bits, asked = path_bits(ids, depth), []

    def decide(log_odds: np.ndarray) -> np.ndarray:
        asked.append(log_odds)
        return bits[:, len(asked) - 1]

    found = descend(logits, depth, decide)
    return found, np.stack(asked, axis=1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_descending_inverts_the_path_and_sees_the_same_log_odds(size: int, dtype: str):
    ids = np.arange(size) if size in SMALL else np.unique(np.append(some_ids(40, size), np.arange(250, 262)))
    depth, logits = depth_of(size), random_logits(len(ids), size, dtype)
    found, asked = walk(logits, ids, depth)
    assert found.tolist() == ids.tolist()
    assert asked.shape == (len(ids), depth)
    assert np.abs(limited(asked) - limited(found_log_odds(logits, ids, depth))).max() < 1e-9


@pytest.mark.parametrize("size", [3, 257, 600, 5000])
@pytest.mark.parametrize("bit", [0, 1])
def test_damaged_data_may_lead_to_ids_that_do_not_exist(size: int, bit: int):
    depth = depth_of(size)
    found = descend(random_logits(4, size), depth, lambda log_odds: np.full(len(log_odds), bit, dtype=np.int32))
    assert found.tolist() == [bit * ((1 << depth) - 1)] * 4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [3, 257, 1000, 50257])
@pytest.mark.parametrize("odd", ["minus infinity", "huge", "tiny", "nearly all minus infinity", "equal"])
def test_odd_logits(size: int, dtype: str, odd: str):
    rng = np.random.default_rng(0)
    values = rng.normal(0, 3, (8, size))
    if odd == "minus infinity":
        values[rng.random(values.shape) < 0.4] = -np.inf
        values[:, size // 2] = 0.0
    elif odd == "huge":
        values *= 1e4
    elif odd == "tiny":
        values *= 1e-9
    elif odd == "nearly all minus infinity":
        values[:] = -np.inf
        values[:, size // 3] = 5.0
    else:
        values[:] = 7.0
    logits = torch.from_numpy(values).to(DTYPES[dtype])
    ids, depth = some_ids(8, size), depth_of(size)
    found, expected = found_log_odds(logits, ids, depth), by_definition(logits, ids, depth)
    assert np.isfinite(found).all()
    coarse = size > 4096 and dtype == "float32"
    assert np.abs(limited(found) - limited(expected)).max() < (1e-4 if coarse else 1e-9)
    back, asked = walk(logits, ids, depth)
    assert back.tolist() == ids.tolist()
    assert np.abs(limited(asked) - limited(found)).max() < 1e-9


def test_a_token_that_the_model_rules_out_can_still_be_told():
    logits = torch.full((1, 256), -torch.inf)
    logits[0, 65] = 0.0
    bits = path_bits(np.array([66]), 8)
    log_odds = found_log_odds(logits, np.array([66]), 8)
    assert 80 - 1 < code_length_nats(log_odds, bits) < 80 + 6


@given(
    size=st.sampled_from([2, 3, 256, 257, 600, 5000]),
    seed=st.integers(0, 2**32),
    exponent=st.floats(-9, 0),
    scale=st.sampled_from([0.1, 3.0, 30.0, 1e3]),
    kind=st.sampled_from(["uniform", "ends", "split"]),
)
def test_logits_off_by_e_move_log_odds_by_at_most_2e(size: int, seed: int, exponent: float, scale: float, kind: str):
    rng, e, depth = np.random.default_rng(seed), 10.0**exponent, depth_of(size)
    logits, ids = random_logits(4, size, scale=scale, seed=seed), rng.integers(0, size, 4)
    noise = rng.uniform(-e, e, (4, size)) if kind == "uniform" else e * rng.choice([-1.0, 1.0], (4, size))
    if kind == "split":  # the worst: ids with a one up, those with a zero down
        noise = np.where(np.arange(size) >> (depth - 1) & 1, e, -e) * np.ones((4, 1))
    before, after = (found_log_odds(z, ids, depth) for z in (logits, logits + torch.from_numpy(noise)))
    assert np.abs(after - before).max() <= 2 * e + 1e-10
    if kind == "split" and scale < 10:
        assert np.abs(after - before)[:, 0].max() > 1.99 * e - 1e-10


def test_only_differences_of_logits_count():
    logits, ids = random_logits(5, 600), some_ids(5, 600)
    found = found_log_odds(logits + 1e4, ids, 10)
    assert np.abs(found - found_log_odds(logits, ids, 10)).max() < 1e-8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [257, 5000])
def test_slices_of_rows_do_not_matter(size: int, dtype: str, monkeypatch: pytest.MonkeyPatch):
    logits, ids, depth = random_logits(23, size, dtype), some_ids(23, size), depth_of(size)
    expected = found_log_odds(logits, ids, depth)
    for rows in (1, 2, 7, 23):
        monkeypatch.setattr(tree, "MASS_ROWS", MASS_ROWS._replace(units=Most(rows, rows)))
        assert np.array_equal(found_log_odds(logits, ids, depth), expected)
        assert walk(logits, ids, depth)[0].tolist() == ids.tolist()


@pytest.mark.parametrize("size", [3, 600, 5000])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_say_nothing_are_refused(size: int, value: float):
    logits, ids, depth = random_logits(3, size), some_ids(3, size), depth_of(size)
    if value == -np.inf:
        logits[1] = value
    else:
        logits[1, size // 2] = value
    for find in (lambda: found_log_odds(logits, ids, depth), lambda: walk(logits, ids, depth)):
        with pytest.raises(NonFiniteScore, match="NaN or infinite"):
            find()


def test_ids_behind_the_tree_are_left_out():
    """Special tokens, which text never has: whatever their logits are."""
    logits, ids = random_logits(5, 600), np.array([0, 511, 300, 255, 256])
    expected = found_log_odds(logits, ids, 9)
    logits[:, 512:] = torch.tensor([1e4, -torch.inf, torch.nan, torch.inf]).repeat(22)
    assert np.array_equal(found_log_odds(logits, ids, 9), expected)
    assert walk(logits, ids, 9)[0].tolist() == ids.tolist()


def test_rows_do_not_matter_to_each_other():
    logits, ids = random_logits(40, 600, "float32"), some_ids(40, 600)
    together = found_log_odds(logits, ids, 10)
    for i in range(0, 40, 7):
        assert np.abs(found_log_odds(logits[i : i + 1], ids[i : i + 1], 10) - together[i]).max() < 1e-12


def test_a_memory_budget_makes_slices_smaller_and_masses_stay(monkeypatch: pytest.MonkeyPatch):
    logits, seen, sub = random_logits(50, 300), [], torch.sub
    place = alone()._replace(memory=int(7.5 * 4 * 300 / MASS_ROWS.share))
    expected = bucket_masses(logits, 9)
    monkeypatch.setattr(torch, "sub", lambda a, b, **k: (seen.append(len(a)), sub(a, b, **k))[1])
    masses = bucket_masses(logits, 9, place)
    assert seen == [7] * 7 + [1]
    assert torch.equal(masses.masses, expected.masses)
