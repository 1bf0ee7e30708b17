import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from samples import ROOT
from vaes import linear, random_vae, scheme

from lmeval.compression.images.bitsback import encode_blocks
from lmeval.compression.images.fixed_point import (
    CLIP,
    IntegerLayers,
    IntegerLinear,
    integer_layers,
    layers_sha256,
    run_integers,
)
from lmeval.compression.images.integer_vae import integer_vae
from lmeval.densities.layers import ACTIVATIONS, Layers, Linear, run_layers
from lmeval.errors import ModelError

ONE = 1 << 16


def network(activation: str = "relu", n_in: int = 30, hidden: int = 40, n_out: int = 9, seed: int = 0) -> Layers:
    g = torch.Generator().manual_seed(seed)
    return (linear(n_in, hidden, g), activation, linear(hidden, n_out, g))


def inputs(n: int, n_in: int = 30, bound: int = 3 * ONE) -> np.ndarray:
    return np.random.default_rng(5).integers(-bound, bound + 1, (n, n_in))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_whole_numbers_come_near_to_the_real_network(activation: str):
    layers = network(activation)
    h = inputs(50)
    found = run_integers(integer_layers(layers, 3 * ONE, "net")[0], h) / ONE
    real = run_layers(tuple(x if isinstance(x, str) else Linear(x.weight.double(), x.bias.double()) for x in layers),
                      torch.from_numpy(h / ONE)).numpy()  # fmt: skip
    assert np.abs(found - real).max() < 2e-3
    assert np.abs(found - real).mean() < 3e-4


def by_hand(layers: IntegerLayers, h: list[int]) -> list[int]:
    """In Python's unbounded integers."""
    for layer in layers:
        if isinstance(layer, str):
            h = [max(0, value) for value in h]
            continue
        columns = zip(layer.weight.T.tolist(), layer.bias.tolist(), strict=True)
        sums = [sum(int(w) * value for w, value in zip(column, h, strict=True)) + int(b) for column, b in columns]
        h = [min(CLIP, max(-CLIP, (value + 2**15) >> 16)) for value in sums]
    return h


def test_outputs_are_exact():
    whole, _ = integer_layers(network(), 3 * ONE, "net")
    h = inputs(20)
    assert run_integers(whole, h).tolist() == [by_hand(whole, row) for row in h.tolist()]


def test_sums_at_the_very_bound_are_exact():
    # Weights of 2^10 and 2^-16 by turns, inputs at their bound: sums reach 2^52.9, and their last bits count.
    weight = torch.tensor([[1020.0, 2**-16] * 2, [-1020.0, 2**-16, 1020.0, -(2**-16)]])
    whole, bound = integer_layers((Linear(weight, torch.tensor([2.0**-32, 7.0])),), 1000 * ONE, "net")
    assert bound == CLIP
    assert float(np.abs(whole[0].weight).sum(0).max()) * 1000 * ONE > 2**52.9  # pyright: ignore
    rng = np.random.default_rng(0)
    for _ in range(200):
        h = 1000 * ONE * rng.choice([-1, 1], (3, 4)) + rng.integers(-50, 51, (3, 4)) * rng.integers(0, 2, (3, 4))
        h = np.clip(h, -1000 * ONE, 1000 * ONE)
        assert run_integers(whole, h).tolist() == [by_hand(whole, row) for row in h.tolist()]


def test_the_order_of_summation_the_batch_and_the_layout_change_nothing():
    layers = network(n_in=300, hidden=500)
    h = inputs(64, 300)
    whole, _ = integer_layers(layers, 3 * ONE, "net")
    expected = run_integers(whole, h)
    rng = np.random.default_rng(1)
    threads = torch.get_num_threads()
    for n in (1, 3, 64):
        torch.set_num_threads(n % 5)
        parts = [run_integers(whole, h[i : i + n]) for i in range(0, 64, n)]
        assert np.array_equal(np.concatenate(parts), expected)
    torch.set_num_threads(threads)
    first, _, last = whole
    assert isinstance(first, IntegerLinear) and isinstance(last, IntegerLinear)
    for _ in range(3):
        units, pixels = rng.permutation(500), rng.permutation(300)
        shuffled = (
            IntegerLinear(np.asfortranarray(first.weight[pixels][:, units]), first.bias[units]),
            "relu",
            IntegerLinear(last.weight[units], last.bias),
        )
        assert np.array_equal(run_integers(shuffled, h[:, pixels]), expected)


def words_sha256() -> str:
    """Of the words of some images by a network that is wide enough for several threads."""
    model = random_vae("discretized_logistic", 17, n_dims=300, n_latent=20, hidden=400, activation="tanh")
    x = np.random.default_rng(0).integers(0, 17, (12, 300)).astype(np.uint8)
    coded = encode_blocks(scheme(model, particle_bits=2), [x[:5], x[5:]])
    return hashlib.sha256(b"".join(block.words.tobytes() for block in coded)).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "3"])
def test_other_processes_and_numbers_of_threads_find_the_same_words(threads: str):
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    folders = (ROOT, ROOT / "tests" / "support", ROOT / "tests" / "compression" / "images")
    environment["PYTHONPATH"] = os.pathsep.join(str(folder) for folder in folders)
    code = "import test_fixed_point; print(test_fixed_point.words_sha256())"
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True, text=True)
    assert ran.stdout.strip() == words_sha256()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_weights_that_are_not_finite_or_too_large_are_refused(value: float):
    for where in ("weight", "bias"):
        layer = Linear(torch.ones(2, 3), torch.ones(2))
        getattr(layer, where)[0] = value
        with pytest.raises(ModelError, match=r"^mine: ") as caught:
            integer_layers((layer,), ONE, "mine")
        assert "\n" not in str(caught.value)


def test_the_bound_is_that_of_the_sums():
    layer = Linear(torch.full((1, 4), 2.0**9), torch.zeros(1))
    assert integer_layers((layer,), 1 << 25, "net")[1] == CLIP  # 2^27 2^25 is below 2^53, by the factor 2 of 4 x 2^25
    with pytest.raises(ModelError, match="2,097,152"):
        integer_layers((layer,), 1 << 26, "net")
    # A clipped layer bounds the next one's inputs, whatever its weights could reach.
    wide = Linear(torch.full((2, 4), 2.0**9), torch.zeros(2))
    assert integer_layers((wide, "relu", Linear(torch.full((1, 2), 500.0), torch.zeros(1))), 1 << 25, "net")[1] == CLIP


def test_what_reaches_the_clip_is_clipped():
    layer = Linear(torch.tensor([[500.0], [-500.0]]), torch.zeros(2))
    whole, _ = integer_layers((layer,), 16 * ONE, "net")
    assert run_integers(whole, np.array([[16 * ONE]])).tolist() == [[CLIP, -CLIP]]


def test_fingerprints_tell_networks_apart():
    whole = [integer_layers(network(seed=seed), 3 * ONE, "net")[0] for seed in (0, 0, 1)]
    assert layers_sha256([whole[0]]) == layers_sha256([whole[1]]) != layers_sha256([whole[2]])
    assert layers_sha256([whole[0]]) != layers_sha256([integer_layers(network("elu"), 3 * ONE, "net")[0]])
    assert layers_sha256([whole[0], whole[2]]) != layers_sha256([whole[2], whole[0]])
    vaes = [integer_vae(random_vae(observation), "x") for observation in ("bernoulli", "categorical")]
    assert vaes[0].sha256 != vaes[1].sha256
