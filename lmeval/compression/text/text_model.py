"""What coding needs of a language model: who it is, how it spells bytes, and how its lanes are read.

A model that the library holds is read by its modules, or by compiled steps where these compute the same. The bundled byte
model can be read by compiled steps alone: then neither PyTorch nor transformers is imported.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from lmeval.compression.text.decisions import depth_of
from lmeval.models.byte_table import ByteTokens
from lmeval.models.compiled.network import Network

if TYPE_CHECKING:
    from lmeval.models import CausalLM

# Least drift to provide for (nats, of log-odds): that of other machines, where this one's sample shows less. float64 has
# room to spare; bfloat16 is measured at 0.1 between passes, far too much for the grid to be cheap.
LEAST_DRIFT = {"float32": 1.5e-5, "float64": 1e-10, "bfloat16": 0.05}


@dataclass(frozen=True)
class TextModel:
    """A language model, ready to code.

    `n_ids`: of its vocabulary; `depth`: decisions that tell apart those ids that text can have; `start_id` stands before a
    window. `spell` gives tokens for bytes, None where no tokens spell them; `unspell` gives the bytes of ids. `network`
    gives the arrays of compiled steps for lanes of so many tokens, or says why there are none; `library` gives the model as
    transformers holds it. `known_drift` (nats): how far the log-odds of compiled steps and those of the library's modules
    were found apart, for a model where that need not be measured again.
    """

    name: str
    weights_sha256: str
    vocabulary_sha256: str
    dtype: str
    device: str
    context_length: int | None
    start_id: int
    n_ids: int
    depth: int
    spell: Callable[[bytes], ByteTokens | None]
    unspell: Callable[[Int64[np.ndarray, " tokens"]], bytes]
    network: Callable[[int], Network | str]
    library: "Callable[[], CausalLM]"
    describe: Callable[[], dict[str, Any]]
    known_drift: float | None = None


def of_library(model: "CausalLM") -> TextModel:
    """A model that the library holds.

    Raises:
        ModelError: Its tokenizer does not tell the bytes of its tokens, or its dtype is none of LEAST_DRIFT.
    """
    from lmeval.errors import ModelError
    from lmeval.models.causal import describe_model
    from lmeval.models.compiled.choice import compiled_network
    from lmeval.models.spelling import decode_bytes, encode_bytes, n_text_ids, vocabulary_sha256

    if model.encoder.core is None or model.encoder.table is None:
        raise ModelError(
            f"the tokenizer of {model.name} is written in Python and does not tell its tokens' bytes: no archive"
        )
    dtype = str(model.dtype).removeprefix("torch.")
    if dtype not in LEAST_DRIFT:
        raise ModelError(f"{model.name} is in {model.dtype}: load it in {', '.join(LEAST_DRIFT)}")
    return TextModel(
        name=model.name,
        weights_sha256=model.weights_sha256,
        vocabulary_sha256=vocabulary_sha256(model.encoder),
        dtype=dtype,
        device=str(model.device),
        context_length=model.context_length,
        start_id=0 if model.bos_id is None else model.bos_id,
        n_ids=model.vocab_size,
        depth=depth_of(min(n_text_ids(model.encoder), model.vocab_size)),
        spell=lambda data: encode_bytes(model.encoder, data),
        unspell=lambda ids: decode_bytes(model.encoder, ids),
        network=lru_cache(1)(lambda capacity: compiled_network(model, capacity)),
        library=lambda: model,
        describe=lambda: describe_model(model),
    )


def by_library(model: TextModel, reason: str) -> TextModel:
    """The same model, read by the library's modules."""
    return replace(model, network=lambda _: reason)
