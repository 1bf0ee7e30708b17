"""Conversions between the units of log-probabilities: nats inside, bits at the edge."""

import math
from typing import Any

import numpy as np

from lmeval.errors import InputError, NonFiniteScore


def bits_per_dim(log_prob_nats: Any, n_dims: int) -> Any:
    """Bits a dimension of log-probabilities in nats: -nats / (n_dims ln 2).

    Args:
        log_prob_nats: A number, an array or a tensor of log-probabilities, or of bounds on them: of a lower bound the
            result is an upper bound.
        n_dims: How many numbers an image has as it was before padding or cropping, colour channels apart.

    Returns:
        As many bits a dimension, in the same form. The uniform density of 256 levels has exactly 8.

    Raises:
        InputError: `n_dims` is less than 1.
        NonFiniteScore: One is NaN: a mean over the others would be of other data.

    >>> bits_per_dim(-784 * math.log(256), 784)
    8.0
    """
    if n_dims < 1:
        raise InputError(f"n_dims is {n_dims}: an image has at least one number")
    values = np.asarray(log_prob_nats.detach().cpu() if hasattr(log_prob_nats, "detach") else log_prob_nats)
    bad = np.isnan(values)
    if bad.any():
        raise NonFiniteScore(
            f"{int(bad.sum())} of {values.size} log-probabilities are NaN, the first at {int(np.flatnonzero(bad)[0])}: "
            "a mean that leaves data out is of other data; mend the model or choose the data beforehand"
        )
    return -log_prob_nats / (n_dims * math.log(2))
