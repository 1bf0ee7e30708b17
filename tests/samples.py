"""Small models, tokenizers and texts that several test files use."""

import functools
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from lmeval.models import CausalLM, from_pair
from lmeval.models.toys import byte_tokenizer

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / os.environ.get("LMEVAL_SHARED", "../shared")

PROSE = (
    "It was a bright cold day, and the clocks were striking. Nobody in the village could say who had wound them;  they "
    "kept time all the same.\n\n\tOnce upon a time, there was a little girl named Lily. She loved to play outside!\r\n"
)
ODD_TEXTS = {
    "emoji": "family 👨‍👩‍👧‍👦, flags 🇺🇦🇯🇵, skin 👍🏽. " * 9,
    "combining": "e\u0301a\u0308 n\u0303o\u0302 Z\u0351\u0343\u0313a\u0300\u0316lgo \u1100\u1161\u11a8 \ufb01. " * 9,
    "nul": "zero\x00byte \x00\x00 \x7f\x1b[0m end" * 9,
    "crlf": "one\r\ntwo\r\n\r\nthree\n\n\nfour\r five\t\t\n" * 9,
    "periodic": "a" * 700,
    "periodic pair": "ab" * 350,
    "spaces": " " * 500 + "x" + " " * 300,
    "newlines": "\n" * 600,
    "white ends": "  padded \u00a0\u2003\u3000 words\u2028here  ",
    "special": "<s> </s> <unk> <|endoftext|> [CLS] [SEP] <|document|> <0x0A> <pad> [MASK]" * 4,
    "mixed scripts": "Ελληνικά и русский 日本語のテキスト العربية עברית हिन्दी ไทย " * 6,
    "sentencepiece space": "\u2581lower\u2581one eighth block\u2581 " * 9,
    "prose": PROSE * 8,
    "one character": "x",
    "one emoji": "🙂",
    "one space": " ",
}


def shared(name: str) -> Path:
    """A file or folder of the shared data; skips the test where that is absent."""
    path = SHARED / "data" / name
    if not path.exists():
        pytest.skip(f"shared data absent: no {name} under $LMEVAL_SHARED (default ../shared)")
    return path


def stories_folder() -> Path:
    return shared("models/stories260K")


def tinystories(n_bytes: int) -> str:
    return shared("text/test/tinystories.valid.txt").read_bytes()[:n_bytes].decode(errors="ignore")


def network(config: transformers.PretrainedConfig, seed: int = 0, dtype: torch.dtype = torch.float32):
    """A random network whose logits are far from flat: the default initialisation hides most mistakes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = transformers.AutoModelForCausalLM.from_config(config).eval()
        for name, parameter in made.named_parameters():
            if parameter.ndim >= 2 and "A_log" not in name:
                parameter.data.normal_(0.0, 1.5 / parameter.shape[-1] ** 0.5)
    return made.to(dtype)


def llama_config(context: int = 64, vocab_size: int = 257, **changes: Any) -> transformers.LlamaConfig:
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "bos_token_id": 256,
        "eos_token_id": 256,
    }
    return transformers.LlamaConfig(**(settings | changes))


def gpt2_config(context: int = 64, vocab_size: int = 257, **changes: Any) -> transformers.GPT2Config:
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": context,
        "bos_token_id": 256,
        "eos_token_id": 256,
    }
    return transformers.GPT2Config(**(settings | changes))


@functools.cache
def tiny_llama(context: int = 64, dtype: torch.dtype = torch.float32) -> CausalLM:
    return from_pair(network(llama_config(context), dtype=dtype), byte_tokenizer(), name="tiny-llama")


@functools.cache
def tiny_gpt2(context: int = 64, dtype: torch.dtype = torch.float32) -> CausalLM:
    return from_pair(network(gpt2_config(context), dtype=dtype), byte_tokenizer(), name="tiny-gpt2")


def save_pair(folder: Path, config: transformers.PretrainedConfig | None = None) -> Path:
    """A model folder in Hugging Face format."""
    network(config or llama_config()).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def fast(core: Tokenizer, **kwargs: Any) -> transformers.PreTrainedTokenizerFast:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=core, **kwargs)


def stories_tokenizer():
    return transformers.AutoTokenizer.from_pretrained(stories_folder())


def neox_tokenizer():
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(shared("models/tokenizers/neox-20b/tokenizer.json")))


def gpt2_tokenizer():
    folder = shared("models/tokenizers/gpt2")
    return transformers.GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


@functools.cache
def unigram_tokenizer():
    """SentencePiece's Unigram over a vocabulary that lacks most characters: what it does not know becomes <unk>."""
    words = sorted({"\u2581" + word for word in PROSE.split()})
    characters = sorted({"\u2581", *PROSE} - set(" \r"))
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0)]
    vocabulary += [(word, -6.0 - i / 100) for i, word in enumerate(words)]
    vocabulary += [(character, -5.0 - i / 100) for i, character in enumerate(characters)]
    core = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return fast(core, unk_token="<unk>", bos_token="<s>")


@functools.cache
def wordpiece_tokenizer():
    """BERT's way: lower case, accents stripped, white space dropped. Little text comes back as it was."""
    words = re.findall(r"\w+|[^\w\s]", PROSE.lower())
    letters = sorted(set("".join(words)))
    entries = ["[UNK]", "[CLS]", "[SEP]", *sorted({*words, *letters}), *("##" + letter for letter in letters)]
    core = Tokenizer(models.WordPiece({entry: i for i, entry in enumerate(entries)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    return fast(core, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "stories260K": stories_tokenizer,
    "neox": neox_tokenizer,
    "gpt2": gpt2_tokenizer,
    "unigram": unigram_tokenizer,
    "wordpiece": wordpiece_tokenizer,
}


def markov_transitions(states: int = 257, seed: int = 0) -> np.ndarray:
    """A positive transition matrix over the byte tokenizer's ids."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.full(states, 0.3), size=states) + 1e-4
    return weights / weights.sum(axis=1, keepdims=True)


def random_text(n: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return "".join(chr(c) for c in rng.integers(32, 127, size=n))


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lmeval", *arguments]
