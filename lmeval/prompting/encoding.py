"""Prompts -> token ids. The boundary between context and continuation is looked for in the tokens, never assumed.

The whole text, context and continuation together, is encoded, for that is the text that the model is asked about. Where the
context's own tokens are the first tokens of the whole, the rest is the target. White space at the context's end moves to the
continuation first, as in lm-evaluation-harness, since most tokenizers put a space with the word after it.

Where a token spans the boundary ("Ans" + "wer"), the harness cuts the whole at the *number* of the context's tokens: the
target then lacks the merged token, or is empty. Here the boundary moves back to the last place where both encodings agree,
for all choices of the item by as many tokens, so that the choices are scored on the same footing; such items are counted.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from lmeval.errors import InputError
from lmeval.models import CausalLM, encode_texts, special_prefix
from lmeval.models.related import encode_beside, leaders
from lmeval.prompting.prompts import Prompt
from lmeval.scoring import Request

Ids = Int64[np.ndarray, " tokens"]


class Encoded(NamedTuple):
    """A prompt's requests, one for each choice; `n_moved` is the number of tokens by which their boundary was moved back
    (0: no token spans it)."""

    requests: tuple[Request, ...]
    n_moved: int

    @property
    def n_inputs(self) -> int:
        """Input tokens of the longest request."""
        return max(request.n_inputs for request in self.requests)


def encode_prompts(model: CausalLM, prompts: Sequence[Prompt]) -> list[Encoded]:
    """The token ids of each prompt. A context without text is the BOS (else EOS) token alone.

    Args:
        model: Whose tokenizer is used.
        prompts: The prompts; texts that several share are encoded once.

    Returns:
        The requests of each prompt, one for each choice.

    Raises:
        InputError: A context is empty and the tokenizer has neither BOS nor EOS, or a choice has no token.
    """
    pairs = [[_split(c, t) for c, t in zip(p.contexts, p.continuations, strict=True)] for p in prompts]
    ids = _encode([pair for group in pairs for pair in group], model)
    front = np.array(special_prefix(model.encoder), dtype=np.int64)
    contexts: dict[tuple[str, int], Ids] = {}  # the choices of an item share one array
    encoded = []
    for group in pairs:
        moved = max(_moved(ids[context], ids[context + target]) for context, target in group)
        requests = []
        for context, target in group:
            whole = ids[context + target]
            if not len(whole):
                raise InputError(
                    f"the tokenizer of {model.name} has no token for {context + target!r:.60}: there is nothing to score"
                )
            kept = max(0, len(ids[context]) - moved)  # contexts of their own may be shorter than that
            key = (context, moved)
            if key not in contexts:
                contexts[key] = _context(model, front, ids[context][:kept])
            requests.append(Request(contexts[key], whole[kept:]))
        encoded.append(Encoded(tuple(requests), moved))
    return encoded


def _encode(pairs: Sequence[tuple[str, str]], model: CausalLM) -> dict[str, Ids]:
    """The ids of every context and of every context with its continuation; what they share is encoded once."""
    of = leaders(list(dict.fromkeys(context for context, _ in pairs)))
    first = list(dict.fromkeys(of.values()))
    ids = dict(zip(first, encode_texts(model.encoder, first), strict=True))
    rest = [context for context in of if context not in ids]
    ids |= zip(rest, encode_beside(model.encoder, [(of[c], ids[of[c]]) for c in rest], rest), strict=True)
    wholes = {context + target: context for context, target in pairs if context + target not in ids}
    bases = [(context, ids[context]) for context in wholes.values()]
    ids |= zip(wholes, encode_beside(model.encoder, bases, list(wholes)), strict=True)
    return ids


def _split(context: str, continuation: str) -> tuple[str, str]:
    """White space at the context's end belongs to the continuation."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def _moved(context: Ids, whole: Ids) -> int:
    """By how many tokens the boundary moves back: both sides of it are tokens of the whole then, and the target has one."""
    most = min(len(context), len(whole) - 1)
    differ = np.flatnonzero(context[:most] != whole[:most])
    return len(context) - (int(differ[0]) if len(differ) else most)


def _context(model: CausalLM, front: Ids, ids: Ids) -> Ids:
    """The tokenizer's own special tokens and the context; never nothing."""
    if len(front) or len(ids):
        return np.concatenate([front, ids])
    if model.bos_id is None:
        raise InputError(
            f"a context is empty, and the tokenizer of {model.name} has neither BOS nor EOS to stand for it: give "
            "doc_to_text a text"
        )
    return np.array([model.bos_id], dtype=np.int64)
