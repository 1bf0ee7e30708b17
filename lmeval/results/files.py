"""Files that are written whole or not at all."""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

from lmeval.errors import OutputError


def check_writable(path: Path) -> None:
    """Raise OutputError at the start of a long run rather than at its end, where a result could not be written."""
    folder = path.parent
    if path.exists() and not path.is_file():  # a folder, a device, a pipe: renaming a file over it would destroy it
        raise OutputError(f"cannot write {path}: it is not an ordinary file; name a new file")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: folder {folder} is not writable")


def write_text(text: str, path: Path) -> None:
    """Write a file whole or not at all."""
    with atomic_writer(path) as stream:
        stream.write(text)


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """A text stream that becomes the file `path` when the block ends well (temporary name, fsync, rename), else nothing."""
    with atomic_binary_writer(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8")
        yield text
        text.detach()  # flushes, and leaves the stream open


@contextlib.contextmanager
def atomic_binary_writer(path: Path) -> Iterator[BinaryIO]:
    """The same for bytes."""
    check_writable(path)
    path = path.resolve()  # a link stays a link
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".lmeval.")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp makes it private
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
