"""The online models of one block together: what they remember, and one decision of them, lane by lane."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt64

from lmeval.compression.text.online import contexts, counters, matches, mixing, runs
from lmeval.compression.text.online.hashes import fold
from lmeval.compression.text.online.recipes import SET_SIZES, Recipe
from lmeval.compression.text.online.tables import NAT, ONE, Tables, stretch, tables
from lmeval.compute.compiled import Int, compiled

BYTE_DEPTH = 8
_MODEL_INPUTS = 2
_REFINED = 4  # maps: one before the mixer, and three after it; others with hashed contexts follow
_HASHED = 1 << 16
_SALT = np.uint64(0x51_7C_C1_B7_27_22_0A_95)


class State(NamedTuple):
    """Everything that learns. `ids`: the block's symbols in coding order, as far as they are known. `chosen`: numbers of the
    contexts in use, `private`: whether a lane keeps them to itself; `orders`: which of them (as bits) are the text's last
    symbols without a gap; `n_counts`: inputs that the counters write.

    For each lane: the `node` of the tree at which the decision in hand stands (1: the root), `last` and `second` symbol
    before it (1 + the id, modulo 256), log-odds of the language `model` (2^-12 nats), the contexts `seen` before,
    `base`, the hashes of its contexts, and `hashed`, those that choose a row of the last maps. `found` is where contexts are
    first written."""

    depth: int
    n_lanes: int
    ids: Int64[np.ndarray, " tokens"]
    lookup: Tables
    rates: mixing.Rates
    map_rate: int
    use_model: int
    chosen: Int64[np.ndarray, " contexts"]
    private: Int64[np.ndarray, " contexts"]
    refined: Int64[np.ndarray, " hashed"]
    orders: int
    n_counts: int
    node: Int64[np.ndarray, " lanes"]
    last: Int64[np.ndarray, " lanes"]
    second: Int64[np.ndarray, " lanes"]
    model: Int64[np.ndarray, " lanes"]
    seen: Int64[np.ndarray, "lanes 2"]
    base: UInt64[np.ndarray, "lanes contexts"]
    hashed: UInt64[np.ndarray, "lanes hashed"]
    found: UInt64[np.ndarray, " numbers"]
    text: contexts.Text
    counters: counters.Counters
    runs: runs.Runs
    matches: matches.Matches
    mixer: mixing.Mixer
    refiner: mixing.Refiner


def open_state(recipe: Recipe, depth: int, n_tokens: int, n_lanes: int, *, use_model: bool) -> State:
    """Models that have seen nothing."""
    lookup, n_contexts = tables(), len(recipe.contexts)
    n_counts = n_contexts + sum(c.mapped for c in recipe.contexts) + sum(longer >= 0 for longer in recipe.longer)
    n_inputs = n_counts + _MODEL_INPUTS + len(recipe.match_lengths) + len(recipe.runs) + 1
    first = np.zeros(-(-n_inputs // 8) * 8, dtype=np.int64)  # a multiple of 8: whole vectors
    first[: n_inputs - 1] = recipe.first_weight
    first[n_counts] = recipe.first_model_weight if use_model else 0
    return State(
        depth=depth,
        n_lanes=n_lanes,
        ids=np.zeros(n_tokens, dtype=np.int64),
        lookup=lookup,
        rates=mixing.Rates(*recipe.rates),
        map_rate=recipe.map_rate,
        use_model=int(use_model),
        chosen=np.array([c.number for c in recipe.contexts], dtype=np.int64),
        private=np.array([c.private for c in recipe.contexts], dtype=np.int64),
        refined=np.array(recipe.refined, dtype=np.int64),
        orders=sum(1 << i for i, c in enumerate(recipe.contexts) if c.is_order),
        n_counts=n_counts,
        node=np.ones(n_lanes, dtype=np.int64),
        last=np.zeros(n_lanes, dtype=np.int64),
        second=np.zeros(n_lanes, dtype=np.int64),
        model=np.zeros(n_lanes, dtype=np.int64),
        seen=np.zeros((n_lanes, 2), dtype=np.int64),
        base=np.zeros((n_lanes, n_contexts), dtype=np.uint64),
        hashed=np.zeros((n_lanes, len(recipe.refined)), dtype=np.uint64),
        found=np.zeros(contexts.N_CONTEXTS, dtype=np.uint64),
        text=contexts.open_text(n_lanes),
        counters=counters.open_counters(
            recipe.size_bits(depth, n_tokens),
            [c.limit for c in recipe.contexts],
            list(recipe.longer),
            [c.mapped for c in recipe.contexts],
            n_lanes,
        ),
        runs=runs.open_runs(list(recipe.runs), recipe.run_bits(n_tokens), n_lanes),
        matches=matches.open_matches(depth, list(recipe.match_lengths), recipe.match_bits(n_tokens), n_lanes),
        mixer=mixing.open_mixer(first, list(SET_SIZES), recipe.n_sets, list(recipe.finals), n_lanes),
        refiner=mixing.open_refiner(_REFINED + len(recipe.refined), _HASHED, n_lanes, lookup),
    )


@compiled
def begin_step(state: State, step: int, n_active: int) -> None:
    """Compute the contexts of every lane's symbol at a step, from the symbols before it."""
    ids, n_lanes = state.ids, state.n_lanes
    for lane in range(n_active):
        state.node[lane] = 1
        state.last[lane] = contexts.symbol(ids, step - 1, n_lanes, lane) & 255
        state.second[lane] = contexts.symbol(ids, step - 2, n_lanes, lane) & 255
        if state.depth == BYTE_DEPTH:
            if step:
                contexts.read_byte(state.text, ids, step, n_lanes, lane)
            contexts.byte_contexts(state.text, ids, step, n_lanes, lane, state.found)
        else:
            contexts.token_contexts(ids, step, n_lanes, lane, state.found)
        for c in range(len(state.chosen)):
            number = state.chosen[c]
            hashed = fold(state.found[number] ^ _SALT, number)
            state.base[lane, c] = fold(hashed, lane + 1) if state.private[c] else hashed
        for k in range(len(state.refined)):
            state.hashed[lane, k] = fold(state.found[state.refined[k]] ^ _SALT, state.refined[k])
    runs.find_runs(state.runs, state.base, n_active)
    if step:
        matches.follow(state.matches, ids, step, n_lanes, n_active)


@compiled
def predict_step(
    state: State,
    step: int,
    decision: int,
    frequencies: Int32[np.ndarray, " active"],
    adapted: Int32[np.ndarray, " active"],
) -> None:
    """Adapted frequencies of one decision of all active lanes, from the language model's, into `adapted`."""
    n_active, place = len(frequencies), state.n_counts
    lookup, node, inputs = state.lookup, state.node, state.mixer.inputs
    counters.look_up(state.counters, lookup, state.base, node, n_active, inputs, state.seen)
    if state.use_model:
        for lane in range(n_active):
            log_odds = stretch(np.int64(frequencies[lane]), lookup.middle, lookup.tail)
            refined = mixing.refine(
                state.refiner, log_odds, np.int64(0), _place(state.depth, node[lane], state.last[lane]), lane
            )
            state.model[lane] = inputs[lane, place] = log_odds
            inputs[lane, place + 1] = stretch(refined, lookup.middle, lookup.tail)
    place += _MODEL_INPUTS
    matches.expect(state.matches, lookup, state.ids, node, decision, n_active, inputs, place)
    place += len(state.matches.lengths)
    runs.expect_runs(state.runs, lookup, node, decision, state.depth, n_active, inputs, place)
    inputs[:n_active, place + len(state.runs.contexts)] = NAT // 2
    _choose_rows(state, decision, n_active)
    mixing.mix(state.mixer, lookup, n_active)
    _refine(state, adapted)


@compiled
def _refine(state: State, adapted: Int32[np.ndarray, " active"]) -> None:
    """What was mixed, averaged with what the maps make of it: it counts as one of them, or as two where there are six."""
    refiner, share = state.refiner, 2 if len(state.refined) else 1
    for lane in range(len(adapted)):
        node, last, log_odds = state.node[lane], state.last[lane], state.mixer.total[lane]
        if len(state.refined):  # the language model's log-odds in stages
            third = min(max((state.model[lane] + (1 << 15)) >> 10, 0), 63) << 8 | node & 255
        else:
            third = np.int64(fold(fold(fold(_SALT, node), last), state.second[lane]) >> np.uint64(48))
        total = share * state.mixer.mixed[lane]
        total += mixing.refine(refiner, log_odds, np.int64(1), _place(state.depth, node, last), lane)
        total += mixing.refine(refiner, log_odds, np.int64(2), state.matches.strongest[lane] << 8 | node & 255, lane)
        total += mixing.refine(refiner, log_odds, np.int64(3), third, lane)
        for k in range(len(state.refined)):
            hashed = np.int64(fold(state.hashed[lane, k], node) >> np.uint64(48))
            total += mixing.refine(refiner, log_odds, np.int64(4 + k), hashed, lane)
        adapted[lane] = min(max(total >> (1 + share), 1), ONE - 1)


@compiled
def _place(depth: int, node: int, last: int) -> Int:
    """A number below 2^16 for a decision after a symbol: exact for bytes, hashed for tokens."""
    if depth == BYTE_DEPTH:
        return (node << 8 | last) & 65535
    return np.int64(fold(fold(_SALT, node), last) >> np.uint64(48))


@compiled
def _count(bits: int) -> Int:
    """How many bits are set."""
    n = 0
    while bits:
        bits &= bits - 1
        n += 1
    return n


@compiled
def _choose_rows(state: State, decision: int, n_active: int) -> None:
    """The rows of weights that this decision uses."""
    row, first, early = state.mixer.row, state.mixer.first, min(decision, 7)
    for lane in range(n_active):
        node, model = state.node[lane], state.model[lane]
        orders = min(_count(state.seen[lane, 0] & state.orders), 15)
        alike = min(_count(state.seen[lane, 1] & state.orders), 15)
        level = min(abs(model) >> 11, 15)
        row[lane, 0] = first[0] + (node if node < 224 or state.depth == BYTE_DEPTH else 224 + decision)
        row[lane, 1] = first[1] + state.matches.strongest[lane] * 8 + early
        row[lane, 2] = first[2] + orders * 16 + level
        row[lane, 3] = first[3] + state.last[lane]
        row[lane, 4] = first[4] + (state.text.partial[lane] * 8 + early) * 16 + orders
        row[lane, 5] = first[5] + state.second[lane]
        row[lane, 6] = first[6] + (level * 2 + (1 if model > 0 else 0)) * 8 + early
        row[lane, 7] = first[7] + min(state.text.letters[lane], 15) * 8 + early
        row[lane, 8] = first[8] + orders * 16 + alike


@compiled
def learn_step(state: State, step: int, decision: int, bits: Int64[np.ndarray, " active"]) -> None:
    """Everything learns the bits of the decision that `predict_step` was asked for."""
    n_active = len(bits)
    counters.learn_counters(state.counters, state.lookup, bits, n_active)
    runs.learn_runs(state.runs, state.lookup, bits, n_active)
    matches.learn_matches(state.matches, state.lookup, bits, n_active)
    mixing.learn_maps(state.refiner, state.map_rate, bits, n_active)
    mixing.learn_weights(state.mixer, state.rates, bits, n_active)
    for lane in range(n_active):
        state.node[lane] = state.node[lane] << 1 | bits[lane]
    if decision == state.depth - 1:  # now the symbols are whole
        begin = step * state.n_lanes
        for lane in range(n_active):
            state.ids[begin + lane] = state.node[lane] - (1 << state.depth)
        runs.lengthen_runs(state.runs, state.ids[begin : begin + n_active])


@compiled
def run_steps(
    state: State,
    first: int,
    stop: int,
    frequencies: Int32[np.ndarray, "decisions tokens"],
    adapted: Int32[np.ndarray, "decisions tokens"],
) -> None:
    """All decisions of steps [first, stop) of symbols that are known: their adapted frequencies, into `adapted`."""
    bits = np.empty(state.n_lanes, dtype=np.int64)
    for step in range(first, stop):
        begin = step * state.n_lanes
        end = min(begin + state.n_lanes, len(state.ids))
        begin_step(state, step, end - begin)
        for decision in range(state.depth):
            predict_step(state, step, decision, frequencies[decision, begin:end], adapted[decision, begin:end])
            for lane in range(end - begin):
                bits[lane] = state.ids[begin + lane] >> (state.depth - 1 - decision) & 1
            learn_step(state, step, decision, bits[: end - begin])


@compiled
def decide_step(
    state: State,
    step: int,
    decision: int,
    frequencies: Int32[np.ndarray, " active"],
    adapted: Int32[np.ndarray, " active"],
) -> None:
    """As `predict_step`, and what goes before the first decision of a step."""
    if decision == 0:
        begin_step(state, step, len(frequencies))
    predict_step(state, step, decision, frequencies, adapted)
