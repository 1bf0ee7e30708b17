"""Requests that share their beginnings in every way that there is, and networks that read them as trees or do not."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from samples import gpt2_config, llama_config, network

from lmeval.compute.memory import Most
from lmeval.models import CausalLM, from_pair
from lmeval.models.toys import byte_tokenizer
from lmeval.scoring import Request, prefixes, trees


def related_requests(seed: int, n: int = 60, longest: int = 60, vocab_size: int = 257) -> list[Request]:
    """Requests whose texts grow out of each other: cut somewhere, continued by a few of three tokens or by none, divided
    anywhere into context and target; some are repeated."""
    rng = np.random.default_rng(seed)
    alphabet = rng.integers(0, vocab_size, 3)
    texts = [rng.choice(alphabet, int(rng.integers(2, longest + 2)))]
    made: list[Request] = []
    while len(made) < n:
        if made and rng.random() < 0.1:
            made.append(made[int(rng.integers(len(made)))])
            continue
        old = texts[int(rng.integers(len(texts)))] if rng.random() < 0.95 else rng.choice(alphabet, 3)
        cut = old[: int(rng.integers(len(old) // 2, len(old) + 1))]
        text = np.concatenate([cut, rng.choice(alphabet, int(rng.integers(0, 6)))])[: longest + 1]
        if len(text) < 2:
            continue
        texts.append(text)
        early = rng.random() < 0.2  # most targets are short, as answers are
        n_context = int(rng.integers(1, len(text))) if early else max(1, len(text) - int(rng.integers(1, 5)))
        made.append(Request(text[:n_context], text[n_context:]))
    return made


def questions(
    n: int, few_shot: int, question: int, choices: int, answer: int, seed: int = 0, vocab_size: int = 257
) -> list[Request]:
    """`n` questions behind one few-shot prompt, each with some choices; these counts are tokens."""
    rng = np.random.default_rng(seed)
    prompt, made = rng.integers(0, vocab_size, few_shot), []
    for _ in range(n):
        context = np.concatenate([prompt, rng.integers(0, vocab_size, question)])
        for choice in range(choices):
            target = rng.integers(0, vocab_size, answer)
            target[0] = choice  # choices differ from their first tokens on
            made.append(Request(context, target))
    return made


def trie_size(requests: list[Request]) -> int:
    """Tokens that have to go through a network however cleverly it is done: distinct beginnings of the inputs."""
    texts = {tuple(np.concatenate([context, target[:-1]]).tolist()) for context, target, _ in requests}
    return len({text[:i] for text in texts for i in range(1, len(text) + 1)})


def make_prefixes_small(patch: pytest.MonkeyPatch) -> None:
    """Limits at which short requests already have nested prefixes, several rows and several batches."""
    patch.setattr(prefixes, "MIN_PREFIX", 2)
    patch.setattr(prefixes, "MIN_SHARERS", 2)
    patch.setattr(prefixes, "ROW_TOKENS", 24)
    patch.setattr(prefixes, "PACKED_TOKENS", 16)
    patch.setattr(trees, "PASS_OVERHEAD_TOKENS", Most(2, 2))


GROWN: dict[str, Any] = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA_LIKE: dict[str, Any] = GROWN | {
    "intermediate_size": 48,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
}
IDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TREES = {
    "llama": llama_config(),
    "gpt2": gpt2_config(),
    "qwen3": transformers.Qwen3Config(**LLAMA_LIKE, **IDS),
    "gemma2": transformers.Gemma2Config(**LLAMA_LIKE, **IDS, attn_logit_softcapping=5.0, final_logit_softcapping=3.0),
    "gpt-neox": transformers.GPTNeoXConfig(**GROWN, **IDS, intermediate_size=48, max_position_embeddings=64),
    "opt": transformers.OPTConfig(**GROWN, ffn_dim=48, max_position_embeddings=64, word_embed_proj_dim=16),
    "mistral, wide window": transformers.MistralConfig(**LLAMA_LIKE, **IDS, sliding_window=64),
}
NO_TREES = {
    "mistral, narrow window": transformers.MistralConfig(**LLAMA_LIKE, **IDS, sliding_window=20),
    "bloom": transformers.BloomConfig(vocab_size=257, hidden_size=32, n_layer=2, n_head=4),
    "gpt-neo": transformers.GPTNeoConfig(
        vocab_size=257, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=9
    ),
    "mamba": transformers.MambaConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2, state_size=4),
}


def random_model(config: transformers.PretrainedConfig, dtype: torch.dtype = torch.float32, kind: str = "sdpa") -> CausalLM:
    net = network(config, dtype=dtype)
    if kind == "eager":
        net.set_attn_implementation("eager")
    return from_pair(net, byte_tokenizer(), name="random")


def greedy_of(model: CausalLM, req: Request) -> bool:
    """By the arg-max of the network's own logits."""
    ids = torch.from_numpy(np.concatenate(req[:2]))
    with torch.inference_mode():
        best = model.network(input_ids=ids[None, :-1]).logits[0, len(req.context) - 1 :].argmax(dim=1)
    return bool((best.numpy() == req.target).all())


def toy(net) -> CausalLM:
    net.config.num_hidden_layers = 1  # a chain heeds neither masks nor caches, so it reads trees rightly
    return from_pair(net, byte_tokenizer(), name="toy")


class Passes:
    """Counts what goes through the network."""

    def __init__(self, model: CausalLM) -> None:
        self.tokens = self.passes = self.largest = 0
        self.handle = model.network.base_model.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self.tokens += kwargs["input_ids"].numel()
        self.passes += 1
        self.largest = max(self.largest, len(kwargs["input_ids"]))


class Memory:
    """A device with room for `limit` tokens of a batch, prefix not counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.tried: list[tuple[int, int, int]] = []  # tokens, rows, sequences
        inner = trees._score_rows

        def score_rows(work, prefix, rows):
            size = len(rows) * max(row.size for row in rows)
            self.tried.append((size, len(rows), sum(len(row.members) for row in rows)))
            if size > limit:
                raise error("CUDA out of memory. Tried to allocate 2 GiB")
            return inner(work, prefix, rows)

        monkeypatch.setattr(trees, "_score_rows", score_rows)
