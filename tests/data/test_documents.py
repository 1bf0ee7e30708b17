import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmeval.data import documents
from lmeval.data.documents import Corpus, Document, begun, column, file_corpus, python_manual, table_corpus, text_corpus
from lmeval.errors import EmptyInput, InputNotFound, UndecodableText

AWKWARD = "\ufeffBOM first\r\nCRLF\rCR\x00NUL e\u0301 👩‍👧 \u2028 last line without an end"


def texts(corpus: Corpus) -> list[str]:
    return ["".join(document.pieces) for document in corpus.documents]


@contextmanager
def stream_of(data: bytes) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as stream:
        stream.write(data)
        stream.seek(0)
        yield stream


def test_a_file_is_read_byte_for_byte(tmp_path: Path):
    (tmp_path / "a").write_bytes(AWKWARD.encode())
    corpus = file_corpus([tmp_path / "a"])
    assert corpus.n_bytes_hint == len(AWKWARD.encode())
    assert texts(corpus) == [AWKWARD]


@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), size=st.integers(1, 7))
def test_characters_split_by_piece_boundaries_are_put_together(text: str, size: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_BYTES", size)
        with stream_of(text.encode()) as stream:
            pieces = list(documents._decode(stream, "x"))
    assert "".join(pieces) == text
    assert all(pieces)


@given(
    before=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    after=st.text(st.characters(max_codepoint=127), max_size=20),
    size=st.integers(1, 7),
)
def test_the_offset_of_a_bad_byte_is_its_offset_in_the_file(before: str, after: str, size: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "PIECE_BYTES", size)
        data = before.encode() + b"\xff" + after.encode()
        with (
            stream_of(data) as stream,
            pytest.raises(UndecodableText, match=rf"^x is not UTF-8 text: byte 0xff at offset {len(before.encode()):,};"),
        ):
            list(documents._decode(stream, "x"))


def test_a_bad_byte_beyond_the_first_piece_is_found_where_it_is(tmp_path: Path):
    position = 2 * documents.PIECE_BYTES + 12_345
    (tmp_path / "late").write_bytes(b"a" * (position - 2) + "é".encode() + b"\x80" + b"b" * 99)
    with pytest.raises(UndecodableText, match=f"byte 0x80 at offset {position:,};"):
        texts(file_corpus([tmp_path / "late"]))


def test_a_character_cut_off_by_the_end_of_the_file_is_an_error(tmp_path: Path):
    (tmp_path / "cut").write_bytes(b"abc" + "€".encode()[:2])
    with pytest.raises(UndecodableText, match="byte 0xe2 at offset 3;"):
        texts(file_corpus([tmp_path / "cut"]))


def test_a_folder_is_its_files_in_order_without_hidden_ones(tmp_path: Path):
    for name in ("b.txt", "a/z", "a/.hidden", ".git/config", "c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "empty").touch()
    corpus = file_corpus([tmp_path])
    found = list(corpus.documents)
    assert [document.name for document in found] == [str(tmp_path / name) for name in ("a/z", "b.txt", "c", "empty")]
    assert ["".join(document.pieces) for document in found] == ["a/z", "b.txt", "c", ""]
    assert corpus.n_bytes_hint == 9


def test_a_folder_below_a_hidden_one_can_be_named(tmp_path: Path):
    folder = tmp_path / ".cache" / "corpus"
    folder.mkdir(parents=True)
    (folder / "a").write_text("text")
    assert texts(file_corpus([folder])) == ["text"]


def test_globs_match_files_in_order(tmp_path: Path):
    for name in ("2.txt", "1.txt", "x.md", "deep/3.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(file_corpus([f"{tmp_path}/*.txt"])) == ["1.txt", "2.txt"]
    assert texts(file_corpus([f"{tmp_path}/**/*.txt"])) == ["1.txt", "2.txt", "deep/3.txt"]


def test_a_file_whose_name_looks_like_a_glob_is_itself(tmp_path: Path):
    (tmp_path / "a[1].txt").write_text("itself")
    (tmp_path / "a1.txt").write_text("other")
    assert texts(file_corpus([tmp_path / "a[1].txt"])) == ["itself"]


def test_paths_keep_the_order_in_which_they_are_named(tmp_path: Path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    assert texts(file_corpus([tmp_path / "b", tmp_path / "a", tmp_path / "b"])) == ["b", "a", "b"]


def test_standard_input_is_a_document(monkeypatch: pytest.MonkeyPatch):
    with stream_of(AWKWARD.encode()) as stream:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
        corpus = file_corpus(["-"])
        assert corpus.n_bytes_hint is None
        (document,) = corpus.documents
        assert (document.name, "".join(document.pieces)) == ("stdin", AWKWARD)


def test_bad_bytes_on_standard_input_name_it(monkeypatch: pytest.MonkeyPatch):
    with stream_of(b"ok \xc3(") as stream:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
        with pytest.raises(UndecodableText, match=r"^standard input is not UTF-8 text: byte 0xc3 at offset 3;"):
            texts(file_corpus(["-"]))


def test_what_is_not_there_is_named(tmp_path: Path):
    (tmp_path / "empty").touch()
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputNotFound, match=r"no such file or folder: .*missing"):
        file_corpus([tmp_path / "missing"])
    with pytest.raises(InputNotFound, match=r"no file matches .*\*\.txt"):
        file_corpus([f"{tmp_path}/*.txt"])
    with pytest.raises(EmptyInput, match="empty is empty"):
        file_corpus([tmp_path / "empty"])
    with pytest.raises(EmptyInput, match="bare holds no files"):
        file_corpus([tmp_path / "bare"])
    with pytest.raises(EmptyInput, match="no files"):
        file_corpus([])


def test_a_file_that_vanishes_is_an_error_of_ours(tmp_path: Path):
    (tmp_path / "a").write_text("text")
    corpus = file_corpus([tmp_path / "a"])
    (tmp_path / "a").unlink()
    with pytest.raises(InputNotFound, match="cannot read"):
        texts(corpus)


def test_files_are_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(documents, "PIECE_BYTES", 10)
    (tmp_path / "long").write_bytes(b"x" * 35)
    (document,) = file_corpus([tmp_path / "long"]).documents
    assert [len(piece) for piece in document.pieces] == [10, 10, 10, 5]


def test_strings_and_documents_are_a_corpus():
    made = Document("mine", iter(["a", "b"]))
    assert [(d.name, "".join(d.pieces)) for d in text_corpus(["x", made]).documents] == [("text 0", "x"), ("mine", "ab")]
    assert texts(text_corpus("one string is one document")) == ["one string is one document"]


def test_a_corpus_of_strings_is_not_read_ahead():
    def endless() -> Iterator[str]:
        i = 0
        while True:
            yield str(i)
            i += 1

    iterator = text_corpus(endless()).documents
    assert [next(iterator).name for _ in range(3)] == ["text 0", "text 1", "text 2"]


ROWS = [{"id": 1, "text": 'first\r\nrow, "quoted"'}, {"id": 2, "text": ""}, {"id": 3, "text": "e\u0301 👩‍👧\n"}]


def write_table(folder: Path, kind: str) -> Path:
    path = folder / f"table.{kind}"
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet"])
def test_rows_of_a_table_are_documents(tmp_path: Path, kind: str):
    path = write_table(tmp_path, kind)
    corpus = table_corpus([path], column("text"))
    assert texts(corpus) == [row["text"] for row in ROWS]
    assert corpus.n_bytes_hint == path.stat().st_size


@pytest.mark.parametrize(("suffix", "separator"), [("csv", ","), ("tsv", "\t")])
def test_rows_of_separated_values_are_documents(tmp_path: Path, suffix: str, separator: str):
    path = tmp_path / f"table.{suffix}"
    path.write_text(f"id{separator}text\n1{separator}one\n2{separator}two three\n")
    assert texts(table_corpus([path], column("text"))) == ["one", "two three"]


def test_several_tables_follow_each_other(tmp_path: Path):
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}) + "\n")
    corpus = table_corpus([tmp_path / "b.jsonl", tmp_path / "a.jsonl"], column("text"))
    assert texts(corpus) == ["b", "a"]


def test_a_column_that_is_missing_or_no_text_is_named(tmp_path: Path):
    path = write_table(tmp_path, "jsonl")
    with pytest.raises(InputNotFound, match=r"row 0 of .*no column 'body': there are id, text"):
        texts(table_corpus([path], column("body")))
    with pytest.raises(InputNotFound, match=r"row 0 of .*column 'id' holds int, not text"):
        texts(table_corpus([path], column("id")))


def test_tables_of_unknown_or_mixed_kind_are_refused(tmp_path: Path):
    for name in ("a.jsonl", "b.csv", "c.doc"):
        (tmp_path / name).write_text("{}")
    for names in (["a.jsonl", "b.csv"], ["c.doc"]):
        with pytest.raises(InputNotFound, match="name files of one kind among"):
            table_corpus([tmp_path / name for name in names], column("text"))


def test_a_broken_table_is_an_error_of_ours(tmp_path: Path):
    (tmp_path / "broken.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(InputNotFound, match=r"cannot (read|load) data set"):
        texts(table_corpus([tmp_path / "broken.jsonl"], column("text")))


def test_the_manual_is_the_interpreters_own():
    from pydoc_data.topics import topics

    corpus = python_manual()
    assert sum(len(text.encode()) for text in texts(corpus)) == corpus.n_bytes_hint
    assert len(topics) == len(list(python_manual().documents))


@pytest.mark.parametrize("texts", [[], [""], ["", "one"], ["one", "two"]])
def test_a_corpus_that_has_begun_gives_all_its_text(texts: list[str]):
    found = [(document.name, "".join(document.pieces)) for document in begun(text_corpus(texts)).documents]
    assert found == [(f"text {i}", text) for i, text in enumerate(texts)]


def test_a_mistake_in_the_first_document_shows_when_a_corpus_begins(tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"abc\xff")
    (tmp_path / "table.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(UndecodableText, match="byte 0xff at offset 3"):
        begun(file_corpus([tmp_path / "binary"]))
    with pytest.raises(InputNotFound, match="no column 'words': there are text"):
        begun(table_corpus([tmp_path / "table.jsonl"], column("words")))


def test_a_corpus_begins_with_one_piece_and_not_with_a_pipe():
    taken = []
    pieces = (taken.append(piece) or piece for piece in "abc")
    corpus = text_corpus(Document("long", pieces))
    assert begun(dataclasses.replace(corpus, rereadable=False)).documents is corpus.documents
    assert taken == []
    begun(corpus)
    assert taken == ["a"]
