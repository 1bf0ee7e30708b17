import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from lmeval import interrupts

BOTH_WAYS = """
import signal
from lmeval import interrupts
interrupts.install()
try:
    with interrupts.unwinding():
        signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("undone", flush=True)
with interrupts.unwinding(), interrupts.leaving_at_once():
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        print("never reached")
"""


@pytest.fixture
def handler() -> Iterator[None]:
    """The handler of Ctrl-C as Python has it, and as it was in the end."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_works_is_undone_and_what_loads_is_left():
    ran = subprocess.run([sys.executable, "-c", BOTH_WAYS], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "undone\n", "lmeval: interrupted\n")


@pytest.mark.parametrize("block", [interrupts.unwinding, interrupts.leaving_at_once])
def test_a_program_that_calls_lmeval_keeps_its_handler(handler: None, block: Any):
    def own(number: int, frame: Any) -> None: ...

    for kept in (signal.default_int_handler, own, signal.SIG_IGN):
        signal.signal(signal.SIGINT, kept)
        with block():
            assert signal.getsignal(signal.SIGINT) is kept
        assert signal.getsignal(signal.SIGINT) is kept


def test_a_process_that_ignores_interruptions_keeps_doing_so(handler: None):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.install()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_the_handler_is_put_back_after_an_error(handler: None):
    interrupts.install()
    installed = signal.getsignal(signal.SIGINT)
    with suppress(ValueError), interrupts.unwinding():
        assert signal.getsignal(signal.SIGINT) is not installed
        with suppress(OSError), interrupts.leaving_at_once():
            assert signal.getsignal(signal.SIGINT) is installed
            raise OSError
        assert signal.getsignal(signal.SIGINT) is not installed
        raise ValueError
    assert signal.getsignal(signal.SIGINT) is installed


def translated(cause: BaseException, *, explicitly: bool) -> BaseException:
    try:
        try:
            raise cause
        except BaseException as error:
            if explicitly:
                raise ImportError("a module could not be imported") from error
            raise ImportError("a module could not be imported")  # noqa: B904
    except ImportError as error:
        return error


def test_an_interruption_is_known_however_it_is_told():
    assert interrupts.caused(KeyboardInterrupt())
    for explicitly in (False, True):
        assert interrupts.caused(translated(KeyboardInterrupt(), explicitly=explicitly))
        assert not interrupts.caused(translated(OSError(), explicitly=explicitly))
    assert not interrupts.caused(None)
