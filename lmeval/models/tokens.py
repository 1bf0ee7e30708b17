"""Text to token ids, exactly: each token knows which bytes, characters and words of the text it stands for.

Special tokens are never added here, and text that looks like one ("<s>", "<|endoftext|>") is encoded as the plain text that
it is. Long documents are encoded in overlapping segments, many at a time, and joined where two neighbours agree, so memory
stays constant and the ids are those of the whole text.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from lmeval.errors import UndecodableText
from lmeval.models.byte_table import ByteTable, byte_table, spell
from lmeval.models.text_units import WORDS

SEGMENT_CHARACTERS = 1 << 16
OVERLAP_CHARACTERS = 1 << 10
SEGMENTS_AT_ONCE = 16
DOCUMENTS_AT_ONCE = 64
AGREEMENT_TOKENS = 32  # neighbours must give this many equal tokens in a row before they are joined

_WHITESPACE = np.array([c for c in range(0x3001) if chr(c).isspace()], dtype=np.uint32)


class TokenRun(NamedTuple):
    """Consecutive tokens of a document.

    `units` counts what `text_units` lists of each token: UTF-8 bytes, characters (code points that begin in the token) and
    words; they sum to those of the text. Words are counted as lm-evaluation-harness counts them: one more than the runs of
    white space, so white space at either end counts one more. `exact` is False where the ids do not determine the text.
    """

    ids: Int64[np.ndarray, " tokens"]
    units: Int32[np.ndarray, "tokens units"]
    exact: bool


class TextEncoder(NamedTuple):
    """A tokenizer made ready for exact encoding. `core` is a private copy without truncation, padding and added tokens;
    it is None for tokenizers written in Python, which then see each document whole."""

    tokenizer: PreTrainedTokenizerBase
    core: Tokenizer | None
    table: ByteTable | None
    drops_space: bool  # "a" and " a" have the same ids: a space in front of a document is lost


class _Segment(NamedTuple):
    offset: int  # of its text, in bytes from the start of the document
    text: str
    ids: Int64[np.ndarray, " tokens"]
    ends: Int64[np.ndarray, " tokens"]  # byte offset in the document at the end of each token
    units: Int32[np.ndarray, "tokens units"]
    exact: bool


def text_encoder(tokenizer: PreTrainedTokenizerBase) -> TextEncoder:
    """Prepare a tokenizer for exact encoding.

    Args:
        tokenizer: Any tokenizer of transformers; the caller's object is not changed.

    Returns:
        What the functions of this module encode with.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return TextEncoder(tokenizer, None, None, drops_space=False)
    description = json.loads(backend.to_str())
    description["post_processor"] = description["truncation"] = description["padding"] = None
    core = Tokenizer.from_str(json.dumps(description))
    core.encode_special_tokens = True
    drops_space = core.encode("a", add_special_tokens=False).ids == core.encode(" a", add_special_tokens=False).ids
    return TextEncoder(tokenizer, core, byte_table(core, json.dumps(description["decoder"])), drops_space)


def fingerprint(encoder: TextEncoder) -> str:
    """SHA-256 of the tokenizer: of its serialised form, or of its vocabulary where it is written in Python."""
    if encoder.core is not None:
        return hashlib.sha256(encoder.core.to_str().encode()).hexdigest()
    kind = type(encoder.tokenizer).__name__
    vocabulary = json.dumps([kind, sorted(encoder.tokenizer.get_vocab().items())])
    return hashlib.sha256(vocabulary.encode()).hexdigest()


def encode_texts(encoder: TextEncoder, texts: Sequence[str]) -> list[Int64[np.ndarray, " tokens"]]:
    """The ids of each text, whole, without special tokens; many at a time, in parallel threads.

    Args:
        encoder: The tokenizer (`text_encoder`).
        texts: Texts that fit a context: `encode` is for those of any length.

    Returns:
        An int64 array [tokens] for each text, in their order; empty where the tokenizer has no token for it.

    Raises:
        UndecodableText: A text has a lone surrogate, and so no UTF-8 form.
    """
    for text in texts:
        _utf8(text)
    if encoder.core is None:
        return [_slow_segment(encoder, text).ids for text in texts]
    encodings = encoder.core.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]


def special_prefix(encoder: TextEncoder) -> list[int]:
    """The special tokens that the tokenizer itself puts in front of every text; most put none.

    Args:
        encoder: The tokenizer (`text_encoder`).

    Returns:
        Their ids in order, such as that of BOS.
    """
    probes = ((text, encode_texts(encoder, [text])[0].tolist()) for text in "a1. \u0430\u4e00")
    text, bare = next((probe for probe in probes if probe[1]), ("a", []))  # some tokenizers drop what they do not know
    whole = list(encoder.tokenizer(text, add_special_tokens=True)["input_ids"])
    starts = (i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare)
    return whole[: next(starts, 0)]


def encode(encoder: TextEncoder, pieces: Iterable[str]) -> Iterator[TokenRun]:
    """Token runs of one document, given as consecutive pieces of text: the ids of the whole text, in constant memory.

    Args:
        encoder: The tokenizer (`text_encoder`). One that is written in Python holds the whole text in memory.
        pieces: The parts of the document's text, in order; they may be cut anywhere.

    Returns:
        The document's tokens in order, some thousands in a run; no run where there is no text.

    Raises:
        UndecodableText: The text has a lone surrogate, and so no UTF-8 form.
    """
    if encoder.core is None:
        text = "".join(pieces)
        if text:
            segment = _slow_segment(encoder, text)
            yield TokenRun(segment.ids, _count_last_word(segment.units), segment.exact)
        return
    first = True
    for run in _joined(encoder, _cut(pieces)):
        yield run._replace(units=_count_last_word(run.units)) if first and len(run.ids) else run
        first = first and not len(run.ids)


def encode_documents(encoder: TextEncoder, documents: Iterable[Iterable[str]]) -> Iterator[Iterator[TokenRun]]:
    """`encode` for each of many documents, in order; short ones are encoded many at a time, in parallel threads.

    Args:
        encoder: The tokenizer.
        documents: Consecutive pieces of text of each document.

    Returns:
        The token runs of each document; they must be used up before those of the next are asked for.

    Raises:
        UndecodableText: A text has a lone surrogate, and so no UTF-8 form.
    """
    short: list[str] = []
    for pieces in documents:
        iterator = iter(pieces)
        text = ""
        for piece in iterator:
            text += piece
            if len(text) >= SEGMENT_CHARACTERS or encoder.core is None:
                break
        else:
            short.append(text)
            if sum(map(len, short)) >= SEGMENT_CHARACTERS or len(short) == DOCUMENTS_AT_ONCE:
                yield from _encode_short(encoder, short)
                short = []
            continue
        yield from _encode_short(encoder, short)
        short = []
        yield encode(encoder, itertools.chain([text], iterator))
    yield from _encode_short(encoder, short)


def _encode_short(encoder: TextEncoder, texts: list[str]) -> Iterator[Iterator[TokenRun]]:
    """Whole documents, each of them one segment; a document without text has no run."""
    segments = iter(_segments(encoder, [(0, text) for text in texts if text]))
    for text in texts:
        if not text:
            yield iter(())
            continue
        segment = next(segments)
        units = _count_last_word(segment.units) if len(segment.ids) else segment.units
        yield iter([TokenRun(segment.ids, units, segment.exact)])


def _count_last_word(units: Int32[np.ndarray, "tokens units"]) -> Int32[np.ndarray, "tokens units"]:
    """Runs of white space separate words, so a document has one word more than runs; its first token carries that one."""
    units = units.copy()
    units[0, WORDS] += 1
    return units


def _cut(pieces: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(byte offset, text) of overlapping segments that cover the document."""
    text, offset = "", 0
    for piece in pieces:
        text += piece
        while len(text) >= SEGMENT_CHARACTERS + OVERLAP_CHARACTERS:
            yield offset, text[: SEGMENT_CHARACTERS + OVERLAP_CHARACTERS]
            offset += len(_utf8(text[:SEGMENT_CHARACTERS]))
            text = text[SEGMENT_CHARACTERS:]
    if text:
        yield offset, text


def _joined(encoder: TextEncoder, cuts: Iterator[tuple[int, str]]) -> Iterator[TokenRun]:
    """Encode segments in batches, and yield each up to a token boundary from which it agrees with the next."""
    held: _Segment | None = None
    done = -1  # byte offset up to which tokens have been yielded; a first token may stand for no byte (a space put in front)
    while batch := list(itertools.islice(cuts, SEGMENTS_AT_ONCE)):
        for segment in _segments(encoder, batch):
            if held is None:
                held = segment
                continue
            meeting = _meeting(held, segment, done)
            if meeting is None:  # for example "aaaa...", whose tokens depend on where one starts: start at a boundary
                aligned = _aligned(encoder, held, segment)
                meeting = None if aligned is None else _meeting(held, aligned, done)
                segment = aligned if aligned is not None and meeting is not None else segment
            if meeting is None:  # no agreement within the overlap: take both as one segment
                text = _utf8(held.text)[: segment.offset - held.offset].decode() + segment.text
                (held,) = _segments(encoder, [(held.offset, text)])
                continue
            yield _between(held, done, meeting)
            held, done = segment, meeting
    if held is not None:
        yield _between(held, done, None)


def _aligned(encoder: TextEncoder, held: _Segment, segment: _Segment) -> _Segment | None:
    """The segment encoded anew from the first token boundary of `held` inside it that is a character's boundary too."""
    data = np.frombuffer(_utf8(segment.text), dtype=np.uint8)
    inside = held.ends[held.ends >= segment.offset] - segment.offset
    inside = inside[inside < len(data)]
    clean = inside[(data[inside] & 0xC0) != 0x80]
    if not len(clean):
        return None
    start = int(clean[0])
    return _segments(encoder, [(segment.offset + start, data[start:].tobytes().decode())])[0]


def _between(segment: _Segment, begin: int, end: int | None) -> TokenRun:
    """Tokens of a segment that end after byte `begin` of the document, and not after byte `end`."""
    start = int(np.searchsorted(segment.ends, begin, side="right"))
    stop = len(segment.ids) if end is None else int(np.searchsorted(segment.ends, end, side="right"))
    return TokenRun(segment.ids[start:stop], segment.units[start:stop], segment.exact)


def _meeting(left: _Segment, right: _Segment, done: int) -> int | None:
    """First byte offset that ends a token in both segments and is followed by AGREEMENT_TOKENS equal tokens."""
    for end in np.intersect1d(left.ends[left.ends > max(done, right.offset)], right.ends):
        i = int(np.searchsorted(left.ends, end, side="right"))
        j = int(np.searchsorted(right.ends, end, side="right"))
        if len(left.ids) - i < AGREEMENT_TOKENS:
            return None
        if np.array_equal(left.ids[i : i + AGREEMENT_TOKENS], right.ids[j : j + AGREEMENT_TOKENS]):
            return int(end)
    return None


def _segments(encoder: TextEncoder, cuts: list[tuple[int, str]]) -> list[_Segment]:
    """Encode texts in parallel threads (the tokenizers library's own)."""
    if not cuts:
        return []
    assert encoder.core is not None
    texts = [text for _, text in cuts]
    for text in texts:
        _utf8(text)  # the tokenizers library would call a lone surrogate a wrong type
    if encoder.table is not None:
        encodings = encoder.core.encode_batch_fast(texts, add_special_tokens=False)
        by_table = [
            _table_segment(encoder.table, offset, text, np.array(encoding.ids, dtype=np.int64))
            for (offset, text), encoding in zip(cuts, encodings, strict=True)
        ]
        segments = [segment for segment in by_table if segment is not None]
        if len(segments) == len(by_table):
            lossy = encoder.drops_space
            return [s._replace(exact=False) if lossy and s.offset == 0 and s.text[0] == " " else s for s in segments]
    encodings = encoder.core.encode_batch(texts, add_special_tokens=False)
    decoded = encoder.core.decode_batch([encoding.ids for encoding in encodings], skip_special_tokens=False)
    return [
        _offset_segment(offset, text, np.array(e.ids, dtype=np.int64), _spans(e.offsets), back == text)
        for (offset, text), e, back in zip(cuts, encodings, decoded, strict=True)
    ]


def _spans(offsets: list[tuple[int, int]]) -> Int64[np.ndarray, "tokens 2"]:
    return np.array(offsets, dtype=np.int64).reshape(-1, 2)


def _table_segment(table: ByteTable, offset: int, text: str, ids: Int64[np.ndarray, " tokens"]) -> _Segment | None:
    """The segment by the tokens' own bytes, or None where these are not the text's: then the table does not apply."""
    data = np.frombuffer(_utf8(text), dtype=np.uint8)
    lengths = table.lengths[ids]
    stops = np.cumsum(lengths)
    total = int(stops[-1]) if len(stops) else 0
    if total == len(data) + 1:  # SentencePiece puts a space in front of the text
        lengths[0] -= 1
        stops -= 1
        spelled = spell(table, ids)[1:]
    elif total == len(data):
        spelled = spell(table, ids)
    else:
        return None
    if not np.array_equal(spelled, data):
        return None
    return _Segment(offset, text, ids, offset + stops, _units(text, data, stops), exact=True)


def _offset_segment(
    offset: int, text: str, ids: Int64[np.ndarray, " tokens"], spans: Int64[np.ndarray, "tokens 2"], exact: bool
) -> _Segment:
    """The segment by the character spans that the tokenizers library reports; a character that several tokens share
    counts for the first of them, and text after the last token for the last."""
    data = np.frombuffer(_utf8(text), dtype=np.uint8)
    character_starts = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))
    stops = character_starts[np.maximum.accumulate(spans[:, 1])] if len(ids) else np.zeros(0, dtype=np.int64)
    if len(stops):
        stops[-1] = len(data)
    return _Segment(offset, text, ids, offset + stops, _units(text, data, stops), exact)


def _slow_segment(encoder: TextEncoder, text: str) -> _Segment:
    """A whole document through a tokenizer written in Python, which tells no spans: its text is shared out evenly."""
    data = np.frombuffer(_utf8(text), dtype=np.uint8)
    tokens = encoder.tokenizer.tokenize(text, split_special_tokens=True)
    ids = np.array(encoder.tokenizer.convert_tokens_to_ids(tokens), dtype=np.int64)
    exact = encoder.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False) == text
    stops = len(data) * np.arange(1, len(ids) + 1) // max(1, len(ids))
    return _Segment(0, text, ids, stops, _units(text, data, stops), exact)


def _units(
    text: str, data: UInt8[np.ndarray, " bytes"], stops: Int64[np.ndarray, " tokens"]
) -> Int32[np.ndarray, "tokens units"]:
    """Bytes, characters and runs of white space that begin inside each token, given the tokens' ends in `data`."""
    begins = (data & 0xC0) != 0x80
    if text.isascii():
        white = (data == 32) | ((data >= 9) & (data <= 13)) | ((data >= 28) & (data <= 31))
        run_starts = white & ~np.append(False, white[:-1])
    else:
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        white = np.isin(points, _WHITESPACE)
        run_starts = np.zeros(len(data), dtype=bool)
        run_starts[np.flatnonzero(begins)[white & ~np.append(False, white[:-1])]] = True
    totals = [np.append(0, np.cumsum(flags))[stops] for flags in (begins, run_starts)]
    return np.diff(np.stack([stops, *totals], axis=1), axis=0, prepend=0).astype(np.int32)


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UndecodableText(
            f"the text holds the lone surrogate U+{ord(text[error.start]):04X}, which has no UTF-8 form: repair it first"
        ) from None
