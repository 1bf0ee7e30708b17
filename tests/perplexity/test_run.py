import dataclasses
import json
import math
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import (
    PROSE,
    llama_config,
    markov_transitions,
    network,
    random_text,
    stories_folder,
    stories_tokenizer,
    tiny_gpt2,
    tiny_llama,
    tinystories,
    wordpiece_tokenizer,
)
from told import Told

from lmeval import stats
from lmeval.compute.place import Place, alone
from lmeval.data.documents import Document, file_corpus
from lmeval.errors import ContextTooLong, EmptyInput, InputError, UndecodableText
from lmeval.models import CausalLM, encode, from_pair, tokens
from lmeval.models.toys import byte_tokenizer, markov_model, uniform_model
from lmeval.perplexity import METRICS, PerplexitySettings, perplexity, resolve, tally
from lmeval.perplexity.blocks import FIRST_SIZE
from lmeval.perplexity.measures import item_metrics
from lmeval.perplexity.summary import FEWEST_PAIRED_DOCUMENTS
from lmeval.results import Items, Report, as_json, find
from lmeval.results.compare import compare_reports
from lmeval.results.records import read_records
from lmeval.scoring import Request, engine


def reference_nats(model: CausalLM, text: str, context: int, stride: int, bos: str) -> float:
    """Sum over windows that are cut here by hand, each one forward of the network in float64."""
    ids = [int(i) for run in encode(model.encoder, [text]) for i in run.ids]
    net = model.network.double()
    total, first, stop = 0.0, 0, context
    while first < len(ids):
        stop = min(stop, len(ids))
        if bos == "window":
            inputs = [model.bos_id, *ids[max(0, stop - context) : stop - 1]]
        else:
            inputs = ([model.bos_id, *ids])[max(0, stop - context) : stop]
        n = stop - first
        with torch.no_grad():
            log_probs = net(input_ids=torch.tensor([inputs])).logits[0].double().log_softmax(-1)
        total -= float(log_probs[torch.arange(len(inputs) - n, len(inputs)), torch.tensor(ids[first:stop])].sum())
        first, stop = stop, stop + stride
    return total


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stride", [512, 256, 100])
def test_equals_a_plain_float64_forward_over_the_same_windows(
    stories: CausalLM, stories64: CausalLM, stride: int, dtype: str
):
    text = tinystories(9_000)
    found = perplexity(stories if dtype == "float32" else stories64, [text], PerplexitySettings(stride=stride))
    expected = reference_nats(stories64, text, 512, stride, "document" if stride == 512 else "window")
    assert found["nll_nats"] == pytest.approx(expected, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(expected / len(text.encode()) / math.log(2), rel=1e-6)


def test_every_figure_is_a_normalisation_of_the_one_sum(tiny: CausalLM):
    texts = ["Ünïcode words 🙂 here\n", PROSE, "x"]
    found = perplexity(tiny, texts)
    nats, n_tokens = found["nll_nats"], sum(len(text.encode()) for text in texts)
    units = {
        "byte": n_tokens,
        "token": n_tokens,  # the byte tokenizer
        "character": sum(map(len, texts)),
        "word": sum(len(re.split(r"\s+", text)) for text in texts),
    }
    for unit, n in units.items():
        if unit != "word":
            assert found[f"bits_per_{unit}"] == pytest.approx(nats / n / math.log(2), rel=1e-12)
        if unit != "character":
            assert found[f"{unit}_perplexity"] == pytest.approx(math.exp(nats / n), rel=1e-12)
    assert [m.name for m in found.results] == list(METRICS)
    assert (found.ledger["n_words_scored"], found.ledger["n_characters_scored"]) == (units["word"], units["character"])


def test_strings_a_file_and_pieces_of_one_document_agree(tmp_path: Path):
    (tmp_path / "text").write_bytes(PROSE.encode())
    pieces = iter([PROSE[:50], PROSE[50:51], PROSE[51:]])
    found = [
        perplexity(tiny_llama(), documents)
        for documents in ([PROSE], PROSE, tmp_path / "text", file_corpus([tmp_path]), Document("x", pieces))
    ]
    figures = [[m._replace(of={}) for m in report.results] for report in found]
    assert all(one == figures[0] for one in figures)
    assert len({report.provenance["inputs"]["corpus"]["sha256"] for report in found}) == 1


def test_documents_are_never_joined():
    apart, together = perplexity(tiny_llama(), ["ab", "cd"]), perplexity(tiny_llama(), ["abcd"])
    assert apart.ledger["n_tokens_scored"] == together.ledger["n_tokens_scored"] == 4
    assert apart["nll_nats"] != pytest.approx(together["nll_nats"], rel=1e-3)


def test_documents_sum_to_the_corpus(tiny: CausalLM):
    found = perplexity(tiny, [PROSE, "", "second", "third 🙂"])
    rows = found.tables["documents"]
    assert [row["name"] for row in rows] == ["text 0", "text 2", "text 3"]
    assert sum(row["nll_nats"] for row in rows) == pytest.approx(found["nll_nats"], rel=1e-12)
    for key in ("n_tokens", "n_bytes", "n_characters", "n_words"):
        assert sum(row[key] for row in rows) == found.ledger[f"{key}_scored"]


def test_positions_sum_to_the_corpus(tiny: CausalLM):
    found = perplexity(tiny, [PROSE * 3, PROSE], PerplexitySettings(stride=20))
    rows = found.tables["by_position"]
    assert sum(row["n_tokens"] for row in rows) == found.ledger["n_tokens_scored"]
    bits = sum(row["bits_per_token"] * row["n_tokens"] for row in rows)
    assert bits == pytest.approx(found["nll_nats"] / math.log(2), rel=1e-12)
    assert rows[0]["first"] == 0
    assert rows[0]["n_tokens"] == 2  # the two documents' first tokens: no other has BOS alone before it


def test_the_ledger_counts_what_was_and_was_not_scored():
    texts = ["abc", "", "d", "", "ef"]
    scored = perplexity(tiny_llama(), texts).ledger
    assert (scored["n_documents"], scored["n_documents_empty"]) == (5, 2)
    assert (scored["n_tokens_scored"], scored["n_tokens_not_scored"], scored["n_bytes_not_scored"]) == (6, 0, 0)
    without = perplexity(tiny_llama(), texts, PerplexitySettings(bos="none")).ledger
    assert (without["n_tokens_scored"], without["n_tokens_not_scored"], without["n_bytes_not_scored"]) == (3, 3, 3)
    assert (scored["windows"]["bos_id"], without["windows"]["bos_id"]) == (256, None)
    assert (without["n_documents"], without["n_documents_empty"]) == (5, 2)


def test_bytes_that_were_not_scored_are_in_no_denominator():
    found = perplexity(tiny_llama(), ["éx"], PerplexitySettings(bos="none"))  # the first byte of é has nothing before it
    assert found.ledger["n_bytes_scored"] == 2
    assert found["bits_per_byte"] == pytest.approx(found["nll_nats"] / 2 / math.log(2))


def lossy_model() -> CausalLM:
    return from_pair(network(llama_config(vocab_size=300)), wordpiece_tokenizer())


def test_a_tokenizer_that_loses_text_has_figures_per_token_alone():
    found = perplexity(lossy_model(), ["a bright day", "Upper Case\n\nlost"])
    assert {m.name for m in found.results} == {"bits_per_token", "token_perplexity", "nll_nats"}
    assert found.ledger["round_trip"] == {
        "exact": False,
        "n_documents_not_exact": 1,
        "first_document_not_exact": "text 1",
        "withheld": ["per byte", "per character", "per word"],
    }


def test_documents_that_are_lost_count_once_each_whatever_their_names():
    found = perplexity(lossy_model(), [Document("same", iter(["Upper", " Case"])), Document("same", iter(["Lost"]))])
    assert found.ledger["round_trip"]["n_documents_not_exact"] == 2
    assert found.ledger["round_trip"]["first_document_not_exact"] == "same"


def test_where_the_same_tokenizer_loses_nothing_all_figures_stand():
    found = perplexity(lossy_model(), ["a bright day"])
    assert found.ledger["round_trip"]["exact"]
    assert {m.name for m in found.results} == set(METRICS)


def test_text_of_which_a_tokenizer_leaves_nothing_is_not_scored_in_silence():
    found = perplexity(lossy_model(), ["a bright day", "\n\n\n"])
    assert not found.ledger["round_trip"]["exact"]
    with pytest.raises(EmptyInput):
        perplexity(lossy_model(), ["\n\n\n"])


def test_a_lone_surrogate_is_an_error_of_ours():
    with pytest.raises(UndecodableText, match="lone surrogate"):
        perplexity(tiny_llama(), ["bad \ud83d text"])


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_nothing_to_score_is_an_error(texts: list[str]):
    with pytest.raises(EmptyInput, match="nothing to score"):
        perplexity(tiny_llama(), texts)


def test_a_single_token_without_bos_is_nothing_to_score():
    with pytest.raises(EmptyInput):
        perplexity(tiny_llama(), ["x"], PerplexitySettings(bos="none"))
    assert perplexity(tiny_llama(), ["x"]).ledger["n_tokens_scored"] == 1


def test_settings_are_checked_against_the_model():
    model = tiny_llama()
    assert resolve(model, PerplexitySettings()) == (64, 64, "document", 256)
    assert resolve(model, PerplexitySettings(stride=32)) == (64, 32, "window", 256)
    assert resolve(model, PerplexitySettings(context=10)) == (10, 10, "document", 256)
    with pytest.raises(ContextTooLong, match="context 65 is more than the 64 tokens"):
        resolve(model, PerplexitySettings(context=65))
    with pytest.raises(InputError, match="stride 11 must lie between 1 and the context, 10"):
        resolve(model, PerplexitySettings(context=10, stride=11))
    with pytest.raises(InputError, match="unknown BOS policy 'twice'"):
        resolve(model, PerplexitySettings(bos="twice"))


@pytest.mark.parametrize(("context", "stride"), [(0, None), (-5, None), (10, 0), (10, -1)])
def test_a_context_or_stride_that_is_not_positive_is_refused(context: int, stride: int | None):
    with pytest.raises(InputError):
        resolve(tiny_llama(), PerplexitySettings(context, stride))


def test_a_model_without_bos_leaves_the_first_token_out():
    model = dataclasses.replace(tiny_llama(), bos_id=None)
    found = perplexity(model, ["abc"])
    assert found.ledger["windows"]["bos_policy"] == "none"
    assert found.ledger["n_tokens_scored"] == 2
    assert resolve(dataclasses.replace(model, context_length=None), PerplexitySettings()).context == 2048


def test_a_model_without_bos_does_not_take_another_policy_in_silence():
    with pytest.raises(InputError, match="BOS"):
        perplexity(dataclasses.replace(tiny_llama(), bos_id=None), ["abc"], PerplexitySettings(bos="window"))


def test_many_documents_are_the_units_of_the_interval():
    texts = [random_text(n, seed=n) for n in range(5, 5 + tally.ENOUGH_DOCUMENTS)]
    found = perplexity(tiny_llama(), texts)
    rows = np.array([[row["nll_nats"], row["n_bytes"]] for row in found.tables["documents"]])
    moments = stats.no_moments(2)
    for row in rows:
        moments = stats.add_row(moments, row)
    expected = stats.linearised_ratio(moments, 0, 1)
    ours = find(found, "bits_per_byte")
    assert found.ledger["interval"]["method"] == "documents"
    assert expected.stderr is not None
    assert (ours.value, ours.stderr) == pytest.approx((expected.value / math.log(2), expected.stderr / math.log(2)))


def test_one_long_document_is_bootstrapped_in_blocks():
    found = perplexity(tiny_llama(), [random_text(5000)])
    ours = find(found, "bits_per_byte")
    assert found.ledger["interval"]["method"] == "blocks"
    assert ours.ci95 is not None
    assert ours.ci95[0] < ours.value < ours.ci95[1]
    again, other = (perplexity(tiny_llama(), [random_text(5000)], PerplexitySettings(seed=s)) for s in (0, 1))
    assert find(again, "bits_per_byte") == ours
    assert find(other, "bits_per_byte").value == ours.value
    assert find(other, "bits_per_byte").ci95 != ours.ci95


def test_intervals_of_perplexities_are_those_of_bits_mapped():
    found = perplexity(tiny_llama(), [random_text(3000)])
    bits, ratio = find(found, "bits_per_byte"), find(found, "byte_perplexity")
    assert bits.ci95 is not None and ratio.ci95 is not None and bits.stderr is not None
    assert ratio.ci95 == pytest.approx((2 ** bits.ci95[0], 2 ** bits.ci95[1]))
    assert ratio.stderr == pytest.approx(ratio.value * bits.stderr * math.log(2))


@pytest.mark.parametrize("text", ["x" * 3000 + " y", "a b" + "c" * 5000, " " * 4000, "🙂" * 700])
def test_text_with_hardly_any_words_gives_a_report_that_can_be_written(text: str):
    found = perplexity(tiny_llama(), [text], PerplexitySettings(stride=16))
    json.dumps(as_json(found), allow_nan=False)


def test_perplexities_too_large_for_a_float_are_left_out_and_bits_stand():
    model = from_pair(network(llama_config()), byte_tokenizer())
    model.network.lm_head.weight.data *= 200
    found = perplexity(model, ["w" * 400])
    names = {m.name for m in found.results}
    assert "bits_per_byte" in names
    assert "word_perplexity" not in names
    json.dumps(as_json(found), allow_nan=False)


def test_progress_adds_up_to_the_bytes_of_the_corpus():
    told = Told()
    perplexity(tiny_llama(), [random_text(40_000)], PerplexitySettings(batch_size=4), progress=told)
    assert len(told.numbers) > 10
    assert sum(told.numbers) == pytest.approx(40_000, rel=0.1)
    assert told.stages == [("scoring", None, "bytes")]


def test_the_records_hold_every_document_as_the_report_lists_it(tmp_path: Path):
    found = perplexity(tiny_llama(), [PROSE, "b"], records=tmp_path / "r.jsonl")
    ((header, records),) = read_records(tmp_path / "r.jsonl")
    assert (header.report, header.of, header.metrics) == ("perplexity", {"model": "tiny-llama"}, item_metrics(exact=True))
    assert header.ledger == json.loads(json.dumps(found.ledger))
    for record, row in zip(records, found.tables["documents"], strict=True):
        assert (record.item, record.of) == (row["name"], {"model": "tiny-llama"})
        assert record.values == {name: row[name] for name in ("nll_nats", "n_tokens", "n_bytes", "n_characters", "n_words")}


def test_documents_of_one_name_are_items_apart(tmp_path: Path):
    documents = [Document("same", iter([PROSE[:n]])) for n in (20, 30, 40)]
    perplexity(tiny_llama(), documents, records=tmp_path / "r.jsonl")
    ((_, records),) = read_records(tmp_path / "r.jsonl")
    assert [record.item for record in records] == ["same", "same #2", "same #3"]


def test_a_failure_leaves_no_records(tmp_path: Path):
    with pytest.raises(UndecodableText):
        perplexity(tiny_llama(), [PROSE, "bad \ud83d"], records=tmp_path / "r.jsonl")
    assert list(tmp_path.iterdir()) == []


def value_of(items: Items, name: str) -> float:
    """A metric of all items together."""
    metric = next(metric for metric in items.metrics if metric.name == name)
    over, under = (math.fsum(record.values[key] for record in items.records) for key in metric[2:4])
    return metric.scale * over / under


@pytest.mark.parametrize("n_documents", [1, 3, FEWEST_PAIRED_DOCUMENTS - 1, FEWEST_PAIRED_DOCUMENTS, 40])
@pytest.mark.parametrize("bos", ["auto", "none"])
def test_items_make_up_the_figures(n_documents: int, bos: str):
    texts = [random_text(1000 + n, seed=n) for n in range(n_documents)]
    found = perplexity(tiny_llama(), texts, PerplexitySettings(bos=bos))
    assert found.items is not None
    for name in ("bits_per_byte", "bits_per_character", "bits_per_token"):
        assert value_of(found.items, name) == pytest.approx(found[name], rel=1e-12)
    by_document = n_documents >= FEWEST_PAIRED_DOCUMENTS
    assert found.items.ordered == (not by_document)
    named = "text 0" if by_document else f"bytes 0 to {FIRST_SIZE}"
    assert found.items.records[0].item == named


def test_models_with_different_tokenizers_have_the_same_blocks():
    """Each block's bytes are its own whatever the tokens; bytes that nothing stands before are missing where they lie."""
    text = tinystories(6000)
    by_bytes = perplexity(tiny_llama(), [text, text[:700]], PerplexitySettings(bos="none"))
    stories = from_pair(network(llama_config(vocab_size=1 << 12)), stories_tokenizer())
    by_words = perplexity(stories, [text, text[:700]])
    assert by_words.ledger["n_tokens_scored"] < 0.6 * by_bytes.ledger["n_tokens_scored"]
    assert by_bytes.items is not None and by_words.items is not None
    assert [r.item for r in by_bytes.items.records] == [r.item for r in by_words.items.records]
    assert by_bytes.items.records[0].of["corpus"] == by_words.items.records[0].of["corpus"]
    n_bytes = len((text + text[:700]).encode())
    for i, (a, b) in enumerate(zip(by_bytes.items.records, by_words.items.records, strict=True)):
        inside = min(FIRST_SIZE, n_bytes - i * FIRST_SIZE)
        assert b.values["n_bytes"] == pytest.approx(inside, rel=1e-12)
        assert inside - a.values["n_bytes"] == pytest.approx(int(i in (0, len(text.encode()) // FIRST_SIZE)), abs=1e-9)
    compared = compare_reports(by_bytes, by_words)
    assert find(compared, "bits_per_byte_difference").value == pytest.approx(
        by_bytes["bits_per_byte"] - by_words["bits_per_byte"], rel=1e-9
    )


def test_reports_on_different_texts_have_no_block_in_common():
    a, b = (perplexity(tiny_llama(), [random_text(3000, seed=seed)]) for seed in (0, 1))
    with pytest.raises(InputError):
        compare_reports(a, b)


def test_a_tokenizer_that_loses_text_is_paired_per_token_alone():
    found = perplexity(lossy_model(), ["a bright day", "Upper Case\n\nlost"])
    assert found.items is not None
    assert [metric.name for metric in found.items.metrics] == ["bits_per_token"]


def test_a_memory_budget_changes_no_figure():
    model, text = tiny_llama(dtype=torch.float64), [random_text(3000)]
    small = alone()._replace(memory=70 * model.activation_bytes)
    found, expected = perplexity(model, text, place=small), perplexity(model, text)
    for a, b in zip(found.results, expected.results, strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-12)


def test_provenance_names_model_corpus_and_versions(tmp_path: Path):
    found = perplexity(tiny_llama(), ["abc"]).provenance
    (model,), corpus = found["models"], found["inputs"]["corpus"]
    assert model["weights_sha256"] == tiny_llama().weights_sha256
    assert corpus["n_bytes"] == 3
    assert corpus["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"
    assert found["versions"]["torch"] == torch.__version__
    assert (found["device"], found["n_processes"], found["settings"]["seed"]) == ("cpu", 1, 0)


def test_bfloat16_differs_from_float32_by_little():
    wide, narrow = (
        perplexity(tiny_gpt2(dtype=dtype), [PROSE])["bits_per_byte"] for dtype in (torch.float32, torch.bfloat16)
    )
    assert narrow == pytest.approx(wide, rel=0.01)


def test_a_markov_text_costs_its_closed_form_within_its_interval():
    transitions, rng = markov_transitions(seed=2), np.random.default_rng(0)
    transitions = transitions[:128, :128] / transitions[:128, :128].sum(axis=1, keepdims=True)
    full = np.full((257, 257), 1e-9)
    full[:128, :128] = transitions
    full /= full.sum(axis=1, keepdims=True)
    cumulative, chain = np.cumsum(transitions, axis=1), [65]
    for u in rng.random(40_000):
        chain.append(min(127, int(np.searchsorted(cumulative[chain[-1]], u))))
    model = from_pair(markov_model(full), byte_tokenizer())
    found = perplexity(model, ["".join(map(chr, chain))])
    pi = np.linalg.matrix_power(transitions, 200)[0]
    entropy = float(-pi @ (transitions * np.log2(transitions)).sum(axis=1))
    bits = find(found, "bits_per_byte")
    assert bits.stderr is not None
    assert abs(bits.value - entropy) < 4 * bits.stderr
    assert bits.stderr < 0.02


def peak_memory(n_bytes: int) -> int:
    """Peak of Python's and NumPy's memory while one document of so many bytes is scored."""
    model = from_pair(uniform_model(), byte_tokenizer())
    pieces = ("ab cd efgh" * 1000 for _ in range(n_bytes // 10_000))
    tracemalloc.start()
    perplexity(model, Document("long", pieces), PerplexitySettings(batch_size=2))
    _, found = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_document(monkeypatch: pytest.MonkeyPatch):
    def score_batch(
        model: CausalLM, batch: Sequence[Request], place: Place
    ) -> list[np.ndarray]:  # the network's memory is another matter
        return [np.full(len(request.target), -1.0, dtype=np.float32) for request in batch]

    monkeypatch.setattr(engine, "_score_batch", score_batch)
    monkeypatch.setattr(tokens, "SEGMENT_CHARACTERS", 8192)
    assert peak_memory(2_400_000) < 1.2 * peak_memory(600_000)


def test_the_bundled_model_beats_a_uniform_one():
    found = perplexity("bundled", ["The quick brown fox jumps over the lazy dog. It was a bright cold day in April."])
    assert found["bits_per_byte"] < 4


def test_a_report_is_found_by_name(stories: CausalLM):
    found = perplexity(stories, ["Once upon a time"])
    assert isinstance(found, Report)
    assert stories_folder().name in found.provenance["models"][0]["name"]
