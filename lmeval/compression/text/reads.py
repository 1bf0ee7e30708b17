"""How lanes are read, whatever reads them: the library's modules or compiled steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64

Ids = Int64[np.ndarray, "*shape"]


@dataclass(frozen=True)
class Reads:
    """How lanes are read. `restart` forgets everything and reads ids [lanes, time], `advance` reads one more in every lane;
    both give the logits after it, [lanes, vocabulary]: an array, or a tensor of the library. `lap` is told of tokens."""

    restart: Callable[[Ids], Any]
    advance: Callable[[Ids], Any]
    lap: Callable[[int], None]
