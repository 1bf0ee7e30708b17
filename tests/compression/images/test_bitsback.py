import functools
import math

import numpy as np
import pytest
import torch
from vaes import drawn, fitting_vae, random_vae, scheme

from lmeval.compression.images.bitsback import Coded, Scheme, decode_blocks, encode_blocks, initial_words
from lmeval.compression.images.integer_vae import Images, choose_step_bits, integer_vae, network_input, posteriors
from lmeval.compression.images.latent_tables import MEAN_LIMIT
from lmeval.densities.layers import Linear
from lmeval.densities.modelfile import load_density
from lmeval.densities.networks import LayeredVAE
from lmeval.errors import ModelError

OBSERVED = [("bernoulli", 2), ("categorical", 2), ("categorical", 5)]
OBSERVED += [("discretized_logistic", 17), ("discretized_logistic", 256)]
ODD_POSTERIORS = [(50.0, 0.0), (-50.0, 5.0), (8.0, 0.5), (0.0, -30.0), (7.9999, -9.0), (0.0, 9.0)]


def there_and_back(code: Scheme, blocks: list[Images]) -> list[Coded]:
    coded = encode_blocks(code, blocks)
    for images, found in zip(blocks, decode_blocks(code, coded), strict=True):
        assert found is not None and found.dtype == np.uint8
        assert np.array_equal(found, images)
    return coded


def net_bits(coded: list[Coded]) -> int:
    return sum(32 * (len(block.words) - block.n_initial) for block in coded)


@pytest.mark.parametrize("particle_bits", [0, 1, 3])
@pytest.mark.parametrize(("observation", "levels"), OBSERVED)
def test_images_come_back(observation: str, levels: int, particle_bits: int):
    model = random_vae(observation, levels)
    own = drawn(model, 14)
    noise = np.random.default_rng(0).integers(0, levels, (9, 20)).astype(np.uint8)
    there_and_back(scheme(model, 4, particle_bits), [own, noise])


@pytest.mark.parametrize("step_bits", range(2, 9))
def test_any_grid(step_bits: int):
    model = random_vae()
    there_and_back(scheme(model, step_bits, 2), [drawn(model, 10)])


@pytest.mark.parametrize("activation", ["elu", "tanh", "softplus", "sigmoid", "leaky_relu"])
def test_any_activation(activation: str):
    model = random_vae("discretized_logistic", 17, activation=activation)
    there_and_back(scheme(model, 3, 1), [drawn(model, 8)])


HARD = {
    "one": lambda levels: np.full((1, 20), 1),
    "zeros": lambda levels: np.zeros((40, 20)),
    "ones": lambda levels: np.full((40, 20), levels - 1),
    "equal": lambda levels: np.tile(np.random.default_rng(2).integers(0, levels, 20), (40, 1)),
    "by turns": lambda levels: np.tile(np.array([[0] * 20, [levels - 1] * 20]), (15, 1)),
    "stripes": lambda levels: np.tile(np.arange(20) % 2 * (levels - 1), (30, 1)),
}


@pytest.mark.parametrize("particle_bits", [0, 2])
@pytest.mark.parametrize("kind", HARD)
@pytest.mark.parametrize(("observation", "levels"), [("bernoulli", 2), ("discretized_logistic", 17)])
def test_images_that_are_hard(observation: str, levels: int, kind: str, particle_bits: int):
    images = HARD[kind](levels).astype(np.uint8)
    for scale in (1, 60):  # with 60 the decoder is certain, and wrong
        model = random_vae(observation, levels)
        last = model.decoder[-1]
        assert isinstance(last, Linear)
        decoder = (*model.decoder[:-1], Linear(last.weight * scale, last.bias * scale))
        certain = LayeredVAE(model.encoder, model.mean, model.log_std, decoder, *_rest(model))
        there_and_back(scheme(certain, 4, particle_bits), [images])


def _rest(model: LayeredVAE) -> tuple[str, int, int, int]:
    return model.observation, model.levels, model.n_dims, model.n_latent


@pytest.mark.parametrize("particle_bits", [0, 2])
@pytest.mark.parametrize(
    ("shift", "log_std"), [(50.0, 0.0), (-50.0, 5.0), (8.0, 0.5), (0.0, -30.0), (7.9999, -9.0), (0.0, 9.0)]
)
def test_latents_beyond_the_grid(shift: float, log_std: float, particle_bits: int):
    model = random_vae()
    changed = LayeredVAE(
        model.encoder,
        Linear(model.mean.weight, model.mean.bias + shift),
        Linear(model.log_std.weight, torch.full_like(model.log_std.bias, log_std)),
        model.decoder,
        *_rest(model),
    )
    q = posteriors(integer_vae(changed, "x"), 4, drawn(model, 12))
    assert np.abs(q.centre).max() <= MEAN_LIMIT << 4
    there_and_back(scheme(changed, 4, particle_bits), [drawn(model, 12)])


def test_one_block_or_several_beside_each_other_are_the_same_words():
    model = random_vae("discretized_logistic", 17)
    x = drawn(model, 30)
    code = scheme(model, 4, 2)
    blocks = [x[:13], x[13:14], x[14:]]
    together = there_and_back(code, blocks)
    for images, block in zip(blocks, together, strict=True):
        (alone,) = there_and_back(code, [images])
        assert np.array_equal(alone.words, block.words) and alone[1:] == block[1:]


def test_progress_counts_images():
    model = random_vae()
    x, counts = drawn(model, 11), [0, 0]

    def count(which: int, n: int) -> None:
        counts[which] += n

    coded = encode_blocks(scheme(model), [x[:4], x[4:]], functools.partial(count, 0))
    decode_blocks(scheme(model), coded, functools.partial(count, 1))
    assert counts == [11, 11]


# The price.


def bound(model: LayeredVAE, x: Images, particles: int, seed: int = 0) -> tuple[float, float]:
    """Minus the importance-weighted bound in bits for all images, and its standard error from the draws alone."""
    torch.manual_seed(seed)
    images = torch.from_numpy(x).double()
    q = model.encode(images.float())
    runs = []
    for _ in range(24):
        z = q.sample(torch.Size([particles]))
        logs = model.decode(z).log_prob(images.float()) + model.prior.log_prob(z) - q.log_prob(z)
        runs.append(float((logs.double().logsumexp(0) - math.log(particles)).sum()))
    bits = -np.array(runs) / math.log(2)
    return float(bits.mean()), float(bits.std(ddof=1))  # of one run, as a code is one


@pytest.mark.slow
@pytest.mark.parametrize(("step_bits", "particle_bits"), [(2, 0), (4, 0), (6, 0), (3, 2), (3, 5)])
def test_the_price_is_the_bound(step_bits: int, particle_bits: int):
    model = fitting_vae(4)
    x = drawn(model, 3000)
    paid = net_bits(there_and_back(scheme(model, step_bits, particle_bits), [x[:1000], x[1000:2000], x[2000:]]))
    expected, noise = bound(model, x, 1 << particle_bits)
    slack = 0.0015 * expected + 3 * noise
    assert paid < expected + slack
    # Particles that share their uniform numbers do a little better than independent ones.
    assert paid > expected - slack - (0.004 * expected if particle_bits else 0)
    if particle_bits == 5:
        assert paid < 0.995 * bound(model, x, 1)[0]


def test_equal_images_pay_the_bound_too():
    # Their latents repeat the bits that they are drawn from, but for the pad.
    model = load_density("lmeval-mnist-vae-v1").model
    assert isinstance(model, LayeredVAE)
    x = np.zeros((1200, model.n_dims), dtype=np.uint8)
    paid = net_bits(encode_blocks(scheme(model, 3, 0), [x]))
    expected, noise = bound(model, x, 1)
    assert abs(paid - expected) < 0.01 * expected + 3 * noise
    assert noise < 0.012 * expected  # without the pad they pay 13% more


@pytest.mark.parametrize("particle_bits", [0, 1, 5, 10])
def test_initial_words_do_not_grow_with_the_particles(particle_bits: int):
    model = random_vae(n_latent=10)
    code = scheme(model, 4, particle_bits)
    (coded,) = there_and_back(code, [drawn(model, 3)])
    assert 14 * 10 / 32 <= coded.n_initial < code.most_initial_words <= 14 * 10 / 32 + 5


def test_the_coarsest_grid_that_fits_is_chosen():
    def of(std: float) -> int:
        model = random_vae()
        log_std = Linear(torch.zeros_like(model.log_std.weight), torch.full((3,), math.log(std)))
        changed = LayeredVAE(model.encoder, model.mean, log_std, model.decoder, *_rest(model))
        return choose_step_bits(integer_vae(changed, "x"), drawn(model, 4))

    assert [of(std) for std in (1.0, 0.2, 0.18, 0.02, 1e-9)] == [2, 2, 3, 6, 8]


# What goes wrong.


def test_changed_words_are_noticed():
    model = random_vae("discretized_logistic", 17)
    x, code = drawn(model, 12), scheme(model, 4, 1)
    (coded,) = encode_blocks(code, [x])
    rng = np.random.default_rng(0)
    for _ in range(60):
        words = coded.words.copy()
        words[rng.integers(len(words))] ^= np.uint32(1 << rng.integers(32))
        words[-1] |= words[-1] == 0
        (found,) = decode_blocks(code, [coded._replace(words=words)])
        assert found is None or not np.array_equal(found, x)
    for changed in (
        coded._replace(n_images=11),
        coded._replace(n_images=13),
        coded._replace(n_initial=coded.n_initial - 1),
        coded._replace(words=coded.words[1:]),
        coded._replace(words=coded.words[:0]),
        coded._replace(words=np.concatenate([coded.words, np.ones(1, np.uint32)])),
        coded._replace(words=rng.integers(1, 1 << 32, 50, dtype=np.uint32)),
    ):
        (found,) = decode_blocks(code, [changed])
        assert found is None


def test_a_bad_block_does_not_spoil_its_neighbours():
    model = random_vae()
    x, code = drawn(model, 20), scheme(model, 4, 1)
    coded = encode_blocks(code, [x[:8], x[8:]])
    for bad in (coded[0]._replace(words=coded[0].words[:0]), coded[0]._replace(n_images=30)):
        found = decode_blocks(code, [bad, coded[1]])
        assert found[0] is None and found[1] is not None
        assert np.array_equal(found[1], x[8:])


def test_another_model_or_grid_does_not_decode():
    model = random_vae()
    x = drawn(model, 20)
    (coded,) = encode_blocks(scheme(model, 4, 1), [x])
    for other in (scheme(random_vae(seed=1), 4, 1), scheme(model, 5, 1), scheme(model, 4, 2), scheme(model, 4, 0)):
        assert decode_blocks(other, [coded]) == [None]


def test_models_that_cannot_be_coded_with_are_refused():
    with pytest.raises(ModelError, match="256"):
        integer_vae(random_vae("discretized_logistic", 257), "wide")
    model = random_vae()
    first, *others = model.decoder
    assert isinstance(first, Linear)
    huge = LayeredVAE(
        model.encoder, model.mean, model.log_std, (Linear(first.weight * 1e7, first.bias), *others), *_rest(model)
    )
    with pytest.raises(ModelError, match=r"^huge: decoder: .*weight decay"):
        integer_vae(huge, "huge")


def test_the_encoders_input():
    x = np.array([[0, 1]], dtype=np.uint8)
    assert network_input(x, 2).tolist() == [[0, 65536]]
    assert network_input(np.array([[0, 8, 16]], dtype=np.uint8), 17).tolist() == [[-65536, 0, 65536]]
    every = network_input(np.arange(256, dtype=np.uint8)[None], 256)[0]
    assert np.abs(every / 65536 - (2 * np.arange(256) / 255 - 1)).max() < 2**-16


def test_initial_words_have_their_highest_bit():
    assert len(initial_words(0)) == 0
    for n in (1, 5, 40):
        assert initial_words(n)[-1] >> 31 == 1
        assert np.array_equal(initial_words(40)[-n:], initial_words(n))
