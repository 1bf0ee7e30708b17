"""Clusters of items that share something: which they are, and as numbers."""

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


def independent_units(items: Sequence[str], clusters: Sequence[str | None]) -> list[str] | None:
    """The independent unit of each record: its cluster where all have one, else its item where items come back.

    Args:
        items: The item of each record; one comes back where it was measured under several seeds.
        clusters: The cluster of each record, None where it has none.

    Returns:
        The name of each record's unit, or None where every record is a unit of its own.

    >>> independent_units(["a", "b", "a"], [None, None, None]), independent_units(["a", "b"], ["c", None])
    (['a', 'b', 'a'], None)
    """
    named = [cluster for cluster in clusters if cluster is not None]
    if len(named) == len(items):
        return named
    return list(items) if len(set(items)) < len(items) else None
