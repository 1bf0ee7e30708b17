from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmeval.compression.benchmark.corpora import KnownCorpus, identify, known_corpora, read_corpus
from lmeval.data.resources import data_folder
from lmeval.errors import InputError, InputNotFound

FILES = sorted((data_folder("compression") / "corpora").glob("*.yaml"))
RESULT = {"program": "xz", "n_bytes_out": 250, "source": "https://example.org/", "date": "2026-01"}
CORPUS = {
    "name": "tiny",
    "description": "a thousand bytes",
    "n_bytes": 1000,
    "sha256": "0" * 64,
    "md5": None,
    "url": "https://example.org/tiny",
    "licence": "CC0-1.0",
    "published": [RESULT],
}


def written(tmp_path: Path, changes: Mapping[str, Any] | None = None, result: Mapping[str, Any] | None = None) -> Path:
    path = tmp_path / "tiny.yaml"
    keys = {**CORPUS, "published": [{**RESULT, **(result or {})}], **(changes or {})}
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_read_and_its_figures_agree(path: Path):
    corpus = read_corpus(path)
    assert path.stem == corpus.name.removesuffix(".txt")
    assert corpus.sha256 or corpus.md5
    for result in corpus.published:
        assert result.source.startswith("http")
        assert len(result.date) == 7
        assert 0.3 < result.bits_per_byte < 4
        if result.n_bytes_out is not None:
            assert result.bits_per_byte == 8 * result.n_bytes_out / corpus.n_bytes
            assert result.total_bytes is None or result.total_bytes >= result.n_bytes_out


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rates_that_a_source_prints_are_those_of_its_bytes(path: Path):
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    both = [entry for entry in keys["published"] if {"n_bytes_out", "bits_per_byte"} <= set(entry)]
    assert both or path.stem == "enwik8.test1M", "ts_zip's page prints both for the four files that it has"
    for entry in both:
        assert round(8 * entry["n_bytes_out"] / keys["n_bytes"], 3) == entry["bits_per_byte"]


def test_the_well_known_corpora_are_there():
    assert [corpus.name for corpus in known_corpora()] == ["alice29.txt", "book1", "enwik8.test1M", "enwik8", "enwik9"]
    programs = {corpus.name: " ".join(result.program for result in corpus.published) for corpus in known_corpora()}
    for program in ("cmix v21", "nncp v3.2", "paq8px", "ts_zip", "xz", "bzip2", "gzip", "ppmd"):
        assert program in programs["enwik8"]
        assert program in programs["enwik9"]
    assert "Nacrith" in programs["enwik8"]
    assert "fx2-cmix-transformer" in programs["enwik9"]
    for corpus in known_corpora():
        rates = [result.bits_per_byte for result in corpus.published]
        assert rates == sorted(rates)
        assert len({result.program for result in corpus.published}) == len(rates)


def the(name: str) -> KnownCorpus:
    return next(corpus for corpus in known_corpora() if corpus.name == name)


def test_a_file_is_recognised_by_size_and_checksum():
    enwik8 = the("enwik8")
    assert enwik8.sha256
    assert enwik8.md5
    assert identify(10**8, enwik8.sha256, enwik8.md5) == enwik8
    assert identify(10**8, sha256=enwik8.sha256.upper()) == enwik8
    assert identify(10**8, md5=enwik8.md5) == enwik8
    assert identify(10**8) is None  # a size alone is no proof
    assert identify(10**8 - 1, enwik8.sha256, enwik8.md5) is None
    assert identify(10**8, sha256="0" * 64) is None
    assert identify(10**8, sha256="0" * 64, md5=enwik8.md5) is None
    assert identify(10**8, sha256=the("enwik9").sha256) is None


def test_a_result_has_its_rate_from_bytes_or_from_the_source(tmp_path: Path):
    [result] = read_corpus(written(tmp_path)).published
    assert (result.n_bytes_out, result.bits_per_byte, result.total_bytes, result.note) == (250, 2.0, None, "")
    [result] = read_corpus(written(tmp_path, result={"n_bytes_out": None, "bits_per_byte": 1.234})).published
    assert (result.n_bytes_out, result.bits_per_byte) == (None, 1.234)
    [result] = read_corpus(written(tmp_path, result={"n_bytes_out": 251, "bits_per_byte": 2.01})).published
    assert result.bits_per_byte == 2.008  # printed with two digits, kept exact


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": "MIT"}, "unknown key 'license' \\(did you mean 'licence'\\?\\)"),
        ({"name": None}, "key 'name' must be given, as text"),
        ({"n_bytes": "1000"}, "n_bytes must be a positive whole number, not '1000'"),
        ({"n_bytes": True}, "n_bytes must be"),
        ({"n_bytes": 0}, "n_bytes must be"),
        ({"sha256": "abc"}, "sha256 must be 64 lower-case"),
        ({"md5": "A" * 32}, "md5 must be 32 lower-case"),
        ({"url": "example.org"}, "url must be a URL"),
        ({"published": []}, "published must be a list"),
        ({"published": ["xz"]}, r"published\[0\] must be a mapping, not 'xz'"),
    ],
)
def test_a_wrong_key_of_a_corpus_is_named(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=rf"tiny.yaml: (line \d+: )?{message}"):
        read_corpus(written(tmp_path, changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bytes": 250}, r"unknown key 'bytes' in published\[0\] \(did you mean 'total_bytes'\?\)"),
        ({"source": None}, "key 'source' must be given, as a URL"),
        ({"date": None}, "key 'date' must be given"),
        ({"date": "2026"}, r"published\[0\].date must be a year and month"),
        ({"date": "2026-13"}, r"published\[0\].date must be"),
        ({"decoded": "not"}, r"published\[0\].decoded must be true or false"),
        ({"n_bytes_out": 250.0}, r"published\[0\].n_bytes_out must be"),
        ({"n_bytes_out": None}, "one of the keys 'n_bytes_out' and 'bits_per_byte' must be given"),
        ({"bits_per_byte": 2}, r"published\[0\].bits_per_byte must be a positive decimal"),
        ({"bits_per_byte": 2.01}, r"published\[0\].bits_per_byte is 2.01, but n_bytes_out makes it 2.000000"),
        ({"total_bytes": 249}, r"published\[0\].total_bytes is 249, less than the archive's 250"),
    ],
)
def test_a_wrong_key_of_a_result_is_named(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=rf"tiny.yaml: line \d+: {message}"):
        read_corpus(written(tmp_path, result=changes))


def test_what_was_not_decoded_back_says_so(tmp_path: Path):
    assert [read_corpus(written(tmp_path, result={"decoded": d})).published[0].decoded for d in (True, False, None)] == [
        True,
        False,
        None,
    ]
    sizes = {result.program: (result.n_bytes_out, result.decoded) for result in the("enwik8.test1M").published}
    assert sizes == {"paq8px v216 -6T": (197_382, False), "paq8px v216 -6": (207_908, False)}
    assert [result.decoded for result in the("enwik9").published if "rata" in result.program] == [False]


def test_what_is_no_corpus_file_says_so(tmp_path: Path):
    path = tmp_path / "broken.yaml"
    with pytest.raises(InputNotFound, match="no such corpus file"):
        read_corpus(path)
    for text, message in (
        ("a: [", "line 1:"),
        ("name: a\nname: b\n", "line 2: key 'name' is given twice"),
        ("- 1\n", "not a corpus file: that is a YAML mapping with keys such as name, n_bytes"),
        ("published: !!python/name:os.system\n", "line 1:"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=f"broken.yaml: {message}"):
            read_corpus(path)
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_corpus(path)
