"""The registry of archive kinds: which blocks there are, and which module knows how to read each.

A new kind is one line of `REGISTRY`, its rows in compression/FORMAT.md, and a module with its arithmetic, whose `KINDS`
holds a `Kind` of that name. The line says which version of the format came with the kind: an archive that may hold it is of
that version, so that an older reader asks for an update and does not take the block for damaged.

Modules are imported when a block of theirs is met, so a file is read without the parts of the library that it does not need.
"""

import importlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lmeval.compression.container.frame import Block, checked
from lmeval.compression.container.header import Header
from lmeval.compute.place import Place
from lmeval.errors import ArchiveError
from lmeval.progress import Progress


class Home(NamedTuple):
    """Where a kind is at home: in the file, in the library, and among the versions of the format.

    Attributes:
        code: The kind's code in the file.
        module: The module whose `KINDS` describes it.
        since: The first version of the format whose readers know the kind.
        needs: The key of a header's metadata without which its archive holds no such blocks; None where any archive may.
    """

    code: int
    module: str
    since: tuple[int, int]
    needs: str | None = None


REGISTRY: dict[str, Home] = {
    "stored": Home(0, "lmeval.compression.container.plain", (2, 0)),
    "bzip2": Home(1, "lmeval.compression.container.plain", (2, 0)),
    "xz": Home(2, "lmeval.compression.container.plain", (2, 0)),
    "model": Home(3, "lmeval.compression.text.kinds", (2, 0), "model"),
    "bits-back": Home(4, "lmeval.compression.images.kinds", (2, 0), "density"),
    "adapted": Home(5, "lmeval.compression.text.kinds", (2, 0), "adapt"),
    "online": Home(6, "lmeval.compression.text.kinds", (2, 0), "adapt"),
}


def version_of(meta: dict[str, Any]) -> tuple[int, int]:
    """The first version of the format that knew every kind of block which an archive of these metadata may hold."""
    return max(home.since for home in REGISTRY.values() if home.needs is None or home.needs in meta)


class Lost(NamedTuple):
    """Stands for the data of a block that cannot be decoded, and says why."""

    error: ArchiveError


class Decoder(NamedTuple):
    """Decodes the blocks of one kind in one archive.

    `decode` gives each block's data, checked against its digest, or Lost, and counts bytes of data as it goes. Where blocks
    are decoded faster together, `gathers` is true, and `share` says which part a block takes of what is decoded at a time;
    where they are not, which part it takes of what may wait for blocks before it.
    """

    decode: Callable[[Sequence[Block], Progress], Iterable[bytes | Lost]]
    share: Callable[[Block], float]
    gathers: bool = False


@dataclass
class Holder:
    """What decoding needs beside the archive: the model as the caller gave it (None: to be found), and how to run it.

    A model that is loaded by name goes to `place` (None: the CPU).
    The model that was loaded last is held, as the archives of one file mostly need the same.
    """

    given: Any = None
    place: Place | None = None
    lanes_per_pass: int | None = None
    data_dir: str | Path | None = None
    _held: tuple[Hashable, Any] | None = None

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """What `load()` gives: loaded now, unless it is held under this key."""
        if self._held is None or self._held[0] != key:
            self._held = None  # let go of one model before the next is loaded
            self._held = (key, load())
        return self._held[1]


class Kind(NamedTuple):
    """What must be known of a kind of block.

    Attributes:
        check: Whether an encoder can have written a block's numbers and a payload of this length. Called before the payload
            is looked at, so that nothing of a hostile size is made.
        describe: The block's numbers under the names that they have in this kind, JSON-ready.
        decoder: The decoder of an archive's blocks. It may load a model, and raises what goes wrong then.
        encode: The payload for given data, where that is all that coding needs: such kinds compete for every block that no
            model codes, in every archive, and `Home.needs` is None. None where the kind's own room makes its blocks.
    """

    check: Callable[[Block], bool]
    describe: Callable[[Block], dict[str, Any]]
    decoder: Callable[[Header, Holder], Decoder]
    encode: Callable[[bytes], bytes] | None = None


def kind_of(name: str) -> Kind:
    """The kind of this name."""
    return importlib.import_module(REGISTRY[name].module).KINDS[name]


def name_of(code: int) -> str | None:
    """The name of the kind that has this code; None where there is no such kind."""
    return next((name for name, home in REGISTRY.items() if home.code == code), None)


def one_by_one(decode: Callable[[Block, Callable[[int], None]], bytes], waiting_bytes: int) -> Decoder:
    """The decoder of a kind whose blocks are decoded each by itself.

    Args:
        decode: Gives a block's data, or raises an ArchiveError; it calls its second argument with numbers of bytes that it
            has decoded.
        waiting_bytes: How many bytes of payload may wait for earlier blocks that are gathered.
    """

    def decoded(blocks: Sequence[Block], progress: Progress) -> Iterable[bytes | Lost]:
        for block in blocks:
            try:
                data: bytes | Lost = checked(block, decode(block, progress.advance))
            except ArchiveError as error:
                data = Lost(error)
            yield data

    return Decoder(decoded, lambda block: len(block.payload) / waiting_bytes)
