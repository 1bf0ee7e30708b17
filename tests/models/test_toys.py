import math

import numpy as np
import pytest
import torch
from samples import markov_transitions

from lmeval.models import from_pair
from lmeval.models.toys import (
    BOS_ID,
    BOS_TEXT,
    byte_tokenizer,
    entropy_rate_nats,
    markov_model,
    stationary_distribution,
    uniform_model,
)


def test_a_markov_model_gives_the_logs_of_its_transitions():
    transitions = markov_transitions(9)
    ids = torch.tensor([[3, 0, 8, 8, 1]])
    log_probs = markov_model(transitions)(input_ids=ids).logits.log_softmax(-1)
    np.testing.assert_allclose(log_probs[0].detach().numpy(), np.log(transitions[ids[0]]), rtol=1e-12)


def test_a_uniform_model_is_uniform():
    log_probs = uniform_model(vocab_size=5)(input_ids=torch.tensor([[0, 4]])).logits.log_softmax(-1)
    np.testing.assert_allclose(log_probs.detach().numpy(), -math.log(5), rtol=1e-13)


def test_the_stationary_distribution_stays():
    transitions = markov_transitions(7, seed=3)
    pi = stationary_distribution(transitions)
    np.testing.assert_allclose(pi @ transitions, pi, atol=1e-13)
    assert pi.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.linalg.matrix_power(transitions, 500)[0], pi, atol=1e-12)


def test_the_entropy_rate_is_that_of_two_states_by_hand():
    a, b = 0.1, 0.3  # P = [[1 - a, a], [b, 1 - b]] has pi = [b, a] / (a + b)

    def entropy(p: float) -> float:
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    expected = b / (a + b) * entropy(a) + a / (a + b) * entropy(b)
    assert entropy_rate_nats(np.array([[1 - a, a], [b, 1 - b]])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("rows", [[[0.5, 0.6], [0.5, 0.5]], [[1.0, 0.0], [0.5, 0.5]], [[1.5, -0.5], [0.5, 0.5]]])
def test_what_is_no_transition_matrix_is_refused(rows: list[list[float]]):
    with pytest.raises(ValueError, match="positive and sum to 1"):
        markov_model(np.array(rows))


def test_every_byte_is_its_own_token():
    tokenizer = byte_tokenizer()
    text = "".join(map(chr, range(128))) + "é€🙂"
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == list(text.encode())
    assert tokenizer.decode(list(text.encode())) == text
    assert tokenizer.bos_token_id == BOS_ID
    assert tokenizer.convert_tokens_to_ids(BOS_TEXT) == BOS_ID
    assert len(tokenizer) == 257


def test_a_toy_is_a_model_like_any_other():
    model = from_pair(uniform_model(context_length=33), byte_tokenizer())
    assert (model.context_length, model.vocab_size, model.bos_id, model.dtype) == (33, 257, BOS_ID, torch.float64)
