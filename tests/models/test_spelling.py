import functools

import numpy as np
import pytest
import tokenizers
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from samples import ODD_BYTES, ODD_TEXTS, TOKENIZERS, fast, tinystories
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from lmeval.models.byte_table import byte_alphabet
from lmeval.models.spelling import decode_bytes, encode_bytes, n_text_ids, vocabulary_sha256
from lmeval.models.tokens import TextEncoder, encode, text_encoder
from lmeval.models.toys import byte_tokenizer

COMPLETE = ("bytes", "stories260K", "gpt2")  # their tokens spell any bytes
NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}  # neox has no tokens for these


@functools.cache
def encoder_of(name: str) -> TextEncoder:
    return text_encoder(TOKENIZERS[name]())


def can_spell(name: str, data: bytes) -> bool | None:
    """None: nobody knows."""
    if name == "neox":
        return not NEVER_IN_UTF8 & set(data)
    return True if name in COMPLETE else None


@functools.cache
def n_ids_of(name: str) -> int:
    return n_text_ids(encoder_of(name))


def spelled(encoder: TextEncoder, n_ids: int, data: bytes) -> bytes | None:
    found = encode_bytes(encoder, data)
    if found is None:
        return None
    assert found.ids.dtype == np.int64
    assert not len(found.ids) or found.ids.max() < n_ids
    whole = decode_bytes(encoder, found.ids)
    if found.extra_space:
        assert whole[:1] == b" "
        return whole[1:]
    return whole


@pytest.mark.parametrize("kind", ODD_BYTES)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_spell_the_bytes(name: str, kind: str):
    found = spelled(encoder_of(name), n_ids_of(name), ODD_BYTES[kind])
    assert found in (ODD_BYTES[kind], None)
    assert can_spell(name, ODD_BYTES[kind]) in (None, found is not None)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(data=st.binary(max_size=80))
@example(data=b"\x80")
@example(data=b"a\xffb")
@example(data=b"\xff \xff")
@example(data=b" \xff")
@example(data=b"\xed\xb2\x80")  # a lone surrogate of the kind that stands for odd bytes
@example(data=b"\xf4\x90\x80\x80")
def test_any_bytes(name: str, data: bytes):
    found = spelled(encoder_of(name), n_ids_of(name), data)
    assert found in (data, None)
    assert can_spell(name, data) in (None, found is not None)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(
    parts=st.lists(
        st.sampled_from(
            [b"the ", b" ", b"\n", b"\r\n", "é".encode(), "🙂".encode(), b"\xff", b"\xe2\x82", b"<s>", b"<0x0A>", b"\x00",
             b"<unk>", "\u2581".encode(), "\ufb01".encode(), "e\u0301".encode(), b"clocks",
             b"<|endoftext|>", b"[UNK]", b"##a"]
        ),
        max_size=12,
    )
)  # fmt: skip
def test_any_mixture(name: str, parts: list[bytes]):
    data = b"".join(parts)
    found = spelled(encoder_of(name), n_ids_of(name), data)
    assert found in (data, None)
    assert can_spell(name, data) in (None, found is not None)


@pytest.mark.parametrize("kind", ODD_TEXTS)
@pytest.mark.parametrize("name", ["bytes", "gpt2", "stories260K"])
def test_text_is_encoded_as_ever(name: str, kind: str):
    encoder, text = encoder_of(name), ODD_TEXTS[kind]
    expected = [i for run in encode(encoder, [text]) for i in run.ids.tolist()]
    found = encode_bytes(encoder, text.encode())
    assert found is not None
    if decode_bytes(encoder, np.array(expected)).lstrip() == text.encode().lstrip():
        assert found.ids.tolist() == expected
    assert (found.ids < n_ids_of(name)).all()


@pytest.mark.parametrize("name", [*COMPLETE, "neox"])
def test_only_the_odd_bytes_are_spelled_singly(name: str):
    """A byte that is no UTF-8, or a character that is normalised, costs the tokens around it, not the whole text."""
    encoder, text = encoder_of(name), tinystories(3000)
    whole = encode_bytes(encoder, text.encode())
    assert whole is not None
    at = text.index(" ", 1500)
    for odd in (b"\x80", b"\xe2\x82", "e\u0301".encode()):
        data = text[:at].encode() + odd + text[at:].encode()
        found = encode_bytes(encoder, data)
        assert found is not None
        assert len(found.ids) <= len(whole.ids) + 12


@pytest.mark.parametrize("name", ["unigram", "wordpiece"])
def test_what_the_vocabulary_cannot_spell_is_none(name: str):
    for data in (b"\xff", "日本".encode(), b"Zebra\tquick", bytes(range(256))):
        assert encode_bytes(encoder_of(name), data) is None


def test_a_vocabulary_without_byte_tokens_spells_what_it_knows():
    found = encode_bytes(encoder_of("unigram"), b"bright cold day")
    assert found is not None
    assert spelled(encoder_of("unigram"), n_ids_of("unigram"), b"bright cold day") == b"bright cold day"


@pytest.mark.parametrize(
    ("data", "extra"), [(b"Once upon", True), (b" Once upon", True), (b"\xff", False), (b"\xffOnce", False), (b"", False)]
)
def test_the_space_that_sentencepiece_puts_in_front(data: bytes, extra: bool):
    encoder = encoder_of("stories260K")
    found = encode_bytes(encoder, data)
    assert found is not None
    assert decode_bytes(encoder, found.ids) == b" " * found.extra_space + data
    assert found.extra_space == extra


def test_tokenizers_written_in_python_are_none():
    assert encode_bytes(text_encoder(transformers.ByT5Tokenizer()), b"abc") is None


def test_ids_that_the_vocabulary_lacks_stand_for_no_bytes():
    encoder = encoder_of("bytes")
    assert decode_bytes(encoder, np.array([65, -1, 10**9, 257, 66])) == b"AB"
    assert decode_bytes(encoder, np.zeros(0, dtype=np.int64)) == b""
    assert decode_bytes(encoder, np.arange(256)) == bytes(range(256))


def test_the_number_of_ids_that_text_can_have():
    assert n_text_ids(encoder_of("bytes")) == 256
    assert n_text_ids(encoder_of("gpt2")) == 50256
    assert n_text_ids(encoder_of("stories260K")) == 512
    for name in TOKENIZERS:
        vocabulary = encoder_of(name).tokenizer.get_vocab().values()
        assert 0 < n_text_ids(encoder_of(name)) <= 1 + max(vocabulary)


def bytes_and(special: str) -> transformers.PreTrainedTokenizerFast:
    """The byte tokenizer with one special token behind its 256 bytes (or one of the bytes, if that is its name)."""
    alphabet = byte_alphabet()
    core = Tokenizer(models.BPE(vocab={alphabet[byte]: byte for byte in range(256)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([tokenizers.AddedToken(special, special=True)])
    return fast(core)


@pytest.mark.parametrize("special", ["<s>", "\u0120\u0120", "\u00c3", "|"])
def test_special_tokens_are_never_spelled_with(special: str):
    encoder = text_encoder(bytes_and(special))
    assert spelled(encoder, 256, b"plain <s>|text  \xc3 and \xff") == b"plain <s>|text  \xc3 and \xff"


def test_vocabularies_are_told_apart_by_their_bytes():
    prints = {name: vocabulary_sha256(encoder_of(name)) for name in TOKENIZERS}
    assert len(set(prints.values())) == len(prints)
    assert vocabulary_sha256(text_encoder(byte_tokenizer())) == prints["bytes"]
    assert n_text_ids(text_encoder(bytes_and("<s>"))) == n_text_ids(text_encoder(bytes_and("|"))) == 256
    one, other = (vocabulary_sha256(text_encoder(bytes_and(name))) for name in ("<s>", "<t>"))
    assert one != other
