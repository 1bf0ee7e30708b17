"""A set of images to an archive, by bits-back coding with a density: blocks of many images, each decodable by itself."""

import hashlib
import itertools
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from lmeval import results
from lmeval.compression.container import archive
from lmeval.compression.container.frame import MAX_BLOCK_BYTES, Block, digest
from lmeval.compression.container.header import Header
from lmeval.compression.container.plain import plain_block, roughly_plain_size
from lmeval.compression.images import bitsback
from lmeval.compression.images.account import ByDensity, Tally, image_report
from lmeval.compression.images.bitsback import MAX_PARTICLE_BITS, Coded, Scheme, blocks_together
from lmeval.compression.images.bounds import bound_draws
from lmeval.compression.images.density_header import (
    DensityLike,
    DensitySettings,
    as_density,
    as_meta,
    describe_density,
    short_name,
    whole_numbers,
)
from lmeval.compression.images.imagefile import ImageFile, bytes_of, levels_of, read_layout
from lmeval.compression.images.integer_vae import ROWS, Images, IntegerVAE, choose_step_bits, particle_numbers
from lmeval.compression.images.kinds import BITSBACK
from lmeval.compression.images.latent_tables import FEWEST_STEP_BITS
from lmeval.compute.gather import as_place
from lmeval.compute.place import Place, describe_place
from lmeval.densities.named import LoadedDensity
from lmeval.densities.networks import LayeredVAE
from lmeval.errors import InputError, ModelError
from lmeval.progress import SILENT, Progress
from lmeval.results import Report

BLOCK_IMAGES = 4096  # the initial bits and the frame of a block are then a tenth of a percent of binary digits
PARTICLES = 16
PARTICLE_NUMBERS = 1 << 17  # that a network gives or a coder codes for all particles of an image, unless asked for
PLAIN_BLOCK_BYTES = 1 << 20
HOPELESS_FOR_PLAIN = 1.25  # where quick plain codecs take this many times the model's bytes, slow ones do not win either


class ImageSettings(NamedTuple):
    """How to compress images.

    Attributes:
        particles: Latents drawn for each image, a power of two. The price comes near to the importance-weighted bound
            with this number of draws, and time grows with it. None: 16, or fewer for wide networks.
        verify: Whether to decode every block before it is written.
        data_dir: Where else the weights of a density file are looked for.
    """

    particles: int | None = None
    verify: bool = True
    data_dir: str | None = None


def compress_images_to(
    out: BinaryIO,
    data: memoryview,
    density: DensityLike,
    settings: ImageSettings = ImageSettings(),  # noqa: B008 (immutable)
    *,
    place: Place | str = "auto",
    progress: Progress = SILENT,
) -> Report:
    """Write an archive of an image set's file, which decodes to the same bytes.

    Blocks that the density does not shorten are coded without it. Memory does not grow with the set.

    Args:
        out: Where the archive goes.
        data: A .npy file in C order, or an idx file of bytes.
        density: A latent density with an encoder: loaded, bundled, or a file.
        settings: How to compress.
        place: Where to work: of it the memory counts, since exact integers run on the CPU.
        progress: Is told of the stages "encoding" and "verifying", in bytes of the file.

    Returns:
        A report of kind "compress": see `account.image_report`.

    Raises:
        InputError: The file holds no images that the density takes, or the settings cannot be.
        ModelError: Exact integers cannot run the density.
    """
    began = time.perf_counter()
    loaded = as_density(density, settings.data_dir)
    place = as_place(place)._replace(device=bitsback.CPU)
    job = _job(data, loaded, settings, place, progress)
    meta = _meta(data, job.header)
    header = archive.write_header(out, meta)
    tally = Tally(archive.header_bytes(header))
    n_archive_bytes = _write_blocks(out, job, header, tally)
    provenance = results.provenance(
        "compress",
        inputs={"data": {"n_bytes": len(data), "sha256": meta["sha256"]}},
        models=[describe_density(loaded)],
        place=describe_place(place),
        settings=settings._asdict() | {"particles": job.scheme.n_particles},
        seconds=time.perf_counter() - began,
    )
    return image_report(tally, job.layout, n_archive_bytes, job.header, verify=settings.verify, provenance=provenance)


class _Job(NamedTuple):
    """What is compressed, with what, and who is told of it."""

    data: memoryview
    layout: ImageFile
    scheme: Scheme
    model: LayeredVAE
    header: DensitySettings
    verify: bool
    place: Place
    progress: Progress

    def tell(self, stage: str, n_bytes: int, note: str = "") -> None:
        """Let `n_bytes` more of the file be done in a stage."""
        if stage == "encoding" or self.verify:
            self.progress.stage(stage, len(self.data), "bytes")
            self.progress.advance(n_bytes, note)


def _job(data: memoryview, loaded: LoadedDensity, settings: ImageSettings, place: Place, progress: Progress) -> _Job:
    """Read the file's images once, so that what the density does not take is refused before anything is written."""
    vae = whole_numbers(loaded)
    particle_bits = _particle_bits(vae, settings.particles)
    layout = read_layout(data, vae.n_dims)
    for first, n in _spans(layout, BLOCK_IMAGES):
        levels_of(data, layout, first, n, vae.levels, loaded.name)
    sample = levels_of(data, layout, 0, min(layout.n, ROWS), vae.levels, loaded.name)
    step_bits = choose_step_bits(vae, sample) if layout.n else FEWEST_STEP_BITS
    header = DensitySettings(
        name=short_name(loaded),
        weights_sha256=loaded.weights_sha256,
        network_sha256=vae.sha256,
        observation=vae.observation,
        levels=vae.levels,
        n_dims=vae.n_dims,
        n_latent=vae.n_latent,
        step_bits=step_bits,
        particle_bits=particle_bits,
        dtype=layout.dtype,
    )
    assert isinstance(loaded.model, LayeredVAE)
    scheme = Scheme(vae, step_bits, particle_bits)
    return _Job(data, layout, scheme, loaded.model, header, settings.verify, place, progress)


def _write_blocks(out: BinaryIO, job: _Job, header: Header, tally: Tally) -> int:
    """Write everything after the header, counting it; the archive's length."""
    for group in _groups(job):
        tally.encode_seconds += group.encode_seconds
        tally.verify_seconds += group.verify_seconds
        tally.n_not_verified += group.n_not_verified
        for block, by_density in group.blocks:
            tally.add(archive.write_block(out, block, header.seed), block, by_density)
            job.tell("encoding", 0, tally.running_rate)
    return archive.write_end(out, tally.lines, tally.n_header_bytes, header.seed)


def _particle_bits(vae: IntegerVAE, particles: int | None) -> int:
    if particles is not None:
        if not 1 <= particles <= 1 << MAX_PARTICLE_BITS or particles & (particles - 1):
            raise InputError(f"particles is {particles}: give a power of two from 1 to {1 << MAX_PARTICLE_BITS:,}")
        return particles.bit_length() - 1
    return max(0, min(PARTICLES, PARTICLE_NUMBERS // particle_numbers(vae)).bit_length() - 1)


def _meta(data: memoryview, density: DensitySettings) -> dict[str, Any]:
    versions = {name: results.versions()[name] for name in ("lmeval", "numpy")}
    return {
        "n_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": versions,
        "density": as_meta(density),
    }


def _spans(layout: ImageFile, block_images: int) -> Iterator[tuple[int, int]]:
    """Blocks of images: first and number; about equally many in each."""
    most = min(block_images, MAX_BLOCK_BYTES // max(1, layout.image_bytes))
    if most < 1:
        raise ModelError(f"an image of {layout.image_bytes:,} bytes is larger than a block of an archive can be")
    n_blocks = -(-layout.n // most)
    bounds = [layout.n * i // n_blocks for i in range(n_blocks + 1)] if n_blocks else [0]
    yield from ((first, stop - first) for first, stop in itertools.pairwise(bounds))


class _Group(NamedTuple):
    """Blocks that were made together: what the density did for each (None for blocks that it did not code), the seconds that
    they took, and how many of them did not decode to the same images."""

    blocks: list[tuple[Block, ByDensity | None]]
    encode_seconds: float = 0.0
    verify_seconds: float = 0.0
    n_not_verified: int = 0


def _groups(job: _Job) -> Iterator[_Group]:
    """All blocks of the archive: what is before the images, the images, what is after them."""
    yield from _plain_groups(job, 0, job.layout.first)
    block_bytes = BLOCK_IMAGES * max(job.layout.image_bytes, job.scheme.vae.n_dims)
    spans = iter(_spans(job.layout, BLOCK_IMAGES))
    while together := list(itertools.islice(spans, blocks_together(job.scheme, block_bytes, job.place))):
        yield _coded_group(job, together)
    yield from _plain_groups(job, job.layout.stop, len(job.data))


def _plain_groups(job: _Job, first: int, stop: int) -> Iterator[_Group]:
    for begin in range(first, stop, PLAIN_BLOCK_BYTES):
        piece = bytes(job.data[begin : min(stop, begin + PLAIN_BLOCK_BYTES)])
        block = plain_block(piece, begin)
        job.tell("encoding", len(piece))
        job.tell("verifying", len(piece))
        yield _Group([(block, None)])


def _coded_group(job: _Job, spans: list[tuple[int, int]]) -> _Group:
    """Blocks of the images of some spans (first image, number), coded side by side and decoded again."""
    began = time.perf_counter()
    size = job.layout.image_bytes
    images = [levels_of(job.data, job.layout, *span, job.scheme.vae.levels, job.header.name) for span in spans]
    coded = bitsback.encode_blocks(job.scheme, images, lambda n: job.tell("encoding", n * size))
    encoded = time.perf_counter()
    decoded: list[Images | None] = list(images)
    if job.verify:
        decoded = bitsback.decode_blocks(job.scheme, coded, lambda n: job.tell("verifying", n * size))
    verified = time.perf_counter()
    equal = [back is not None and np.array_equal(back, x) for x, back in zip(images, decoded, strict=True)]
    blocks = [
        _shortest_block(job, first, x, part if same else None)
        for (first, _), x, part, same in zip(spans, images, coded, equal, strict=True)
    ]
    return _Group(blocks, encoded - began, verified - encoded, equal.count(False))


def _shortest_block(job: _Job, first: int, images: Images, coded: Coded | None) -> tuple[Block, ByDensity | None]:
    """The block of the images from the `first` on: by the density, or without it where that is shorter or `coded` None."""
    size = job.layout.image_bytes
    offset = job.layout.first + first * size
    piece = bytes(job.data[offset : offset + len(images) * size])
    # Other bytes can stand for the same levels, such as a float's minus zero.
    if coded is None or bytes_of(images, job.layout.dtype) != piece:
        return plain_block(piece, offset), None
    n_bytes = 4 * len(coded.words)
    # The plain codecs' best effort takes longer than all the rest: not where it cannot win.
    if n_bytes * HOPELESS_FOR_PLAIN >= roughly_plain_size(piece):
        plain = plain_block(piece, offset)
        if len(plain.payload) <= n_bytes:
            return plain, None
    initial_bits, net_bits = 32 * coded.n_initial, 32 * (len(coded.words) - coded.n_initial)
    draws = bound_draws(job.model, images, first)
    return bitsback_block(coded, piece, offset), ByDensity(len(images), initial_bits, net_bits, draws)


def bitsback_block(coded: Coded, data: bytes, offset: int) -> Block:
    """The block of the archive that holds coded images."""
    return Block(
        kind=BITSBACK,
        flags=0,
        offset=offset,
        n_bytes=len(data),
        n_lanes=0,
        n_units=coded.n_images,
        parameter=coded.n_initial,
        digest=digest(data),
        payload=coded.words.astype("<u4").tobytes(),
    )
