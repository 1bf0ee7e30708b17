import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import tiny_llama

from lmeval.compute.place import alone
from lmeval.scoring.batching import Batching, batching_at, plan_batches
from lmeval.scoring.requests import request


@given(
    st.lists(st.integers(1, 50), max_size=60),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(1, 200),
)
def test_every_sequence_is_in_one_batch_within_the_limits(lengths: list[int], rows: int | None, tokens: int):
    batches = plan_batches(lengths, Batching(rows, tokens))
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert rows is None or len(batch) <= rows
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 200))
def test_longest_first_so_that_a_shortage_of_memory_shows_at_once(lengths: list[int], tokens: int):
    order = [lengths[i] for batch in plan_batches(lengths, Batching(None, tokens)) for i in batch]
    assert order == sorted(lengths, reverse=True)


def test_equal_lengths_keep_their_order_in_every_process():
    assert plan_batches([5] * 6, Batching(2, 1000)) == [[0, 1], [2, 3], [4, 5]]


def test_a_sequence_beyond_the_budget_is_alone():
    assert plan_batches([9, 100, 9], Batching(None, 20)) == [[1], [0, 2]]


def test_no_sequences_are_no_batches():
    assert plan_batches([], Batching(None, 10)) == []


def test_a_cpu_batch_is_sized_for_the_cache():
    assert batching_at(alone(), tiny_llama()) == Batching(None, 2048)


def test_a_memory_budget_makes_batches_smaller():
    model = tiny_llama()
    place = alone()._replace(memory=100 * model.activation_bytes)
    assert batching_at(place, model) == Batching(None, 60)
    assert batching_at(place, model, 7) == batching_at(alone(), model, 7) == Batching(7, 1 << 40)


def test_inputs_are_all_but_the_last_target():
    assert request([1, 2], [3]).n_inputs == 2
    assert request([1], [2, 3, 4]).n_inputs == 3


@pytest.mark.parametrize(("context", "target"), [([], [1]), ([1], []), ([], [])])
def test_a_request_needs_context_and_target(context: list[int], target: list[int]):
    with pytest.raises(ValueError, match="at least one context token"):
        request(context, target)
