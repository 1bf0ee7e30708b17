import numpy as np

from lmeval.stats import (
    cluster_codes,
)


def test_codes_tell_any_names_apart():
    assert cluster_codes([("a", 1), None, ("a", 1), "x"], 4).tolist() == [0, 1, 0, 2]
    assert cluster_codes(np.array([9, 4, 9]), 3).tolist() == [0, 1, 0]
