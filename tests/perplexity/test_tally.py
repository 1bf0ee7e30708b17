import itertools
import math

import numpy as np
import pytest

from lmeval import stats
from lmeval.perplexity import tally
from lmeval.perplexity.tally import COLUMN, COLUMNS, DocumentSums, ScoredWindow, Tally, named

NATS, TOKENS, BYTES = (COLUMN[name] for name in ("nats", "tokens", "bytes"))


def window(document: int, nats: np.ndarray, units: np.ndarray | None = None, n_before: int = 0) -> ScoredWindow:
    """A window whose tokens have one byte, character and word each, unless `units` says otherwise."""
    units = np.ones((len(nats), 3), dtype=np.int32) if units is None else units
    return ScoredWindow((document, f"d{document}"), -nats, units, n_before, 0)


def fill(
    context: int = 8, documents: int = 3, windows: int = 5, seed: int = 0, on_document=None
) -> tuple[Tally, np.ndarray]:
    """A tally, and its rows [document, nats, tokens, bytes, characters, words, tokens before] one a token."""
    rng = np.random.default_rng(seed)
    sums, rows = Tally(context, on_document), []
    for document in range(documents):
        for _ in range(windows):
            n = int(rng.integers(1, context + 1))
            before = int(rng.integers(0, context - n + 1))
            units = rng.integers(0, 5, size=(n, 3)).astype(np.int32)
            nats = rng.exponential(2.0, size=n).astype(np.float32)
            sums.add_window(window(document, nats, units, before))
            rows += [[document, nats[i], 1, *units[i], before + i] for i in range(n)]
    sums.finish()
    return sums, np.array(rows, dtype=np.float64)


def test_totals_are_the_sums_of_all_tokens():
    sums, rows = fill()
    np.testing.assert_allclose(sums.moments.total, rows[:, 1:6].sum(axis=0), rtol=1e-12)
    assert sums.n_windows == 15


def test_every_document_is_one_row_and_is_reported_once_in_order():
    seen: list[DocumentSums] = []
    sums, rows = fill(documents=4, on_document=seen.append)
    assert [document.name for document in seen] == ["d0", "d1", "d2", "d3"]
    by_document = np.array([rows[rows[:, 0] == d, 1:6].sum(axis=0) for d in range(4)])
    np.testing.assert_allclose([document.row for document in seen], by_document, rtol=1e-12)
    np.testing.assert_allclose(sums.moments.products, by_document.T @ by_document, rtol=1e-12)


def test_two_documents_of_one_name_stay_two():
    sums = Tally(4)
    for index in range(2):
        sums.add_window(window(index, np.ones(1, dtype=np.float32))._replace(document=(index, "same")))
    sums.finish()
    assert sums.moments.n == 2


def test_sums_are_taken_in_float64():
    sums, value = Tally(4), np.float32(0.1)
    for _ in range(50_000):
        sums.add_window(window(0, np.full(4, value)))
    sums.finish()
    assert sums.moments.total[NATS] == pytest.approx(200_000 * float(value), rel=1e-11)  # float32 sums drift by 1e-4
    small, big = Tally(2), np.array([16777216.0, 1.0], dtype=np.float32)
    small.add_window(window(0, big))
    small.finish()
    assert small.moments.total[NATS] == 16777217.0  # float32 has no such number


@pytest.mark.parametrize("context", [1, 2, 5, 8, 9])
def test_position_bins_are_disjoint_and_sum_to_the_total(context: int):
    sums, rows = fill(context=context, documents=5)
    bins = sums.by_position()
    np.testing.assert_allclose(sum(found.row for found in bins), sums.moments.total, rtol=1e-12)
    assert all(a.stop <= b.first for a, b in itertools.pairwise(bins))
    for found in bins:
        mine = (rows[:, 6] >= found.first) & (rows[:, 6] < found.stop)
        np.testing.assert_allclose(found.row, rows[mine, 1:6].sum(axis=0), rtol=1e-12)


def test_pieces_stay_bounded_in_order_and_sum_to_the_total(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tally, "MAX_PIECES", 8)
    for windows in (7, 8, 9, 16, 17, 100):
        sums, rows = fill(documents=1, windows=windows)
        pieces = np.array(sums._pieces)
        assert len(pieces) <= 8
        np.testing.assert_allclose(pieces.sum(axis=0), rows[:, 1:6].sum(axis=0), rtol=1e-12)
        merged = 2 ** max(0, math.ceil(math.log2(windows / 8)))
        assert len(pieces) == math.ceil(windows / merged)


def test_few_documents_are_bootstrapped_in_blocks_and_many_are_linearised():
    few, _ = fill(documents=tally.ENOUGH_DOCUMENTS - 1)
    many, _ = fill(documents=tally.ENOUGH_DOCUMENTS)
    assert few.spread(0).method == "blocks"
    assert few.spread(0).n == 5 * (tally.ENOUGH_DOCUMENTS - 1)
    assert many.spread(0).method == "documents"
    expected = stats.linearised_ratio(many.moments, NATS, BYTES)
    assert tally.ratio(many.spread(0), "bytes") == expected


def test_a_single_window_has_no_interval():
    sums, rows = fill(documents=1, windows=1)
    found = tally.ratio(sums.spread(0), "tokens")
    assert (found.stderr, found.ci95) == (None, None)
    assert found.value == pytest.approx(rows[:, 1].mean())
    assert sums.spread(0).method == "none"


def test_both_methods_give_the_one_ratio_of_sums():
    for documents in (3, 40):
        sums, rows = fill(documents=documents)
        for column in COLUMNS[1:]:
            ratio = tally.ratio(sums.spread(0), column).value
            assert ratio == pytest.approx(rows[:, 1].sum() / rows[:, 1 + COLUMN[column]].sum(), rel=1e-12)


def test_methods_agree_on_independent_windows():
    # One window a document makes documents and pieces the same units: the two methods must then tell the same error.
    sums, _ = fill(documents=400, windows=1)
    pieces = np.array(sums._pieces)
    blocks = stats.bootstrapped_ratio(pieces.sum(axis=0), stats.block_bootstrap(pieces, 1, 0), NATS, BYTES)
    assert tally.ratio(sums.spread(0), "bytes").stderr == pytest.approx(blocks.stderr, rel=0.1)


def test_a_row_is_read_by_names():
    sums, rows = fill()
    assert named(sums.moments.total) == pytest.approx(dict(zip(COLUMNS, rows[:, 1:6].sum(axis=0), strict=True)))
