"""Exact models: causal LMs whose probabilities are known in closed form, with the same interface as every other.

They are transformers networks (`PreTrainedModel`), so scoring them runs the very code that scores a real model, and what
comes out can be compared with a formula.
"""

import numpy as np
import torch
from jaxtyping import Float64
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from lmeval.models.byte_table import byte_alphabet

BOS_ID = 256
BOS_TEXT = "<|document|>"


class MarkovConfig(PretrainedConfig):
    """Configuration of `MarkovLM`."""

    model_type = "lmeval-markov"

    def __init__(self, vocab_size: int = 257, max_position_embeddings: int = 1024, **kwargs: object) -> None:
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        super().__init__(**kwargs)  # pyright: ignore[reportArgumentType]


class _Trunk(nn.Module):
    """Hidden state = one-hot of the current token, the state of a first-order Markov chain."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, vocab_size)
        self.embed.weight.data = torch.eye(vocab_size)

    def forward(self, input_ids: Tensor, **_: object) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=self.embed(input_ids))


class MarkovLM(PreTrainedModel):
    """First-order Markov chain: p(next = j | current = i) = transitions[i, j], by a linear head of log-probabilities."""

    config_class = MarkovConfig
    base_model_prefix = "model"

    def __init__(self, config: MarkovConfig) -> None:
        super().__init__(config)
        self.model = _Trunk(config.vocab_size)
        self.lm_head = nn.Linear(config.vocab_size, config.vocab_size, bias=False)
        self.lm_head.weight.data.zero_()

    def get_output_embeddings(self) -> nn.Module:
        """The head; its weight is [next, current] log-probabilities."""
        return self.lm_head

    def forward(self, input_ids: Tensor, **_: object) -> CausalLMOutputWithPast:
        """Logits [batch, time, vocabulary] = log transition probabilities from each token."""
        hidden = self.model(input_ids).last_hidden_state
        return CausalLMOutputWithPast(logits=self.lm_head(hidden))


def markov_model(transitions: Float64[np.ndarray, "states states"], context_length: int = 1024) -> MarkovLM:
    """The Markov chain with these transition probabilities (rows sum to 1, all positive), in float64."""
    if not np.allclose(transitions.sum(axis=1), 1.0) or (transitions <= 0).any():
        raise ValueError("every row of the transition matrix must be positive and sum to 1")
    network = MarkovLM(MarkovConfig(vocab_size=len(transitions), max_position_embeddings=context_length)).double()
    network.lm_head.weight.data = torch.from_numpy(np.log(transitions).T.copy())
    return network.eval()


def uniform_model(vocab_size: int = 257, context_length: int = 1024) -> MarkovLM:
    """Every token always has probability 1 / vocab_size: log2(vocab_size) bits a token on any text."""
    return markov_model(np.full((vocab_size, vocab_size), 1.0 / vocab_size), context_length)


def stationary_distribution(transitions: Float64[np.ndarray, "states states"]) -> Float64[np.ndarray, " states"]:
    """The distribution pi with pi P = pi.

    >>> stationary_distribution(np.array([[0.9, 0.1], [0.3, 0.7]])).round(6).tolist()
    [0.75, 0.25]
    """
    n = len(transitions)
    system = np.vstack([transitions.T - np.eye(n), np.ones(n)])
    return np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0]


def entropy_rate_nats(transitions: Float64[np.ndarray, "states states"]) -> float:
    """Entropy rate of the stationary chain, nats per token: H = -sum_i pi_i sum_j P_ij ln P_ij.

    >>> round(entropy_rate_nats(np.full((4, 4), 0.25)), 6)  # ln 4
    1.386294
    """
    return float(-stationary_distribution(transitions) @ (transitions * np.log(transitions)).sum(axis=1))


def byte_tokenizer(*, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """The byte tokenizer: token id = byte value, and 256 = start of a document, which it puts in front of a text itself if
    it `adds_bos`. A byte-level BPE without merges."""
    alphabet = byte_alphabet()
    core = Tokenizer(models.BPE(vocab={alphabet[byte]: byte for byte in range(256)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(single=f"{BOS_TEXT} $A", special_tokens=[(BOS_TEXT, BOS_ID)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS_TEXT,
        eos_token=BOS_TEXT,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )
