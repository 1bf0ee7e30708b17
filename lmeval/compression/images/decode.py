"""Blocks of images back to bytes: the density of an archive found and checked, blocks decoded side by side."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from lmeval.compression.container import archive
from lmeval.compression.container.archive import Block, Header
from lmeval.compression.images import bitsback
from lmeval.compression.images.bitsback import Coded, IntegerVAE, Scheme, blocks_together
from lmeval.compression.images.density_header import DensitySettings, from_meta, needed_density
from lmeval.compression.images.imagefile import bytes_of
from lmeval.errors import ArchiveError, CorruptArchive


class DensityHolder:
    """Loads the density when the first block needs it, and checks that it is the one that encoded."""

    def __init__(self, given: Any, data_dir: str | None) -> None:
        self.given = given
        self.data_dir = data_dir
        self._found: dict[DensitySettings, IntegerVAE] = {}

    def get(self, header: Header) -> tuple[IntegerVAE, DensitySettings]:
        """Raises CorruptArchive, ModelMismatch, ModelError."""
        wanted = from_meta(header.meta["density"])
        if wanted not in self._found:
            self._found = {wanted: needed_density(wanted, self.given, self.data_dir)}
        return self._found[wanted], wanted


def decoded_images(
    blocks: Iterable[Block], header: Header, holder: DensityHolder, progress: Callable[[int], None] | None, *, lenient: bool
) -> Iterator[bytes | None]:
    """Data of the blocks of an archive of images, in order. `lenient` gives None for a block that cannot be decoded, which
    is an ArchiveError otherwise."""
    waiting: list[Block] = []
    largest = 0
    for block in blocks:
        if block.kind == archive.BITSBACK:
            vae, wanted = holder.get(header)
            largest = max(largest, block.n_bytes, block.n_tokens * vae.n_dims)
            if len(waiting) >= blocks_together(Scheme(vae, wanted.step_bits, wanted.particle_bits), largest):
                yield from _flushed(waiting, header, holder, progress, lenient=lenient)
                waiting, largest = [], 0
        waiting.append(block)
        if block.kind != archive.BITSBACK:
            yield from _flushed(waiting, header, holder, progress, lenient=lenient)
            waiting, largest = [], 0
    yield from _flushed(waiting, header, holder, progress, lenient=lenient)


def _flushed(
    waiting: list[Block], header: Header, holder: DensityHolder, progress: Callable[[int], None] | None, *, lenient: bool
) -> Iterator[bytes | None]:
    images = _images_of([block for block in waiting if block.kind == archive.BITSBACK], header, holder, progress)
    for block in waiting:
        try:
            if block.kind == archive.BITSBACK:
                yield _checked(block, next(images), holder.get(header)[1])
                continue
            if block.kind in (*archive.BY_MODEL, archive.ONLINE):
                raise CorruptArchive("the archive of images holds a block that codes text: no encoder writes that")
            data = archive.plain_data(block)
            if progress:
                progress(len(data))
            yield data
        except ArchiveError:
            if not lenient:
                raise
            yield None


def _images_of(
    coded: list[Block], header: Header, holder: DensityHolder, progress: Callable[[int], None] | None
) -> Iterator[np.ndarray | None]:
    """Images of bits-back blocks; None for those whose header or payload cannot be an encoder's."""
    if not coded:
        return iter(())
    vae, wanted = holder.get(header)
    scheme = Scheme(vae, wanted.step_bits, wanted.particle_bits)
    size = vae.n_dims * np.dtype(wanted.dtype).itemsize
    found: list[np.ndarray | None] = [None] * len(coded)
    sound = [
        i
        for i, block in enumerate(coded)
        if block.n_bytes == block.n_tokens * size
        and block.group_tokens <= scheme.most_initial_words
        and _words(block) is not None
    ]
    parts = [Coded(_words(coded[i]), coded[i].group_tokens, coded[i].n_tokens) for i in sound]
    if parts:
        decoded = bitsback.decode_blocks(scheme, parts, lambda n: progress(n * size) if progress else None)
        for i, images in zip(sound, decoded, strict=True):
            found[i] = images
    return iter(found)


def _words(block: Block) -> Any:
    """The words of a stack; None where it cannot be one: it ends in a word that is not zero."""
    if len(block.payload) % 4:
        return None
    words = np.frombuffer(block.payload, dtype="<u4").astype(np.uint32)
    return words if not len(words) or words[-1] else None


def _checked(block: Block, images: np.ndarray | None, wanted: DensitySettings) -> bytes:
    """Its payload is whole (its checksum said so): it was not written by an encoder with this density."""
    if images is None:
        raise CorruptArchive(
            f"block of bytes {block.offset:,} to {block.offset + block.n_bytes:,}: its payload is none that bits-back "
            f"coding with {wanted.name} writes"
        )
    return archive.checked(block, bytes_of(images, wanted.dtype))
