import math

import evaluate
import pytest
from samples import PROSE, tiny_llama

from lmeval.data.resources import metric_module
from lmeval.models.toys import byte_tokenizer
from lmeval.perplexity import PerplexitySettings, perplexity
from lmeval.results import find

TEXTS = [PROSE, "second text 🙂", "x"]


def pair():
    return tiny_llama().network, byte_tokenizer()


def test_the_module_agrees_with_the_function():
    found = evaluate.load(str(metric_module("bits_per_byte"))).compute(predictions=TEXTS, model=pair(), stride=32)
    expected = perplexity(pair(), TEXTS, PerplexitySettings(stride=32))
    measurement = find(expected, "bits_per_byte")
    assert found is not None
    assert found["bits_per_byte"] == measurement.value
    assert found["stderr"] == measurement.stderr
    assert found["n_bytes"] == expected.ledger["n_bytes_scored"] == sum(len(text.encode()) for text in TEXTS)


@pytest.mark.parametrize("unit", ["token", "byte", "word"])
def test_corpus_perplexities_agree_with_the_function(unit: str):
    found = evaluate.load(str(metric_module("corpus_perplexity"))).compute(predictions=TEXTS, model=pair())
    expected = perplexity(pair(), TEXTS)
    assert found is not None
    assert found[f"{unit}_perplexity"] == expected[f"{unit}_perplexity"]
    assert found["n_tokens"] == expected.ledger["n_tokens_scored"]


def test_corpus_perplexity_is_not_the_mean_of_perplexities():
    found = evaluate.load(str(metric_module("corpus_perplexity"))).compute(predictions=TEXTS, model=pair())
    assert found is not None
    rows = perplexity(pair(), TEXTS).tables["documents"]
    nats, n_tokens = (sum(row[key] for row in rows) for key in ("nll_nats", "n_tokens"))
    assert found["token_perplexity"] == pytest.approx(math.exp(nats / n_tokens))
    mean = sum(row["token_perplexity"] for row in rows) / len(rows)
    assert found["token_perplexity"] != pytest.approx(mean, rel=0.01)
