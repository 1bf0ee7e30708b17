from collections.abc import Callable
from typing import NamedTuple


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
