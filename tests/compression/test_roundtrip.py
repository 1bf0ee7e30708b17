import functools
import hashlib
import importlib
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from inspected import inspected
from samples import (
    ODD_BYTES,
    PROSE,
    babble,
    fast,
    gpt2_tokenizer,
    llama_config,
    model_archive,
    model_settings,
    network,
    stories_tokenizer,
    talker,
    tiny_gpt2,
    tiny_llama,
    tinystories,
    unigram_tokenizer,
    with_tokenizer,
    wordpiece_tokenizer,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from told import Told

from lmeval.compression import (
    LEVELS,
    CompressSettings,
    DecompressSettings,
    compress,
    compress_to,
    decompress,
    decompress_range,
    decompress_to,
)
from lmeval.compression.container import archive, frame, plain
from lmeval.compression.container.kinds import REGISTRY, Lost
from lmeval.compression.text.survey import Survey, survey
from lmeval.compute.memory import Most, Quota
from lmeval.compute.place import alone
from lmeval.errors import CorruptArchive, InputError, LmevalError, ModelError, ModelMismatch, NonFiniteScore, NumericalDrift
from lmeval.models import CausalLM, from_pair, load_model
from lmeval.models.byte_table import byte_alphabet
from lmeval.models.toys import byte_tokenizer
from lmeval.results import Report

# The package's functions `compress` and `decompress` have the names of their modules.
MODULES = ("compress", "text.reader", "text.blocks", "text.plan")
COMPRESS, READER, BLOCKS, PLAN = (importlib.import_module(f"lmeval.compression.{name}") for name in MODULES)
MODELS = {
    "llama": tiny_llama,
    "gpt2": tiny_gpt2,
    "stories260K tokens": functools.cache(lambda: with_tokenizer(stories_tokenizer())),
    "gpt2 tokens": functools.cache(lambda: with_tokenizer(gpt2_tokenizer())),
}
LOSSY = {
    "unigram": functools.cache(lambda: with_tokenizer(unigram_tokenizer())),
    "wordpiece": functools.cache(lambda: with_tokenizer(wordpiece_tokenizer())),
}
LANES = (1, 2, 7, 64)
PLAIN = CompressSettings(adapt="none")  # this file is mostly about the model alone; test_compress.py about what is behind it


def compressed(data: bytes, model: CausalLM, **settings: Any) -> tuple[bytes, Report]:
    out = io.BytesIO()
    report = compress_to(out, memoryview(data), model, PLAIN._replace(**settings))
    return out.getvalue(), report


def kinds_of(data: bytes) -> list[str]:
    return [block["kind"] for part in inspected(memoryview(data)) for block in part["blocks"]]


def range_of(data: bytes, first: int, stop: int | None, model: CausalLM) -> bytes:
    out = io.BytesIO()
    assert decompress_range(out, memoryview(data), first, stop, model).ledger["n_bytes"] == len(out.getvalue())
    return out.getvalue()


# Any bytes.


@pytest.mark.parametrize("kind", ODD_BYTES)
@pytest.mark.parametrize("name", MODELS)
def test_any_bytes_coded_by_the_model(name: str, kind: str):
    data = ODD_BYTES[kind]
    lanes = LANES[(list(ODD_BYTES).index(kind) + list(MODELS).index(name)) % 4] if len(data) < 300 else 64
    coded = model_archive(MODELS[name](), [data], lanes)
    assert kinds_of(coded) == ["model" if data else "stored"]
    assert decompress(coded, MODELS[name]()) == data


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["empty", "one odd byte", "all bytes", "odd and text", "special", "prose", "zeros", "random"]
)
@pytest.mark.parametrize("name", MODELS | LOSSY)
def test_any_bytes_compressed(name: str, kind: str):
    data, model = ODD_BYTES[kind], (MODELS | LOSSY)[name]()
    coded, report = compressed(data, model)
    assert decompress(coded, model) == data
    assert report.ledger["n_archive_bytes"] == len(coded)
    assert report.ledger["n_not_verified"] == 0
    if name in LOSSY and data:
        assert "model" not in kinds_of(coded)


@pytest.mark.parametrize("name", ["llama", "stories260K tokens", "unigram"])
@given(data=st.binary(min_size=1, max_size=50), lanes=st.sampled_from(LANES))
@hypothesis.settings(max_examples=30)
def test_any_short_bytes(name: str, lanes: int, data: bytes):
    model = (MODELS | LOSSY)[name]()
    assert decompress(model_archive(model, [data], lanes, canary=0), model) == data


def test_a_vocabulary_that_cannot_spell_everything_codes_what_it_can():
    model = LOSSY["unigram"]()
    pieces = [b"bright cold day", "Größe".encode(), b" in the village"]
    coded = model_archive(model, pieces, 2)
    assert kinds_of(coded)[0::2] == ["model"] * 2
    assert kinds_of(coded)[1] != "model"
    assert decompress(coded, model) == b"".join(pieces)


@pytest.mark.parametrize("name", ["talker", "bundled"])
def test_random_bytes_hardly_grow(name: str):
    data = np.random.default_rng(7).bytes(20_000)
    coded = compress(data, talker() if name == "talker" else "bundled")
    assert len(coded) <= len(data) * 1.001 + 1024
    assert decompress(coded, talker() if name == "talker" else None) == data
    assert "model" not in kinds_of(coded)


# Layouts.


@pytest.mark.parametrize("lanes", [1, 2, 7, 64, frame.MAX_LANES])
def test_any_number_of_lanes(lanes: int):
    data = babble(500)
    forced = model_archive(talker(), [data], lanes)
    assert inspected(memoryview(forced))[0]["blocks"][0]["n_lanes"] == min(lanes, 500)
    assert decompress(forced, talker()) == data
    if lanes in (2, 7):
        coded, report = compressed(data, talker(), lanes=lanes)
        assert inspected(memoryview(coded))[0]["blocks"][0]["n_lanes"] == lanes
        assert report.ledger["n_lanes"] == lanes
        assert report.ledger["n_tokens"] == 500
        assert decompress(coded, talker()) == data


@pytest.mark.parametrize(
    ("window", "overlap"), [(1, 0), (2, 0), (2, 1), (3, 1), (7, 0), (7, 6), (40, 39), (64, 0), (64, 63), (64, 8)]
)
@pytest.mark.parametrize("lanes", [1, 9])
def test_any_window_and_overlap(window: int, overlap: int, lanes: int):
    data = babble(250, seed=1)
    settings = model_settings(talker(), window, overlap)
    coded = model_archive(talker(), [data], lanes, settings)
    assert kinds_of(coded) == ["model"]
    assert decompress(coded, talker()) == data
    if lanes == 9:
        coded, _ = compressed(data, talker(), lanes=lanes, context=window, overlap=overlap)
        assert decompress(coded, talker()) == data


def test_asked_for_windows_are_taken():
    _, report = compressed(babble(700), talker(), lanes=7, context=20, overlap=3)
    assert [report.ledger["model"][key] for key in ("window", "overlap", "start_id")] == [20, 3, 256]
    _, report = compressed(babble(700), talker(), lanes=7)
    assert [report.ledger["model"][key] for key in ("window", "overlap", "start_id")] == [64, 8, 256]


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 72, 128])
def test_lengths_around_a_window(n: int):
    data = babble(200, seed=2)[:n]
    settings = model_settings(talker(), 64, 56)
    for lanes in (1, 2):
        assert decompress(model_archive(talker(), [data], lanes, settings), talker()) == data


def small_blocks(monkeypatch: pytest.MonkeyPatch, most: int = 300, together: int = 12) -> None:
    monkeypatch.setattr(frame, "MAX_BLOCK_UNITS", 2 * most)
    monkeypatch.setattr(PLAN, "LANES", Quota(1.0, Most(together, together)))
    monkeypatch.setattr(READER, "LANES", Quota(1.0, Most(together, together)))


@pytest.mark.parametrize("lanes", [None, 1, 16])
def test_several_blocks(lanes: int | None, monkeypatch: pytest.MonkeyPatch):
    small_blocks(monkeypatch)
    # What the model cannot predict lies between what it can.
    data = babble(1300) + np.random.default_rng(0).bytes(300) + babble(1300, seed=1)
    coded, report = compressed(data, talker(), lanes=lanes)
    kinds = kinds_of(coded)
    assert len(kinds) >= 6
    assert {"model", "stored"} <= set(kinds)
    assert report.ledger["n_blocks"] == {kind: kinds.count(kind) for kind in REGISTRY}
    assert decompress(coded, talker()) == range_of(coded, 0, None, talker()) == data
    assert report.ledger["model_bytes"] == sum(
        b["n_bytes"] for b in inspected(memoryview(coded))[0]["blocks"] if b["kind"] == "model"
    )


def test_blocks_end_behind_lines_or_words_or_characters(monkeypatch: pytest.MonkeyPatch):
    small_blocks(monkeypatch)
    for unit in ("line of text\n", "words and more ", "日本語", "é", "🙂"):
        data = (unit * 400)[:1200].encode()
        monkeypatch.setattr(BLOCKS, "plain_block", stored_block)
        coded, _ = compressed(data, talker(), verify=False, lanes=4)
        blocks = inspected(memoryview(coded))[0]["blocks"]
        assert len(blocks) > 1 or "model" not in inspected(memoryview(coded))[0]
        for block in blocks[1:]:
            first = block["offset"]
            piece = data[first:]
            if unit[-1] == "\n":
                assert data[first - 1] == 10
            elif " " in unit:
                assert piece[:1] == b" "
            else:
                piece.decode()  # begins with a whole character
        assert decompress(coded, talker()) == data


def stored_block(data: bytes, offset: int) -> frame.Block:
    return frame.Block("stored", 0, offset, len(data), 0, 0, 0, frame.digest(data), data)


@pytest.mark.parametrize("lanes_per_pass", [1, 3, None])
def test_any_number_of_lanes_in_a_pass(lanes_per_pass: int | None, monkeypatch: pytest.MonkeyPatch):
    small_blocks(monkeypatch)
    data = babble(600)
    coded, report = compressed(data, talker(), lanes=5, lanes_per_pass=lanes_per_pass)
    assert report.ledger["n_not_verified"] == 0
    out = io.BytesIO()
    n = decompress_to(out, memoryview(coded), talker(), DecompressSettings(lanes_per_pass=lanes_per_pass)).ledger["n_bytes"]
    assert out.getvalue() == data
    assert n == len(data)


@pytest.mark.parametrize("together", [1, 4, 11, 1000])
def test_any_number_of_blocks_at_once(together: int, monkeypatch: pytest.MonkeyPatch):
    pieces = [babble(1000)[i : i + 130] for i in range(0, 1000, 130)]
    coded = model_archive(talker(), pieces, 4)
    monkeypatch.setattr(READER, "LANES", Quota(1.0, Most(together, together)))
    counts = []
    decode_blocks = READER.decode_blocks
    monkeypatch.setattr(
        READER,
        "decode_blocks",
        lambda m, s, blocks, *rest: counts.append(len(blocks)) or decode_blocks(m, s, blocks, *rest),
    )
    assert decompress(coded, talker()) == babble(1000)
    assert sum(counts) == len(pieces)
    assert max(counts) == min(len(pieces), max(1, together // 4))


# Ranges.


@pytest.fixture
def many() -> tuple[bytes, bytes, list[tuple[int, int]]]:
    """An archive of blocks of all kinds, its data, the blocks' spans."""
    pieces = [babble(60), b"abc" * 30, babble(50, seed=1), np.random.default_rng(0).bytes(40), babble(70, seed=2), b"x"]
    coded = model_archive(talker(), pieces, 0)
    stops = np.cumsum([len(piece) for piece in pieces]).tolist()
    return coded, b"".join(pieces), list(zip([0, *stops[:-1]], stops, strict=True))


def test_ranges_are_slices(many: tuple[bytes, bytes, list[tuple[int, int]]]):
    coded, data, spans = many
    edges = sorted({0, 1, len(data) - 1, len(data), *(e + d for span in spans for e in span for d in (-1, 0, 1))})
    edges = [e for e in edges if 0 <= e <= len(data)]
    rng = np.random.default_rng(0)
    for first, stop in rng.choice(edges, (40, 2)).tolist():
        first, stop = sorted((first, stop))
        assert range_of(coded, first, stop, talker()) == data[first:stop]
    assert range_of(coded, 100, None, talker()) == data[100:]


@pytest.mark.parametrize("i", range(6))
def test_a_range_reads_the_blocks_that_hold_it(
    many: tuple[bytes, bytes, list[tuple[int, int]]], i: int, monkeypatch: pytest.MonkeyPatch
):
    coded, data, spans = many
    read: list[int] = []
    read_block = archive.read_block
    monkeypatch.setattr(
        archive, "read_block", lambda d, position, header: read.append(position) or read_block(d, position, header)
    )
    entries = archive.read_index(memoryview(coded))[0].entries
    first, stop = spans[i]
    assert range_of(coded, first, stop, talker()) == data[first:stop]
    assert read == [entries[i].position]
    # So damage elsewhere does not matter, and damage here does.
    for j, entry in enumerate(entries):
        at = entry.position + archive.BLOCK_OVERHEAD
        changed = coded[:at] + bytes([coded[at] ^ 1]) + coded[at + 1 :]
        if i == j:
            with pytest.raises(CorruptArchive):
                range_of(changed, first, stop, talker())
        else:
            assert range_of(changed, first, stop, talker()) == data[first:stop]


def test_an_empty_range_reads_no_block(many: tuple[bytes, bytes, list[tuple[int, int]]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "read_block", None)
    assert range_of(many[0], 30, 30, talker()) == b""


@pytest.mark.parametrize(("first", "stop"), [(-1, 5), (5, 4), (0, 10**9), (10**9, None), (312, None)])
def test_a_range_outside_is_refused(many: tuple[bytes, bytes, list[tuple[int, int]]], first: int, stop: int | None):
    with pytest.raises(InputError, match="does not lie within the archive's 311 bytes"):
        range_of(many[0], first, stop, talker())


# Other machines: attention, threads, noise, precision.


def of_attention(attention: str) -> CausalLM:
    made = network(llama_config())
    made.set_attn_implementation(attention)
    made.load_state_dict(talker().network.state_dict())
    return from_pair(made, byte_tokenizer(), name=f"talker-{attention}")


CODED = {"none": "model", "light": "adapted", "full": "adapted"}  # kinds of blocks


@pytest.mark.parametrize("adapt", CODED)
@pytest.mark.parametrize(("one", "other"), [("eager", "sdpa"), ("sdpa", "eager"), ("eager", "eager")])
def test_another_form_of_attention_decodes(one: str, other: str, adapt: str):
    data = babble(1500)
    coded, report = compressed(data, of_attention(one), lanes=12, adapt=adapt)
    assert kinds_of(coded) == [CODED[adapt]]
    assert report.ledger["n_not_verified"] == 0
    assert decompress(coded, of_attention(other)) == data


@pytest.fixture
def restored_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("restored_threads")
@pytest.mark.parametrize("adapt", ["none", "full"])
@pytest.mark.parametrize(("one", "other"), [(1, 4), (4, 1)])
def test_another_number_of_threads_decodes(one: int, other: int, adapt: str, monkeypatch: pytest.MonkeyPatch):
    data = tinystories(500).encode()
    monkeypatch.setenv("OMP_NUM_THREADS", str(one))
    torch.set_num_threads(one)
    coded, _ = compressed(data, bundled(), lanes=20, adapt=adapt)
    assert json_header(coded)["made_on"]["n_threads"] == one
    monkeypatch.setenv("OMP_NUM_THREADS", str(other))
    torch.set_num_threads(other)
    assert decompress(coded, bundled()) == data
    assert torch.get_num_threads() == other


@functools.cache
def bundled() -> CausalLM:
    return load_model("bundled")


def json_header(coded: bytes) -> dict[str, Any]:
    return inspected(memoryview(coded))[0]


class Noise:
    """Adds noise to all logits, as another machine would; while `with` lasts."""

    def __init__(self, model: CausalLM, size: float, kind: str = "uniform", seed: int = 0) -> None:
        self.model, self.size, self.kind = model, size, kind
        self.rng = torch.Generator().manual_seed(seed)

    def _hook(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        shape, dtype = output.logits.shape, output.logits.dtype
        noise = torch.rand(shape, generator=self.rng, dtype=torch.float64) * 2 - 1
        if self.kind == "ends":
            noise = noise.sign()
        elif self.kind == "halves":  # the worst for the first decision of every token
            noise = torch.where(torch.arange(shape[-1]) & 128 > 0, 1.0, -1.0).expand(shape)
        output.logits = output.logits + (self.size * noise).to(dtype)

    def __enter__(self) -> None:
        self.handle = self.model.network.register_forward_hook(self._hook)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


@functools.cache
def tolerant(tolerance: float | None, adapt: str = "none") -> tuple[bytes, Report]:
    found = compressed(babble(1500), talker(), lanes=12, tolerance=tolerance, adapt=adapt)
    assert kinds_of(found[0]) == [CODED[adapt]]
    return found


@pytest.mark.parametrize("adapt", CODED)
@pytest.mark.parametrize("kind", ["uniform", "ends", "halves"])
@pytest.mark.parametrize("tolerance", [None, 1e-4, 3e-3, 0.02])
def test_noise_within_epsilon_changes_nothing(tolerance: float | None, kind: str, adapt: str):
    coded, report = tolerant(tolerance, adapt)
    epsilon = json_header(coded)["model"]["epsilon_nats"]
    assert epsilon == report.ledger["model"]["epsilon_nats"]
    assert epsilon == tolerance if tolerance else 1.5e-5 <= epsilon < 1e-4
    margin = 2 * epsilon + report.ledger["model"]["drift_nats"]
    assert margin * (1 - 1e-9) <= report.ledger["model"]["margin_nats"] <= margin * (1.1 if adapt != "none" else 1 + 1e-9)
    with Noise(talker(), epsilon, kind):
        assert decompress(coded, talker()) == babble(1500)


@pytest.mark.parametrize("kind", ["uniform", "ends", "halves"])
@pytest.mark.parametrize("tolerance", [None, 3e-3])
@pytest.mark.parametrize("adapt", ["none", "full"])
def test_noise_far_beyond_epsilon_is_named(tolerance: float | None, kind: str, adapt: str):
    coded, report = tolerant(tolerance, adapt)
    epsilon = report.ledger["model"]["epsilon_nats"]
    with Noise(talker(), 100 * epsilon, kind), pytest.raises(NumericalDrift) as caught:
        decompress(coded, talker())
    message = str(caught.value)
    assert "drift" in message
    found = re.search(r"differ from the encoder's by (\S+) nats, and the archive tolerates (\S+) \(epsilon (\S+)\)", message)
    assert found is not None
    here, tolerated, stated = map(float, found.groups())
    assert stated == pytest.approx(epsilon, rel=0.01)
    assert tolerated == pytest.approx(report.ledger["model"]["margin_nats"], rel=0.01)
    assert tolerated < here < 500 * epsilon
    assert "float32 on cpu" in message
    assert "--tolerance" in message


def test_noise_that_the_canary_misses_is_found_by_the_digest():
    settings = model_settings(talker(), epsilon=1e-5, drift=1e-5)
    coded = model_archive(talker(), [babble(600)], 4, settings, canary=0)
    with Noise(talker(), 0.03), pytest.raises(NumericalDrift, match=r"bytes 0 to 600 decode to something else.*drift"):
        decompress(coded, talker())


def test_more_tolerance_costs_more():
    sizes = [len(compress(babble(3000), talker(), PLAIN._replace(lanes=8, tolerance=t))) for t in (1e-5, 1e-3, 0.02, 0.1)]
    assert sizes == sorted(sizes)
    assert sizes[1] < 1.02 * sizes[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_precisions(dtype: torch.dtype):
    model, data = talker(dtype=dtype), babble(1500)
    coded, report = compressed(data, model, lanes=8)
    assert decompress(coded, model) == data
    if dtype == torch.float64:
        assert kinds_of(coded) == ["model"]
        assert report.ledger["model"]["margin_nats"] < 1e-8
        with pytest.raises(NumericalDrift, match="made in float64 on cpu, this is float32"):  # the same weights
            decompress(coded, talker())


def test_half_precision_is_refused_by_name_or_works():
    model = talker(dtype=torch.float16)
    try:
        coded = compress(babble(1500), model, PLAIN)
    except ModelError as error:
        assert "float16" in str(error)
    else:
        assert decompress(coded, model) == babble(1500)


# Other models.


def refuses(coded: bytes, model: Any, *names: str) -> None:
    """By name, before anything is decoded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(READER, "decode_blocks", None)
        for read in (
            lambda: decompress(coded, model),
            lambda: decompress_range(io.BytesIO(), memoryview(coded), 3, 9, model),
        ):
            with pytest.raises(ModelMismatch) as caught:
                read()
            for name in names:
                assert name in str(caught.value)


def test_another_model_is_refused():
    coded, report = compressed(babble(1500), talker())
    sha = report.ledger["model"]["weights_sha256"][:16]
    refuses(coded, talker(seed=1), "talker-0", "talker-1", sha, talker(seed=1).weights_sha256[:16])
    refuses(coded, "bundled", "talker-0", "lmeval-bytes-4m-v2", sha)
    refuses(coded, None, "talker-0", sha, "not bundled")


def test_changed_weights_are_refused():
    coded, _ = compressed(babble(1500), talker())
    model = from_pair(network(llama_config()), byte_tokenizer(), name="changed")
    model.network.load_state_dict(talker().network.state_dict())
    weight = next(p for name, p in model.network.named_parameters() if "down_proj" in name)
    weight.data[3, 5] += 1e-6
    refuses(coded, model, "talker-0", "changed", "weights")


def byte_tokenizer_with(
    order: list[int], special: str = "<|document|>", merges: tuple[tuple[int, int], ...] = (), regex: bool = True
) -> Any:
    alphabet = byte_alphabet()
    vocabulary = {alphabet[byte]: i for i, byte in enumerate(order)}
    pairs = [(alphabet[a], alphabet[b]) for a, b in merges]
    core = Tokenizer(models.BPE(vocab=vocabulary | {a + b: 256 + i for i, (a, b) in enumerate(pairs)}, merges=pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([tokenizers.AddedToken(special, special=True)])
    return fast(core, bos_token=special, eos_token=special)


def test_another_tokenizer_is_refused():
    coded, _ = compressed(babble(1500), talker())
    other = byte_tokenizer_with([1, 0, *range(2, 256)])
    refuses(coded, from_pair(talker().network, other, name="swapped"), "talker-0", "swapped", "vocabulary")
    # The file's form does not matter, only which bytes an id stands for.
    same = from_pair(talker().network, byte_tokenizer_with(list(range(256)), regex=False), name="other form")
    assert same.tokenizer_sha256 != talker().tokenizer_sha256
    assert decompress(coded, same) == babble(1500)


def test_a_model_may_be_a_folder(tmp_path: Path):
    talker().network.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    coded = {d: compress(babble(1500), str(tmp_path), PLAIN, place="cpu", dtype=d) for d in ("float32", "float64")}
    for dtype, found in coded.items():
        assert json_header(found)["model"]["dtype"] == dtype
        assert decompress(found, str(tmp_path)) == babble(1500)  # in the precision that the archive wants
    assert decompress(coded["float32"], talker()) == babble(1500)


def test_archives_of_several_precisions_in_one_file(tmp_path: Path):
    talker().network.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    coded = [compress(babble(1500), str(tmp_path), PLAIN, dtype=d) for d in ("float32", "float64")]
    assert decompress(b"".join(coded), str(tmp_path)) == 2 * babble(1500)


def test_plain_archives_need_no_model(monkeypatch: pytest.MonkeyPatch):
    coded = compress(np.random.default_rng(1).bytes(900), talker())
    monkeypatch.setattr(READER, "load_text_model", None)
    assert decompress(coded) == np.random.default_rng(1).bytes(900)


# What goes wrong while compressing.


def test_blocks_that_do_not_decode_are_coded_otherwise(monkeypatch: pytest.MonkeyPatch):
    small_blocks(monkeypatch)
    data, decode_blocks, seen = babble(1500), BLOCKS.decode_blocks, []

    def failing(model: CausalLM, settings: Any, blocks: list[frame.Block], *rest: Any) -> list[bytes | Lost]:
        found = decode_blocks(model, settings, blocks, *rest)
        for i in range(len(found)):
            seen.append(blocks[i].offset)
            if len(seen) == 2:
                found[i] = Lost(NumericalDrift("astray"))
            if len(seen) == 4:
                found[i] = b"something else"
        return found

    monkeypatch.setattr(BLOCKS, "decode_blocks", failing)
    coded, report = compressed(data, talker(), lanes=5)
    blocks = inspected(memoryview(coded))[0]["blocks"]
    lost = [b["offset"] for b in blocks if b["kind"] != "model"]
    assert lost == [seen[1], seen[3]]
    assert report.ledger["n_not_verified"] == 2
    assert report.ledger["n_blocks"]["model"] == len(blocks) - 2
    assert report.ledger["n_tokens"] == sum(b["n_tokens"] for b in blocks if b["kind"] == "model")
    monkeypatch.undo()
    assert decompress(coded, talker()) == data


def test_a_model_that_reads_by_steps_something_else_is_caught(monkeypatch: pytest.MonkeyPatch):
    """Its survey says so; if the survey looked elsewhere, verification does."""
    with Noise(talker(), 5.0), pytest.raises(NumericalDrift, match="read token by token differs"):
        compress(babble(1500), talker(), PLAIN)

    def blind(model: CausalLM, settings: Any, ids: np.ndarray, n_lanes: int) -> np.ndarray:
        return importlib.import_module("lmeval.compression.text.encode").block_log_odds(model, settings, ids, n_lanes)

    monkeypatch.setattr(importlib.import_module("lmeval.compression.text.survey"), "stepwise_log_odds", blind)
    with Noise(talker(), 0.5):
        coded, report = compressed(babble(1500), talker(), lanes=8)
    assert report.ledger["n_not_verified"] == sum(report.ledger["n_blocks"].values()) == 1
    assert "model" not in kinds_of(coded)
    assert decompress(coded, talker()) == babble(1500)


def test_without_verification_nothing_is_decoded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(BLOCKS, "decode_blocks", None)
    coded, report = compressed(babble(1500), talker(), lanes=8, verify=False)
    assert not report.ledger["verified"]
    assert report.ledger["verify_seconds"] < 0.1
    assert decompress(coded, talker()) == babble(1500)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_of_nan_is_refused(value: float):
    model = from_pair(network(llama_config()), byte_tokenizer(), name="broken")
    model.network.lm_head.weight.data[7] = value  # pyright: ignore
    with pytest.raises(NonFiniteScore, match="gives NaN or infinite logits"):
        compress(babble(1500), model)


def test_nan_that_comes_late_is_refused():
    """Not in the survey's sample: only where a rare byte is read."""
    made = network(llama_config())
    made.load_state_dict(talker().network.state_dict())
    made.get_input_embeddings().weight.data[200] = math.nan
    data = babble(20_000).replace(b"\xc8", b"")
    data = data[:9000] + b"\xc8" + data[9000:]
    model = from_pair(made, byte_tokenizer(), name="late")
    with pytest.raises(NonFiniteScore, match="NaN"):
        compress(data, model, PLAIN._replace(context=16))


@pytest.mark.parametrize(
    "settings",
    [
        {"lanes": 0},
        {"lanes": 4097},
        {"lanes": 1.5},
        {"context": 0},
        {"context": 65},
        {"context": 8, "overlap": 8},
        {"overlap": -1},
        {"tolerance": -1e-9},
        {"tolerance": 1.5},
        {"tolerance": math.nan},
        {"lanes_per_pass": 0},
        {"adapt": "fuller"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]):
    with pytest.raises(InputError):
        compress(babble(1500), talker(), CompressSettings(**settings))


# Plans and accounts.


def a_survey(bits: float, bytes_per_token: float, cold_start: float, lane_bytes: int) -> Survey:
    return Survey(model_settings(talker()), bits, bytes_per_token, cold_start, lane_bytes)


def plan_is_within_the_limits(n_bytes: int, found: Survey, lanes: int | None, adapt: str) -> None:
    plan = PLAN.plan_blocks(found, n_bytes, CompressSettings(lanes, adapt=adapt), alone())
    assert 1 <= plan.block_bytes <= frame.MAX_BLOCK_BYTES
    assert plan.block_bytes / found.bytes_per_token <= frame.MAX_BLOCK_UNITS
    assert 1 <= plan.n_lanes <= frame.MAX_LANES
    assert plan.blocks_at_once >= 1
    if lanes is not None:
        assert plan.n_lanes == lanes


SURVEYS = st.builds(
    a_survey,
    bits=st.floats(-3, 1.3).map(lambda x: 10.0**x),
    bytes_per_token=st.floats(0.5, 10),
    cold_start=st.floats(0, 5000),
    lane_bytes=st.integers(0, 1 << 33),
)


ADAPT = st.sampled_from(LEVELS)


@given(n_bytes=st.floats(0, 13).map(lambda x: int(10**x)), found=SURVEYS, adapt=ADAPT)
def test_blocks_are_within_the_limits_of_the_format(n_bytes: int, found: Survey, adapt: str):
    plan_is_within_the_limits(n_bytes, found, None, adapt)


@given(n_bytes=st.floats(0, 13).map(lambda x: int(10**x)), found=SURVEYS, lanes=st.integers(1, 4096), adapt=ADAPT)
@example(
    n_bytes=200_000_000, found=a_survey(0.2031, 1.0, 76.2, 1310720), lanes=8, adapt="none"
)  # "abcabd" * n with the bundled model
def test_blocks_of_given_lanes_are_within_the_limits_of_the_format(n_bytes: int, found: Survey, lanes: int, adapt: str):
    plan_is_within_the_limits(n_bytes, found, lanes, adapt)


def test_a_stretch_of_more_tokens_than_the_sample_said_can_be_read(monkeypatch: pytest.MonkeyPatch):
    """As where a text of long tokens holds a long stretch of short ones."""
    monkeypatch.setattr(frame, "MAX_BLOCK_UNITS", 600)

    def mistaken(*arguments: Any) -> Survey | None:
        found = survey(*arguments)
        return None if found is None else found._replace(bytes_per_token=4 * found.bytes_per_token)

    monkeypatch.setattr(COMPRESS, "survey", mistaken)
    coded, _ = compressed(babble(3000), talker(), lanes=4)
    assert decompress(coded, talker()) == babble(3000)


def test_text_that_a_special_token_spells():
    tokenizer = byte_tokenizer_with(list(range(256)), special="ab", merges=((97, 98),))
    model = from_pair(network(llama_config()), tokenizer)
    model.network.load_state_dict(talker().network.state_dict())
    data = babble(700) + b"abababab" + babble(700, seed=1)
    assert decompress(compress(data, model, PLAIN._replace(verify=False, lanes=4)), model) == data


def test_an_account_of_every_bit(monkeypatch: pytest.MonkeyPatch):
    small_blocks(monkeypatch)
    data = babble(1500) + np.random.default_rng(0).bytes(200)
    coded, report = compressed(data, talker(), lanes=3)
    blocks = inspected(memoryview(coded))[0]["blocks"]
    payload = sum(b["payload_bytes"] for b in blocks)
    assert report.ledger["n_bytes"] == len(data)
    assert (
        report.ledger["n_archive_bytes"]
        == len(coded)
        == report.ledger["n_header_bytes"] + report.ledger["n_framing_bytes"] + payload
    )
    by_model = sum(b["payload_bytes"] for b in blocks if b["kind"] == "model")
    assert sum(report.ledger["length_bits"].values()) == pytest.approx(8 * by_model)
    assert report.ledger["length_bits"]["grid"] > -1
    assert report.ledger["length_bits"]["phases"] >= 16
    assert abs(report.ledger["length_bits"]["coder"]) < 64 * report.ledger["n_blocks"]["model"]
    assert report["bits_per_byte"] == pytest.approx(8 * len(coded) / len(data))
    assert report.ledger["n_tokens"] == report.ledger["model_bytes"]  # a byte is a token
    assert report.ledger["verified"]
    assert json_header(coded)["sha256"] == hashlib.sha256(data).hexdigest()


def test_the_code_is_as_long_as_the_model_says():
    """Within the cost of grid and phases, which a large enough text shows to be small."""
    coded, report = compressed(babble(20_000), talker(), lanes=10)
    assert report.ledger["length_bits"]["ideal"] / 8 < len(coded) < 1.02 * report.ledger["length_bits"]["ideal"] / 8 + 600
    assert sum(report.ledger["length_bits"].values()) < 1.012 * report.ledger["length_bits"]["ideal"]


def test_progress_counts_every_byte(monkeypatch: pytest.MonkeyPatch):
    small_blocks(monkeypatch)
    data, told = babble(1500) + np.random.default_rng(0).bytes(200), Told()
    out = io.BytesIO()
    compress_to(out, memoryview(data), talker(), PLAIN, progress=told)
    assert sum(told.counts["encoding"]) == len(data)
    assert set(told.stages) == {(name, len(data), "bytes") for name in ("encoding", "verifying")}
    coded = sum(b["n_bytes"] for b in json_header(out.getvalue())["blocks"] if b["kind"] == "model")
    assert abs(sum(told.counts["verifying"]) - coded) <= 10
    decompress_to(io.BytesIO(), memoryview(out.getvalue()), talker(), progress=told)
    assert told.stages[-1] == ("decoding", len(data), "bytes")
    assert abs(sum(told.counts["decoding"]) - len(data)) <= 10


def test_archives_of_the_same_input_are_the_same():
    assert compress(babble(1500), talker(), PLAIN) == compress(babble(1500), talker(), PLAIN)


# Real models.


@pytest.mark.slow
def test_the_bundled_model_beats_the_codecs():
    data = tinystories(4000).encode()
    coded, report = compressed(data, bundled(), lanes=12)
    assert decompress(coded) == data  # found by its fingerprint
    assert kinds_of(coded) == ["model"]
    assert report["bits_per_byte"] < 3.0
    assert len(coded) < 0.8 * len(plain.plain_block(data, 0).payload)


@pytest.mark.slow
def test_stories260k(stories: CausalLM):
    data = tinystories(6000).encode() + b"\xff" + PROSE.encode()
    coded, _ = compressed(data, stories, lanes=12)
    assert kinds_of(coded) == ["model"]
    assert decompress(coded, stories) == data
    with pytest.raises(LmevalError):
        decompress(coded)


def test_the_first_space_is_not_data(stories: CausalLM):
    for text in (b"Once upon a time there was", b" Once upon a time there was", b"  Once upon a time"):
        coded = model_archive(stories, [text, text], 3)
        assert [b["extra_space"] for b in json_header(coded)["blocks"]] == [True, True]
        assert decompress(coded, stories) == 2 * text


def test_json_of_a_header_is_plain():
    coded, report = compressed(babble(1500), talker())
    header = json_header(coded)
    assert json.loads(json.dumps(header)) == header
    assert header["model"]["canary_ids"] == report.ledger["model"]["canary_ids"]
    assert 0 < len(header["model"]["canary_ids"]) <= 16
