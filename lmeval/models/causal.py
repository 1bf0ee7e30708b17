"""Load a causal language model: the bundled one, a folder, a hub id, or objects that the caller holds."""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lmeval.data.locate import check_model_name
from lmeval.data.resources import BUNDLED_MODEL, bundled_densities, bundled_names, reference_folder
from lmeval.errors import ModelError, ModelNotFound, VocabularyMismatch, first_line
from lmeval.models import fingerprints, tokens
from lmeval.models.dtypes import DTYPES
from lmeval.models.logprobs import Head, examine
from lmeval.models.packed import PACKED_NAME
from lmeval.models.packed_folders import transformers_folder

_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length", "max_sequence_length")
_NO_LIMIT = 1_000_000  # tokenizers write absurd lengths where they know none


@dataclass(frozen=True)
class CausalLM:
    """A causal language model, ready to score.

    `context_length` is the longest input in tokens, None where the architecture sets no limit. `bos_id` is the token put in
    front of a context: the tokenizer's BOS, else its EOS, else None. `head` says how logits are obtained (`logprobs.Head`).
    """

    name: str
    network: PreTrainedModel
    encoder: tokens.TextEncoder
    context_length: int | None
    vocab_size: int
    bos_id: int | None
    device: torch.device
    dtype: torch.dtype
    head: Head

    @cached_property
    def weights_sha256(self) -> str:
        """Fingerprint of the weights as they are held (see `fingerprints.weights_sha256`); computed when first asked for."""
        return fingerprints.weights_sha256(self.network)

    @cached_property
    def tokenizer_sha256(self) -> str:
        """Fingerprint of the tokenizer."""
        return tokens.fingerprint(self.encoder)

    @property
    def n_parameters(self) -> int:
        """Number of parameters; tied weights count once."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def activation_bytes(self) -> int:
        """About how many bytes the activations of one token take in one layer: what batches are sized by."""
        config = self.network.config.get_text_config()
        width = getattr(config, "hidden_size", 1024)
        inner = getattr(config, "intermediate_size", None) or 4 * width
        return self.network.dtype.itemsize * (16 * width + 4 * inner)


ModelLike = str | Path | CausalLM | tuple[PreTrainedModel, PreTrainedTokenizerBase]
"""What the Python interface takes as a model: "bundled", a folder, a hub id, a loaded model, or (network, tokenizer)."""


def as_model(model: ModelLike, device: str | torch.device = "cpu", dtype: str = "float32") -> CausalLM:
    """The model, whatever names it or holds it.

    Args:
        model: A name, which is loaded; a pair (network, tokenizer), which is wrapped and keeps its device and dtype; or a
            loaded model, which is passed on.
        device: Where a named model is loaded.
        dtype: The precision of a named model, one of DTYPES.

    Raises:
        ModelError: It cannot be loaded, or is no causal language model.
    """
    if isinstance(model, CausalLM):
        return model
    if isinstance(model, tuple):
        return from_pair(*model)
    return load_model(str(model), device=device, dtype=dtype)


def load_model(name: str = "bundled", *, device: str | torch.device = "cpu", dtype: str = "float32") -> CausalLM:
    """Load a causal language model and find out by trying how its logits can be had.

    Args:
        name: "bundled", another model that ships with the package, a folder in Hugging Face format, or a hub id.
        device: Where its weights are held.
        dtype: Their precision, one of DTYPES.

    Returns:
        The model, ready to score.

    Raises:
        ModelError: There is no such dtype, or packed weights are damaged.
        ModelNotFound: Files are missing or do not belong together (a weight that no file holds is an error, never a random
            number).
        NotCausal: Its outputs depend on later tokens.
        NonFiniteScore: Its weights give NaN.
        VocabularyMismatch: The tokenizer has ids that the network lacks.
    """
    if dtype not in DTYPES:
        raise ModelError(f"unknown dtype '{dtype}': use {', '.join(DTYPES)}")
    check_model_name(name)
    name = BUNDLED_MODEL if name == "bundled" else name
    if name in bundled_densities():
        raise ModelNotFound(f"{name} is a density of images, not a language model: use it with likelihood or compress")
    source = str(reference_folder(name)) if name in bundled_names() else name
    _check_folder(source)
    if Path(source).is_dir():
        source = str(transformers_folder(Path(source)))
    with _quiet():
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=getattr(torch, dtype),
                device_map={"": torch.device(device)},
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are named below
            )
            tokenizer = AutoTokenizer.from_pretrained(source)
        except Exception as error:  # the library raises many kinds; what it says is passed on in one line
            raise ModelNotFound(f"cannot load model {name}: {first_line(error)}") from error
    network, report = loaded
    missing = sorted(report["missing_keys"]) + sorted(str(key) for key in report["mismatched_keys"])
    if missing:
        raise ModelNotFound(f"model {name} is incomplete: no weights for {missing[0]} and {len(missing) - 1} more")
    return from_pair(network, tokenizer, name=name)


def from_pair(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str | None = None, *, examined: bool = True
) -> CausalLM:
    """Wrap a network and its tokenizer as they are, on the device and in the dtype that they have.

    Args:
        network: A causal language model of transformers.
        tokenizer: Its tokenizer; it is not changed.
        name: What reports call the model; None takes the configuration's own name.
        examined: Whether the network is tried (`logprobs.examine`). Without it only whole forwards are asked for: for a
            network that is known to be causal.

    Returns:
        The model, ready to score. It holds the network itself, which is put into evaluation mode, and not a copy.

    Raises:
        VocabularyMismatch: The tokenizer has ids that the network lacks.
        NotCausal: The network's outputs depend on later tokens.
        NonFiniteScore: Its weights give NaN.
    """
    network = network.eval()
    config = network.config.get_text_config()
    encoder = tokens.text_encoder(tokenizer)
    label = name or getattr(config, "_name_or_path", "") or type(network).__name__
    if len(tokenizer) and max(tokenizer.get_vocab().values()) >= config.vocab_size:
        raise VocabularyMismatch(
            f"model {label} knows {config.vocab_size:,} token ids but its tokenizer goes up to "
            f"{max(tokenizer.get_vocab().values()):,}: they do not belong together"
        )
    bos_id = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if isinstance(i, int)), None)
    return CausalLM(
        name=label,
        network=network,
        encoder=encoder,
        context_length=_context_length(config, tokenizer),
        vocab_size=config.vocab_size,
        bos_id=bos_id,
        device=next(network.parameters()).device,
        dtype=next(network.parameters()).dtype,
        head=examine(network, label) if examined else Head.WHOLE,
    )


def describe_model(model: CausalLM) -> dict[str, Any]:
    """What identifies a model in a result.

    Args:
        model: The model. Its weights are read for their fingerprint, unless that was asked for before.

    Returns:
        JSON-ready data: the name and the architecture, the number of parameters, the fingerprints of weights and tokenizer,
        the dtype, and the context length in tokens (None where there is no limit).
    """
    return {
        "name": model.name,
        "architecture": type(model.network).__name__,
        "n_parameters": model.n_parameters,
        "weights_sha256": model.weights_sha256,
        "tokenizer_sha256": model.tokenizer_sha256,
        "dtype": str(model.dtype).removeprefix("torch."),
        "context_length": model.context_length,
    }


def _context_length(config: object, tokenizer: PreTrainedTokenizerBase) -> int | None:
    limits = [getattr(config, name, None) for name in _CONTEXT_NAMES]
    limits = [limit for limit in limits if isinstance(limit, int) and 0 < limit < _NO_LIMIT]
    if limits:
        return limits[0]
    return tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else None


def _check_folder(source: str) -> None:
    """Say plainly what is wrong with a local path, before the library takes it for a hub id."""
    path = Path(source)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"{source} holds no config.json: a model folder has config.json, weights and a tokenizer")
        if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
            raise ModelNotFound(f"{source} holds no tokenizer: save one beside the weights with save_pretrained")
        if not any(any(path.glob(pattern)) for pattern in ("*.safetensors", "*.bin", PACKED_NAME)):
            raise ModelNotFound(f"{source} holds no weights: a model folder has model.safetensors beside config.json")
    elif path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelNotFound(f"no model folder {source}: give a folder, a hub id such as org/name, or 'bundled'")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and advice off the terminal while it loads: what matters is checked and raised."""
    level, hub = transformers_logging.get_verbosity(), logging.getLogger("huggingface_hub")
    hub_level = hub.level
    transformers_logging.set_verbosity(logging.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        hub.setLevel(hub_level)
        transformers_logging.enable_progress_bar()
