import json

import pytest

from lmeval.compression.benchmark.corpora import known_corpora
from lmeval.compression.benchmark.summary import Corpus, Refusal, Result, summary
from lmeval.report.blocks import Note
from lmeval.report.views import view
from lmeval.results import Report, Table, as_json
from lmeval.results.compare import compare_reports
from lmeval.results.report import from_json

BOOK, LETTER = Corpus("book", 10_000, "a" * 64), Corpus("letter", 100, "b" * 64)


def made(corpus: Corpus, compressor: str, archive_bytes: int, *, verified: bool = True) -> Result:
    return Result(corpus, compressor, archive_bytes, None, None, None, 2.0, 0.5, verified, {"model": 1, "xz": 2})


def report_of(*results: Result | Refusal) -> Report:
    return summary([BOOK, LETTER], results, [], 5, {})


def test_two_benchmarks_are_compared_by_file():
    a = report_of(made(BOOK, "model", 2000), made(BOOK, "xz", 3000), made(LETTER, "model", 50), made(LETTER, "xz", 60))
    b = report_of(made(LETTER, "xz", 60), made(LETTER, "new", 40), made(BOOK, "new", 1800), made(BOOK, "xz", 3000))
    rows = compare_reports(a, b).tables["differences"]
    [xz] = [row for row in rows if row["of"] == {"compressor": "xz"}]
    [model] = [row for row in rows if row["of_a"] == {"compressor": "model"}]
    assert (xz["difference"], xz["n"]) == (0, 2)
    assert model["of_b"] == {"compressor": "new"}
    assert model["difference"] == pytest.approx(8 * (2050 - 1840) / 10_100)  # bytes of all files, not the mean of rates


def test_speeds_are_bytes_of_the_corpus():
    report = report_of(made(BOOK, "model", 2000))
    assert (report["encode_speed"], report["decode_speed"], report["bits_per_byte"]) == (5000, 20_000, 1.6)


def test_a_report_comes_back_from_json():
    report = summary([BOOK], [made(BOOK, "model", 2000)], known_corpora()[:1], 5, {})
    again = from_json(json.loads(json.dumps(as_json(report))))
    assert as_json(again) == as_json(report)
    assert view(again) == view(report)


def test_one_result_that_does_not_come_back_is_seen():
    report = report_of(made(BOOK, "model", 2000), made(LETTER, "model", 50, verified=False))
    assert report.ledger["verified"] is False
    [table] = view(report)
    assert isinstance(table, Table)
    assert table.column("verified") == ["equal", None, "DIFFERENT"]  # a gap between corpora
    assert table.column("blocks")[0] == "1 model, 2 xz"


def test_a_refused_scorer_has_a_row_and_a_reason_but_no_score():
    report = report_of(made(BOOK, "model", 2000), Refusal(BOOK, "ngrams:cache", "sums to 277 at byte 12,345"))
    [table] = view(report)
    assert isinstance(table, Table)
    assert table.column("verified") == ["equal", "refused"]
    assert table.column("refused") == [None, "sums to 277 at byte 12,345"]
    assert table.column("bits_per_byte")[1] is None and table.columns[-1].name == "refused"
    assert {m.of["compressor"] for m in report.results} == {"model"}
    assert report.items is not None and len(report.items.records) == 1
    assert report.ledger["refused"] == [
        {"corpus": "book", "compressor": "ngrams:cache", "reason": "sums to 277 at byte 12,345"}
    ]
    again = from_json(json.loads(json.dumps(as_json(report))))
    assert view(again) == view(report)


def test_where_nothing_is_refused_there_is_no_such_column():
    report = report_of(made(BOOK, "model", 2000))
    assert "refused" not in [column.name for column in report.tables["benchmark"].columns]
    assert report.ledger["refused"] == []


def test_published_results_stand_apart():
    corpus = known_corpora()[0]
    report = summary([BOOK], [made(BOOK, "model", 2000)], [corpus], 5, {})
    [measured, gap, published] = view(report)
    assert isinstance(measured, Table) and isinstance(published, Table) and gap == Note()
    assert published.column("compressor") == [result.program for result in corpus.published]
    first = corpus.published[0]
    marked = corpus._replace(published=tuple(first._replace(decoded=decoded) for decoded in (True, False, None)))
    [_, _, published] = view(summary([BOOK], [made(BOOK, "model", 2000)], [marked], 5, {}))
    assert isinstance(published, Table) and published.column("decoded") == ["yes", "no", None]
    assert {m.of["corpus"] for m in report.results} == {"book"}
