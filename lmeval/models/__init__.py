"""Models with one small interface: ids in, float32-or-better log-probabilities of chosen tokens out.

`causal` loads them, `tokens` turns text into ids and back to bytes, `logprobs` asks the network, `fingerprints` names the
weights, `toys` are exact models with closed-form answers. `weight_grid` rounds weights to few bits, `packed` keeps them in a
file of entropy-coded integers, and `packed_folders` makes of it what transformers loads. Text becomes ids in five ways, all
of which give the same ids:

    encode              one document of any length, in constant memory
    encode_documents    many of them, the short ones side by side in threads
    encode_texts        many texts that fit a context, whole (prompts, choices)
    encode_beside       the same where a text begins like another one that is encoded already (`related`)
    encode_bytes        any bytes, also what is no text (`spelling`, for archives)
"""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.models.causal import CausalLM, ModelLike, as_model, describe_model, from_pair, load_model
    from lmeval.models.dtypes import DTYPES
    from lmeval.models.logprobs import Head, target_log_probs
    from lmeval.models.packed_folders import transformers_folder
    from lmeval.models.tokens import TokenRun, encode, encode_documents, encode_texts, special_prefix, text_encoder


__all__ = [
    "DTYPES",
    "CausalLM",
    "Head",
    "ModelLike",
    "TokenRun",
    "as_model",
    "describe_model",
    "encode",
    "encode_documents",
    "encode_texts",
    "from_pair",
    "load_model",
    "special_prefix",
    "target_log_probs",
    "text_encoder",
    "transformers_folder",
]

lazy.attach(__name__)
