"""Log-probabilities of chosen tokens, without ever holding the logits of all positions.

A causal LM is a trunk (ids -> hidden states) and a head (hidden state -> logits, with whatever scaling or capping the
architecture adds). The trunk runs over the whole batch once; the head, the log-softmax and the choice of the target run
over slices of the scored positions. For a vocabulary of 150,000, 16,384 positions would be 10 GB of float32 logits. On a
CPU a large linear head is also cut across the vocabulary, with a running log-sum-exp, so that only 4 MB of logits exist at
a time: no memory is mapped anew for each slice, and the head costs no more than its matrix product (scripts/bench_scoring).
"""

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from lmeval.compute import memory
from lmeval.compute.place import Place, alone, is_cpu
from lmeval.errors import NonFiniteScore, NotCausal

BLOCK_ROWS, BLOCK_COLUMNS = 512, 2048  # of a head that is cut across the vocabulary too
_NOTHING: Mapping[str, Any] = {}


class Head(enum.Enum):
    """How a network's logits can be had, found out by trying (`examine`)."""

    LINEAR = "the output embedding alone"
    REPLAYED = "the network's own forward with the trunk's output put in: heads that scale or cap their logits"
    WHOLE = "only by the network's whole forward"


def target_log_probs(
    network: PreTrainedModel,
    head: Head,
    ids: Int64[Tensor, "batch time"],
    positions: Int64[Tensor, " scored"],
    targets: Int64[Tensor, " scored"],
    place: Place | None = None,
) -> Float[Tensor, " scored"]:
    """log p(target | ids up to and including the position), in nats, on the ids' device.

    Args:
        network: The causal language model.
        head: How its logits are had (`examine`).
        ids: Token ids [batch, time]. Rows may be padded on the right with any id: a causal network does not look ahead, so
            no mask is needed (and a mask would cost the fast attention kernels).
        positions: Indices of the flattened [batch * time] ids; the token at position i predicts the one after it.
        targets: The predicted token of each position.
        place: Sets a memory budget (see `compute.memory`); None is the ids' device without one.

    Returns:
        A tensor [scored] of float32, or float64 for a float64 network; the log-softmax is computed in that precision
        whatever the network's own.
    """
    return _read(network, head, ids, Readings(positions, None, targets), None, place)[0]


class Readings(NamedTuple):
    """What is read at the head. `positions` index the flattened [batch * time] ids: the head runs once at each. Target i is
    read at positions[which[i]]; `which` ascends. None: one target at each position, in their order."""

    positions: Int64[Tensor, " positions"]
    which: Int64[Tensor, " targets"] | None
    targets: Int64[Tensor, " targets"]


def read_targets(
    network: PreTrainedModel,
    head: Head,
    ids: Int64[Tensor, "batch time"],
    readings: Readings,
    trunk_inputs: Mapping[str, Any] | None = None,
    place: Place | None = None,
) -> tuple[Float[Tensor, " targets"], Bool[Tensor, " targets"]]:
    """Log-probabilities as `target_log_probs` gives them, several targets at one position if need be; and whether no other
    token has a larger logit there, in the precision that the log-probabilities are computed in.

    `trunk_inputs` are further arguments of the trunk (mask, positions, cache), for any head but Head.WHOLE.
    """
    log_probs, greedy = _read(network, head, ids, readings, trunk_inputs or {}, place)
    assert greedy is not None
    return log_probs, greedy


def _read(
    network: PreTrainedModel,
    head: Head,
    ids: Int64[Tensor, "batch time"],
    readings: Readings,
    trunk_inputs: Mapping[str, Any] | None,  # None: greedy is not asked for
    place: Place | None,
) -> tuple[Float[Tensor, " targets"], Bool[Tensor, " targets"] | None]:
    positions, targets = readings.positions, readings.targets
    with torch.inference_mode():
        weight_and_bias = _large_linear_head(network, head, ids.device)
        if weight_and_bias is not None:
            hidden, _ = _hidden_states(network, ids, positions, trunk_inputs or {})
            cuts = torch.arange(len(hidden)).split(BLOCK_ROWS)
            parts = [_log_prob_by_blocks(hidden[rows], *weight_and_bias, *_local(readings, rows)[1:]) for rows in cuts]
            log_probs, greedy = (torch.cat(of_rows) for of_rows in zip(*parts, strict=True))
            return log_probs, greedy
        log_probs = torch.empty(len(targets), dtype=torch.promote_types(network.dtype, torch.float32), device=ids.device)
        greedy = None if trunk_inputs is None else torch.empty(len(targets), dtype=torch.bool, device=ids.device)
        for rows, logits in logit_slices(network, head, ids, positions, trunk_inputs or {}, place):
            mine, here, wanted = _local(readings, rows)
            log_probs[mine] = _log_prob(logits, here, wanted)
            if greedy is not None:
                row = torch.arange(len(wanted), device=ids.device) if here is None else here
                greedy[mine] = logits[row, wanted] >= logits.amax(dim=1)[row]
        return log_probs, greedy


def _local(
    readings: Readings, rows: Int64[Tensor, " rows"]
) -> tuple[Int64[Tensor, " here"] | slice, Int64[Tensor, " here"] | None, Int64[Tensor, " here"]]:
    """The readings at some of the positions, `rows` (ascending indices into them): which targets these are, the index of
    each one's position within `rows` (None: in their order), and their tokens."""
    if readings.which is None:
        return rows, None, readings.targets[rows]
    if int(rows[-1] - rows[0]) + 1 == len(rows):  # neighbours: theirs lie together
        bounds = torch.stack([rows[0], rows[-1] + 1]).to(readings.which.device)
        first, stop = torch.searchsorted(readings.which, bounds).tolist()
        return slice(first, stop), readings.which[first:stop] - int(rows[0]), readings.targets[first:stop]
    place = torch.searchsorted(rows, readings.which).clamp_max(len(rows) - 1)
    mine = (rows[place] == readings.which).nonzero().squeeze(1)
    return mine, place[mine], readings.targets[mine]


def logit_slices(
    network: PreTrainedModel,
    head: Head,
    ids: Int64[Tensor, "batch time"],
    positions: Int64[Tensor, " scored"],
    trunk_inputs: Mapping[str, Any] = _NOTHING,
    place: Place | None = None,
) -> Iterator[tuple[Int64[Tensor, " rows"], Float[Tensor, "rows vocabulary"]]]:
    """Logits at the positions (as `target_log_probs` counts them), in slices that a cache holds: indices into `positions`,
    and their logits in the network's dtype. To be used up under `torch.inference_mode`. `place` may set a memory budget."""
    at_once = _slice_rows(network, place or alone(ids.device))
    if head is Head.WHOLE:
        assert not trunk_inputs, "a network without a trunk takes ids alone"
        yield from _whole_forward_slices(network, ids, positions, at_once)
        return
    hidden, kind = _hidden_states(network, ids, positions, trunk_inputs)
    logits = _linear_logits if head is Head.LINEAR else _replayed_logits
    for part in torch.arange(len(hidden), device=ids.device).split(at_once):
        yield part, logits(network, hidden[part[0] : part[-1] + 1], kind)


def _hidden_states(
    network: PreTrainedModel,
    ids: Int64[Tensor, "batch time"],
    positions: Int64[Tensor, " scored"],
    more: Mapping[str, Any],
) -> tuple[Float[Tensor, "scored width"], type[ModelOutput]]:
    """The trunk's output at the positions, and the kind of object it came in. `more` are further arguments of the trunk."""
    output = _trunk(network)(**({"input_ids": ids, "use_cache": False} | dict(more)))
    hidden = output.last_hidden_state.flatten(0, 1)
    return (hidden if len(positions) == len(hidden) else hidden.index_select(0, positions)), type(output)


def _log_prob(
    logits: Float[Tensor, "rows vocabulary"], which: Int64[Tensor, " targets"] | None, targets: Int64[Tensor, " targets"]
) -> Float[Tensor, " targets"]:
    if logits.dtype != torch.float64:
        logits = logits.float()
    if which is None:
        return -functional.cross_entropy(logits, targets, reduction="none")
    return logits[which, targets] - logits.logsumexp(dim=1)[which]


def _large_linear_head(network: PreTrainedModel, head: Head, device: torch.device) -> tuple[Tensor, Tensor | None] | None:
    """Weight [vocabulary, width] and bias of a plain linear head that is worth cutting across the vocabulary, else None."""
    embeddings = network.get_output_embeddings()
    if head is not Head.LINEAR or not is_cpu(device) or type(embeddings) is not nn.Linear:
        return None
    return (embeddings.weight, embeddings.bias) if embeddings.out_features > 2 * BLOCK_COLUMNS else None


def _log_prob_by_blocks(
    hidden: Float[Tensor, "rows width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    which: Int64[Tensor, " targets"] | None,
    targets: Int64[Tensor, " targets"],
) -> tuple[Float[Tensor, " targets"], Bool[Tensor, " targets"]]:
    """Target logit minus log-sum-exp, over blocks of the vocabulary: keeps the largest logit m so far and
    s = sum exp(logit - m), rescaled whenever m grows (Milakov & Gimelshein 2018). And whether the target's is largest."""
    precision = torch.promote_types(hidden.dtype, torch.float32)
    rows = len(hidden)
    largest = torch.full((rows,), -torch.inf, dtype=precision)
    total = torch.zeros(rows, dtype=torch.float64)
    row = torch.arange(rows) if which is None else which
    chosen = torch.full((len(targets),), torch.nan, dtype=precision)  # what stays so is no id of the vocabulary
    space = torch.empty(rows * BLOCK_COLUMNS, dtype=hidden.dtype)
    for first in range(0, len(weight), BLOCK_COLUMNS):
        part = weight[first : first + BLOCK_COLUMNS]
        out = space[: rows * len(part)].view(rows, len(part))
        if bias is None:
            logits = torch.mm(hidden, part.T, out=out)
        else:
            logits = torch.addmm(bias[first : first + BLOCK_COLUMNS], hidden, part.T, out=out)
        logits = logits.to(precision)  # the buffer itself, or a copy where the network is narrower than float32
        here = ((targets >= first) & (targets < first + len(part))).nonzero().squeeze(1)
        chosen[here] = logits[row[here], targets[here] - first]
        raised = torch.maximum(largest, logits.amax(dim=1))
        shift = raised.masked_fill(raised.isinf(), 0.0)  # where every token so far is ruled out
        total *= torch.exp(largest - shift)
        total += logits.sub_(shift.unsqueeze(1)).exp_().sum(dim=1)
        largest = raised
    greedy = chosen >= largest.index_select(0, row)
    return chosen - largest.index_select(0, row) - total.log().to(precision).index_select(0, row), greedy


def _slice_rows(network: PreTrainedModel, place: Place) -> int:
    return memory.at_once(memory.LOGIT_ROWS, place, 4 * network.config.get_text_config().vocab_size)


def _trunk(network: PreTrainedModel) -> nn.Module:
    return network.base_model


def _linear_logits(
    network: PreTrainedModel, hidden: Float[Tensor, "rows width"], _: type[ModelOutput]
) -> Float[Tensor, "rows vocabulary"]:
    head = network.get_output_embeddings()
    assert head is not None
    return head(hidden)


def _replayed_logits(
    network: PreTrainedModel, hidden: Float[Tensor, "rows width"], kind: type[ModelOutput]
) -> Float[Tensor, "rows vocabulary"]:
    """Run the network's forward with its trunk replaced by one that returns `hidden`, as the trunk's own kind of output."""
    trunk = _trunk(network)
    replaced = trunk.__dict__.get("forward")  # accelerate's hooks put a forward of their own on the object

    def forward(*_: object, **__: object) -> ModelOutput:
        return kind(last_hidden_state=hidden.unsqueeze(0))

    trunk.__dict__["forward"] = forward
    try:
        dummy = torch.zeros(1, 1, dtype=torch.int64, device=hidden.device)
        return network(input_ids=dummy, use_cache=False).logits.squeeze(0)
    finally:
        if replaced is None:
            del trunk.__dict__["forward"]
        else:
            trunk.__dict__["forward"] = replaced


def _whole_forward_slices(
    network: PreTrainedModel, ids: Int64[Tensor, "batch time"], positions: Int64[Tensor, " scored"], at_once: int
) -> Iterator[tuple[Int64[Tensor, " rows"], Float[Tensor, "rows vocabulary"]]]:
    """Full logits of one row of the batch at a time, the head of last resort."""
    time = ids.shape[1]
    for row in range(ids.shape[0]):
        mine = (positions // time == row).nonzero().squeeze(1)
        if len(mine):
            logits = network(input_ids=ids[row : row + 1], use_cache=False).logits.squeeze(0)
            for part in mine.split(at_once):
                yield part, logits[positions[part] % time]


def depends_on_batch(network: PreTrainedModel, longest: int) -> bool:
    """Whether a sequence's outputs depend on how long the others of its batch are, with sequences of up to `longest` tokens.

    Rotary positions of the kinds "longrope" (Phi-3) and "dynamic" change their frequencies where the longest sequence of a
    forward pass exceeds the length that the network was first trained on: one sequence at a time is exact then.
    """
    config = network.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, Mapping))]
    for kind in kinds:
        if kind.get("rope_type") in ("longrope", "dynamic"):
            original = kind.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", 0)
            if longest > (original or config.max_position_embeddings):
                return True
    return False


def examine(network: PreTrainedModel, label: str) -> Head:
    """Find out by trying which head the network has, and that its outputs do not depend on later tokens.

    Two short rows that differ in their last token alone go through the network: all logits before it must agree, and the
    simplest head that reproduces the network's own logits is taken.

    Raises:
        NotCausal: The logits do not agree.
        NonFiniteScore: Some of them are NaN.
    """
    vocab = network.config.get_text_config().vocab_size
    device = next(network.parameters()).device
    ids = torch.arange(1, 7, device=device).repeat(2, 1) % vocab
    ids[1, -1] = (ids[1, -1] + 1) % vocab
    with torch.inference_mode():
        full = network(input_ids=ids, use_cache=False).logits
        if full.isnan().any():
            raise NonFiniteScore(
                f"model {label} gives NaN for a probe of 6 tokens: its weights are damaged or overflow {full.dtype}"
            )
        if not _close(full[0, :-1], full[1, :-1]):
            raise NotCausal(f"{label} sees later tokens ({type(network).__name__}): only causal models assign probabilities")
        if _trunk(network) is network:
            return Head.WHOLE
        try:
            output = _trunk(network)(input_ids=ids, use_cache=False)
            hidden, kind = output.last_hidden_state.flatten(0, 1), type(output)
        except (AttributeError, TypeError):  # a trunk with another interface
            return Head.WHOLE
        expected = full.flatten(0, 1)
        replayed = _agrees(lambda: _replayed_logits(network, hidden, kind), expected)
        linear = _agrees(lambda: _linear_logits(network, hidden, kind), expected)
        if linear and replayed:  # a soft cap hides in small logits: compare at large ones too
            large = 16 * hidden
            linear = _close(_linear_logits(network, large, kind), _replayed_logits(network, large, kind))
    return Head.LINEAR if linear else Head.REPLAYED if replayed else Head.WHOLE


def _agrees(logits: Callable[[], Tensor], expected: Tensor) -> bool:
    try:
        return _close(logits(), expected)
    except (AttributeError, TypeError, RuntimeError, IndexError, AssertionError):
        return False  # an architecture that does not work in this way


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of one network's dtype; equal infinities (tokens that a network rules out) are equal."""
    if a.shape != b.shape:
        return False
    tolerance = 64 * torch.finfo(a.dtype).eps
    scale = float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 1.0
    return torch.allclose(a.double(), b.double(), rtol=0.0, atol=tolerance * max(1.0, scale))
