"""Token ids of a prompt are the tokenizer's own ids of the whole text, however context and choices meet."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from samples import ODD_TEXTS, TOKENIZERS, fast, stories_tokenizer, tiny_llama
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lmeval.errors import InputError, UndecodableText
from lmeval.models import CausalLM, encode_texts, special_prefix
from lmeval.models.tokens import text_encoder
from lmeval.models.toys import byte_tokenizer
from lmeval.prompting.encoding import Encoded, encode_prompts
from lmeval.prompting.prompts import Prompt

MODELS: dict[str, CausalLM] = {}


def model_of(tokenizer: transformers.PreTrainedTokenizerBase, name: str = "tiny") -> CausalLM:
    """A model as far as encoding goes: its network is another's."""
    bos_id = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if isinstance(i, int)), None)
    return dataclasses.replace(tiny_llama(), encoder=text_encoder(tokenizer), bos_id=bos_id, name=name)


def with_bos(tokenizer: Any, bos: str, bos_id: int) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer, which now puts BOS in front of every text and EOS behind it by itself."""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {bos}", special_tokens=[(bos, bos_id)]
    )
    return tokenizer


def merging_tokenizer(*merges: str) -> transformers.PreTrainedTokenizerFast:
    """BPE over single letters with the given merges ("b c" joins them), in their order, across anything."""
    letters = list("abcdpqrs ")
    vocabulary = {entry: i for i, entry in enumerate([*letters, *(merge.replace(" ", "") for merge in merges)])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[(pair.split(" ")[0], pair.split(" ")[1]) for pair in merges]))
    core.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    return fast(core)


def named(name: str) -> CausalLM:
    """One model for each tokenizer of the samples, and some with a way of their own."""
    made = {
        "byt5": transformers.ByT5Tokenizer,
        "bytes with bos": lambda: with_bos(byte_tokenizer(), "<|document|>", 256),
        "stories with bos": lambda: with_bos(stories_tokenizer(), "<s>", 1),
        "no bos": lambda: merging_tokenizer("b c"),
    }
    if name not in MODELS:
        MODELS[name] = model_of((made | TOKENIZERS)[name](), name)
    return MODELS[name]


NAMES = [*TOKENIZERS, "byt5", "bytes with bos", "stories with bos"]


def own_ids(model: CausalLM, text: str) -> list[int]:
    """The ids of a text in one go, by the tokenizer itself."""
    if model.encoder.core is None:
        tokenizer: Any = model.encoder.tokenizer
        return list(tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text, split_special_tokens=True)))
    found = model.encoder.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return list(found["input_ids"])


def prompt(context: str | list[str], *continuations: str) -> Prompt:
    contexts = tuple(context) if isinstance(context, list) else (context,) * len(continuations)
    return Prompt(contexts, continuations, continuations, (0,))


def encoded(model: CausalLM, asked: Prompt) -> Encoded:
    return encode_prompts(model, [asked])[0]


def assert_whole(model: CausalLM, asked: Prompt, found: Encoded) -> None:
    """What holds for every prompt: context and target together are the text's own tokens behind what stands in front, and
    the boundary is the latest that all choices share."""
    front = special_prefix(model.encoder)
    pieces = []
    for context, continuation, request in zip(asked.contexts, asked.continuations, found.requests, strict=True):
        whole, own = own_ids(model, context + continuation), own_ids(model, context.rstrip())
        ids = [*request.context.tolist(), *request.target.tolist()]
        begins = front or ([model.bos_id] if len(ids) > len(whole) else [])
        assert ids == begins + whole
        assert len(request.context) >= 1
        assert len(request.target) >= 1
        kept = len(request.context) - len(begins)
        assert kept == max(0, len(own) - found.n_moved)
        assert own[:kept] == whole[:kept]
        pieces.append((own, whole))

    def fits(moved: int) -> bool:
        cuts = [max(0, len(own) - moved) for own, _ in pieces]
        return all(own[:cut] == whole[:cut] and cut < len(whole) for cut, (own, whole) in zip(cuts, pieces, strict=True))

    assert found.n_moved == next(moved for moved in range(1000) if fits(moved))


ATOMS = ["a", "Ans", "wer", " ", "  ", "\n", "the ", "The day", "é", "e\u0301", "🙂", "日", "<s>", "</s>", "<|endoftext|>"]
ATOMS += ["0", "12", ":", "\u2581", "\u00a0"]
TEXT = st.lists(st.sampled_from(ATOMS), max_size=6).map("".join)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25)
@given(context=TEXT, choices=st.lists(TEXT.filter(bool), min_size=1, max_size=3))
@example(context="", choices=[" yes"])
@example(context=" \n ", choices=["a", " b"])
@example(context="Ans", choices=["wer", "\u0301"])
def test_context_and_target_are_the_tokens_of_the_whole(name: str, context: str, choices: list[str]):
    model, asked = named(name), prompt(context, *choices)
    if not all(own_ids(model, context + choice) for choice in choices):
        message = "has no token for '" if model.bos_id is not None else "has no token for '|neither BOS nor EOS"
        with pytest.raises(InputError, match=message):
            encoded(model, asked)
        return
    try:
        found = encoded(model, asked)
    except InputError as error:  # nothing before the target, and nothing to stand for it
        assert model.bos_id is None
        assert "neither BOS nor EOS" in str(error)
        return
    assert_whole(model, asked, found)
    assert len({request.context.tobytes() for request in found.requests}) == 1


@pytest.mark.parametrize("name", ["gpt2", "stories260K", "unigram"])
@settings(max_examples=40)
@given(contexts=st.lists(TEXT, min_size=2, max_size=3, unique=True), target=TEXT.filter(lambda text: bool(text.strip())))
def test_contexts_of_their_own_are_cut_by_as_many_tokens(name: str, contexts: list[str], target: str):
    model, asked = named(name), prompt(contexts, *[target] * len(contexts))
    assert_whole(model, asked, encoded(model, asked))


def test_a_token_across_the_boundary_moves_it_for_all_choices():
    model = dataclasses.replace(named("no bos"), bos_id=99)  # knows a, b, c, d and "bc"
    found = encoded(model, prompt("ab", "c", "d", "cc"))
    a, b, c, d, bc = (own_ids(model, text)[0] for text in ("a", "b", "c", "d", "bc"))
    assert [(r.context.tolist(), r.target.tolist()) for r in found.requests] == [([a], [bc]), ([a], [b, d]), ([a], [bc, c])]
    assert found.n_moved == 1
    assert found.requests[0].context is found.requests[1].context
    assert encoded(model, prompt("ab", "d", "a")).n_moved == 0
    found = encoded(model, prompt("b", "c"))  # nothing of the context is left
    assert (found.requests[0].context.tolist(), found.requests[0].target.tolist(), found.n_moved) == ([99], [bc], 1)


def test_one_context_may_have_two_boundaries():
    """Behind one context a token spans the boundary of one prompt and not of the other."""
    model = model_of(merging_tokenizer("b c"))
    plain, merged = prompt("ab", "d", "a"), prompt("ab", "c", "d")
    for pair in ([plain, merged], [merged, plain]):
        assert {found.n_moved for found in encode_prompts(model, pair)} == {0, 1}
        for asked, found in zip(pair, encode_prompts(model, pair), strict=True):
            assert_whole(model, asked, found)


def test_a_boundary_that_moves_far_cuts_a_short_context_to_nothing():
    model = dataclasses.replace(model_of(merging_tokenizer("r s", "q rs", "p qrs")), bos_id=99)
    found = encoded(model, prompt(["apqr", "aa"], "s", "s"))
    a, s, pqrs = (own_ids(model, text)[0] for text in ("a", "s", "pqrs"))
    assert found.n_moved == 3
    assert [(r.context.tolist(), r.target.tolist()) for r in found.requests] == [([a], [pqrs]), ([99], [a, a, s])]


@pytest.mark.parametrize("white", [" ", "\n", "  \n\t", "\u00a0", "\u2003 "])
@pytest.mark.parametrize("name", ["bytes", "gpt2", "stories260K"])
def test_white_space_at_the_end_of_a_context_goes_to_the_target(name: str, white: str):
    model = named(name)
    one, other = (
        encoded(model, asked).requests[0] for asked in (prompt("The day" + white, "was"), prompt("The day", white + "was"))
    )
    assert one.context.tolist() == other.context.tolist()
    assert one.target.tolist() == other.target.tolist()
    lone = encoded(model, prompt(white, "was")).requests[0]
    assert lone.context.tolist() == [model.bos_id]
    assert lone.target.tolist() == own_ids(model, white + "was")


@pytest.mark.parametrize("name", ["bytes with bos", "stories with bos"])
def test_a_tokenizer_that_puts_bos_itself_has_it_once(name: str):
    model = named(name)
    tokenizer, (bos,) = model.encoder.tokenizer, special_prefix(model.encoder)
    for context in ("The day", "", " ", "<s>", "<|document|>", "<s> day"):
        request = encoded(model, prompt(context, " was")).requests[0]
        ids = [*request.context.tolist(), *request.target.tolist()]
        assert ids[0] == bos
        assert ids.count(bos) == 1  # text that looks like it is text
        if "<" not in context:
            assert ids == list(tokenizer(context + " was")["input_ids"])[:-1]  # the last is EOS


def test_without_bos_and_eos_a_context_needs_text():
    model = named("no bos")
    for context in ("", " ", "\n"):
        with pytest.raises(InputError, match=r"the tokenizer of no bos has neither BOS nor EOS .*give doc_to_text a text"):
            encoded(model, prompt(context, "a"))
    with pytest.raises(InputError, match="neither BOS nor EOS"):
        encoded(model, prompt("b", "c"))  # all of the context went to the target
    assert encoded(model, prompt("a", "c")).requests[0].context.tolist() == own_ids(model, "a")


def test_eos_stands_for_a_bos_that_is_not_there():
    model = named("gpt2")
    tokenizer = model.encoder.tokenizer
    request = encoded(model, prompt("", " was")).requests[0]
    assert request.context.tolist() == [tokenizer.eos_token_id]


def test_a_space_in_front_is_that_of_the_whole_text():
    """SentencePiece puts one before the text: the target must not get one more."""
    model = named("stories260K")
    request = encoded(model, prompt("Once upon", " a time")).requests[0]
    names = model.encoder.tokenizer.convert_ids_to_tokens(request.target.tolist())
    assert "".join(names) == "\u2581a\u2581time"
    request = encoded(model, prompt("", "Once")).requests[0]
    assert request.target.tolist() == own_ids(model, "Once")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("wordpiece", "unigram")])
def test_text_that_looks_like_a_special_token_is_text(name: str):
    model, text = named(name), ODD_TEXTS["special"][:60]
    request = encoded(model, prompt(text, " <s>", " </s> x")).requests[0]
    ids = [*request.context.tolist(), *request.target.tolist()][len(special_prefix(model.encoder)) :]
    assert not set(ids) & set(model.encoder.tokenizer.all_special_ids)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_together_are_prompts_alone(name: str):
    model = named(name)
    prompts = [
        prompt("The day", " was", " is"),
        prompt("Ans", "wer"),
        prompt("", "a"),
        prompt("The day", " was", " is"),
        prompt("a", "\u0301"),
    ]
    if model.bos_id is None and not special_prefix(model.encoder):
        prompts = prompts[:1]  # nothing stands for an empty context, and "Answer" is one token
    for found, asked in zip(encode_prompts(model, prompts), prompts, strict=True):
        alone = encoded(model, asked)
        assert found.n_moved == alone.n_moved
        for one, other in zip(found.requests, alone.requests, strict=True):
            assert np.array_equal(one.context, other.context)
            assert np.array_equal(one.target, other.target)
        assert found.n_inputs == max(len(r.context) + len(r.target) - 1 for r in found.requests)
    assert encode_prompts(model, []) == []


def test_a_text_that_the_tokenizer_drops_is_nothing_to_score():
    model = dataclasses.replace(named("wordpiece"), bos_id=1)
    with pytest.raises(InputError, match="the tokenizer of wordpiece has no token for ' ': there is nothing to score"):
        encoded(model, prompt("", " "))
    found = encoded(model, prompt("day", " ")).requests[0]  # a target is never empty: the last token of the context moves
    assert (found.context.tolist(), found.target.tolist()) == ([1], own_ids(model, "day"))


def test_a_lone_surrogate_is_an_error_of_ours():
    with pytest.raises(UndecodableText, match=r"U\+D83D"):
        encoded(named("bytes"), prompt("\ud83d", "a"))


def test_ids_are_whole_numbers_of_64_bits():
    request = encoded(named("bytes"), prompt("ab", "c")).requests[0]
    assert request.context.dtype == request.target.dtype == np.int64
    assert [ids.tolist() for ids in encode_texts(named("bytes").encoder, ["ab", ""])] == [[97, 98], []]
