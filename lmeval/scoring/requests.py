"""What the engine takes: a context and the target tokens after it."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64


class Request(NamedTuple):
    """Score `target` after `context` (token ids; both hold at least one token).

    The engine returns one log-probability in nats for each target token: log p(target[i] | context, target[:i]). `media` is
    the SHA-256 of whatever conditions the request beside its tokens, such as an image, and "" where nothing does: requests
    with different media are never scored as one, and share no prefix.
    """

    context: Int64[np.ndarray, " context"]
    target: Int64[np.ndarray, " target"]
    media: str = ""

    @property
    def n_inputs(self) -> int:
        """Tokens that go through the model: all but the last target, which nothing has to follow."""
        return len(self.context) + len(self.target) - 1


def request(context: list[int], target: list[int], media: str = "") -> Request:
    """A request from lists of token ids.

    Args:
        context: The tokens that stand before the target, such as BOS alone.
        target: The tokens to score.
        media: SHA-256 of what else conditions the target, such as an image; "" where nothing does.

    Returns:
        The request, its ids as int64 arrays [context] and [target].

    Raises:
        ValueError: There is no context token, or no target token.
    """
    if not context or not target:
        raise ValueError("a request needs at least one context token (such as BOS) and one target token")
    return Request(np.array(context, dtype=np.int64), np.array(target, dtype=np.int64), media)
