import dataclasses
import io

import pytest
from rich.console import Console
from samples import PROSE, random_text, tiny_llama

from lmeval.perplexity import PerplexitySettings, perplexity
from lmeval.report.terminal import draw
from lmeval.report.views import view
from lmeval.report.views.perplexity import withheld_notice
from lmeval.results import Report, find


def text_of(report: Report, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(draw(view(report)))
    return out.getvalue()


def with_ledger(found: Report, **changes: object) -> Report:
    return dataclasses.replace(found, ledger={**found.ledger, **changes})


LOSSY = {
    "exact": False,
    "n_documents_not_exact": 2,
    "first_document_not_exact": "a.txt",
    "withheld": ["per byte", "per character", "per word"],
}


@pytest.fixture(scope="module")
def found() -> Report:
    return perplexity(tiny_llama(), [random_text(1500), "", PROSE], PerplexitySettings(stride=32))


def test_every_measurement_is_shown_with_its_interval(found: Report):
    shown = text_of(found)
    for measurement in found.results:
        assert measurement.name in shown
    bits = find(found, "bits_per_byte")
    assert bits.ci95 is not None
    assert f"{bits.value:.4f}" in shown
    assert f"{bits.ci95[0]:.4f} to {bits.ci95[1]:.4f}" in shown


def test_what_was_scored_is_said(found: Report):
    shown = text_of(found)
    n_bytes = 1500 + len(PROSE.encode())
    assert f"3 documents, {n_bytes:,} bytes, {n_bytes:,} tokens in {found.ledger['windows']['n']:,} windows" in shown
    assert "1 empty document" in shown
    assert "context 64, stride 32, BOS at every window" in shown
    assert "block bootstrap" in shown
    assert "tiny-llama" in shown


def test_positions_are_shown_up_to_the_context(found: Report):
    lines = text_of(found).splitlines()
    assert any(line.startswith("0 ") for line in lines)
    assert any(line.startswith("32 to 63") for line in lines)


def test_nothing_is_withheld_where_the_text_comes_back(found: Report):
    assert withheld_notice(found) is None


def test_what_is_withheld_is_said_and_not_shown(found: Report):
    lossy = with_ledger(found, round_trip=LOSSY)
    notice = withheld_notice(lossy)
    assert notice is not None
    assert "2 documents (first: a.txt)" in notice
    assert "bits/byte" not in text_of(lossy)


@pytest.mark.parametrize("name", ["notes [draft].txt", "text[ab]*.txt", "[/b].txt", "[red]x"])
def test_names_are_shown_as_they_are(found: Report, name: str):
    corpus = {"corpus": {**found.provenance["inputs"]["corpus"], "sources": [name]}}
    named = dataclasses.replace(found, provenance={**found.provenance, "inputs": corpus})
    assert name in text_of(named)
