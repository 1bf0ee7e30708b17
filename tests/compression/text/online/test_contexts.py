import numpy as np
import page_online
import pytest
from samples import ODD_BYTES

from lmeval.compression.text.online.contexts import N_CONTEXTS, byte_contexts, open_text, read_byte, token_contexts


def _all_contexts(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The contexts at each step of the second of three lanes, and the bytes of unfinished characters."""
    ids = np.zeros((len(data), 3), dtype=np.int64)
    ids[:, 1] = np.frombuffer(data, dtype=np.uint8)
    ids[:, 2] = 65 + np.arange(len(data)) % 20
    text, found, partial = open_text(3), np.zeros((len(data), N_CONTEXTS), dtype=np.uint64), []
    for step in range(len(data)):
        if step:
            read_byte(text, ids.reshape(-1), step, 3, 1)
        byte_contexts(text, ids.reshape(-1), step, 3, 1, found[step])
        partial.append(int(text.partial[1]))
    return found, np.array(partial)


@pytest.mark.parametrize("name", [name for name, data in ODD_BYTES.items() if data])
def test_contexts_of_bytes_are_those_of_the_page(name: str):
    data = ODD_BYTES[name][:400]
    found, partial = _all_contexts(data)
    history = page_online.History(bytes_=True)
    for step, byte in enumerate(data):
        c = history.contexts()
        assert found[step].tolist() == [c[m] for m in range(N_CONTEXTS)], step
        assert partial[step] == history.unfinished()
        history.add(byte)


def test_unfinished_characters_are_counted():
    partial = _all_contexts("é日🙂a".encode() + b"\xf0\x9f\x99\xc3" + b"\x80" * 3 + b"\xe2\x82a.")[1]
    assert partial.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 3, 0, 0, 1, 2, 3, 1, 0, 0, 0, 1, 2, 0]


def test_orders_go_back_by_whole_characters():
    # Behind two texts that agree in their last two characters of three bytes, but in no third one.
    one, two = (_all_contexts((text + "日本語").encode() + b" ")[0][-1] for text in ("x", "ж"))
    assert one[:4].tolist() == two[:4].tolist()
    assert all(one[m] != two[m] for m in (4, 6, 7))


def test_words_are_alike_in_capitals_and_small_letters():
    one, two = (_all_contexts(text + b"!")[0][-1] for text in (b"a word", b"A WORD"))
    assert one[9] == two[9]
    assert one[10] == two[10]
    assert one[1] != two[1]


def test_a_column_sees_the_byte_above_it():
    one, two, three = (_all_contexts(text)[0][-1, 11] for text in (b"ab|cd\n12!", b"xy|\n34!", b"xy.\n34!"))
    assert one == two != three


def test_contexts_of_tokens_are_those_of_the_page():
    ids, found = np.random.default_rng(1).integers(0, 1 << 16, 40), np.zeros(N_CONTEXTS, dtype=np.uint64)
    history = page_online.History(bytes_=False)
    for step in range(20):
        token_contexts(ids, step, 2, 1, found)
        c = history.contexts()
        assert found[:6].tolist() == [c[m] for m in range(6)]
        history.add(int(ids[2 * step + 1]))
