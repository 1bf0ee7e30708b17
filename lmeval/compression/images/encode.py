"""A set of images to an archive, by bits-back coding with a density: blocks of many images, each decodable by itself."""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from lmeval import results
from lmeval.compression.container import archive
from lmeval.compression.container.frame import MAX_BLOCK_BYTES, Block, digest
from lmeval.compression.container.kinds import REGISTRY
from lmeval.compression.container.plain import plain_block, roughly_plain_size
from lmeval.compression.images import bitsback
from lmeval.compression.images.bitsback import MAX_PARTICLE_BITS, Coded, Scheme, blocks_together
from lmeval.compression.images.density_header import (
    DensityLike,
    DensitySettings,
    as_density,
    as_meta,
    short_name,
    whole_numbers,
)
from lmeval.compression.images.imagefile import ImageFile, bytes_of, levels_of, read_layout
from lmeval.compression.images.integer_vae import ROWS, IntegerVAE, chosen_step_bits, particle_numbers
from lmeval.compression.images.kinds import BITSBACK
from lmeval.compression.images.latent_tables import FEWEST_STEP_BITS
from lmeval.compute.seeds import seeded
from lmeval.densities.networks import LayeredVAE
from lmeval.errors import InputError, ModelError
from lmeval.stats import Estimate, mean_estimate

BLOCK_IMAGES = 4096  # the initial bits and the frame of a block are then a tenth of a percent of binary digits
PARTICLES = 16
PARTICLE_NUMBERS = 1 << 17  # that a network gives or a coder codes for all particles of an image, unless asked for
PLAIN_BLOCK_BYTES = 1 << 20
IN_VAIN = 1.25  # times the model's size: what quick plain codecs need where slow ones cannot win
BOUND_SAMPLES = 2  # of the latent for each image, for the bound that the code is held against
_ROWS = 512

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("encoding" or "verifying"), the bytes of input just dealt with, and the archive's size."""


@dataclass(frozen=True)
class ImageCompression:
    """What a compression of images did.

    `initial_bits` are counted in the archive; `net_bits` are the bits of the blocks' words without them: what the coder paid
    for the `n_coded` images in bits-back blocks. `elbo` is the evidence lower bound of the float model on those images, nats
    an image, from BOUND_SAMPLES draws of the latent for each; `draw_nats` is the standard deviation of such a draw about its
    image's bound, by which both the estimate of the bound and the code length (one draw) are uncertain.
    """

    n_bytes: int
    n_archive_bytes: int
    n_header_bytes: int
    n_images: int
    n_coded: int
    n_dims: int
    initial_bits: int
    net_bits: int
    elbo: Estimate | None
    draw_nats: float
    n_blocks: dict[str, int]
    n_not_verified: int
    settings: DensitySettings
    encode_seconds: float
    verify_seconds: float
    verified: bool

    @property
    def gross_bits_per_dim(self) -> float:
        """Bits of the whole archive, initial bits, header and frame included, for each number of the images."""
        return _ratio(8 * self.n_archive_bytes, self.n_images * self.n_dims)

    @property
    def net_bits_per_dim(self) -> float:
        """Bits that the coded images added to the stack, for each of their numbers."""
        return _ratio(self.net_bits, self.n_coded * self.n_dims)

    @property
    def bound_bits_per_dim(self) -> float:
        """The negative evidence lower bound of the float model on the coded images."""
        return float("nan") if self.elbo is None else -self.elbo.value / (self.n_dims * np.log(2))

    @property
    def excess(self) -> float:
        """Net code length over the bound, less 1."""
        return self.net_bits_per_dim / self.bound_bits_per_dim - 1

    @property
    def excess_stderr(self) -> float:
        """Standard error of the excess: both numbers rest on random latents."""
        if self.elbo is None:
            return float("nan")
        return float(self.draw_nats * np.sqrt((1 + 1 / BOUND_SAMPLES) / self.n_coded) / abs(self.elbo.value))


def _ratio(bits: float, numbers: int) -> float:
    return bits / numbers if numbers else float("nan")


class ImageSettings(NamedTuple):
    """How to compress images. `particles` are the latents drawn for each image, a power of two: the price comes near to the
    importance-weighted bound with so many, and time grows with them (None: 16, or fewer for wide networks). `verify` decodes
    every block before it is written; `data_dir` is where else the weights of a density file are looked for."""

    particles: int | None = None
    verify: bool = True
    data_dir: str | None = None


def compress_images_to(
    out: BinaryIO,
    data: memoryview,
    density: DensityLike,
    settings: ImageSettings = ImageSettings(),  # noqa: B008 (immutable)
    *,
    progress: Progress | None = None,
) -> ImageCompression:
    """Write an archive of an image set's file (.npy in C order, or idx of bytes) to `out`; it decodes to the same bytes.

    Blocks that the density does not shorten are coded without it. Memory does not grow with the set. Raises InputError where
    the file holds no images that the density takes, and ModelError where exact integers cannot run the density.
    """
    loaded = as_density(density, settings.data_dir)
    vae = whole_numbers(loaded)
    particle_bits = _particle_bits(vae, settings.particles)
    layout = read_layout(data, vae.n_dims)
    for first, n in _spans(layout, BLOCK_IMAGES):
        levels_of(data, layout, first, n, vae.levels, loaded.name)  # refused here, before anything is written
    sample = levels_of(data, layout, 0, min(layout.n, ROWS), vae.levels, loaded.name)
    step_bits = chosen_step_bits(vae, sample) if layout.n else FEWEST_STEP_BITS
    wanted = DensitySettings(
        short_name(loaded),
        loaded.weights_sha256,
        vae.sha256,
        vae.observation,
        vae.levels,
        vae.n_dims,
        vae.n_latent,
        step_bits,
        particle_bits,
        layout.dtype,
    )
    assert isinstance(loaded.model, LayeredVAE)
    scheme = Scheme(vae, step_bits, particle_bits)
    job = _Job(data, layout, scheme, loaded.model, wanted, settings, progress)
    header = archive.write_header(out, _meta(data, wanted))
    job.n_written = job.n_header_bytes = archive.header_bytes(header)
    for block in job.blocks():
        line = archive.write_block(out, block, header.seed)
        job.lines.append(line)
        job.n_written += line[0]
    return job.finished(archive.write_end(out, job.lines, job.n_header_bytes, header.seed))


def first_images(data: memoryview, found: ImageCompression, n: int) -> UInt8[np.ndarray, "n dims"]:
    """Levels of the first `n` images, or all, of a file that was compressed."""
    layout, wanted = read_layout(data, found.n_dims), found.settings
    return levels_of(data, layout, 0, min(n, layout.n), wanted.levels, wanted.name)


def _particle_bits(vae: IntegerVAE, particles: int | None) -> int:
    if particles is not None:
        if not 1 <= particles <= 1 << MAX_PARTICLE_BITS or particles & (particles - 1):
            raise InputError(f"particles is {particles}: give a power of two from 1 to {1 << MAX_PARTICLE_BITS:,}")
        return particles.bit_length() - 1
    return max(0, min(PARTICLES, PARTICLE_NUMBERS // particle_numbers(vae)).bit_length() - 1)


def _meta(data: memoryview, wanted: DensitySettings) -> dict[str, Any]:
    versions = {name: results.versions()[name] for name in ("lmeval", "numpy")}
    return {
        "n_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "versions": versions,
        "density": as_meta(wanted),
    }


def _spans(layout: ImageFile, block_images: int) -> Iterator[tuple[int, int]]:
    """Blocks of images: first and number; about equally many in each."""
    most = min(block_images, MAX_BLOCK_BYTES // max(1, layout.image_bytes))
    if most < 1:
        raise ModelError(f"an image of {layout.image_bytes:,} bytes is larger than a block of an archive can be")
    n_blocks = -(-layout.n // most)
    bounds = [layout.n * i // n_blocks for i in range(n_blocks + 1)] if n_blocks else [0]
    yield from ((first, stop - first) for first, stop in itertools.pairwise(bounds))


@dataclass
class _Job:
    """What is known and counted while blocks are made."""

    data: memoryview
    layout: ImageFile
    scheme: Scheme
    model: LayeredVAE
    wanted: DensitySettings
    settings: ImageSettings
    progress: Progress | None
    n_written: int = 0
    n_header_bytes: int = 0
    n_coded: int = 0
    initial_bits: int = 0
    net_bits: int = 0
    n_not_verified: int = 0
    encode_seconds: float = 0.0
    verify_seconds: float = 0.0
    lines: list[tuple[int, int]] = field(default_factory=list)
    draws: list[Float64[np.ndarray, "samples n"]] = field(default_factory=list)
    n_blocks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REGISTRY, 0))

    def blocks(self) -> Iterator[Block]:
        """All blocks of the archive: what is in front of the images, the images, what is behind them."""
        yield from self._plain(0, self.layout.first)
        together = blocks_together(self.scheme, BLOCK_IMAGES * max(self.layout.image_bytes, self.scheme.vae.n_dims))
        group: list[tuple[int, int]] = []
        for span in _spans(self.layout, BLOCK_IMAGES):
            group.append(span)
            if len(group) == together:
                yield from self._coded(group)
                group = []
        if group:
            yield from self._coded(group)
        yield from self._plain(self.layout.stop, len(self.data))

    def _plain(self, first: int, stop: int) -> Iterator[Block]:
        for begin in range(first, stop, PLAIN_BLOCK_BYTES):
            piece = bytes(self.data[begin : min(stop, begin + PLAIN_BLOCK_BYTES)])
            yield self._counted(plain_block(piece, begin))
            self._tell("encoding", len(piece))
            self._tell("verifying", len(piece))

    def _coded(self, spans: list[tuple[int, int]]) -> Iterator[Block]:
        began = time.perf_counter()
        images = [levels_of(self.data, self.layout, *span, self.scheme.vae.levels, self.wanted.name) for span in spans]
        size = self.layout.image_bytes
        coded = bitsback.encode_blocks(self.scheme, images, lambda n: self._tell("encoding", n * size))
        self.encode_seconds += time.perf_counter() - began
        began = time.perf_counter()
        decoded = self._decoded(coded) if self.settings.verify else images
        self.verify_seconds += time.perf_counter() - began
        for (first, _), x, part, back in zip(spans, images, coded, decoded, strict=True):
            offset = self.layout.first + first * size
            piece = bytes(self.data[offset : offset + len(x) * size])
            # Other bytes can stand for the same levels, such as a float's minus zero.
            good = back is not None and bytes_of(back, self.layout.dtype) == piece
            self.n_not_verified += back is None or not np.array_equal(back, x)
            size_here = 4 * len(part.words)
            # The plain codecs' best effort takes longer than all the rest: not where it would be in vain.
            if not good or size_here * IN_VAIN >= roughly_plain_size(piece):
                plain = plain_block(piece, offset)
                if not good or len(plain.payload) <= size_here:
                    yield self._counted(plain)
                    continue
            self.n_coded += len(x)
            self.initial_bits += 32 * part.n_initial
            self.net_bits += 32 * (len(part.words) - part.n_initial)
            self.draws.append(bound_draws(self.model, x, first))
            yield self._counted(bitsback_block(part, piece, offset))

    def _decoded(self, coded: list[Coded]) -> list[UInt8[np.ndarray, "n dims"] | None]:
        size = self.layout.image_bytes
        return bitsback.decode_blocks(self.scheme, coded, lambda n: self._tell("verifying", n * size))

    def _counted(self, block: Block) -> Block:
        self.n_blocks[block.kind] += 1
        return block

    def _tell(self, stage: str, n_bytes: int) -> None:
        if self.progress and (stage == "encoding" or self.settings.verify):
            self.progress(stage, n_bytes, self.n_written)

    def finished(self, n_archive_bytes: int) -> ImageCompression:
        draws = np.concatenate(self.draws, axis=1) if self.draws else np.zeros((BOUND_SAMPLES, 0))
        noise = float(np.sqrt(draws.var(axis=0, ddof=1).mean())) if draws.shape[1] else float("nan")
        return ImageCompression(
            n_bytes=len(self.data),
            n_archive_bytes=n_archive_bytes,
            n_header_bytes=self.n_header_bytes,
            n_images=self.layout.n,
            n_coded=self.n_coded,
            n_dims=self.layout.n_dims,
            initial_bits=self.initial_bits,
            net_bits=self.net_bits,
            elbo=mean_estimate(draws.mean(axis=0)) if draws.shape[1] else None,
            draw_nats=noise,
            n_blocks=self.n_blocks,
            n_not_verified=self.n_not_verified,
            settings=self.wanted,
            encode_seconds=self.encode_seconds,
            verify_seconds=self.verify_seconds,
            verified=self.settings.verify and self.n_coded > 0,
        )


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


def bound_draws(model: LayeredVAE, images: UInt8[np.ndarray, "n dims"], seed: int = 0) -> Float64[np.ndarray, "samples n"]:
    """Draws of log p(x, z) - log q(z|x), z from q, of the float model: unbiased for the evidence lower bound, in nats."""
    found = np.empty((BOUND_SAMPLES, len(images)))
    device = model.mean.bias.device
    with seeded(seed, device), torch.inference_mode():
        for first in range(0, len(images), _ROWS):
            x = torch.from_numpy(images[first : first + _ROWS].astype(np.float32)).to(device)
            q = model.encode(x)
            for draws in found:
                z = q.sample()
                nats = model.decode(z).log_prob(x) + model.prior.log_prob(z) - q.log_prob(z)
                draws[first : first + _ROWS] = nats.double().cpu().numpy()
    return found
