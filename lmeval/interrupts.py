"""Ctrl-C at any moment: one line and status 130, no traceback, and no half-written file.

While Python imports modules and models are loaded there is nothing to undo, so the process leaves at once: an exception in
the middle of an import may be caught there, or come out as another. While a command works, Ctrl-C raises KeyboardInterrupt
as ever, and files that are being written are removed on its way out.

Which of the two applies is the handler that the signal has. `lmeval` installs the first one; a program that calls lmeval as
a library keeps its own.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

MESSAGE = "lmeval: interrupted"
STATUS = 130  # what shells report of a process that Ctrl-C ended

Handler = Callable[[int, FrameType | None], None]


def install() -> None:
    """Let Ctrl-C end this process at once, from now on. A process that ignores Ctrl-C, as `nohup` has it, keeps doing so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


@contextmanager
def unwinding() -> Iterator[None]:
    """Inside this block Ctrl-C raises KeyboardInterrupt: there is something to undo."""
    with _handled_by(_raise, instead_of=_leave):
        yield


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Inside this block Ctrl-C ends the process at once: there is nothing to undo."""
    with _handled_by(_leave, instead_of=_raise):
        yield


def caused(error: BaseException | None) -> bool:
    """Whether an error is KeyboardInterrupt, or came of one that an import or a library has translated."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def _handled_by(handler: Handler, *, instead_of: Handler) -> Iterator[None]:
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is instead_of
    if ours:
        signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, instead_of)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    with suppress(OSError):  # standard error may be closed
        os.write(2, f"\r{MESSAGE}\n".encode() if os.isatty(2) else f"{MESSAGE}\n".encode())
    os._exit(STATUS)


def _raise(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
