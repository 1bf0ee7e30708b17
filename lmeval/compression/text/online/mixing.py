"""Logistic mixing: predictions as log-odds, weighted by what has predicted well in such places, learned online.

A prediction is squash(sum of w_i x_i); after the bit, w_i grows by rate x_i (bit - prediction), the gradient of the code
length. Several sets of weights, each chosen by another small context, make a prediction each; a second layer mixes those.
(M. Mahoney, "Adaptive weighing of context models for lossless data compression", 2005; the two layers as in paq8.)
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64

from lmeval.compression.text.online.tables import ONE, Tables, limited, squash
from lmeval.compute.compiled import Int, compiled

WEIGHT_LIMIT = 1 << 23  # weights are in units of 2^-16
SLOW = 400  # uses after which the falling part of a rate has halved
STAGES = 33  # of a refining map: log-odds from -8 to 8 nats in halves
_STAGE_BITS = 11
_STAGE_LIMIT = 16 << _STAGE_BITS


class Mixer(NamedTuple):
    """`weights` of all sets one below the other, each beginning at `first`; how often each row was used; `final` weights of
    the sets' predictions, for each of the sets `finals` and its rows. Of the decision in hand, for each lane: the inputs,
    the row of each set, log-odds and probability of each set's prediction, the probability that each of the final ones
    comes to, log-odds and probability of all together."""

    weights: Int32[np.ndarray, "rows inputs"]
    used: Int32[np.ndarray, " rows"]
    first: Int64[np.ndarray, " sets"]
    finals: Int64[np.ndarray, " finals"]
    final: Int32[np.ndarray, "finals rows sets"]
    inputs: Int32[np.ndarray, "lanes inputs"]
    row: Int64[np.ndarray, "lanes sets"]
    log_odds: Int64[np.ndarray, "lanes sets"]
    predicted: Int64[np.ndarray, "lanes sets"]
    finally_predicted: Int64[np.ndarray, "lanes finals"]
    total: Int64[np.ndarray, " lanes"]
    mixed: Int64[np.ndarray, " lanes"]


class Rates(NamedTuple):
    """Rates of learning in units of 2^-10 / 16: at last, and added to it at first, falling with the number of uses."""

    last: int
    first: int
    final: int


def open_mixer(
    first_weights: Int64[np.ndarray, " inputs"], set_sizes: list[int], n_sets: int, finals: list[int], n_lanes: int
) -> Mixer:
    """All of the first `n_sets` sets begin with the same weights (2^-16) and count alike; the others are idle. The rows of
    the sets `finals` choose final weights as well."""
    n_rows, n_finals = sum(set_sizes[:n_sets]), len(finals)
    return Mixer(
        np.tile(first_weights.astype(np.int32), (n_rows, 1)),
        np.zeros(n_rows, dtype=np.int32),
        np.cumsum([0, *set_sizes[:-1]]).astype(np.int64),
        np.array(finals, dtype=np.int64),
        np.full((n_finals, max(set_sizes), n_sets), (1 << 16) // n_sets, dtype=np.int32),
        np.zeros((n_lanes, len(first_weights)), dtype=np.int32),
        np.zeros((n_lanes, len(set_sizes)), dtype=np.int64),
        np.zeros((n_lanes, n_sets), dtype=np.int64),
        np.zeros((n_lanes, n_sets), dtype=np.int64),
        np.zeros((n_lanes, n_finals), dtype=np.int64),
        np.zeros(n_lanes, dtype=np.int64),
        np.zeros(n_lanes, dtype=np.int64),
    )


@compiled
def mix(mixer: Mixer, lookup: Tables, n_active: int) -> None:
    """Log-odds and probability of a 1 in every active lane, from the inputs and rows that stand there."""
    inputs, weights, squashed = mixer.inputs, mixer.weights, lookup.squashed
    for lane in range(n_active):
        for s in range(mixer.log_odds.shape[1]):
            row, log_odds = mixer.row[lane, s], np.int64(1 << 15)
            for i in range(inputs.shape[1]):
                log_odds += np.int64(weights[row, i]) * np.int64(inputs[lane, i])
            log_odds = limited(log_odds >> 16)
            mixer.log_odds[lane, s] = log_odds
            mixer.predicted[lane, s] = squash(log_odds, squashed)
    _mix_finally(mixer, squashed, n_active)


@compiled
def _mix_finally(mixer: Mixer, squashed: Int32[np.ndarray, " n"], n_active: int) -> None:
    """The second layer. It goes over the lanes itself, as `_learn_finally` does: to hand a mixer on costs time."""
    finals, final, n_finals = mixer.finals, mixer.final, len(mixer.finals)
    for lane in range(n_active):
        total = np.int64(0)
        for k in range(n_finals):
            row, log_odds = mixer.row[lane, finals[k]] - mixer.first[finals[k]], np.int64(1 << 15)
            for s in range(mixer.log_odds.shape[1]):
                log_odds += np.int64(final[k, row, s]) * mixer.log_odds[lane, s]
            log_odds = limited(log_odds >> 16)
            mixer.finally_predicted[lane, k] = squash(log_odds, squashed)
            total += log_odds
        mixer.total[lane] = total // n_finals
        mixer.mixed[lane] = squash(mixer.total[lane], squashed)


@compiled
def learn_weights(mixer: Mixer, rates: Rates, bits: Int64[np.ndarray, " lanes"], n_active: int) -> None:
    """Move the weights that `mix` used towards what would have predicted the bits better."""
    _learn_finally(mixer, rates.final, bits, n_active)
    inputs, weights, uses = mixer.inputs, mixer.weights, mixer.used
    for lane in range(n_active):
        target = ONE - 1 if bits[lane] else 0
        for s in range(mixer.log_odds.shape[1]):
            row = mixer.row[lane, s]
            used = np.int64(uses[row])
            uses[row] = min(used + 1, 65535)
            step = ((target - mixer.predicted[lane, s]) * (rates.last + rates.first * SLOW // (SLOW + used))) >> 14
            for i in range(inputs.shape[1]):
                moved = np.int64(weights[row, i]) + ((np.int64(inputs[lane, i]) * step + (1 << 17)) >> 18)
                weights[row, i] = min(max(moved, -WEIGHT_LIMIT), WEIGHT_LIMIT)


@compiled
def _learn_finally(mixer: Mixer, rate: int, bits: Int64[np.ndarray, " lanes"], n_active: int) -> None:
    """The second layer learns: each row from what it came to itself."""
    finals, final = mixer.finals, mixer.final
    for lane in range(n_active):
        target = ONE - 1 if bits[lane] else 0
        for k in range(len(finals)):
            row = mixer.row[lane, finals[k]] - mixer.first[finals[k]]
            step = ((target - mixer.finally_predicted[lane, k]) * rate) >> 14
            for s in range(mixer.log_odds.shape[1]):
                moved = final[k, row, s] + ((mixer.log_odds[lane, s] * step + (1 << 17)) >> 18)
                final[k, row, s] = min(max(moved, -WEIGHT_LIMIT), WEIGHT_LIMIT)


class Refiner(NamedTuple):
    """Maps from a context and log-odds to a probability (adaptive probability maps): for what was predicted so, in such a
    place, how often it was a 1. Between the stages they are interpolated; the nearer one learns. Of the decision in hand,
    for each lane and map: context and stage."""

    maps: Int32[np.ndarray, "maps contexts stages"]
    context: Int64[np.ndarray, "lanes maps"]
    stage: Int64[np.ndarray, "lanes maps"]


def open_refiner(n_maps: int, n_contexts: int, n_lanes: int, lookup: Tables) -> Refiner:
    """Maps that change nothing."""
    stages = lookup.squashed[(((np.arange(STAGES) - 16) << _STAGE_BITS) + (12 << 12)) >> 4]
    return Refiner(
        np.broadcast_to(stages, (n_maps, n_contexts, STAGES)).copy(),
        np.zeros((n_lanes, n_maps), dtype=np.int64),
        np.zeros((n_lanes, n_maps), dtype=np.int64),
    )


@compiled
def refine(refiner: Refiner, log_odds: Int, which: int, context: int, lane: int) -> Int:
    """The refined probability."""
    place = min(max(log_odds, -_STAGE_LIMIT), _STAGE_LIMIT - 1) + _STAGE_LIMIT
    stage, rest = place >> _STAGE_BITS, place & ((1 << _STAGE_BITS) - 1)
    refiner.context[lane, which] = context
    refiner.stage[lane, which] = stage + (rest >> (_STAGE_BITS - 1))
    below, above = np.int64(refiner.maps[which, context, stage]), np.int64(refiner.maps[which, context, stage + 1])
    return (below * ((1 << _STAGE_BITS) - rest) + above * rest) >> _STAGE_BITS


@compiled
def learn_maps(refiner: Refiner, rate: int, bits: Int64[np.ndarray, " lanes"], n_active: int) -> None:
    """Move the nearer stages towards the bits by rate / 2^16."""
    for lane in range(n_active):
        target = ONE - 1 if bits[lane] else 0
        for which in range(refiner.maps.shape[0]):
            context, stage = refiner.context[lane, which], refiner.stage[lane, which]
            value = np.int64(refiner.maps[which, context, stage])
            refiner.maps[which, context, stage] = value + (((target - value) * rate) >> 16)
