"""Blocks of images back to bytes: the density of an archive found and checked, blocks decoded side by side."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8, UInt32

from lmeval.compression.container.frame import Block, checked, span
from lmeval.compression.container.header import Header
from lmeval.compression.container.kinds import Decoder, Holder, Lost
from lmeval.compression.images import bitsback
from lmeval.compression.images.bitsback import Coded, Scheme, blocks_together
from lmeval.compression.images.density_header import DensitySettings, from_meta, needed_density
from lmeval.compression.images.imagefile import bytes_of
from lmeval.compute.place import alone
from lmeval.errors import ArchiveError, CorruptArchive
from lmeval.progress import Progress


def images_decoder(header: Header, holder: Holder) -> Decoder:
    """Decoder of the blocks that the archive's density coded, as many side by side as memory suggests.

    Raises:
        CorruptArchive: The header names no density, or one that cannot be.
        ModelMismatch: The density at hand is another one, or none is to be found.
    """
    if "density" not in header.meta:
        raise CorruptArchive("the archive has blocks of images, but its header names no density")
    wanted = from_meta(header.meta["density"])
    vae = holder.get(wanted, lambda: needed_density(wanted, holder.given, holder.data_dir))
    scheme = Scheme(vae, wanted.step_bits, wanted.particle_bits)
    place = (holder.place or alone())._replace(device=bitsback.CPU)  # exact integers run on the CPU
    size = vae.n_dims * np.dtype(wanted.dtype).itemsize

    def decode(blocks: Sequence[Block], progress: Progress) -> Iterable[bytes | Lost]:
        coded = [_coded(block, scheme, size) for block in blocks]
        parts = [part for part in coded if part is not None]
        decoded = iter(bitsback.decode_blocks(scheme, parts, lambda n: progress.advance(n * size)) if parts else ())
        for block, part in zip(blocks, coded, strict=True):
            yield _data(block, None if part is None else next(decoded), wanted)

    def share(block: Block) -> float:
        return 1 / blocks_together(scheme, max(block.n_bytes, block.n_units * vae.n_dims), place)

    return Decoder(decode, share, gathers=True)


def _coded(block: Block, scheme: Scheme, image_bytes: int) -> Coded | None:
    """The block's stack; None where its numbers or its payload cannot be an encoder's with this density."""
    words = _words(block.payload)
    possible = block.n_bytes == block.n_units * image_bytes and block.parameter <= scheme.most_initial_words
    return Coded(words, block.parameter, block.n_units) if possible and words is not None else None


def _words(payload: bytes) -> UInt32[np.ndarray, " words"] | None:
    """The words of a stack; None where it cannot be one: it ends in a word that is zero."""
    if len(payload) % 4:
        return None
    words = np.frombuffer(payload, dtype="<u4").astype(np.uint32)
    return words if not len(words) or words[-1] else None


def _data(block: Block, images: UInt8[np.ndarray, "n dims"] | None, wanted: DensitySettings) -> bytes | Lost:
    """Its payload is whole (its checksum said so): where no images come out, no encoder wrote it with this density."""
    if images is None:
        impossible = f"{span(block)}: its payload is none that bits-back coding with {wanted.name} writes"
        return Lost(CorruptArchive(impossible))
    try:
        return checked(block, bytes_of(images, wanted.dtype))
    except ArchiveError as error:
        return Lost(error)
