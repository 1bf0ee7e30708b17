from collections.abc import Callable, Iterable
from typing import NamedTuple

from rich.console import Console

from lmeval.report.blocks import Block
from lmeval.report.terminal import draw


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


def assert_one_line(ran: Ran, *words: str) -> None:
    assert ran.status not in (0, None)
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1, ran.err
    assert ran.err.startswith("lmeval: ")
    assert "Traceback" not in ran.err
    for word in words:
        assert word in ran.err


def text_of(blocks: Iterable[Block]) -> str:
    """What a wide terminal shows of blocks."""
    console = Console(width=400, highlight=False)
    with console.capture() as captured:
        console.print(draw(blocks))
    return captured.get()
