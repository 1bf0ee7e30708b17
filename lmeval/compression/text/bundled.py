"""The bundled byte model, ready to code: read from its packed weights by compiled steps, without PyTorch or transformers."""

import functools
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64
from tokenizers import Tokenizer

from lmeval.compression.text.decisions import depth_of
from lmeval.compression.text.text_model import TextModel
from lmeval.data.resources import BUNDLED_MODEL, reference_folder
from lmeval.models.byte_table import ByteTokens, byte_table, table_sha256
from lmeval.models.compiled.network import Network
from lmeval.models.compiled.weights import build_network
from lmeval.models.packed import PACKED_NAME, as_arrays, packed_sha256, read_packed

if TYPE_CHECKING:
    from lmeval.models import CausalLM

KNOWN_DRIFT = 3e-5
"""How far log-odds of compiled steps and of the library's modules are apart (nats): the 0.9999 quantile over the corpora of
the benchmark, rounded up; a test holds it to that."""


@functools.cache
def bundled_text_model() -> TextModel:
    """The model whose ids below 256 are bytes.

    Raises:
        ModelError: Its packed weights are damaged.
    """
    folder = reference_folder()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return TextModel(
        name=BUNDLED_MODEL,
        weights_sha256=packed_sha256(folder / PACKED_NAME),
        vocabulary_sha256=table_sha256(byte_table(_tokenizer(), "ByteLevel")),
        dtype="float32",
        device="cpu",
        context_length=config["max_position_embeddings"],
        start_id=config["bos_token_id"],
        n_ids=config["vocab_size"],
        depth=depth_of(256),
        spell=lambda data: ByteTokens(np.frombuffer(data, dtype=np.uint8).astype(np.int64), extra_space=False),
        unspell=_unspell,
        network=_network,
        library=_library,
        describe=lambda: _describe(config),
        known_drift=KNOWN_DRIFT,
    )


def _unspell(ids: Int64[np.ndarray, " tokens"]) -> bytes:
    return ids.astype(np.uint8).tobytes()


@functools.lru_cache(1)
def _network(capacity: int) -> Network:
    folder = reference_folder()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return build_network(config, as_arrays(read_packed(folder / PACKED_NAME)), capacity)


@functools.cache
def _library() -> "CausalLM":
    from lmeval.models import load_model

    return load_model(BUNDLED_MODEL)


@functools.cache
def _tokenizer() -> Tokenizer:
    """As `tokens.text_encoder` has it: without what would be put around a text."""
    description = json.loads((reference_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    description["post_processor"] = description["truncation"] = description["padding"] = None
    return Tokenizer.from_str(json.dumps(description))


def _describe(config: dict[str, Any]) -> dict[str, Any]:
    """As `models.describe_model` has it."""
    weights = read_packed(reference_folder() / PACKED_NAME)
    sizes = [matrix.levels.size for matrix in weights.matrices.values()] + [v.size for v in weights.vectors.values()]
    return {
        "name": BUNDLED_MODEL,
        "architecture": config["architectures"][0],
        "n_parameters": sum(sizes),
        "weights_sha256": packed_sha256(reference_folder() / PACKED_NAME),
        "tokenizer_sha256": hashlib.sha256(_tokenizer().to_str().encode()).hexdigest(),
        "dtype": "float32",
        "context_length": config["max_position_embeddings"],
    }
