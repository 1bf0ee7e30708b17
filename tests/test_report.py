import dataclasses
import io

import pytest
from rich.console import Console, RenderableType
from samples import PROSE, random_text, tiny_llama

from lmeval import report
from lmeval.compression import CompressedSize
from lmeval.perplexity import Settings, perplexity
from lmeval.report.tables import plain_table
from lmeval.results import Report, find


def text_of(table: RenderableType, width: int = 200) -> str:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(table)
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
    return perplexity(tiny_llama(), [random_text(1500), "", PROSE], Settings(stride=32))


def test_every_measurement_is_shown_with_its_interval(found: Report):
    shown = text_of(report.perplexity_tables(found))
    for measurement in found.results:
        assert measurement.name in shown
    bits = find(found, "bits_per_byte")
    assert bits.ci95 is not None
    assert f"{bits.value:.4f}" in shown
    assert f"{bits.ci95[0]:.4f} to {bits.ci95[1]:.4f}" in shown


def test_what_was_scored_is_said(found: Report):
    shown = text_of(report.perplexity_tables(found))
    n_bytes = 1500 + len(PROSE.encode())
    assert f"3 documents, {n_bytes:,} bytes, {n_bytes:,} tokens in {found.ledger['windows']['n']:,} windows" in shown
    assert "1 empty document" in shown
    assert "context 64, stride 32, BOS at every window" in shown
    assert "block bootstrap" in shown
    assert "tiny-llama" in shown


def test_positions_are_shown_up_to_the_context(found: Report):
    lines = text_of(report.perplexity_tables(found)).splitlines()
    assert any(line.startswith("0 ") for line in lines)
    assert any(line.startswith("32 to 63") for line in lines)


def test_nothing_is_withheld_where_the_text_comes_back(found: Report):
    assert report.withheld_notice(found) is None


def test_what_is_withheld_is_said_and_not_shown(found: Report):
    lossy = with_ledger(found, round_trip=LOSSY)
    notice = report.withheld_notice(lossy)
    assert notice is not None
    assert "2 documents (first: a.txt)" in notice
    assert "bits/byte" not in text_of(report.perplexity_tables(lossy))


@pytest.mark.parametrize("name", ["notes [draft].txt", "text[ab]*.txt", "[/b].txt", "[red]x"])
def test_names_are_shown_as_they_are(found: Report, name: str):
    corpus = {**found.provenance["corpus"], "sources": [name]}
    named = dataclasses.replace(found, provenance={**found.provenance, "corpus": corpus})
    assert name in text_of(report.perplexity_tables(named))
    assert name in text_of(report.demo_table([report.DemoRow(name, found, 5, True, [CompressedSize("gzip -9", 10, 5)])]))


def test_the_demo_sets_the_model_beside_compressors(found: Report):
    sizes = [CompressedSize("gzip -9", 1000, 400), CompressedSize("xz -9e", 1000, 350)]
    shown = text_of(report.demo_table([report.DemoRow("some text", found, 300, True, sizes)]))
    for cell in ("some text", "tiny-llama", "gzip -9", "3.200", "2.800", f"{find(found, 'bits_per_byte').value:.3f}"):
        assert cell in shown


def test_reports_need_no_model():
    import ast
    import inspect

    modules = {node.module for node in ast.walk(ast.parse(inspect.getsource(report))) if isinstance(node, ast.ImportFrom)}
    assert not any(module and ("models" in module or "torch" in module or "scoring" in module) for module in modules)


def test_numbers_are_set_to_the_right():
    table = plain_table("name", "number", "unit")
    for cells in (("a", "1", "x"), ("longer", "1,000.5", "longer")):
        table.add_row(*cells)
    lines = [line.rstrip() for line in text_of(table).splitlines()]
    assert lines == ["name     number    unit", "a             1       x", "longer  1,000.5  longer"]
