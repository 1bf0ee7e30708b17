"""Bits-back coding: images by a latent-variable model, at the price of its bound or less.

A stack of bits holds the coded images. To add an image x, the encoder takes bits from the stack as uniform numbers u, and by
them draws latents z_1 .. z_K from the posterior q(z|x). It takes more bits to choose one, c, in proportion to the weights
w_j = p(x, z_j) / q(z_j|x). It pushes what of u its latent does not tell, then x given z_c, z_c under the prior, and c. The
net price is -log (1/K) sum_j w_j: for K = 1 minus the evidence lower bound on average (Townsend, Bird and Barber 2019), for
more the importance-weighted bound, which is tighter (Ruan et al. 2021). The decoder pops c, z_c and x, finds u, draws the
same latents and puts c and u back: the stack is what it was before the image, and the initial words after the last.

One u serves all K latents, by shifts: particle j is drawn from u + (j g mod K)/K mod 1, with an odd g for each dimension.
Every z_j has the distribution q, which is all that the bound needs, and the bits to begin with do not grow with K.

Networks run in exact integers (`fixed_point`), and all probabilities are integers (`latent_tables`, `pixels`): encoder and
decoder agree on every machine. Several blocks go side by side, one stack each, an image of each at a time.

The bits that u is made of are those that the image before left. Where the model fits badly they are no fair coins: taken
as they are, 3000 black images cost 11% to 13% more than their bound. So u is XORed with bits that depend on nothing but the
place of the image: over those it is uniform, and the expected price is the bound, whatever the images.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import constriction  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, UInt32

from lmeval.compression.coding.integer_tables import log_parts
from lmeval.compression.images import pixels
from lmeval.compression.images.fixed_point import run_integers
from lmeval.compression.images.integer_vae import Images, IntegerVAE, particle_numbers, posteriors
from lmeval.compression.images.latent_tables import (
    DRAW_BITS,
    PART_BITS,
    Posterior,
    PosteriorTables,
    coder_model,
    latent_values,
    parts,
    prior,
)
from lmeval.compute.threads import one_thread

MAX_PARTICLE_BITS = 10
CPU = torch.device("cpu")
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]
_DECISION = _stream.model.Categorical(perfect=False)
_DRAW = _stream.model.Uniform(1 << DRAW_BITS)
_REST = _stream.model.Uniform()
BLOCKS_TOGETHER = 8
TOGETHER_BYTES = 1 << 28  # of working memory, at most, while blocks are coded side by side


class Scheme(NamedTuple):
    """How a density codes: latents in steps of 2^-step_bits, and 2^particle_bits of them for each image."""

    vae: IntegerVAE
    step_bits: int
    particle_bits: int

    @property
    def n_particles(self) -> int:
        """Latents drawn for each image."""
        return 1 << self.particle_bits

    @property
    def most_initial_words(self) -> int:
        """Words that an encoder starts with; those that it does not touch it does not keep."""
        return -(-self.vae.n_latent * DRAW_BITS // 32) + 4

    def shifts(self) -> Int64[np.ndarray, "particles latents"]:
        """What is added to a uniform number for each particle: multiples of 1/K, in another order for each latent."""
        odd = _words(b"shift", 0, self.vae.n_latent).astype(np.int64) | 1
        order = np.arange(self.n_particles)[:, None] * odd & (self.n_particles - 1)
        return order << (DRAW_BITS - self.particle_bits)


def blocks_together(scheme: Scheme, block_bytes: int) -> int:
    """How many blocks are coded side by side: their images and some 200 bytes for each number of each particle."""
    working = block_bytes + 200 * scheme.n_particles * particle_numbers(scheme.vae)
    return max(1, min(BLOCKS_TOGETHER, TOGETHER_BYTES // working))


class Coded(NamedTuple):
    """A block's words, and how many words its stack began with: the decoder ends with them."""

    words: UInt32[np.ndarray, " words"]
    n_initial: int
    n_images: int


class _Particles(NamedTuple):
    """For each of some images: all latents, what of their uniform numbers they leave open, how to code it with each."""

    k: Int64[np.ndarray, "n particles latents"]
    rest: Int64[np.ndarray, "n particles latents"]
    sizes: Int64[np.ndarray, "n particles latents"]
    ones: Int64[np.ndarray, "n particles decisions"]
    bits: Int32[np.ndarray, "n decisions"]
    choice: list[Any]  # of a particle by its weight: the coder's models


def _words(label: bytes, i: int, n: int) -> UInt32[np.ndarray, " n"]:
    """n words from BLAKE2b of label, i and a counter: bits that have nothing to do with any data."""
    head = label + i.to_bytes(4, "little")
    text = b"".join(hashlib.blake2b(head + j.to_bytes(4, "little")).digest() for j in range(-(-n // 16)))
    return np.frombuffer(text, dtype="<u4")[:n].astype(np.uint32)


def initial_words(n: int) -> UInt32[np.ndarray, " n"]:
    """The stack before the first image, top word last. Its highest bit is set: a stack cannot begin with a zero word."""
    found = _words(b"initial", 0, n)[::-1].copy()
    found[-1:] |= np.uint32(1 << 31)
    return found


def _pad(i: int, n_latent: int) -> Int32[np.ndarray, " latents"]:
    """What the uniform numbers of the i-th image of a block are XORed with."""
    return (_words(b"pad", i, n_latent) >> (32 - DRAW_BITS)).astype(np.int32)


def _drawn(
    scheme: Scheme,
    tables: PosteriorTables,
    shifts: Int64[np.ndarray, "particles latents"],
    q: Posterior,
    uniform: Int64[np.ndarray, "n latents"],
    x: Images,
) -> _Particles:
    """All particles of some images, from their posteriors and uniform numbers."""
    vae, p = scheme.vae, prior(scheme.step_bits)
    shifted = (uniform[:, None] + shifts) & ((1 << DRAW_BITS) - 1)
    offsets = tables.drawn(q.table[:, None], shifted)
    first, sizes = tables.interval(q.table[:, None], offsets)
    k = offsets + q.centre[:, None]
    n, n_particles, n_latent = k.shape
    bit_parts = _decoded(scheme, k.reshape(-1, n_latent))
    images = np.repeat(x.astype(np.int64), n_particles, axis=0)
    places = range(pixels.n_bits(vae.levels) - 1, -1, -1)
    ones = np.concatenate([bit_parts(images >> (b + 1), b) for b in places], axis=1)
    ones = ones.reshape(n, n_particles, -1)
    bits = np.concatenate([(x >> b & 1).astype(np.int32) for b in places], axis=1)
    choice: list[Any] = []
    if n_particles > 1:
        logs = log_parts(np.where(bits[:, None] == 1, ones, (1 << PART_BITS) - ones)).sum(axis=2)
        logs += log_parts(p.parts[k - p.first]).sum(axis=2) - log_parts(sizes).sum(axis=2)
        choice = [coder_model(parts((row.max() - row) >> 4)) for row in logs]
    return _Particles(k, shifted - first, sizes, ones, bits, choice)


def _decoded(scheme: Scheme, k: Int64[np.ndarray, "n latents"]) -> pixels.Bits:
    vae = scheme.vae
    outputs = run_integers(vae.decoder, latent_values(k, scheme.step_bits))
    return pixels.bit_parts(vae.observation, vae.levels, outputs)


@one_thread(CPU)  # products so small that threads wait for each other longer than they compute
def encode_blocks(scheme: Scheme, blocks: Sequence[Images], progress: Callable[[int], None] | None = None) -> list[Coded]:
    """Code blocks of images, each by itself; `progress` is called with the number of images just coded."""
    words, n_latent = initial_words(scheme.most_initial_words), scheme.vae.n_latent
    coders = [_stream.stack.AnsCoder(words) for _ in blocks]
    fewest = [len(words)] * len(blocks)
    tables, shifts, p = PosteriorTables(), scheme.shifts(), prior(scheme.step_bits)
    uniform_c = _stream.model.Uniform(scheme.n_particles) if scheme.particle_bits else None
    found = [posteriors(scheme.vae, scheme.step_bits, images) for images in blocks]
    for i in range(max(map(len, blocks)) - 1, -1, -1):
        active = [c for c in range(len(blocks)) if i < len(blocks[c])]
        pad = _pad(i, n_latent)
        uniform = np.stack([coders[c].decode(_DRAW, n_latent) ^ pad for c in active]).astype(np.int64)
        q = Posterior(*(np.stack([found[c][part][i] for c in active]) for part in range(2)))
        drawn = _drawn(scheme, tables, shifts, q, uniform, np.stack([blocks[c][i] for c in active]))
        for row, c in enumerate(active):
            coder = coders[c]
            chosen = int(coder.decode(drawn.choice[row])) if uniform_c else 0
            fewest[c] = min(fewest[c], coder.num_words())
            _push_rest(coder, drawn.rest[row, chosen], drawn.sizes[row, chosen])
            coder.encode_reverse(drawn.bits[row], _DECISION, pixels.coder_weights(drawn.ones[row, chosen]))
            coder.encode_reverse((drawn.k[row, chosen] - p.first).astype(np.int32), p.coder_model)
            if uniform_c:
                coder.encode_reverse(chosen, uniform_c)
        if progress:
            progress(len(active))
    # Initial words that no image has touched are those below the two of the coder's state at its lowest.
    untouched = [max(0, low - 2) for low in fewest]
    return [
        Coded(coder.get_compressed()[n:], len(words) - n, len(images))
        for coder, n, images in zip(coders, untouched, blocks, strict=True)
    ]


def _push_rest(coder: Any, rest: Int64[np.ndarray, " latents"], sizes: Int64[np.ndarray, " latents"]) -> None:
    """Which of the uniform numbers that stand for a latent; nothing where only one does."""
    some = sizes > 1
    coder.encode_reverse(rest[some].astype(np.int32), _REST, sizes[some].astype(np.int32))


def _pop_rest(coder: Any, sizes: Int64[np.ndarray, " latents"]) -> Int64[np.ndarray, " latents"]:
    found, some = np.zeros(len(sizes), dtype=np.int64), sizes > 1
    found[some] = coder.decode(_REST, sizes[some].astype(np.int32))
    return found


@one_thread(CPU)  # products so small that threads wait for each other longer than they compute
def decode_blocks(
    scheme: Scheme, blocks: Sequence[Coded], progress: Callable[[int], None] | None = None
) -> list[Images | None]:
    """The images of blocks; None for a block that no encoder wrote with this model: its stack does not end as it began."""
    coders = [_stream.stack.AnsCoder(block.words) for block in blocks]
    found = [np.zeros((block.n_images, scheme.vae.n_dims), dtype=np.uint8) for block in blocks]
    sound = [True] * len(blocks)
    tables, shifts = PosteriorTables(), scheme.shifts()
    for i in range(max(block.n_images for block in blocks)):
        active = [c for c in range(len(blocks)) if sound[c] and i < blocks[c].n_images]
        if not active:
            break
        x, good = _decode_image(scheme, tables, shifts, [coders[c] for c in active], i)
        for row, c in enumerate(active):
            found[c][i], sound[c] = x[row], bool(good[row])
        if progress:
            progress(len(active))
    return [
        images if good and np.array_equal(coder.get_compressed(), initial_words(block.n_initial)) else None
        for images, good, coder, block in zip(found, sound, coders, blocks, strict=True)
    ]


def _decode_image(
    scheme: Scheme, tables: PosteriorTables, shifts: Int64[np.ndarray, "particles latents"], coders: Sequence[Any], i: int
) -> tuple[Images, Bool[np.ndarray, " n"]]:
    """The next image of every stack, and whether an encoder can have written it."""
    vae, p = scheme.vae, prior(scheme.step_bits)
    uniform_c = _stream.model.Uniform(scheme.n_particles) if scheme.particle_bits else None
    chosen = np.array([int(coder.decode(uniform_c)) if uniform_c else 0 for coder in coders])
    k = np.stack([coder.decode(p.coder_model, vae.n_latent) for coder in coders]).astype(np.int64) + p.first
    x = _read(coders, vae, _decoded(scheme, k))
    q = posteriors(vae, scheme.step_bits, x)
    first, sizes = tables.interval(q.table, k - q.centre)
    good = np.asarray((sizes > 0).all(axis=1))
    sizes = np.maximum(sizes, 1)
    rest = np.stack([_pop_rest(coder, row) for coder, row in zip(coders, sizes, strict=True)])
    uniform = (first + rest - shifts[chosen]) & ((1 << DRAW_BITS) - 1)
    pad = _pad(i, vae.n_latent)
    drawn = _drawn(scheme, tables, shifts, q, uniform, x) if uniform_c else None
    for row, coder in enumerate(coders):
        if drawn is not None:
            coder.encode_reverse(int(chosen[row]), drawn.choice[row])
        coder.encode_reverse(uniform[row].astype(np.int32) ^ pad, _DRAW)
    return x, good


def _read(coders: Sequence[Any], vae: IntegerVAE, bit_parts: pixels.Bits) -> Images:
    """The pixels of the next image of every stack."""
    x = np.zeros((len(coders), vae.n_dims), dtype=np.int64)
    for place in range(pixels.n_bits(vae.levels) - 1, -1, -1):
        weights = pixels.coder_weights(bit_parts(x, place))
        x = x << 1 | np.stack([coder.decode(_DECISION, row) for coder, row in zip(coders, weights, strict=True)])
    return np.minimum(x, vae.levels - 1).astype(np.uint8)
