"""Few-shot examples: which rows stand before an item.

They depend on the item, the seed and the pool of examples alone: not on how many items are scored, in which order, or by how
many processes. The item itself, or a row of the same content, is never among them. (lm-evaluation-harness draws from one
sequence of random numbers in each process, so that there they change with --limit and the number of processes.)
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import cached_property

import numpy as np

from lmeval.data.rows import Row
from lmeval.errors import InputError
from lmeval.prompting.task import Sampler


class Pool:
    """Rows that examples are drawn from. `labels` holds the right answer of each row, for balanced draws."""

    def __init__(self, rows: Sequence[Row], labels: Sequence[Hashable]) -> None:
        self.rows = tuple(rows)
        self.labels = tuple(labels)

        self.contents = tuple(row.content for row in rows)
        self.count = Counter(self.contents)

    @cached_property
    def by_content(self) -> np.ndarray:
        """Indices sorted by content: a draw must not depend on the order of the file."""
        return np.array(sorted(range(len(self.rows)), key=lambda i: (self.contents[i], i)), dtype=np.int64)

    @cached_property
    def by_label(self) -> list[np.ndarray]:
        """The same, label by label; labels in the order of their text."""
        names = np.array([str(label) for label in self.labels])[self.by_content]
        return [self.by_content[names == name] for name in sorted(set(names))]


def draw(pool: Pool, item: Row, count: int, sampler: Sampler, seed: int) -> tuple[int, ...]:
    """Choose the examples of an item.

    Args:
        pool: The rows that they are drawn from.
        item: The row that they stand before.
        count: How many.
        sampler: How they are chosen.
        seed: Of the draw.

    Returns:
        Indices into `pool.rows`, in the order in which the examples stand.

    Raises:
        InputError: The pool has too few rows.
    """
    if count == 0:
        return ()
    own = item.content
    equal = pool.count[own]
    if sampler == "first_n":
        candidates = [i for i in range(min(len(pool.rows), count + 1 + equal)) if pool.contents[i] != own]
    elif sampler == "fixed":
        # One more than needed, so that an item that is itself drawn takes the next and the others keep theirs.
        order = _shuffled(pool.by_content, count + 1 + equal, _generator(seed, ""))
        candidates = [i for i in order if pool.contents[i] != own]
    elif sampler == "balanced":
        candidates = _balanced(pool, own, count, equal, _generator(seed, own))
    else:
        order = _shuffled(pool.by_content, count + equal, _generator(seed, own))
        candidates = [i for i in order if pool.contents[i] != own]
    if len(candidates) < count:
        raise InputError(
            f"{count} few-shot examples are wanted, but the pool has {len(pool.rows)} rows, the item itself left out: lower "
            "--num-fewshot or name a larger fewshot_split"
        )
    return tuple(int(i) for i in candidates[:count])


def _shuffled(indices: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """The first `count` of a random order, the same whatever the count: item by item, each from those that are left."""
    count = min(count, len(indices))
    keys = generator.random(len(indices))
    first = np.argpartition(keys, count - 1)[:count] if count < len(indices) else np.arange(len(indices))
    return indices[first[np.argsort(keys[first], kind="stable")]]


def _balanced(pool: Pool, own: str, count: int, equal: int, generator: np.random.Generator) -> list[int]:
    """Labels take turns, in an order drawn anew for each item; then the examples are shuffled."""
    groups = [[i for i in _shuffled(group, count + equal, generator) if pool.contents[i] != own] for group in pool.by_label]
    groups = [groups[g] for g in generator.permutation(len(groups))]
    examples: list[int] = []
    for turn in range(count):
        examples += [group[turn] for group in groups if turn < len(group)]
    examples = examples[:count]
    return [examples[i] for i in generator.permutation(len(examples))]


def _generator(seed: int, item: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}:{item}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
