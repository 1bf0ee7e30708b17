"""The space that data lie in, as tags: numbers on data of different spaces do not compare.

Binary MNIST is four data sets with one name: thresholded, sampled once with a seed, sampled anew in every epoch ("dynamic"),
and the fixed files of others ("static", such as Larochelle's). Likelihoods on them differ by 2 nats and more, so `Tags` go
with every set, and `require_same_space` refuses to compare what differs in them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lmeval.errors import EmptyInput, InputError, MixedSpaces

Binarisation = Literal["static", "threshold", "sampled", "dynamic"]
BINARISATIONS = ("static", "threshold", "sampled", "dynamic")


@dataclass(frozen=True)
class Tags:
    """The space that data lie in: two sets may stand in one table only where these are equal.

    `levels` is the number of values a coordinate can take (256 for 8 bits). `binarisation` tells how data of 2 levels came
    about, with `seed` where they were "sampled" and `at`, the least level that became 1, where it was a "threshold".
    `transform` names a map of the space itself, such as "logit 0.05", where densities are of mapped values.
    """

    levels: int
    binarisation: Binarisation | None = None
    seed: int | None = None
    transform: str | None = None
    at: int | None = None

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise InputError(f"levels is {self.levels}: data have at least 2 values")
        if self.binarisation is not None and self.binarisation not in BINARISATIONS:
            raise InputError(f"binarisation is {self.binarisation!r}: it is one of {', '.join(BINARISATIONS)}, or none")
        if (self.binarisation is not None) != (self.levels == 2):
            told = f"binarisation {self.binarisation}" if self.binarisation else "no binarisation"
            raise InputError(
                f"{self.levels} levels with {told}: data of 2 levels, and no others, tell how they became binary"
            )

    def describe(self) -> str:
        """In words, e.g. "2 levels, sampled (seed 0)".

        >>> Tags(2, "threshold", at=128).describe()
        '2 levels, threshold (1 from 128)'
        """
        how = {"static": " (a fixed file)", "threshold": f" (1 from {self.at})", "sampled": f" (seed {self.seed})"}
        parts = [f"{self.levels} levels"]
        if self.binarisation:
            parts.append(self.binarisation + how.get(self.binarisation, " (anew in every epoch)"))
        if self.transform:
            parts.append(f"transform {self.transform}")
        return ", ".join(parts)


def require_same_space(members: Sequence[tuple[str, Tags]]) -> Tags:
    """The tags that all members share.

    Args:
        members: Pairs of a name, for the message, and the tags of its data.

    Returns:
        The tags.

    Raises:
        EmptyInput: There are no members.
        MixedSpaces: Two differ; it names the first that differs from the one at the front, and in what.
    """
    if not members:
        raise EmptyInput("no models to compare: give at least one")
    first, tags = members[0]
    for name, others in members[1:]:
        if others != tags:
            raise MixedSpaces(
                f"{first} is on data of {tags.describe()} and {name} on data of {others.describe()}: "
                "likelihoods of different data do not compare; score both on the same data"
            )
    return tags
