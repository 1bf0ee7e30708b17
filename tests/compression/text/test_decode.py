"""Decoding where memory is short: fewer blocks at once, and one line where not even one fits."""

import pytest
import torch
from samples import babble, model_archive, talker

from lmeval.compression import decompress
from lmeval.compression.text import library
from lmeval.errors import OutOfMemory


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of lanes that were asked for; there is memory for 5."""
    asked: list[int] = []
    open_lanes = library.open_lanes

    def short(model: object, n_lanes: int, *rest: object) -> object:
        asked.append(n_lanes)
        if n_lanes > 5:
            raise torch.OutOfMemoryError("out of memory")
        return open_lanes(model, n_lanes, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setenv("LMEVAL_COMPILED", "0")
    monkeypatch.setattr(library, "open_lanes", short)
    return asked


def test_blocks_are_decoded_in_turns_where_their_lanes_do_not_fit_together(opened: list[int]):
    data = babble(200)
    pieces = [data[i : i + 40] for i in range(0, 200, 40)]
    assert decompress(model_archive(talker(), pieces, 2, canary=0), talker()) == data
    assert opened[0] == 10 and max(opened[1:]) <= 6 and sum(n for n in opened if n <= 5) == 10


def test_a_block_that_does_not_fit_is_named_with_what_helps(opened: list[int]):
    with pytest.raises(OutOfMemory, match=r"the 6 lanes of one block do not fit into the memory of cpu: .* fewer --lanes"):
        decompress(model_archive(talker(), [babble(60)], 6, canary=0), talker())
    assert opened == [6]
