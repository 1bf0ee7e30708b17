import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sharing import make_prefixes_small, questions, related_requests, trie_size

from lmeval.scoring import Request, prefixes, request
from lmeval.scoring.prefixes import (
    Plan,
    Sequences,
    common_prefix,
    distinct,
    lay_out,
    plan_chains,
    plan_prefixes,
    separately,
)

SEEDS = st.integers(0, 1 << 20)


def inputs_of(req: Request) -> np.ndarray:
    return np.concatenate([req.context, req.target])[:-1]


def prefix_tokens(sequences: Sequences, plan: Plan, index: int) -> list[int]:
    if index < 0:
        return []
    prefix = plan.prefixes[index]
    assert prefix.parent < index
    before = prefix_tokens(sequences, plan, prefix.parent)
    tokens = sequences.tokens[prefix.member][: prefix.length].tolist()
    assert tokens[: len(before)] == before
    assert len(tokens) > len(before)
    return tokens


def check_plan(sequences: Sequences, plan: Plan) -> int:
    """Every sequence lies in one row, spelled by its path, and sees itself alone. Returns the tokens of the plan."""
    members = sorted(member for row in plan.rows for member in row.members)
    assert members == list(range(len(sequences.tokens)))
    total = 0
    for i, prefix in enumerate(plan.prefixes):
        total += prefix.length - (plan.prefixes[prefix.parent].length if prefix.parent >= 0 else 0)
        assert i in {row.prefix for row in plan.rows} | {p.parent for p in plan.prefixes}
    for row in plan.rows:
        before = prefix_tokens(sequences, plan, row.prefix)
        layout = lay_out(sequences, row, len(before))
        assert len(layout.ids) == len(layout.depth) == len(layout.end) == row.size
        place = np.arange(row.size)
        sees = (place[None] <= place[:, None]) & (place[:, None] < layout.end[None])
        spelled = set()
        for member, path in zip(row.members, layout.paths, strict=True):
            tokens = sequences.tokens[member].tolist()
            assert tokens == before + layout.ids[path].tolist()
            assert layout.depth[path].tolist() == list(range(len(before), len(tokens)))
            for d, at in enumerate(path.tolist()):
                assert np.flatnonzero(sees[at]).tolist() == path[: d + 1].tolist()
            assert len(before) <= sequences.first[member]  # no scored place is inside a prefix
            spelled |= {tuple(tokens[: d + 1]) for d in range(len(before), len(tokens))}
        assert row.size == len(spelled)  # no token twice, none for nothing
        longest = max(len(sequences.tokens[member]) for row in plan.rows for member in row.members)
        assert row.size <= max(prefixes.ROW_TOKENS, prefixes.PACKED_TOKENS, longest)
        total += row.size
    return total


@given(SEEDS, st.integers(1, 80), st.booleans())
def test_a_plan_spells_every_sequence(seed: int, n: int, small: bool):
    made = related_requests(seed, n)
    _, sequences = distinct(made)
    with pytest.MonkeyPatch.context() as patch:
        if small:
            make_prefixes_small(patch)
        total = check_plan(sequences, plan_prefixes(sequences, overhead=2))
        assert trie_size(made) <= total <= sum(sequences.lengths)
        check_plan(sequences, plan_chains(sequences))


@given(SEEDS)
def test_small_prefixes_nest_in_these_tests(seed: int):
    with pytest.MonkeyPatch.context() as patch:
        make_prefixes_small(patch)
        plans = [plan_prefixes(distinct(related_requests(seed + i))[1], overhead=2) for i in range(5)]
        assert any(prefix.parent >= 0 for plan in plans for prefix in plan.prefixes)
        assert any(len(row.members) > 2 for plan in plans for row in plan.rows)


@given(SEEDS)
def test_distinct_requests_and_sequences_are_those_of_a_set(seed: int):
    made = related_requests(seed)
    kept, sequences = distinct(made)
    as_tuple = [(tuple(r.context.tolist()), tuple(r.target.tolist())) for r in made]
    assert len(kept.requests) == len(set(as_tuple))
    for i, same in enumerate(kept.of):
        assert (tuple(kept.requests[same].context.tolist()), tuple(kept.requests[same].target.tolist())) == as_tuple[i]
    texts = [tuple(tokens.tolist()) for tokens in sequences.tokens]
    assert texts == sorted({tuple(inputs_of(r).tolist()) for r in made})
    assert sequences.lengths.tolist() == [len(text) for text in texts]
    assert sorted(i for readers in sequences.readers for i in readers) == list(range(len(kept.requests)))
    for text, first, readers in zip(texts, sequences.first, sequences.readers, strict=True):
        assert all(tuple(inputs_of(kept.requests[i]).tolist()) == text for i in readers)
        assert first == min(len(kept.requests[i].context) - 1 for i in readers)
    assert sequences.shared[:1].tolist() == [0]
    for share, (a, b) in zip(sequences.shared[1:], itertools.pairwise(texts), strict=True):
        assert a[:share] == b[:share]
        assert len(a) == share or a[share] != b[share]


def test_large_ids_sort_as_numbers():
    made = [request([256], [1]), request([1], [1]), request([70_000], [1]), request([1, 0], [1])]
    assert [t.tolist() for t in distinct(made)[1].tokens] == [[1], [1, 0], [256], [70_000]]


def test_choices_of_one_token_add_nothing():
    made = questions(n=7, few_shot=0, question=30, choices=4, answer=1)
    _, sequences = distinct(made)
    plan = plan_prefixes(sequences, overhead=256)
    assert [(row.size, len(row.members)) for row in plan.rows] == [(30, 1)] * 7
    assert [len(readers) for readers in sequences.readers] == [4] * 7


def test_a_question_with_its_choices_is_one_row():
    made = questions(n=7, few_shot=0, question=30, choices=4, answer=5)
    plan = plan_prefixes(distinct(made)[1], overhead=256)
    assert plan.prefixes == []
    assert [(row.size, len(row.members)) for row in plan.rows] == [(30 + 4 * 4, 4)] * 7


def test_a_prompt_that_all_share_is_read_once():
    made = questions(n=100, few_shot=200, question=30, choices=4, answer=5)
    _, sequences = distinct(made)
    plan = plan_prefixes(sequences, overhead=256)
    assert [prefix.length for prefix in plan.prefixes] == [200]
    assert check_plan(sequences, plan) <= 1.02 * trie_size(made)
    assert max(row.size for row in plan.rows) <= prefixes.PACKED_TOKENS


def test_prefixes_below_an_instruction_nest():
    instruction = np.arange(100)
    made = []
    for subject in range(5):
        for r in questions(n=60, few_shot=300, question=40, choices=4, answer=1, seed=subject):
            made.append(Request(np.concatenate([instruction, r.context]), r.target))
    _, sequences = distinct(made)
    plan = plan_prefixes(sequences, overhead=256)
    assert [(prefix.parent, prefix.length) for prefix in plan.prefixes] == [(-1, 100)] + [(0, 400)] * 5
    assert [row.prefix for row in plan.rows] == sorted(row.prefix for row in plan.rows)
    assert check_plan(sequences, plan) <= 1.01 * trie_size(made)


@pytest.mark.parametrize("n_odd", [1, 3])
def test_a_few_requests_that_score_the_prompt_itself_do_not_shorten_it_for_all(n_odd: int):
    made = questions(n=100, few_shot=200, question=30, choices=4, answer=5)
    odd = [Request(r.context[: 3 + i], np.append(r.context[3 + i :], i)) for i, r in enumerate(made[:n_odd])]
    _, sequences = distinct(made + odd)
    plan = plan_prefixes(sequences, overhead=256)
    assert [prefix.length for prefix in plan.prefixes] == [200]
    assert check_plan(sequences, plan) <= 1.02 * trie_size(made) + 235 * n_odd


def test_long_answers_to_one_question_keep_its_last_token_to_be_scored():
    made = questions(n=1, few_shot=0, question=100, choices=60, answer=40)
    _, sequences = distinct(made)
    plan = plan_prefixes(sequences, overhead=256)
    assert [prefix.length for prefix in plan.prefixes] == [99]
    check_plan(sequences, plan)


def test_what_saves_little_is_not_worth_a_pass():
    made = questions(n=20, few_shot=20, question=30, choices=1, answer=1)
    _, sequences = distinct(made)
    assert plan_prefixes(sequences, overhead=20).prefixes == []  # two rows of 500 and 140 tokens
    assert len(plan_prefixes(sequences, overhead=19).prefixes) == 1


def test_sequences_that_share_nothing_are_rows_by_themselves():
    rng = np.random.default_rng(0)
    made = [Request(rng.integers(0, 50_000, 20), rng.integers(0, 50_000, 3)) for _ in range(30)]
    plan = plan_prefixes(distinct(made)[1], overhead=0)
    assert len(plan.rows) == 30
    assert plan.prefixes == []


def test_no_requests_are_no_rows():
    kept, sequences = distinct([])
    assert kept.requests == kept.of == []
    assert plan_prefixes(sequences, overhead=0) == plan_chains(sequences) == Plan([], [])


def test_many_contexts_that_continue_one_another_are_planned():
    """A tree as deep as it has sequences: no recursion, no quadratic time that one would notice."""
    text = np.arange(3000)
    made = [Request(text[:i], text[:1]) for i in range(1, 3000)]
    _, sequences = distinct(made)
    assert check_chain(plan_chains(sequences)) == [2999]
    plan = plan_prefixes(sequences, overhead=256)
    assert sorted(member for row in plan.rows for member in row.members) == list(range(2999))


def check_chain(plan: Plan) -> list[int]:
    return [row.size for row in plan.rows]


def test_a_chain_is_a_row_without_branches():
    made = [request([1, 2], [3]), request([1, 2, 3], [4]), request([1, 2, 4], [4]), request([1], [2, 3])]
    _, sequences = distinct(made)
    plan = plan_chains(sequences)
    assert [row.members for row in plan.rows] == [[0, 1], [2]]  # [1, 2] goes on to [1, 2, 3]; [1, 2, 4] branches off
    check_plan(sequences, plan)


def test_separate_rows_are_the_requests():
    made = related_requests(3)
    sequences, plan = separately(made)
    for i, (row, req) in enumerate(zip(plan.rows, made, strict=True)):
        assert row.members == [i] and sequences.readers[i] == [i]
        assert lay_out(sequences, row, 0).ids.tolist() == inputs_of(req).tolist()


def test_common_prefixes_of_short_and_equal_arrays():
    assert common_prefix(np.array([1, 2]), np.array([1, 2])) == 2
    assert common_prefix(np.array([1, 2]), np.array([1, 2, 3])) == 2
    assert common_prefix(np.array([4]), np.array([1, 2, 3])) == 0
    assert common_prefix(np.array([], dtype=int), np.array([1])) == 0


def test_media_keep_equal_tokens_apart():
    made = [
        request([1, 2, 3], [4]),
        request([1, 2, 3], [4], "image a"),
        request([1, 2, 3], [5]),
        request([1, 2, 3], [4], "image a"),
    ]
    kept, sequences = distinct(made)
    assert kept.of == [0, 1, 2, 1]
    assert [t.tolist() for t in sequences.tokens] == [[1, 2, 3], [1, 2, 3]]
    assert sequences.readers == [[0, 2], [1]]
    assert sequences.shared.tolist() == [0, 0]


def test_no_prefix_and_no_row_holds_two_media(monkeypatch: pytest.MonkeyPatch):
    make_prefixes_small(monkeypatch)
    made = [*questions(n=20, few_shot=40, question=9, choices=2, answer=3)]
    made += [req._replace(media="another") for req in made]
    kept, sequences = distinct(made)
    media = [made[kept.of.index(readers[0])].media for readers in sequences.readers]
    plan = plan_prefixes(sequences, 2)
    assert len(plan.prefixes) >= 2
    assert check_plan(sequences, plan) > 0
    below: dict[int, set[str]] = {}
    for row in plan.rows:
        of_row = {media[member] for member in row.members}
        assert len(of_row) == 1
        index = row.prefix
        while index >= 0:
            below.setdefault(index, set()).update(of_row)
            index = plan.prefixes[index].parent
    assert all(len(of_prefix) == 1 for of_prefix in below.values())
