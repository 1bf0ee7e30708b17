import re

import numpy as np
import pytest
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from samples import ODD_TEXTS, PROSE, TOKENIZERS, fast, stories_tokenizer, tinystories
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lmeval.errors import UndecodableText
from lmeval.models import tokens
from lmeval.models.text_units import BYTES, CHARACTERS, WORDS
from lmeval.models.tokens import TextEncoder, TokenRun, encode, encode_texts, fingerprint, special_prefix, text_encoder
from lmeval.models.toys import byte_tokenizer

ENCODERS: dict[str, TextEncoder] = {}
EXACT = ("bytes", "stories260K", "gpt2")  # their tokens spell any text; neox normalises it first (NFC)


def encoder_of(name: str) -> TextEncoder:
    if name not in ENCODERS:
        ENCODERS[name] = text_encoder(TOKENIZERS[name]())
    return ENCODERS[name]


def whole(encoder: TextEncoder, text: str) -> list[int]:
    """The ids of the text in one go, by the tokenizer itself."""
    found = encoder.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return list(found["input_ids"])


def joined(runs: list[TokenRun]) -> TokenRun:
    ids = np.concatenate([np.empty(0, dtype=np.int64), *(run.ids for run in runs)])
    units = np.concatenate([np.empty((0, 3), dtype=np.int32), *(run.units for run in runs)])
    return TokenRun(ids, units, all(run.exact for run in runs))


def encode_in_segments(encoder: TextEncoder, pieces: list[str], segment: int = 400, overlap: int = 250) -> TokenRun:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "SEGMENT_CHARACTERS", segment)
        patch.setattr(tokens, "OVERLAP_CHARACTERS", overlap)
        patch.setattr(tokens, "SEGMENTS_AT_ONCE", 3)
        return joined(list(encode(encoder, iter(pieces))))


def text_units(text: str) -> list[int]:
    return [len(text.encode()), len(text), len(re.split(r"\s+", text))]


@pytest.mark.parametrize("kind", ODD_TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_units_sum_to_those_of_the_text(name: str, kind: str):
    text = ODD_TEXTS[kind]
    run = joined(list(encode(encoder_of(name), [text])))
    if len(run.ids):
        assert run.units.sum(axis=0).tolist() == text_units(text)
        assert (run.units >= 0).all()


@pytest.mark.parametrize("kind", ODD_TEXTS)
@pytest.mark.parametrize("name", TOKENIZERS)
def test_joined_segments_are_the_encoding_of_the_whole_text(name: str, kind: str):
    encoder, text = encoder_of(name), ODD_TEXTS[kind] * 3
    run = encode_in_segments(encoder, [text])
    assert run.ids.tolist() == whole(encoder, text)
    if len(run.ids):
        assert run.units.sum(axis=0).tolist() == text_units(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_joined_segments_of_real_text_are_the_encoding_of_the_whole(name: str):
    encoder, text = encoder_of(name), tinystories(40_000)
    pieces = [text[i : i + 777] for i in range(0, len(text), 777)]
    for segment, overlap in ((1000, 250), (300, 300), (50, 200)):
        run = encode_in_segments(encoder, pieces, segment, overlap)
        assert run.ids.tolist() == whole(encoder, text)
        assert run.units.sum(axis=0).tolist() == text_units(text)


@pytest.mark.parametrize("name", ["bytes", "stories260K", "gpt2", "unigram"])
@given(
    atoms=st.lists(
        st.sampled_from(["a", "b", "ab ", " ", "\n", "the ", "é", "🙂", "\r\n", "<s>", "0", PROSE[:60]]), min_size=1
    ),
    repeats=st.integers(1, 60),
    segment=st.integers(100, 400),
)
def test_joined_segments_of_any_text_are_the_encoding_of_the_whole(name: str, atoms: list[str], repeats: int, segment: int):
    encoder, text = encoder_of(name), "".join(atoms) * repeats
    run = encode_in_segments(encoder, [text], segment, 200)
    assert run.ids.tolist() == whole(encoder, text)
    if len(run.ids):
        assert run.units.sum(axis=0).tolist() == text_units(text)


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), min_size=1, max_size=60))
@pytest.mark.parametrize("name", ["bytes", "stories260K", "gpt2"])
def test_tokens_of_an_exact_tokenizer_spell_the_text(name: str, text: str):
    encoder = encoder_of(name)
    run = joined(list(encode(encoder, [text])))
    assert run.exact
    assert encoder.core is not None
    assert encoder.core.decode(run.ids.tolist(), skip_special_tokens=False) == text
    assert run.units.sum(axis=0).tolist() == text_units(text)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
@example(text=" ")
@example(text=" a day")
@example(text="\u2581a")
@pytest.mark.parametrize("name", ["neox", "unigram", "wordpiece"])
def test_exactness_is_claimed_just_where_the_text_comes_back(name: str, text: str):
    encoder = encoder_of(name)
    run = joined(list(encode(encoder, [text])))
    assert encoder.core is not None
    assert run.exact == (encoder.core.decode(run.ids.tolist(), skip_special_tokens=False) == text)


def test_bytes_of_each_token_are_its_own():
    run = joined(list(encode(encoder_of("gpt2"), ["The café costs 5€.\n"])))
    core = encoder_of("gpt2").core
    assert core is not None
    for i, n_bytes in zip(run.ids, run.units[:, BYTES], strict=True):
        assert len(core.id_to_token(int(i)) or "") == n_bytes  # one printable character stands for each byte


def test_bytes_of_the_byte_tokenizer_are_the_text():
    text = ODD_TEXTS["emoji"] + ODD_TEXTS["nul"]
    run = joined(list(encode(encoder_of("bytes"), [text])))
    assert bytes(run.ids.tolist()) == text.encode()
    assert (run.units[:, BYTES] == 1).all()


def test_a_word_is_counted_where_its_white_space_begins():
    run = joined(list(encode(encoder_of("bytes"), ["ab \n\tc d"])))
    assert run.units[:, WORDS].tolist() == [1, 0, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("name", ["bytes", "stories260K", "neox", "gpt2"])
def test_text_that_looks_like_a_special_token_is_plain_text(name: str):
    encoder, text = encoder_of(name), ODD_TEXTS["special"]
    run = joined(list(encode(encoder, [text])))
    assert run.exact
    assert not set(run.ids.tolist()) & set(encoder.tokenizer.all_special_ids)


def test_no_special_token_is_added():
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|document|> $A <|document|>", special_tokens=[("<|document|>", 256)]
    )
    assert tokenizer("hi")["input_ids"] == [256, *b"hi", 256]  # the trap: it adds them by itself
    assert joined(list(encode(text_encoder(tokenizer), ["hi"]))).ids.tolist() == [*b"hi"]


def test_preparing_a_tokenizer_leaves_it_as_it_is():
    tokenizer = stories_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(4)
    before = tokenizer.backend_tokenizer.to_str()
    run = joined(list(encode(text_encoder(tokenizer), [PROSE])))
    assert tokenizer.backend_tokenizer.to_str() == before
    assert len(run.ids) > 4


@pytest.mark.parametrize("name", ["wordpiece", "unigram"])
def test_a_lossy_tokenizer_is_flagged(name: str):
    assert not joined(list(encode(encoder_of(name), ["Ünïcode 日本 UPPER\n\n"]))).exact


def test_a_normalising_tokenizer_is_flagged_just_where_it_changes_the_text():
    neox = encoder_of("neox")
    assert joined(list(encode(neox, ["caf\u00e9"]))).exact
    assert not joined(list(encode(neox, ["cafe\u0301"]))).exact


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(
    ("one", "other"),
    [("a day", " a day"), ("a", "a "), ("a\n", "a\n\n"), ("the", "The"), ("a", "\u2581a"), (" a", "\u2581a")],
)
def test_two_texts_of_the_same_ids_are_not_both_exact(name: str, one: str, other: str):
    runs = [joined(list(encode(encoder_of(name), [text]))) for text in (one, other)]
    assert runs[0].ids.tolist() != runs[1].ids.tolist() or not all(run.exact for run in runs)


def test_a_lossy_spot_flags_its_document_however_long():
    text = PROSE * 5 + "日本" + PROSE * 5
    assert not encode_in_segments(encoder_of("unigram"), [text]).exact


@pytest.mark.parametrize("kind", ["prose", "emoji", "white ends", "nul", "special"])
def test_a_tokenizer_written_in_python_sees_the_document_whole(kind: str):
    text = ODD_TEXTS[kind]
    encoder = text_encoder(transformers.ByT5Tokenizer())
    assert encoder.core is None
    run = joined(list(encode(encoder, [text[:5], text[5:]])))
    assert run.units.sum(axis=0).tolist() == text_units(text)
    assert run.exact
    assert [i - 3 for i in run.ids] == list(text.encode())  # ByT5: byte + 3


@pytest.mark.parametrize("name", TOKENIZERS)
def test_no_text_is_no_tokens(name: str):
    assert list(encode(encoder_of(name), [])) == []
    assert list(encode(encoder_of(name), ["", ""])) == []
    assert list(encode(text_encoder(transformers.ByT5Tokenizer()), [""])) == []


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, transformers.ByT5Tokenizer])
def test_a_lone_surrogate_is_an_error_of_ours(tokenizer):
    with pytest.raises(UndecodableText, match=r"lone surrogate U\+D83D"):
        list(encode(text_encoder(tokenizer()), ["ok \ud83d"]))


@pytest.mark.parametrize("name", ["bytes", "gpt2"])
def test_memory_does_not_grow_with_the_text(name: str):
    """Pieces are taken only as tokens are asked for: the encoder is never more than its segments ahead."""
    taken = 0

    def pieces():
        nonlocal taken
        for _ in range(4000):
            taken += len(PROSE)
            yield PROSE

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "SEGMENT_CHARACTERS", 2000)
        patch.setattr(tokens, "OVERLAP_CHARACTERS", 500)
        patch.setattr(tokens, "SEGMENTS_AT_ONCE", 4)
        given_out = 0
        for run in encode(encoder_of(name), pieces()):
            given_out += int(run.units[:, CHARACTERS].sum())
            assert taken - given_out < 16 * 2500
    assert given_out == taken


def test_fingerprints_tell_tokenizers_apart():
    prints = {name: fingerprint(encoder_of(name)) for name in TOKENIZERS}
    prints["python"] = fingerprint(text_encoder(transformers.ByT5Tokenizer()))
    assert len(set(prints.values())) == len(prints)
    assert fingerprint(text_encoder(byte_tokenizer())) == prints["bytes"]


def test_a_token_of_no_bytes_does_no_harm():
    # A tokenizer that begins every text with a marker of its own (SentencePiece's dummy space as a token by itself).
    core = Tokenizer(models.BPE(vocab={"\u2581": 0, **{c: i + 1 for i, c in enumerate("abcdefgh \n")}}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    text = "abc def gh" * 200
    run = encode_in_segments(text_encoder(fast(core)), [text], 100, 120)
    assert run.ids.tolist() == core.encode(text).ids
    assert run.units.sum(axis=0).tolist() == text_units(text)


def test_documents_encoded_together_are_documents_encoded_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens, "SEGMENT_CHARACTERS", 200)
    monkeypatch.setattr(tokens, "OVERLAP_CHARACTERS", 100)
    encoder = tokens.text_encoder(byte_tokenizer())
    documents = [
        ["one two"],
        [],
        ["", "  three\n"],
        ["long \u4e2d " * 40, "and more " * 60],
        ["x"],
        ["a" * 199, "b c"],
        [""],
    ]
    alone = [list(tokens.encode(encoder, document)) for document in documents]
    together = [list(runs) for runs in tokens.encode_documents(encoder, documents)]
    for expected, found in zip(alone, together, strict=True):
        for field in ("ids", "units"):
            one, other = ([getattr(run, field) for run in runs] for runs in (expected, found))
            assert np.array_equal(np.concatenate([*one, *[[]] * (not one)]), np.concatenate([*other, *[[]] * (not other)]))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_texts_encoded_together_are_each_text_whole(name: str):
    encoder, texts = encoder_of(name), ["", *ODD_TEXTS.values(), "", PROSE]
    found = encode_texts(encoder, texts)
    assert [ids.tolist() for ids in found] == [whole(encoder, text) if text else [] for text in texts]
    assert all(ids.dtype == np.int64 and ids.ndim == 1 for ids in found)
    assert encode_texts(encoder, []) == []
    for text, ids in zip(texts, found, strict=True):  # the same ids as a document of that text
        assert joined(list(encode(encoder, [text]))).ids.tolist() == ids.tolist()


def test_texts_are_encoded_by_a_tokenizer_written_in_python():
    found = encode_texts(text_encoder(transformers.ByT5Tokenizer()), ["", "é<pad>"])
    assert [[i - 3 for i in ids] for ids in found] == [[], list("é<pad>".encode())]


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, transformers.ByT5Tokenizer])
def test_a_lone_surrogate_among_texts_is_an_error_of_ours(tokenizer):
    with pytest.raises(UndecodableText, match=r"lone surrogate U\+D83D"):
        encode_texts(text_encoder(tokenizer()), ["fine", "ok \ud83d"])


@pytest.mark.parametrize(
    ("single", "prefix"),
    [
        ("$A", []),
        ("$A <|document|>", []),
        ("<|document|> $A", [256]),
        ("<|document|> $A <|document|>", [256]),
        ("<|document|> <|document|> $A", [256, 256]),
    ],
)
def test_the_special_tokens_in_front_are_those_that_the_tokenizer_puts_there(single: str, prefix: list[int]):
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<|document|>", 256)]
    )
    encoder = text_encoder(tokenizer)
    assert special_prefix(encoder) == prefix
    ids = list(tokenizer("hi there")["input_ids"])
    assert ids[: len(prefix) + 8] == [*prefix, *b"hi there"]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_what_stands_in_front_is_special(name: str):
    encoder = encoder_of(name)
    prefix = special_prefix(encoder)
    assert set(prefix) <= set(encoder.tokenizer.all_special_ids)
    assert list(encoder.tokenizer("a day")["input_ids"])[: len(prefix)] == prefix
    assert special_prefix(text_encoder(transformers.ByT5Tokenizer())) == []  # it puts EOS behind the text


def test_special_tokens_are_found_where_the_tokenizer_drops_letters():
    core = Tokenizer(models.BPE(vocab={"1": 0, "<s>": 1}, merges=[]))
    core.post_processor = processors.TemplateProcessing(single="<s> $A <s>", special_tokens=[("<s>", 1)])
    encoder = text_encoder(fast(core, bos_token="<s>"))
    assert encode_texts(encoder, ["a", "1a1"])[1].tolist() == [0, 0]
    assert special_prefix(encoder) == [1]
