"""Texts that begin alike: their ids are those of each text encoded whole, and most of them are not encoded whole."""

import numpy as np
import pytest
from samples import ODD_TEXTS, PROSE, TOKENIZERS, gpt2_tokenizer

from lmeval.errors import UndecodableText
from lmeval.models import encode_texts, related, text_encoder
from lmeval.models.related import MARGIN_BYTES, encode_beside, leaders
from lmeval.models.toys import byte_tokenizer


def family(seed: int) -> list[str]:
    """Texts with heads of several lengths, of prose and of odd text, and tails of all kinds."""
    rng = np.random.default_rng(seed)
    kinds = [PROSE, *ODD_TEXTS.values()]
    heads = ["".join(kinds[i] for i in rng.integers(len(kinds), size=n)) for n in (1, 2, 3)]
    tails = [kinds[i][: rng.integers(1, 90)] for i in rng.integers(len(kinds), size=12)]
    return [head[: rng.integers(1, len(head) + 1)] + tail for head in heads for tail in tails]


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("seed", range(3))
def test_ids_are_those_of_the_whole(name: str, seed: int):
    encoder, texts = text_encoder(TOKENIZERS[name]()), family(seed)
    ids = dict(zip(texts, encode_texts(encoder, texts), strict=True))
    of = leaders(texts)
    for base in (lambda text: of[text], lambda text: texts[0], lambda text: text[: len(text) // 2] or "x"):
        bases = [(base(text), encode_texts(encoder, [base(text)])[0]) for text in texts]
        for text, found in zip(texts, encode_beside(encoder, bases, texts), strict=True):
            assert np.array_equal(found, ids[text])


def test_only_the_rest_is_encoded(monkeypatch: pytest.MonkeyPatch):
    encoder, seen = text_encoder(gpt2_tokenizer()), []
    texts = [PROSE * 9 + f"And then, {i} times, it rang." for i in range(5)]
    bases = [(texts[0], encode_texts(encoder, texts[:1])[0])] * 4
    whole = related.encode_texts

    def spying(encoder, texts):
        seen.extend(texts)
        return whole(encoder, texts)

    monkeypatch.setattr(related, "encode_texts", spying)
    encode_beside(encoder, bases, texts[1:])
    assert len(seen) == 4 and all(len(part) < MARGIN_BYTES + 100 for part in seen)


@pytest.mark.slow
def test_where_the_tokens_disagree_the_text_is_encoded_whole():
    encoder = text_encoder(gpt2_tokenizer())
    text = "a" * 2000 + " end"  # its tokens depend on where one starts
    odd = encode_texts(encoder, ["b" + "a" * 2000])[0]
    (found,) = encode_beside(encoder, [("a" * 2000, np.roll(odd, 1)[: len(odd)])], [text])
    assert np.array_equal(found, encode_texts(encoder, [text])[0])


def test_leaders_share_more_than_the_margin():
    texts = family(5)
    of = leaders(texts)
    assert set(of) == set(texts)
    for text, leader in of.items():
        assert of[leader] == leader
        assert leader == text or text.encode()[: MARGIN_BYTES + 1] == leader.encode()[: MARGIN_BYTES + 1]


def test_lone_surrogates_are_refused():
    encoder = text_encoder(byte_tokenizer())
    text = PROSE * 9 + "\ud800"
    with pytest.raises(UndecodableText):
        encode_beside(encoder, [(PROSE * 9, encode_texts(encoder, [PROSE * 9])[0])], [text])
