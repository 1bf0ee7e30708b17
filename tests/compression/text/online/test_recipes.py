import page_online
import pytest

from lmeval.compression.text.online.recipes import recipe_for


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("depth", [8, 9, 16])
@pytest.mark.parametrize("lanes", [1, 7, 8, 4096])
def test_tables_have_the_sizes_of_the_page(level: str, depth: int, lanes: int):
    recipe = recipe_for(level, depth, lanes)
    for n in (1, 2, 255, 256, 100_000, 1 << 18, (1 << 22) - 1, 1 << 22):
        page = page_online.Online(level, depth, n, lanes)
        assert 1 << recipe.size_bits(depth, n) == page.counters.size
        assert {1 << recipe.match_bits(n)} == {match.size for match in page.matches}
        if level == "full":
            assert 1 << recipe.run_bits(n) == page.runs.size


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("depth", [8, 9])
@pytest.mark.parametrize("lanes", [1, 7, 8])
def test_contexts_are_those_of_the_page(level: str, depth: int, lanes: int):
    recipe, page = recipe_for(level, depth, lanes), page_online.Online(level, depth, 100, lanes)
    assert [(c.number, c.private) for c in recipe.contexts] == page.counters.contexts
    assert [c.limit for c in recipe.contexts] == page.counters.back
    assert [c.mapped for c in recipe.contexts] == [one is not None for one in page.counters.maps]
    assert list(recipe.longer) == [-1 if longer is None else longer for longer in page.counters.longer]
    assert [i for i, c in enumerate(recipe.contexts) if c.is_order] == page.counters.orders
    assert recipe.match_lengths == tuple(match.length for match in page.matches)
    assert tuple(recipe.contexts[i].number for i in recipe.runs) == tuple(page.runs.models)
    assert recipe.refined == page.refining
