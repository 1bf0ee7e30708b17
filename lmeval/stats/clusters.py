"""Clusters of items that share something, as numbers."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Int64

from lmeval.errors import InputError


def cluster_codes(clusters: Sequence[Hashable] | np.ndarray, n: int) -> Int64[np.ndarray, " n"]:
    """Clusters of `n` items as codes 0, 1, ... in order of first appearance.

    Args:
        clusters: The cluster of each item, under any hashable name.
        n: How many items there are.

    Returns:
        An int64 array [n]: the code of each item's cluster. Items of one cluster have one code.

    Raises:
        InputError: There are not `n` clusters.

    >>> cluster_codes(["b", "a", "b"], 3).tolist()
    [0, 1, 0]
    """
    names = clusters.tolist() if isinstance(clusters, np.ndarray) else list(clusters)
    if len(names) != n:
        raise InputError(f"{len(names)} clusters for {n} items: give every item exactly one")
    first_seen: dict[Hashable, int] = {}
    return np.array([first_seen.setdefault(name, len(first_seen)) for name in names], dtype=np.int64)
