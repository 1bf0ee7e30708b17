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
    """Raise OutputError at the start of a long run rather than at its end, where a result could not be written.

    Args:
        path: The file that is to be written. An ordinary file may be there: writing replaces it.

    Raises:
        OutputError: Something that is not an ordinary file is there, or its folder is missing or not writable.
    """
    folder = path.parent
    if path.exists() and not path.is_file():  # a folder, a device, a pipe: renaming a file over it would destroy it
        raise OutputError(f"cannot write {path}: it is not an ordinary file; name a new file")
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"cannot write {path}: folder {folder} is not writable")


def write_text(text: str, path: Path) -> None:
    """Write a file whole or not at all.

    Args:
        text: All of the file's text, which is written as UTF-8.
        path: The file; one that is there is replaced, and stays as it was where writing fails.

    Raises:
        OutputError: `check_writable` refuses the path.
        OSError: The system fails while it writes, for example because the disk is full.
    """
    with atomic_writer(path) as stream:
        stream.write(text)


@contextlib.contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """A text stream that becomes the file `path` when the block ends well (temporary name, fsync, rename), else nothing.

    Args:
        path: The file; one that is there is replaced, and stays as it was where the block fails.

    Returns:
        A context manager that gives a stream for writing text as UTF-8.

    Raises:
        OutputError: `check_writable` refuses the path.
        OSError: The system fails while it writes, for example because the disk is full.
    """
    with atomic_binary_writer(path) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8")
        yield text
        text.detach()  # flushes, and leaves the stream open


@contextlib.contextmanager
def atomic_binary_writer(path: Path) -> Iterator[BinaryIO]:
    """A stream of bytes that becomes the file `path` when the block ends well, as that of `atomic_writer` does.

    Args:
        path: The file; where it is a link, the file that the link names is replaced, and the link stays.

    Returns:
        A context manager that gives a stream for writing bytes.

    Raises:
        OutputError: `check_writable` refuses the path.
        OSError: The system fails while it writes, for example because the disk is full.
    """
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
