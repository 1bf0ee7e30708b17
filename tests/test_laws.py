import math

import laws
import numpy as np
import pytest
import torch
from samples import markov_transitions, tiny_gpt2, tiny_llama

from lmeval.models import CausalLM, from_pair
from lmeval.models.toys import byte_tokenizer, markov_model, uniform_model
from lmeval.perplexity import PerplexitySettings, perplexity
from lmeval.scoring import BosPolicy, Windowing

MODELS = {
    "llama": tiny_llama,
    "llama float64": lambda: tiny_llama(dtype=torch.float64),
    "gpt2": tiny_gpt2,
    "gpt2 float64": lambda: tiny_gpt2(dtype=torch.float64),
    "markov": lambda: from_pair(markov_model(markov_transitions(), context_length=64), byte_tokenizer()),
    "uniform": lambda: from_pair(uniform_model(context_length=64), byte_tokenizer()),
}


@pytest.mark.parametrize("law", laws.ENGINE_LAWS)
@pytest.mark.parametrize("name", MODELS)
def test_of_the_engine(name: str, law: str):
    laws.ENGINE_LAWS[law](MODELS[name](), laws.requests(257, 64, n=30))


@pytest.mark.parametrize("bos", ["window", "document", "none"])
@pytest.mark.parametrize("context", [1, 2, 3, 7])
def test_of_windows_for_all_small_documents(bos: BosPolicy, context: int):
    for stride in range(1, context + 1):
        for n in range(26):
            windowing = Windowing(context, stride, bos, 0)
            laws.windows_cover_a_document(n, windowing)
            laws.later_targets_have_context(n, windowing)


@pytest.mark.parametrize(
    "settings",
    [PerplexitySettings(), PerplexitySettings(16, 4), PerplexitySettings(16, 16, "none"), PerplexitySettings(1, 1)],
)
def test_a_uniform_model_needs_the_log_of_its_vocabulary_for_any_text(settings: PerplexitySettings):
    model = MODELS["uniform"]()
    found = perplexity(model, ["some text", "x" * 300, "other\r\ntext é🙂"], settings)
    laws.uniform_is_exact(found["bits_per_token"], 257)
    assert math.isclose(found["token_perplexity"], 257, rel_tol=1e-11)


@pytest.mark.parametrize(
    "settings",
    [PerplexitySettings(), PerplexitySettings(16, 4), PerplexitySettings(16, 16), PerplexitySettings(2, 1, "document")],
)
def test_windows_do_not_matter_to_a_model_that_looks_back_one_token(settings: PerplexitySettings):
    """A Markov chain needs one token of context: every windowing that gives it that one costs the closed form."""
    transitions, text = markov_transitions(), "The quick brown fox jumps over the lazy dog. " * 9
    model = from_pair(markov_model(transitions, context_length=64), byte_tokenizer())
    bos = "document" if settings.bos == "auto" else settings.bos
    found = perplexity(model, [text], settings._replace(bos=bos))
    ids = np.array([256, *text.encode()])
    assert found["nll_nats"] == pytest.approx(-np.log(transitions[ids[:-1], ids[1:]]).sum(), rel=1e-12)


def test_sequences_of_a_model_are_worth_the_same_in_any_company(tiny: CausalLM):
    texts = ["first text", "a second one that is longer " * 20, "3", "and the fourth"]
    together = perplexity(tiny, texts)
    apart = [perplexity(tiny, [text])["nll_nats"] for text in texts]
    assert together["nll_nats"] == pytest.approx(sum(apart), abs=1e-3)
    turned = perplexity(tiny, texts[::-1])
    assert turned["nll_nats"] == pytest.approx(together["nll_nats"], abs=1e-3)
