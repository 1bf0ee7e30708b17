"""Which online models there are at each level of adaptation, and their numbers: all of it is part of the archive format."""

from typing import NamedTuple

from lmeval.errors import CorruptArchive

LEVELS = ("none", "light", "full")
SET_SIZES = (256, 17 * 8, 256, 256, 4 * 8 * 16, 256, 256, 128, 256)  # rows of each set of weights
MANY_LANES = 8  # from this many lanes on, some contexts are kept for each lane as well
LONGER = ((0, 1), (1, 2), (2, 3), (3, 4), (9, 10))  # contexts that have a second average, and the next longer one


class Context(NamedTuple):
    """A kind of context by its number (FORMAT.md), how many bits its averages go back, whether each lane has it to itself,
    whether it is made of the last symbols without a gap, and whether a map says what its histories mean."""

    number: int
    limit: int
    private: bool = False
    is_order: bool = False
    mapped: bool = True


class Recipe(NamedTuple):
    """One level for one kind of symbol: contexts; lengths of the match models; those of the contexts, by their place here,
    that have run models; bits of the largest table; how many sets of weights, and which of them choose final
    weights; whether there are second averages; the numbers of the contexts in which what was mixed is refined. Rates as in
    `mixing.Rates`; weights in units of 2^-16."""

    contexts: tuple[Context, ...]
    match_lengths: tuple[int, ...]
    runs: tuple[int, ...]
    most_cells_bits: int
    n_sets: int = 9
    finals: tuple[int, ...] = (0, 1, 2, 3)
    novel: bool = False
    rates: tuple[int, int, int] = (20, 400, 16)
    map_rate: int = 1300
    refined: tuple[int, ...] = ()
    first_weight: int = 2184
    first_model_weight: int = 20000

    @property
    def longer(self) -> tuple[int, ...]:
        """For each context the index of the next longer one, where it has a second average; else -1."""
        numbers = [(c.number, c.private) for c in self.contexts]
        pairs = {(shorter, False): (longer, False) for shorter, longer in LONGER}
        indices = [numbers.index(pairs[n]) if n in pairs and pairs[n] in numbers else -1 for n in numbers]
        return tuple(indices) if self.novel else (-1,) * len(indices)

    def size_bits(self, depth: int, n_tokens: int) -> int:
        """Cells for every context and decision, were all new; within bounds."""
        wanted = (n_tokens * depth * len(self.contexts)).bit_length()
        return max(12, min(wanted, self.most_cells_bits))

    def run_bits(self, n_tokens: int) -> int:
        """Cells of the run models, were all contexts new; within bounds."""
        return max(10, min((n_tokens * len(self.runs)).bit_length(), self.most_cells_bits - 2))

    def table_bytes(self, n_tokens: int) -> int:
        """Memory of the tables that grow with the input, but for the counters' cells."""
        return (8 << self.run_bits(n_tokens)) + (4 * len(self.match_lengths) << self.match_bits(n_tokens))

    def match_bits(self, n_tokens: int) -> int:
        """Places of a match model's hash table: more than tokens, within bounds."""
        return max(10, min((2 * n_tokens).bit_length(), 20))


def _orders(first: int, last: int) -> tuple[Context, ...]:
    return tuple(Context(n, 250 if n < 3 else 120, is_order=n > 0, mapped=n in (2, 3)) for n in range(first, last + 1))


_WORDS = tuple(Context(n, 120) for n in (8, 9, 10, 11, 12, 13, 14, 15))
_OWN = (Context(2, 120, private=True, mapped=False), Context(4, 120, private=True, mapped=False))
_BYTES_LIGHT = (*_orders(0, 4), Context(6, 120, is_order=True), Context(9, 120))
_BYTES_FULL = _orders(0, 4) + _orders(6, 7) + _WORDS
_TOKENS_LIGHT = _orders(0, 3)
_TOKENS_FULL = (*_orders(0, 4), Context(5, 120))
_TOKENS_OWN = (Context(1, 120, private=True), Context(2, 120, private=True))


def recipe_for(level: str, depth: int, n_lanes: int) -> Recipe:
    """The recipe of a level, for bytes (trees of depth 8) or tokens."""
    own = n_lanes >= MANY_LANES
    if level == "light":
        return Recipe(_BYTES_LIGHT if depth == 8 else _TOKENS_LIGHT, (6,), (), 22, n_sets=4, finals=(2,))
    if depth == 8:
        return Recipe(
            _BYTES_FULL + (_OWN if own else ()), (8, 20), (0, 1, 2, 3, 4, 5, 6, 8), 24, novel=True, refined=(2, 3, 9)
        )
    return Recipe(_TOKENS_FULL + (_TOKENS_OWN if own else ()), (3, 8), (1, 2, 3), 24, novel=True, refined=(2, 3, 4))


def online_level(payload: bytes) -> str:
    """Level of the online models that coded a block of bytes alone: the payload's first byte says it.

    Raises:
        CorruptArchive: There are no online models of that level.
    """
    level = payload[0] if payload else 0
    if not 1 <= level < len(LEVELS):
        known = ", ".join(f"{i} ({name})" for i, name in enumerate(LEVELS) if i)
        raise CorruptArchive(f"unknown level {level} of online models: known are {known}")
    return LEVELS[level]
