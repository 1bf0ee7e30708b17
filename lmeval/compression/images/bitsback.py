"""Bits-back coding: images by a latent-variable model, at the price of its bound or less.

A stack of bits holds the coded images. The encoder reads the left column downwards, the decoder the right one upwards; on
each line the decoder undoes what the encoder does, so the stack is afterwards what it was before the image:

    encode image x                                      decode an image
    q = posterior(x)
    pop  u         uniform (XOR the image's pad)        push u         uniform (XOR the image's pad)
    z_1 .. z_K = draw(q, u)                             z_1 .. z_K = draw(q, u)
    pop  c         by the weights of z_1 .. z_K         push c         by the weights of z_1 .. z_K
                                                        u = put together from z_c, the rest and c
                                                        q = posterior(x)
    push rest      what of u its z_c leaves open        pop  rest      what of u its z_c leaves open
    push x         given z_c                            pop  x         given z_c
    push z_c       under the prior                      pop  z_c       under the prior
    push c         uniform                              pop  c         uniform

The weights are w_j = p(x, z_j) / q(z_j|x). The net price is -log (1/K) sum_j w_j: for K = 1 minus the evidence lower bound
on average (Townsend, Bird and Barber 2019), for more the importance-weighted bound, which is tighter (Ruan et al. 2021).
The stack begins with a few initial words, and the decoder ends with them.

One u serves all K latents, by shifts: particle j is drawn from u + (j g mod K)/K mod 1, with an odd g for each dimension.
Every z_j has the distribution q, which is all that the bound needs, and the bits to begin with do not grow with K.

Networks run in exact integers (`fixed_point`), and all probabilities are integers (`latent_tables`, `pixels`): encoder and
decoder agree on every machine. Several blocks go side by side, one stack each, an image of each at a time.

The bits that u is made of are those that the image before left. Where the model fits badly they are no fair coins: taken
as they are, 3000 black images cost 11% to 13% more than their bound. So u is XORed with a pad, bits that depend on nothing
but the place of the image: over those it is uniform, and the expected price is the bound, whatever the images.
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
    Prior,
    coder_model,
    latent_values,
    parts,
    prior,
)
from lmeval.compute.memory import CODED_BLOCKS, at_once
from lmeval.compute.place import Place
from lmeval.compute.threads import one_thread
from lmeval.progress import SILENT

MAX_PARTICLE_BITS = 10
CPU = torch.device("cpu")
_stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]
_DECISION = _stream.model.Categorical(perfect=False)
_DRAW = _stream.model.Uniform(1 << DRAW_BITS)
_REST = _stream.model.Uniform()


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


def blocks_together(scheme: Scheme, block_bytes: int, place: Place) -> int:
    """How many blocks are coded side by side.

    Args:
        scheme: How the density codes.
        block_bytes: Bytes of a block's images.
        place: Where this is done: of it the memory counts.

    Returns:
        As many as `memory.CODED_BLOCKS` has room for, each with its images and some 200 bytes for each number of each
        particle.
    """
    return at_once(CODED_BLOCKS, place, block_bytes + 200 * scheme.n_particles * particle_numbers(scheme.vae))


class Coded(NamedTuple):
    """A block's words, and how many words its stack began with: the decoder ends with them."""

    words: UInt32[np.ndarray, " words"]
    n_initial: int
    n_images: int


def _words(label: bytes, i: int, n: int) -> UInt32[np.ndarray, " n"]:
    """n words from BLAKE2b of label, i and a counter: bits that have nothing to do with any data."""
    head = label + i.to_bytes(4, "little")
    text = b"".join(hashlib.blake2b(head + j.to_bytes(4, "little")).digest() for j in range(-(-n // 16)))
    return np.frombuffer(text, dtype="<u4")[:n].astype(np.uint32)


def initial_words(n: int) -> UInt32[np.ndarray, " n"]:
    """The stack before the first image, top word last. Its highest bit is set: a stack cannot begin with a zero word."""
    words = _words(b"initial", 0, n)[::-1].copy()
    words[-1:] |= np.uint32(1 << 31)
    return words


def _pad(i: int, n_latent: int) -> Int32[np.ndarray, " latents"]:
    """What the uniform numbers of the i-th image of a block are XORed with."""
    return (_words(b"pad", i, n_latent) >> (32 - DRAW_BITS)).astype(np.int32)


class _Code(NamedTuple):
    """What encoder and decoder share: the scheme, and the tables that it needs."""

    scheme: Scheme
    tables: PosteriorTables
    shifts: Int64[np.ndarray, "particles latents"]
    prior: Prior
    number: Any  # the coder's model of a particle's number; None where there is one particle


def _code_of(scheme: Scheme) -> _Code:
    number = _stream.model.Uniform(scheme.n_particles) if scheme.particle_bits else None
    return _Code(scheme, PosteriorTables(), scheme.shifts(), prior(scheme.step_bits), number)


class _Particles(NamedTuple):
    """The particles of some images, one image a row.

    `k` are the latents in steps of the grid; `rest` says which of the `sizes` uniform numbers that stand for a latent it was
    drawn by. `ones` are the parts of 2^24 for a 1 of each of the image's `bits`. `weights` are the coder's models of a
    particle's number by its weight, none where there is one particle.
    """

    k: Int64[np.ndarray, "n particles latents"]
    rest: Int64[np.ndarray, "n particles latents"]
    sizes: Int64[np.ndarray, "n particles latents"]
    ones: Int64[np.ndarray, "n particles decisions"]
    bits: Int32[np.ndarray, "n decisions"]
    weights: list[Any]


@one_thread(CPU)  # products so small that threads wait for each other longer than they compute
def encode_blocks(scheme: Scheme, blocks: Sequence[Images], advance: Callable[[int], None] = SILENT.advance) -> list[Coded]:
    """Code blocks of images side by side, each block on a stack of its own.

    Args:
        scheme: How the density codes.
        blocks: Levels of images, [n, dims] each.
        advance: Called with the number of images just coded.

    Returns:
        What was coded of each block.
    """
    code, words = _code_of(scheme), initial_words(scheme.most_initial_words)
    coders = [_stream.stack.AnsCoder(words) for _ in blocks]
    fewest = [len(words)] * len(blocks)
    q = [posteriors(scheme.vae, scheme.step_bits, images) for images in blocks]
    for i in range(max(map(len, blocks)) - 1, -1, -1):  # the decoder pops the first image first
        active = [b for b, images in enumerate(blocks) if i < len(images)]
        x = np.stack([blocks[b][i] for b in active])
        q_x = Posterior(*(np.stack([q[b][part][i] for b in active]) for part in range(2)))
        n_words = _push_image(code, [coders[b] for b in active], x, q_x, i)
        for b, n in zip(active, n_words, strict=True):
            fewest[b] = min(fewest[b], n)
        advance(len(active))
    # Initial words that no image has touched are those below the two of the coder's state at its lowest.
    untouched = [max(0, low - 2) for low in fewest]
    return [
        Coded(coder.get_compressed()[n:], len(words) - n, len(images))
        for coder, n, images in zip(coders, untouched, blocks, strict=True)
    ]


@one_thread(CPU)  # products so small that threads wait for each other longer than they compute
def decode_blocks(
    scheme: Scheme, blocks: Sequence[Coded], advance: Callable[[int], None] = SILENT.advance
) -> list[Images | None]:
    """Decode blocks of images side by side.

    Args:
        scheme: How the density codes.
        blocks: What `encode_blocks` gave, or claims to be that.
        advance: Called with the number of images just decoded.

    Returns:
        The images of each block; None for a block that no encoder wrote with this model: its stack does not end as it began.
    """
    code = _code_of(scheme)
    coders = [_stream.stack.AnsCoder(block.words) for block in blocks]
    images = [np.zeros((block.n_images, scheme.vae.n_dims), dtype=np.uint8) for block in blocks]
    possible = [True] * len(blocks)
    for i in range(max(block.n_images for block in blocks)):
        active = [b for b, block in enumerate(blocks) if possible[b] and i < block.n_images]
        if not active:
            break
        x, possible_x = _pop_image(code, [coders[b] for b in active], i)
        for row, b in enumerate(active):
            images[b][i], possible[b] = x[row], bool(possible_x[row])
        advance(len(active))
    return [
        x if could and np.array_equal(coder.get_compressed(), initial_words(block.n_initial)) else None
        for x, could, coder, block in zip(images, possible, coders, blocks, strict=True)
    ]


def _push_image(code: _Code, coders: Sequence[Any], x: Images, q: Posterior, i: int) -> list[int]:
    """Push the i-th image of some blocks; the words that each stack had when it was lowest."""
    u = _pop_uniform(code, coders, i)
    drawn = _draw_particles(code, q, u, x)
    c = _pop_by_weight(code, coders, drawn)
    n_words, rows = [coder.num_words() for coder in coders], np.arange(len(coders))
    _push_rest(coders, drawn.rest[rows, c], drawn.sizes[rows, c])
    _push_pixels(coders, drawn.bits, drawn.ones[rows, c])
    _push_latents(code, coders, drawn.k[rows, c])
    _push_number(code, coders, c)
    return n_words


def _pop_image(code: _Code, coders: Sequence[Any], i: int) -> tuple[Images, Bool[np.ndarray, " n"]]:
    """Pop the i-th image of some blocks, and whether an encoder can have pushed it."""
    c = _pop_number(code, coders)
    k = _pop_latents(code, coders)
    x = _pop_pixels(code, coders, k)
    q = posteriors(code.scheme.vae, code.scheme.step_bits, x)
    first, sizes = code.tables.interval(q.table, k - q.centre)
    rest = _pop_rest(coders, np.maximum(sizes, 1))
    u = (first + rest - code.shifts[c]) & ((1 << DRAW_BITS) - 1)
    if code.number is not None:
        _push_by_weight(coders, _draw_particles(code, q, u, x), c)
    _push_uniform(code, coders, u, i)
    return x, np.asarray((sizes > 0).all(axis=1))


def _draw_particles(code: _Code, q: Posterior, u: Int64[np.ndarray, "n latents"], x: Images) -> _Particles:
    """All particles of some images, from their posteriors and uniform numbers."""
    vae, p = code.scheme.vae, code.prior
    shifted = (u[:, None] + code.shifts) & ((1 << DRAW_BITS) - 1)
    offsets = code.tables.drawn(q.table[:, None], shifted)
    first, sizes = code.tables.interval(q.table[:, None], offsets)
    k = offsets + q.centre[:, None]
    n, n_particles, n_latent = k.shape
    bit_parts = _bit_parts(code, k.reshape(-1, n_latent))
    repeated = np.repeat(x.astype(np.int64), n_particles, axis=0)
    places = range(pixels.n_bits(vae.levels) - 1, -1, -1)
    ones = np.concatenate([bit_parts(repeated >> (place + 1), place) for place in places], axis=1)
    ones = ones.reshape(n, n_particles, -1)
    bits = np.concatenate([(x >> place & 1).astype(np.int32) for place in places], axis=1)
    weights: list[Any] = []
    if n_particles > 1:
        log_w = log_parts(np.where(bits[:, None] == 1, ones, (1 << PART_BITS) - ones)).sum(axis=2)
        log_w += log_parts(p.parts[k - p.first]).sum(axis=2) - log_parts(sizes).sum(axis=2)
        weights = [coder_model(parts((row.max() - row) >> 4)) for row in log_w]
    return _Particles(k, shifted - first, sizes, ones, bits, weights)


def _bit_parts(code: _Code, k: Int64[np.ndarray, "n latents"]) -> pixels.Bits:
    """Probabilities of the pixels' bits, given latents."""
    vae = code.scheme.vae
    outputs = run_integers(vae.decoder, latent_values(k, code.scheme.step_bits))
    return pixels.bit_parts(vae.observation, vae.levels, outputs)


# What is pushed and popped, in the encoder's order: one stack and one row of the arrays for each image.


def _pop_uniform(code: _Code, coders: Sequence[Any], i: int) -> Int64[np.ndarray, "n latents"]:
    pad = _pad(i, code.scheme.vae.n_latent)
    return np.stack([coder.decode(_DRAW, len(pad)) ^ pad for coder in coders]).astype(np.int64)


def _push_uniform(code: _Code, coders: Sequence[Any], u: Int64[np.ndarray, "n latents"], i: int) -> None:
    pad = _pad(i, code.scheme.vae.n_latent)
    for coder, row in zip(coders, u, strict=True):
        coder.encode_reverse(row.astype(np.int32) ^ pad, _DRAW)


def _pop_by_weight(code: _Code, coders: Sequence[Any], drawn: _Particles) -> Int64[np.ndarray, " n"]:
    if code.number is None:
        return np.zeros(len(coders), dtype=np.int64)
    return np.array([int(coder.decode(weights)) for coder, weights in zip(coders, drawn.weights, strict=True)])


def _push_by_weight(coders: Sequence[Any], drawn: _Particles, c: Int64[np.ndarray, " n"]) -> None:
    for coder, weights, number in zip(coders, drawn.weights, c, strict=True):
        coder.encode_reverse(int(number), weights)


def _push_rest(coders: Sequence[Any], rest: Int64[np.ndarray, "n latents"], sizes: Int64[np.ndarray, "n latents"]) -> None:
    for coder, which, size in zip(coders, rest, sizes, strict=True):
        some = size > 1  # where one uniform number stands for a latent, nothing is left open
        coder.encode_reverse(which[some].astype(np.int32), _REST, size[some].astype(np.int32))


def _pop_rest(coders: Sequence[Any], sizes: Int64[np.ndarray, "n latents"]) -> Int64[np.ndarray, "n latents"]:
    rest = np.zeros_like(sizes)
    for coder, which, size in zip(coders, rest, sizes, strict=True):
        some = size > 1
        which[some] = coder.decode(_REST, size[some].astype(np.int32))
    return rest


def _push_pixels(
    coders: Sequence[Any], bits: Int32[np.ndarray, "n decisions"], ones: Int64[np.ndarray, "n decisions"]
) -> None:
    for coder, row, parts_of_row in zip(coders, bits, ones, strict=True):
        coder.encode_reverse(row, _DECISION, pixels.coder_weights(parts_of_row))


def _pop_pixels(code: _Code, coders: Sequence[Any], k: Int64[np.ndarray, "n latents"]) -> Images:
    vae, bit_parts = code.scheme.vae, _bit_parts(code, k)
    x = np.zeros((len(coders), vae.n_dims), dtype=np.int64)
    for place in range(pixels.n_bits(vae.levels) - 1, -1, -1):
        weights = pixels.coder_weights(bit_parts(x, place))
        x = x << 1 | np.stack([coder.decode(_DECISION, row) for coder, row in zip(coders, weights, strict=True)])
    return np.minimum(x, vae.levels - 1).astype(np.uint8)


def _push_latents(code: _Code, coders: Sequence[Any], k: Int64[np.ndarray, "n latents"]) -> None:
    for coder, row in zip(coders, k, strict=True):
        coder.encode_reverse((row - code.prior.first).astype(np.int32), code.prior.coder_model)


def _pop_latents(code: _Code, coders: Sequence[Any]) -> Int64[np.ndarray, "n latents"]:
    k = [coder.decode(code.prior.coder_model, code.scheme.vae.n_latent) for coder in coders]
    return np.stack(k).astype(np.int64) + code.prior.first


def _push_number(code: _Code, coders: Sequence[Any], c: Int64[np.ndarray, " n"]) -> None:
    if code.number is not None:
        for coder, number in zip(coders, c, strict=True):
            coder.encode_reverse(int(number), code.number)


def _pop_number(code: _Code, coders: Sequence[Any]) -> Int64[np.ndarray, " n"]:
    return np.array([int(coder.decode(code.number)) if code.number is not None else 0 for coder in coders])
