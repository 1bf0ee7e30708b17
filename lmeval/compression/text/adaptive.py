"""Adaptive stage after the grid: mixes the quantised probabilities of the language model with online context models.

The language model's decisions come in as integers on which both ends agree. Online models (lmeval.compression.text.online)
predict the same decisions from what the block's lanes have shown so far, a mixer weighs them all, and every bit teaches all
of them. It is integer arithmetic throughout, so the decoder follows exactly, on any machine.

Lanes that are decoded in lockstep share all tables: at each decision every lane predicts, in order, from the tables as they
are; then every lane learns, in order. Definition: compression/FORMAT.md, section 8.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32, Int64

from lmeval.compression.text.online.recipes import recipe_for
from lmeval.compression.text.online.state import State, decide_step, learn_step, open_state, run_steps

FIXED_BYTES = 40 << 20  # mostly four maps that refine what the mixer is given and what it gives
REFINED_BYTES = 9 << 20  # of each further one
LANE_BYTES = 4096
_STEPS_AT_ONCE = 64  # between two calls of `progress`


@dataclass
class Adaptive:
    """The online models of one block, and which decision comes next."""

    state: State
    step: int = 0
    decision: int = 0


def open_adaptive(level: str, depth: int, n_tokens: int, n_lanes: int, *, use_model: bool = True) -> Adaptive:
    """Models that have seen nothing, for a block of `n_tokens` symbols of `depth` decisions each, in lanes. Without
    `use_model` they take no notice of the frequencies that they are given."""
    return Adaptive(open_state(recipe_for(level, depth, n_lanes), depth, n_tokens, n_lanes, use_model=use_model))


def memory_bytes(level: str, depth: int, n_tokens: int, n_lanes: int = 1) -> int:
    """Memory of the online models of a block, in bytes, at most: 370 million for the largest block that there is."""
    recipe = recipe_for(level, depth, n_lanes)
    tables = (
        (12 << recipe.size_bits(depth, n_tokens))
        + recipe.table_bytes(n_tokens)
        + FIXED_BYTES
        + REFINED_BYTES * len(recipe.refined)
    )
    return tables + 8 * n_tokens + LANE_BYTES * n_lanes


def adapt_known(
    adaptive: Adaptive,
    frequencies: Int[np.ndarray, "tokens depth"],
    ids: Int64[np.ndarray, " tokens"],
    progress: Callable[[int], None] | None = None,
) -> Int32[np.ndarray, "tokens depth"]:
    """The adapted frequencies of a whole block that has just been opened; all in coding order. `progress` is called with
    numbers of tokens."""
    state = adaptive.state
    state.ids[:] = ids
    by_decision = np.ascontiguousarray(frequencies.T, dtype=np.int32)
    adapted = np.empty_like(by_decision)
    n_steps = -(-len(ids) // state.n_lanes)
    for first in range(0, n_steps, _STEPS_AT_ONCE):
        stop = min(first + _STEPS_AT_ONCE, n_steps)
        run_steps(state, first, stop, by_decision, adapted)
        if progress:
            progress(min(stop * state.n_lanes, len(ids)) - first * state.n_lanes)
    adaptive.step = n_steps
    return adapted.T


def predict(adaptive: Adaptive, frequencies: Int64[np.ndarray, " active"]) -> Int64[np.ndarray, " active"]:
    """The adapted frequencies of the next decision, of the lanes that have a token at this step."""
    adapted = np.empty(len(frequencies), dtype=np.int32)
    decide_step(adaptive.state, adaptive.step, adaptive.decision, frequencies.astype(np.int32), adapted)
    return adapted.astype(np.int64)


def learn(adaptive: Adaptive, bits: Int32[np.ndarray, " active"]) -> None:
    """Take the bits of the decision that `predict` was called for, and go on to the next."""
    learn_step(adaptive.state, adaptive.step, adaptive.decision, bits.astype(np.int64))
    adaptive.decision += 1
    if adaptive.decision == adaptive.state.depth:
        adaptive.step, adaptive.decision = adaptive.step + 1, 0
