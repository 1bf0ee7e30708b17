import numpy as np

from lmeval.stats import cluster_codes, independent_units


def test_codes_tell_any_names_apart():
    assert cluster_codes([("a", 1), None, ("a", 1), "x"], 4).tolist() == [0, 1, 0, 2]
    assert cluster_codes(np.array([9, 4, 9]), 3).tolist() == [0, 1, 0]


def test_what_is_independent_is_the_cluster_then_the_item_that_comes_back():
    assert independent_units(["a", "b"], ["x", "x"]) == ["x", "x"]
    assert independent_units(["a", "b", "a", "b"], [None] * 4) == ["a", "b", "a", "b"]
    assert independent_units(["a", "b"], [None, None]) is None
    assert independent_units(["a", "b"], ["x", None]) is None
