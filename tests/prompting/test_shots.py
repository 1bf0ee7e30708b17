"""Few-shot examples depend on the item, the seed and the pool alone, and the item is never among them."""

from collections import Counter
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from lm_eval.api.samplers import FirstNSampler

from lmeval.data.rows import Row, with_ids
from lmeval.errors import InputError
from lmeval.prompting.shots import Pool, draw
from lmeval.prompting.task import SAMPLERS, Sampler

ALL: tuple[Sampler, ...] = get_args(Sampler)
DRAWN: tuple[Sampler, ...] = ("default", "fixed", "balanced")


def rows_of(values: list[int], n_labels: int = 3) -> list[Row]:
    """Rows by what they hold; equal values are rows of equal content."""
    return with_ids([{"q": value, "label": value % n_labels} for value in values])


def pool_of(rows: list[Row]) -> Pool:
    return Pool(rows, [(row.fields["label"],) for row in rows])


def shots(values: list[int], item: int, count: int, sampler: Sampler, seed: int = 0) -> list[int]:
    """The drawn rows by what they hold. `item` need not be in the pool."""
    rows = rows_of(values)
    return [rows[i].fields["q"] for i in draw(pool_of(rows), rows_of([item])[0], count, sampler, seed)]


values_of = st.lists(st.integers(0, 12), min_size=1, max_size=20)


def test_every_sampler_is_described():
    assert set(SAMPLERS) == set(ALL)


@pytest.mark.parametrize("sampler", ALL)
@given(values=values_of, item=st.integers(0, 14), count=st.integers(0, 6), seed=st.integers(-3, 3))
def test_examples_are_rows_of_the_pool_and_never_the_item(
    sampler: Sampler, values: list[int], item: int, count: int, seed: int
):
    others = [value for value in values if value != item]
    if count > len(others):
        with pytest.raises(InputError, match=f"{count} few-shot examples are wanted, but the pool has {len(values)} rows"):
            shots(values, item, count, sampler, seed)
        return
    found = shots(values, item, count, sampler, seed)
    assert len(found) == count
    assert item not in found
    assert not Counter(found) - Counter(others)  # no row stands twice


@pytest.mark.parametrize("sampler", DRAWN)
@given(values=values_of, item=st.integers(0, 14), seed=st.integers(0, 3), data=st.data())
def test_the_order_of_the_file_does_not_matter(
    sampler: Sampler, values: list[int], item: int, seed: int, data: st.DataObject
):
    count = min(4, len([value for value in values if value != item]))
    other = data.draw(st.permutations(values))
    assert shots(values, item, count, sampler, seed) == shots(other, item, count, sampler, seed)


@pytest.mark.parametrize("sampler", ["default", "fixed", "first_n"])
@given(values=values_of, item=st.integers(0, 14), seed=st.integers(0, 3))
def test_fewer_examples_are_the_first_of_more(sampler: Sampler, values: list[int], item: int, seed: int):
    most = len([value for value in values if value != item])
    longest = shots(values, item, most, sampler, seed)
    for count in range(most):
        assert shots(values, item, count, sampler, seed) == longest[:count]


@pytest.mark.parametrize("sampler", ALL)
def test_a_draw_does_not_depend_on_those_before_it(sampler: Sampler):
    rows = rows_of(list(range(40)))
    pool = pool_of(rows)
    alone = [draw(pool_of(rows), row, 4, sampler, 7) for row in rows]
    assert [draw(pool, row, 4, sampler, 7) for row in rows] == alone
    assert [draw(pool, row, 4, sampler, 7) for row in reversed(rows)] == alone[::-1]


@given(values=st.lists(st.integers(0, 30), min_size=8, max_size=30), count=st.integers(1, 4), seed=st.integers(0, 5))
def test_fixed_examples_are_the_same_for_all_items_that_are_not_among_them(values: list[int], count: int, seed: int):
    assume(len(set(values)) > count)
    usual = shots(values, 99, count, "fixed", seed)
    for item in set(values):
        others = len([value for value in values if value != item])
        if others < count:
            continue
        found = shots(values, item, count, "fixed", seed)
        if item not in usual:
            assert found == usual
        else:  # the item makes room for the next ones; the others stay, in their order
            kept = [value for value in usual if value != item]
            assert found[: len(kept)] == kept


@given(sizes=st.lists(st.integers(4, 9), min_size=1, max_size=4), count=st.integers(1, 12), item=st.integers(0, 80))
def test_balanced_examples_show_each_label_equally_often(sizes: list[int], count: int, item: int):
    fields = [{"q": 10 * label + i, "label": label} for label, size in enumerate(sizes) for i in range(size)]
    rows = with_ids(fields)
    own = with_ids([next((row for row in fields if row["q"] == item), {"q": item, "label": 0})])[0]
    smallest = min(Counter(row["label"] for row in fields if row["q"] != item).values())
    count = min(count, smallest * len(sizes))
    found = Counter(rows[i].fields["label"] for i in draw(pool_of(rows), own, count, "balanced", 5))
    counts = [found[label] for label in range(len(sizes))]
    assert max(counts) - min(counts) <= 1


def test_balanced_examples_show_no_label_first():
    rows = rows_of(list(range(30)))
    for place in (0, -1):  # neither at the first place nor, where labels cannot all come equally often, more often
        heads = Counter(
            rows[draw(pool_of(rows), row, 4, "balanced", 0)[place]].fields["label"] for row in rows_of(list(range(100, 400)))
        )
        assert all(70 < heads[label] < 130 for label in range(3))
    extra = Counter(
        Counter(rows[i].fields["label"] for i in draw(pool_of(rows), row, 4, "balanced", 0)).most_common(1)[0][0]
        for row in rows_of(list(range(100, 400)))
    )
    assert all(70 < extra[label] < 130 for label in range(3))


def test_a_label_that_runs_out_leaves_its_places_to_the_others():
    found = shots([0, 3, 6, 9, 1], 99, 4, "balanced")
    assert sorted(found)[:2] == [0, 1] or 1 in found
    assert len(set(found)) == 4


@given(values=values_of, item=st.integers(0, 14), count=st.integers(1, 6), inside=st.booleans())
def test_first_n_is_the_sampler_of_the_harness(values: list[int], item: int, count: int, inside: bool):
    item = values[item % len(values)] if inside else item
    documents = [{"q": value, "label": value % 3} for value in values]
    sampler = FirstNSampler(documents)
    try:
        expected: list[Any] = list(sampler.sample(count, eval_doc={"q": item, "label": item % 3}))
    except AssertionError:
        with pytest.raises(InputError):
            shots(values, item, count, "first_n")
        return
    assert shots(values, item, count, "first_n") == [document["q"] for document in expected]


@pytest.mark.parametrize("sampler", DRAWN)
def test_seeds_and_items_make_a_difference(sampler: Sampler):
    values = list(range(60))
    by_seed = {tuple(shots(values, 99, 4, sampler, seed)) for seed in range(20)}
    assert len(by_seed) == 20
    by_item = {tuple(shots(values, item, 4, sampler)) for item in range(100, 120)}
    assert len(by_item) == (1 if sampler == "fixed" else 20)
    assert len({tuple(shots(values, item, 4, "first_n", item)) for item in range(100, 120)}) == 1


@pytest.mark.parametrize("sampler", ["default", "fixed", "balanced"])
def test_every_row_is_drawn_about_as_often(sampler: Sampler):
    rows = rows_of(list(range(12)))
    pool, drawn, n = pool_of(rows), Counter[int](), 600
    items = rows_of(list(range(100, 100 + n))) if sampler != "fixed" else rows_of([100]) * n
    for seed, item in enumerate(items):
        drawn.update(draw(pool, item, 3, sampler, seed))
    expected = n * 3 / 12  # 150, with a standard deviation below 12
    assert all(abs(drawn[i] - expected) < 55 for i in range(12)), drawn


def test_an_empty_pool_is_too_small():
    for sampler in ALL:
        assert draw(Pool([], []), rows_of([1])[0], 0, sampler, 0) == ()
        with pytest.raises(InputError, match="the pool has 0 rows"):
            draw(Pool([], []), rows_of([1])[0], 1, sampler, 0)
        with pytest.raises(InputError, match="lower --num-fewshot or name a larger fewshot_split"):
            draw(pool_of(rows_of([1, 1, 1])), rows_of([1])[0], 1, sampler, 0)
