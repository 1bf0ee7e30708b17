import math
import random
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch
from samples import PROSE, babble, talker

from lmeval.compression import code_length
from lmeval.compression.benchmark import scored as module
from lmeval.compression.benchmark.scored import HEADER, measure_scorer
from lmeval.compression.benchmark.scorers import BYTES, Scorer, as_scorer
from lmeval.compression.text.plan import CompressSettings
from lmeval.errors import EmptyInput, ModelError
from lmeval.models import CausalLM

TEXT = (PROSE * 3).encode()
Steps = Generator[np.ndarray, int, None]


def uniform(past: bytes) -> np.ndarray:
    return np.full(256, 1 / 256)


def laplace() -> Steps:
    """Order 0, adaptive: (count + 1) / (total + 256)."""
    counts = np.ones(256)
    while True:
        came = yield counts / counts.sum()
        counts[came] += 1


def laplace_at_once(text: bytes) -> np.ndarray:
    """The same, all rows at once."""
    before = np.cumsum(np.eye(256)[np.frombuffer(text, dtype=np.uint8)], axis=0) - np.eye(256)[list(text)]
    return (before + 1) / (np.arange(len(text)) + 256)[:, None]


def laplace_bits(text: bytes) -> float:
    """Closed form: 256! ... (255 + n)! in the denominator, the factorial of every byte's count in the numerator."""
    counts = np.bincount(np.frombuffer(text, dtype=np.uint8), minlength=256)
    nats = math.lgamma(256 + len(text)) - math.lgamma(256) - sum(math.lgamma(count + 1) for count in counts)
    return nats / math.log(2)


def refusal(function: Any, text: bytes = TEXT) -> str:
    """Why a scorer is refused; one line."""
    with pytest.raises(ModelError) as raised:
        measure_scorer(function if isinstance(function, Scorer) else as_scorer(function), text)
    message = str(raised.value)
    assert len(message.splitlines()) == 1
    return message


def test_even_probabilities_take_exactly_eight_bits():
    measured = measure_scorer(as_scorer(uniform), TEXT)
    assert measured.ideal_bits == 8 * len(TEXT)
    assert measured.verified and measured.form == "next"
    assert 0 <= measured.archive_bytes - len(TEXT) - HEADER.size <= 8  # the coder's last words


@pytest.mark.parametrize("function", [laplace, laplace_at_once])
def test_counting_has_its_length_in_closed_form(function: Any):
    text = TEXT if function is laplace else TEXT[:300]
    measured = measure_scorer(as_scorer(function), text)
    assert measured.verified and measured.n_symbols == len(text)
    assert measured.ideal_bits == pytest.approx(laplace_bits(text), rel=1e-12)
    assert 0 < measured.excess_bytes < 0.001 * measured.ideal_bits / 8 + 64
    assert measured.largest_deviation < 1e-12


def test_what_is_certain_is_free():
    text = bytes(range(256)) * 20

    def after(past: bytes) -> np.ndarray:
        return np.eye(256)[(past[-1] + 1) % 256 if past else 0]

    measured = measure_scorer(as_scorer(after), text)
    assert measured.verified and measured.ideal_bits == 0
    assert measured.archive_bytes <= HEADER.size + 8


class AsScorer:
    """A language model over bytes, as a program that steps: BOS and all bytes so far in, the 256 bytes out."""

    def __init__(self, model: CausalLM) -> None:
        self.model = model

    def __call__(self, past: bytes) -> np.ndarray:
        with torch.inference_mode():
            logits = self.model.network(input_ids=torch.tensor([[256, *past]])).logits[0, -1, :256]
        return logits.double().softmax(dim=0).numpy()


def test_our_own_model_costs_what_compress_costs():
    model, text = talker(context=512), babble(4000)[:200]
    measured = measure_scorer(as_scorer(AsScorer(model)), text)
    ledger = code_length(text, model, CompressSettings(adapt="none", lanes=1), place="cpu").ledger
    ideal = ledger["length_bits"]["ideal"]
    assert measured.verified
    assert measured.ideal_bits == pytest.approx(ideal, rel=1e-4)
    ours = ledger["n_payload_bytes"]
    assert abs(measured.archive_bytes - ours) < 0.005 * ours + 64


class Tokens:
    """Pairs of letters and single bytes, counted; `longest` takes pairs where it can, else bytes alone."""

    vocabulary = (*BYTES, b"th", b"e ", b"")

    def __init__(self, *, longest: bool) -> None:
        self.longest = longest

    def encode(self, data: bytes) -> np.ndarray:
        ids, i = [258], 0  # a token that spells nothing begins the text
        while i < len(data):
            pair = data[i : i + 2] if self.longest else b""
            ids.append(self.vocabulary.index(pair) if pair in (b"th", b"e ") else data[i])
            i += len(self.vocabulary[ids[-1]])
        return np.array(ids)

    def __call__(self, past: np.ndarray) -> np.ndarray:
        counts = np.bincount(past, minlength=259) + 1.0
        return counts / counts.sum()


def test_two_ways_to_spell_a_text_both_come_back_and_each_has_its_length():
    lengths = {}
    for longest in (False, True):
        tokens = Tokens(longest=longest)
        ids = tokens.encode(TEXT)
        measured = measure_scorer(as_scorer(tokens), TEXT)
        assert measured.verified and measured.n_symbols == len(ids)
        counts = np.bincount(ids, minlength=259)
        nats = math.lgamma(259 + len(ids)) - math.lgamma(259) - sum(math.lgamma(count + 1) for count in counts)
        assert measured.ideal_bits == pytest.approx(nats / math.log(2), rel=1e-12)
        lengths[longest] = measured.n_symbols
    assert lengths[True] < lengths[False] == len(TEXT) + 1


def test_a_byte_count_that_is_wrong_is_seen():
    class Forgetful(Tokens):
        def encode(self, data: bytes) -> np.ndarray:
            return super().encode(data.replace(b" ", b""))

    spaces = TEXT.count(b" ")
    expected = f"encodes the text into tokens of {len(TEXT) - spaces:,} bytes: the text has {len(TEXT):,}"
    assert refusal(Forgetful(longest=False)) == expected


class HashedCache:
    """The cache of n-grams whose scores were withdrawn: count(hash(context, next)) / count(hash(context)).

    In few buckets nearly every count is that of other contexts, so the quotient is near one for every byte.
    """

    def __init__(self, buckets: int, weight: float) -> None:
        self.buckets, self.weight = buckets, weight

    def __call__(self) -> Steps:
        contexts, pairs = np.ones(self.buckets), np.ones(self.buckets)
        last = 0
        nexts = np.arange(256)
        while True:
            of_context = last * 40503 % self.buckets
            of_pairs = (last * 40503 ^ nexts * 69069) % self.buckets
            came = yield (1 - self.weight) / 256 + self.weight * pairs[of_pairs] / contexts[of_context]
            contexts[of_context] += 1
            pairs[of_pairs[came]] += 1
            last = came


def test_a_cache_that_looks_up_the_target_alone_sums_to_hundreds():
    assert refusal(HashedCache(buckets=1, weight=1.0)) == "sums to 256 at byte 0"
    assert refusal(HashedCache(buckets=64, weight=0.5)) == "sums to 128.5 at byte 0"


def test_a_sum_that_grows_is_seen_where_it_does():
    def cached(past: bytes) -> np.ndarray:
        return np.full(256, 277 / 256 if len(past) == 345 else 1 / 256)

    assert refusal(cached) == "sums to 277 at byte 345"


def blended() -> Steps:
    """PPM mixed with a model byte by byte: what PPM has not seen keeps the model's whole probability."""
    counts = np.zeros(256)
    model = np.full(256, 1 / 256)
    while True:
        ppm = counts / max(1, counts.sum())
        came = yield np.where(counts > 0, 0.5 * model + 0.5 * ppm, model)
        counts[came] += 1


def test_a_blend_that_does_not_add_up_is_seen():
    assert refusal(blended) == "sums to 1.498 at byte 1"


def test_sums_are_held_to_the_tolerance():
    def off(by: float, **changes: Any) -> Scorer:
        return Scorer("off", lambda past: np.full(256, (1 + by) / 256), **changes)

    assert refusal(off(2e-6)) == "sums to 1 +2.0e-06 at byte 0"
    assert refusal(off(-2e-3)) == "sums to 0.998 at byte 0"
    assert refusal(off(-1)) == "sums to 0 at byte 0"
    measured = measure_scorer(off(5e-7), TEXT)
    assert measured.verified and measured.largest_deviation == pytest.approx(5e-7)
    credited = measure_scorer(off(0.9e-3, tolerance=1e-3), TEXT)
    assert credited.archive_bytes >= len(TEXT)  # what is forgiven is not credited


def test_a_softmax_in_float32_passes():
    logits = torch.randn(256, generator=torch.Generator().manual_seed(0)) * 3
    assert measure_scorer(as_scorer(lambda past: logits.softmax(dim=0)), TEXT[:100]).verified


def test_one_that_peeks_depends_on_what_comes_later():
    def peeking(text: bytes) -> np.ndarray:
        rows = np.full((len(text), 256), 0.1 / 255)
        rows[np.arange(len(text)), list(text)] = 0.9
        return rows

    assert refusal(peeking) == "depends on what comes later: before a changed end of a text it says something else"


def rarely_peeking(text: bytes) -> np.ndarray:
    """Peeks at one place alone, beyond those on which it is tried."""
    rows = np.full((len(text), 256), 1 / 256)
    if len(text) > 150:
        rows[150] = 0.1 / 255
        rows[150, text[150]] = 0.9
    return rows


def test_one_that_peeks_where_it_is_not_tried_is_seen_where_its_text_ends():
    assert len(TEXT) > 200 > 2 * module.TRIAL
    message = refusal(rarely_peeking, TEXT[:200])
    assert message.startswith("depends on what comes later: it gives 0.9 to what comes at byte 150, and 0.0003922 where")


def test_one_that_remembers_what_it_read_is_not_deterministic():
    known: dict[bytes, int] = {}

    def remembering(past: bytes) -> np.ndarray:
        if past:
            known[past[:-1]] = past[-1]
        row = np.full(256, 0.1 / 255)
        row[known.get(past, 0)] = 0.9
        return row

    assert refusal(remembering) == "says something else when it reads the same text again: it is not deterministic"


def test_one_that_remembers_long_texts_alone_is_seen_when_it_decodes():
    known: dict[bytes, int] = {}

    def remembering(past: bytes) -> np.ndarray:
        if len(past) > 2 * module.TRIAL:
            known[past[:-1]] = past[-1]
        row = np.full(256, 0.1 / 255)
        row[known.get(past, 0)] = 0.9
        return row

    message = refusal(remembering)
    assert message == f"says something else at byte {2 * module.TRIAL} when it reads the text again: it is not deterministic"


def test_one_that_draws_lots_is_not_deterministic():
    lots = random.Random(0)

    def drawing(past: bytes) -> np.ndarray:
        row = np.ones(256)
        row[lots.randrange(256)] += lots.random()
        return row / row.sum()

    assert refusal(drawing) == "says something else when it reads the same text again: it is not deterministic"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({65: -0.5, 66: 0.5 + 2 / 256}, "gives the negative probability -0.5 to byte 0x41 at byte 3"),
        ({65: math.nan}, "gives the probability nan to byte 0x41 at byte 3"),
        ({255: math.inf}, "gives the probability inf to byte 0xff at byte 3"),
        ({65: 2 / 256, TEXT[3]: 0.0}, "gives probability 0 to the byte that comes at byte 3: its code would never end"),
    ],
)
def test_what_is_no_probability_is_named_with_its_place(changed: dict[int, float], message: str):
    def function(past: bytes) -> np.ndarray:
        row = np.full(256, 1 / 256)
        for byte, probability in changed.items() if len(past) == 3 else ():
            row[byte] = probability
        return row

    assert refusal(function) == message


def test_a_wrong_shape_is_named_with_its_place():
    assert (
        refusal(lambda past: np.full(255, 1 / 255))
        == "gives an array of shape (255,) at byte 0: 256 probabilities are needed"
    )
    short = refusal(lambda text: np.full((1, 256), 1 / 256))  # a batch of one, and not a row for each symbol
    assert short == "gives an array of shape (1, 256) on a text of 64 symbols: (64, 256) is needed"
    assert "which is no array of numbers" in refusal(lambda past: ["a"] * 256 if len(past) > 100 else np.full(256, 1 / 256))


def test_what_goes_wrong_inside_is_one_line():
    def failing() -> Steps:
        for _ in range(100):
            yield np.full(256, 1 / 256)
        raise ValueError("no more\nof that")

    def ending() -> Steps:
        for _ in range(100):
            yield np.full(256, 1 / 256)

    assert refusal(failing) == "raises ValueError at byte 100: no more"
    assert refusal(ending) == "ends at byte 100"


def test_places_of_tokens_are_told_with_their_bytes():
    class Impossible(Tokens):
        def __call__(self, past: np.ndarray) -> np.ndarray:
            row = super().__call__(past)
            return row * 1.5 if len(past) == 9 else row

    tokens = Impossible(longest=True)
    n_bytes = sum(len(tokens.vocabulary[i]) for i in tokens.encode(TEXT)[:9])
    assert refusal(tokens) == f"sums to 1.5 at token 9, byte {n_bytes}"


def test_a_claim_at_once_that_no_file_keeps_is_refused():
    """At no place is the difference more than noise may be, but each doubles a small probability."""
    text = TEXT[:600]

    def hopeful(symbols: bytes) -> np.ndarray:
        rows = np.full((len(symbols), 256), 8e-5)
        if symbols == text:
            rows[np.arange(len(text)), list(text)] *= 2
        rows[:, 0] += 1 - rows.sum(axis=1)
        return rows

    message = refusal(hopeful, text)
    assert message == f"claims {600 * -math.log2(16e-5) / 8:,.0f} bytes at once, and needs 1,032 step by step"


def test_nothing_has_no_rate():
    with pytest.raises(EmptyInput):
        measure_scorer(as_scorer(uniform), b"")
