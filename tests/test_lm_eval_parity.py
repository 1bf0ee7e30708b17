"""Ours beside lm-evaluation-harness 0.4.13: the same rolling windows, the same figures; and the places where it differs."""

import logging
import warnings
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from lm_eval.api.task import Task
from lm_eval.models.huggingface import HFLM
from samples import PROSE, stories_tokenizer, tiny_gpt2, tiny_llama, tinystories
from tokenizers import processors
from transformers import PreTrainedTokenizerBase

from lmeval.models import CausalLM, from_pair
from lmeval.models.toys import BOS_ID, BOS_TEXT, byte_tokenizer
from lmeval.perplexity import PerplexitySettings, perplexity


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about their own dependencies
        yield


def harness_nats(model: CausalLM, tokenizer: PreTrainedTokenizerBase, texts: list[str], **settings: object) -> list[float]:
    """The log-likelihoods that its Hugging Face backend gives, from the very same objects."""
    backend: Any = HFLM  # its decorators hide its signature
    theirs = backend(pretrained=model.network, tokenizer=tokenizer, batch_size=4, device="cpu", **settings)
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    return theirs.loglikelihood_rolling(requests, disable_tqdm=True)


def harness_metrics(log_likelihoods: list[float], texts: list[str]) -> dict[str, float]:
    """Its own formulas and its own counts."""
    words = list(zip(log_likelihoods, map(Task.count_words, texts), strict=True))
    sizes = list(zip(log_likelihoods, map(Task.count_bytes, texts), strict=True))
    return {
        "word_perplexity": weighted_perplexity(words),
        "byte_perplexity": weighted_perplexity(sizes),
        "bits_per_byte": bits_per_byte(sizes),
    }


def assert_parity(model: CausalLM, tokenizer: PreTrainedTokenizerBase, texts: list[str], context: int | None = None) -> None:
    settings = {} if context is None else {"max_length": context}
    theirs = harness_metrics(harness_nats(model, tokenizer, texts, **settings), texts)
    ours = perplexity(model, texts, PerplexitySettings(context=context))
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, rel=1e-4), name


def stories_documents() -> list[str]:
    """Whole stories, one with white space at both ends, and one longer than several contexts of 512."""
    text = tinystories(30_000)
    return [*text.split("<|endoftext|>")[:6], "  \n" + text[:700] + "\n\n", text[:9_000]]


@pytest.mark.parametrize("context", [None, 128, 37])
def test_figures_of_stories260k_agree(stories: CausalLM, context: int | None):
    assert_parity(stories, stories_tokenizer(), stories_documents(), context)


@pytest.mark.parametrize("model", [tiny_gpt2, tiny_llama])
def test_figures_of_random_networks_on_bytes_agree(model):
    texts = [PROSE * 4, "short", "Ünïcode 🙂\r\n" * 20, "exactly sixty-four bytes, which is the context of these networks."]
    assert_parity(model(), byte_tokenizer(), texts)


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 127, 128, 129])
def test_documents_at_the_edges_of_windows_agree(n: int):
    assert_parity(tiny_gpt2(), byte_tokenizer(), [(PROSE * 2)[:n]])


def bos_adding_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer that puts BOS in front by itself, as those of Llama and Gemma do."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS_TEXT} $A", special_tokens=[(BOS_TEXT, BOS_ID)]
    )
    return tokenizer


def test_it_scores_a_second_bos_where_the_tokenizer_adds_one_and_we_do_not():
    """Its rolling path encodes with the tokenizer's own BOS and then puts another in front: the first window is context
    [BOS], targets [BOS, t0, t1, ...]. So the probability of BOS after BOS is charged to the text, and every later token of
    the window sees one BOS too many. With add_bos_token=False it agrees with us; we encode without special tokens always."""
    model = from_pair(tiny_llama(dtype=torch.float64).network, bos_adding_tokenizer())
    texts = [PROSE[:40]]  # one window with either count of tokens
    ours = perplexity(model, texts)["nll_nats"]
    (right,) = harness_nats(model, bos_adding_tokenizer(), texts, add_bos_token=False)
    (wrong,) = harness_nats(model, bos_adding_tokenizer(), texts)
    assert ours == pytest.approx(-right, rel=1e-6)

    ids = torch.tensor([[BOS_ID, BOS_ID, *texts[0].encode()]])
    with torch.no_grad():
        log_probs = model.network(input_ids=ids[:, :-1]).logits[0].double().log_softmax(-1)
    doubled = float(log_probs.gather(1, ids[0, 1:, None]).sum())  # BOS itself is a target here
    assert wrong == pytest.approx(doubled, rel=1e-6)
    assert abs(wrong - right) > 0.5


def test_it_counts_words_of_an_empty_document_and_we_leave_the_document_out():
    """No tokens and no nats, but one word: an empty document lowers its word perplexity. We score none and count it in the
    ledger."""
    texts = ["some words here", ""]
    theirs = harness_metrics(harness_nats(tiny_gpt2(), byte_tokenizer(), texts), texts)
    ours = perplexity(tiny_gpt2(), texts)
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte"], rel=1e-4)
    assert ours["word_perplexity"] ** (3 / 4) == pytest.approx(theirs["word_perplexity"], rel=1e-4)
    assert ours.ledger["n_documents_empty"] == 1


def test_it_takes_special_tokens_in_the_text_for_special_and_we_take_text_for_text():
    """A document that holds the characters of a special token: its call makes the token of them, ours the bytes."""
    tokenizer = byte_tokenizer()
    tokenizer.split_special_tokens = False  # the libraries' default; our byte tokenizer sets it the other way
    texts = [f"one{BOS_TEXT}two"]
    theirs = harness_nats(tiny_gpt2(), tokenizer, texts)[0]
    ours = perplexity(from_pair(tiny_gpt2().network, tokenizer), texts)
    assert ours.ledger["n_tokens_scored"] == len(texts[0])
    assert ours["nll_nats"] != pytest.approx(-theirs, rel=0.01)


def test_its_sums_are_in_the_networks_dtype_and_ours_are_not():
    """For a bfloat16 network it takes the log-softmax and the sum in bfloat16, whose steps near 100 nats are half a nat."""
    model, texts = tiny_gpt2(dtype=torch.bfloat16), [PROSE[:60]]
    (theirs,) = harness_nats(model, byte_tokenizer(), texts)
    (better,) = harness_nats(model, byte_tokenizer(), texts, softmax_dtype="float32")
    ours = perplexity(model, texts)["nll_nats"]
    assert ours == pytest.approx(-better, rel=1e-5)
    assert abs(ours + theirs) > 10 * abs(ours + better)
