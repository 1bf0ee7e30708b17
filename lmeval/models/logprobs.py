"""Log-probabilities of chosen tokens, without ever holding the logits of all positions.

A causal LM is a trunk (ids -> hidden states) and a head (hidden state -> logits, with whatever scaling or capping the
architecture adds). The trunk runs over the whole batch once; the head, the log-softmax and the choice of the target run
over slices of the scored positions, small enough to stay in cache. For a vocabulary of 150,000, 16,384 positions would be
10 GB of float32 logits; a slice is 150 MB.
"""

import enum
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from lmeval.errors import NonFiniteScore, NotCausal

SLICE_ELEMENTS = 1 << 20  # logits of a slice; more leaves the cache of a core (measured: bench_scoring)
SLICE_ROWS = 256  # at least, so that reading a large head's weights is shared by enough rows
ACCELERATOR_SLICE_ELEMENTS = 1 << 27


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
) -> Float[Tensor, " scored"]:
    """log p(target | ids up to and including the position), in nats, on the ids' device.

    `positions` index the flattened [batch * time] ids: position i predicts the token behind it. The result is float32, or
    float64 for a float64 network; the log-softmax is computed in that precision whatever the network's own.

    Rows may be padded on the right with any id: a causal network does not look ahead, so no mask is needed (and a mask
    would cost the fast attention kernels).
    """
    with torch.inference_mode():
        if head is Head.WHOLE:
            return _by_whole_forward(network, ids, positions, targets)
        hidden = _trunk(network)(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        if len(positions) != len(hidden):
            hidden = hidden.index_select(0, positions)
        rows = _slice_rows(network, hidden.device)
        logits = _linear_logits if head is Head.LINEAR else _replayed_logits
        parts = zip(hidden.split(rows), targets.split(rows), strict=True)
        return torch.cat([_log_prob(logits(network, h), t) for h, t in parts])


def _log_prob(logits: Float[Tensor, "rows vocabulary"], targets: Int64[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    if logits.dtype != torch.float64:
        logits = logits.float()
    return -functional.cross_entropy(logits, targets, reduction="none")


def _slice_rows(network: PreTrainedModel, device: torch.device) -> int:
    elements = SLICE_ELEMENTS if device.type == "cpu" else ACCELERATOR_SLICE_ELEMENTS
    return max(SLICE_ROWS, elements // network.config.get_text_config().vocab_size)


def _trunk(network: PreTrainedModel) -> nn.Module:
    return network.base_model


def _linear_logits(network: PreTrainedModel, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, "rows vocabulary"]:
    head = network.get_output_embeddings()
    assert head is not None
    return head(hidden)


def _replayed_logits(network: PreTrainedModel, hidden: Float[Tensor, "rows width"]) -> Float[Tensor, "rows vocabulary"]:
    """Run the network's forward with its trunk replaced by one that returns `hidden`."""
    trunk = _trunk(network)
    replaced = trunk.__dict__.get("forward")  # accelerate's hooks put a forward of their own on the object

    def forward(*_: object, **__: object) -> object:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        return BaseModelOutputWithPast(last_hidden_state=hidden.unsqueeze(0))  # pyright: ignore[reportArgumentType]

    trunk.__dict__["forward"] = forward
    try:
        dummy = torch.zeros(1, 1, dtype=torch.int64, device=hidden.device)
        return network(input_ids=dummy, use_cache=False).logits.squeeze(0)
    finally:
        if replaced is None:
            del trunk.__dict__["forward"]
        else:
            trunk.__dict__["forward"] = replaced


def _by_whole_forward(
    network: PreTrainedModel,
    ids: Int64[Tensor, "batch time"],
    positions: Int64[Tensor, " scored"],
    targets: Int64[Tensor, " scored"],
) -> Float[Tensor, " scored"]:
    """Full logits of one row of the batch at a time, the head of last resort."""
    time = ids.shape[1]
    out = torch.empty(len(targets), dtype=torch.float64, device=ids.device)
    for row in range(ids.shape[0]):
        mine = (positions // time == row).nonzero().squeeze(1)
        logits = network(input_ids=ids[row : row + 1], use_cache=False).logits.squeeze(0)
        for part in mine.split(_slice_rows(network, ids.device)):
            out[part] = _log_prob(logits[positions[part] % time], targets[part]).double()
    return out


def examine(network: PreTrainedModel, label: str) -> Head:
    """Find out by trying which head the network has, and that its outputs do not depend on later tokens.

    Two short rows that differ in their last token alone go through the network: all logits before it must agree, and the
    simplest head that reproduces the network's own logits is taken. Raises NotCausal and NonFiniteScore.
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
            hidden = _trunk(network)(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        except (AttributeError, TypeError):  # a trunk with another interface
            return Head.WHOLE
        replayed = _agrees(network, _replayed_logits, hidden, full.flatten(0, 1))
        linear = _agrees(network, _linear_logits, hidden, full.flatten(0, 1))
        if linear and replayed:  # a soft cap hides in small logits: compare at large ones too
            linear = _agrees(network, _linear_logits, 16 * hidden, _replayed_logits(network, 16 * hidden))
    return Head.LINEAR if linear else Head.REPLAYED if replayed else Head.WHOLE


def _agrees(network: PreTrainedModel, logits: Callable[..., Tensor], hidden: Tensor, expected: Tensor) -> bool:
    try:
        return _close(logits(network, hidden), expected)
    except (AttributeError, TypeError, RuntimeError, IndexError, AssertionError):
        return False  # an architecture that does not work in this way


def _close(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of one network's dtype; equal infinities (tokens that a network rules out) are equal."""
    if a.shape != b.shape:
        return False
    tolerance = 64 * torch.finfo(a.dtype).eps
    scale = float(b[b.isfinite()].abs().max()) if b.isfinite().any() else 1.0
    return torch.allclose(a.double(), b.double(), rtol=0.0, atol=tolerance * max(1.0, scale))
