"""Small models, tokenizers and texts that several test files use."""

import functools
import hashlib
import io
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

from lmeval.compression.coding.grid import grid_for_margin
from lmeval.compression.container import archive
from lmeval.compression.container.plain import plain_block
from lmeval.compression.text import encode
from lmeval.compression.text.decisions import code_length_nats, path_bits
from lmeval.compression.text.lanes import Layout
from lmeval.compression.text.model_header import Canary, ModelSettings, as_meta
from lmeval.compression.text.online_only import online_block
from lmeval.compression.text.text_model import of_library
from lmeval.models import CausalLM, from_pair
from lmeval.models.spelling import encode_bytes
from lmeval.models.toys import byte_tokenizer

ROOT = Path(__file__).resolve().parents[2]
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
ODD_BYTES = {name: text.encode() for name, text in ODD_TEXTS.items()} | {
    "empty": b"",
    "one byte": b"\x00",
    "one odd byte": b"\xff",
    "all bytes": bytes(range(256)),
    "all bytes backwards": bytes(range(255, -1, -1)),
    "random": np.random.default_rng(3).bytes(3000),
    "cut character": "né 🙂".encode()[:-1],
    "odd and text": b"plain \xff text \xc3\x28 then \xe2\x82 cut \xf0\x9f\x99\x82\xf0\x9f and \xed\xa0\x80 surrogates" * 5,
    "latin 1": "Schöne Grüße aus Köln. ".encode("latin-1") * 9,
    "utf-16": PROSE.encode("utf-16"),
    "leading spaces": b"   two words",
    "leading space": b" a",
    "mark": b"\xef\xbb\xbfmark",
    "zeros": bytes(900),
    "run of odd bytes": b"\xfe" * 300,
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


def with_tokenizer(tokenizer: transformers.PreTrainedTokenizerBase, context: int = 64) -> CausalLM:
    """A tiny random network with as many ids as the tokenizer."""
    config = llama_config(context, 1 + max(tokenizer.get_vocab().values()), hidden_size=16, num_hidden_layers=1)
    return from_pair(network(config), tokenizer, name=f"tiny-{config.vocab_size}")


@functools.cache
def talker(context: int = 64, dtype: torch.dtype = torch.float32, seed: int = 0) -> CausalLM:
    """A random network over bytes that heeds the last byte most, so `babble` is easy for it wherever its windows begin."""
    made = network(llama_config(context), seed)
    for name, parameter in made.named_parameters():
        if "o_proj" in name or "down_proj" in name:
            parameter.data *= 0.1
        if "lm_head" in name:
            parameter.data *= 2.0
    return from_pair(made.to(dtype), byte_tokenizer(), name=f"talker-{seed}")


@functools.cache
def babble(n_bytes: int, seed: int = 0) -> bytes:
    """Bytes that `talker()` made up: text that it predicts far better than a codec does."""
    rng, lanes = torch.Generator().manual_seed(seed), 50
    ids = torch.full((lanes, 1), 256)
    with torch.inference_mode():
        for _ in range(-(-n_bytes // lanes)):
            logits = talker().network(input_ids=ids[:, -20:]).logits[:, -1, :256]
            ids = torch.cat([ids, torch.multinomial(logits.softmax(dim=1), 1, generator=rng)], dim=1)
    return bytes(ids[:, 1:].flatten().tolist())[:n_bytes]


def model_settings(
    model: CausalLM, window: int = 24, overlap: int = 5, epsilon: float = 4e-4, drift: float = 2e-4
) -> ModelSettings:
    """Settings as a survey makes them, without a survey."""
    described = of_library(model)
    return ModelSettings(
        name=described.name,
        weights_sha256=described.weights_sha256,
        vocabulary_sha256=described.vocabulary_sha256,
        dtype=described.dtype,
        depth=described.depth,
        layout=Layout(window, overlap, described.start_id),
        grid=grid_for_margin(2 * epsilon + drift),
        epsilon=epsilon,
        drift=drift,
        canary=Canary((), ()),
    )


def with_canary(model: CausalLM, settings: ModelSettings, ids: np.ndarray) -> ModelSettings:
    log_odds = encode.block_log_odds(of_library(model), settings, ids, 1)
    bits = path_bits(ids, settings.depth)
    log_probs = tuple(-code_length_nats(z, b) for z, b in zip(log_odds, bits, strict=True))
    return settings._replace(canary=Canary(tuple(int(i) for i in ids), log_probs))


def model_archive(
    model: CausalLM,
    pieces: list[bytes],
    lanes: int = 4,
    settings: ModelSettings | None = None,
    canary: int = 2,
    **meta: Any,
) -> bytes:
    """An archive with a block for each piece, coded by the model however badly (`compress` leaves what it would make longer
    to a codec). A piece that the model cannot spell, and every second where `lanes` is 0, is a plain block; where the
    settings adapt, it is an online block and a plain one by turns."""
    settings, data, text_model = settings or model_settings(model), b"".join(pieces), of_library(model)
    plain, lanes = lanes == 0, lanes or 4
    spelled = [encode_bytes(model.encoder, piece) for piece in pieces]
    ids = next((tokens.ids for tokens in spelled if tokens is not None), np.zeros(0, dtype=np.int64))
    if len(ids) and canary:
        settings = with_canary(model, settings, ids[: min(canary, settings.layout.window)])
    out = io.BytesIO()
    described = {"n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "model": as_meta(settings)}
    described |= {} if settings.adapt == "none" else {"adapt": settings.adapt}
    header = archive.write_header(out, described | meta)
    size, lines, offset = out.tell(), [], 0
    for i, (piece, tokens) in enumerate(zip(pieces, spelled, strict=True)):
        block = plain_block(piece, offset)
        if settings.adapt != "none" and i % 4 < 2:
            block = online_block(piece, offset, settings.adapt)
        if tokens is not None and len(tokens.ids) and not (plain and i % 2):
            n_lanes = min(lanes, len(tokens.ids))
            coded = encode.encode_tokens(text_model, settings, tokens.ids, n_lanes)
            assert coded is not None
            block = encode.model_block(coded, tokens, piece, offset, n_lanes)
        lines.append(archive.write_block(out, block, header.seed))
        offset += len(piece)
    archive.write_end(out, lines, size, header.seed)
    return out.getvalue()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lmeval", *arguments]
