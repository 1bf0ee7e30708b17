"""log p(x) through the one way in: against truths, whatever the batch, and never a number where there is none."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import run_workers
from samples import ROOT, SHARED, shared
from told import Told
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Laplace, Normal, Uniform
from toy_densities import (
    ASYMMETRIC,
    PRIORS,
    Amortised,
    Encoded,
    Simple,
    assert_below,
    assert_mean,
    linear,
    mean_and_se,
    quadrature,
    standard,
)

from lmeval.compute.memory import PARTICLES
from lmeval.compute.place import Place
from lmeval.densities import read_images
from lmeval.densities.modelfile import load_density
from lmeval.densities.protocols import check_latent
from lmeval.errors import DensityError, EmptyInput, InputError, LmevalError, NonFiniteScore, OutOfMemory
from lmeval.likelihood import BoundSettings, LogLikelihood, log_likelihood, workers

METHODS = ("elbo", "iwae", "ais", "smc")
ALONE = Place(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("start", ["prior", "encoder", "pilot"])
@pytest.mark.parametrize("method", ["ais", "smc"])
def test_linear_models(method: str, start: str):
    model = linear(10, 50, 0.1, kind=Amortised)
    x = model.sample(60)
    truth = model.log_p(x)
    found = log_likelihood(model, x, method, BoundSettings(start=start, temperatures=40))
    below = found.nats - truth
    assert found.side == "lower" and found.nats.dtype == np.float64
    assert_below(below)
    assert below.mean() > {"prior": -6, "encoder": -3, "pilot": -0.2}[start]
    if start == "pilot":
        assert_mean(below, 0.0, 3, most=0.05)


def test_within_errors_where_the_planned_gap_is_small():
    model = linear(10, 50, 0.1)
    x = model.sample(100)
    found = log_likelihood(model, x, "smc", BoundSettings(gap=0.04))
    assert_mean(found.nats - model.log_p(x), 0.0, 3, most=0.04)
    assert found.settings["temperatures"] != 30


@pytest.mark.slow
def test_images_of_a_linear_model():
    model = linear(20, 784, 0.05, dtype=torch.float32)
    x = model.sample(32)
    truth = model.log_p(x)
    found = log_likelihood(model, x, "smc", BoundSettings(temperatures=60))
    assert_below(found.nats - truth)
    assert_mean(found.nats - truth, 0.0, 3, most=0.06)
    again = log_likelihood(model, x, "smc", BoundSettings(temperatures=60, start="prior"))
    assert_below(again.nats - truth)
    assert again.mean.value < found.mean.value


@pytest.mark.parametrize("start", ["prior", "pilot"])
@pytest.mark.parametrize("prior", list(PRIORS))
def test_priors_of_any_kind(prior: str, start: str):
    model = linear(3, 6, 0.8, prior=PRIORS[prior]())
    x = model.sample(80)
    truth = model.log_p(x)
    found = log_likelihood(model, x, "smc", BoundSettings(start=start, temperatures=40))
    assert_below(found.nats - truth)
    assert_mean(np.exp(found.nats - truth), 1.0, 3.5, most=0.1)
    if prior != "mixture":  # whose states take longer to get from one to another
        assert_mean(found.nats - truth, 0.0, 3.5, most=0.1)


@pytest.mark.parametrize("start", ["prior", "pilot"])
@pytest.mark.parametrize("name", list(ASYMMETRIC))
def test_asymmetric_models_against_quadrature(name: str, start: str):
    model, x = ASYMMETRIC[name]
    truth = quadrature(model, x)
    if name == "bernoulli":
        assert np.exp(truth).sum() == pytest.approx(1, abs=1e-9)  # all there is, enumerated
    many = x.repeat(40, 1)
    found = log_likelihood(model, many, "smc", BoundSettings(start=start, temperatures=30))
    over = found.nats.reshape(40, -1) - truth
    assert_below(over)
    for i in range(len(x)):
        assert_mean(np.exp(over[:, i]), 1.0, 3.5, most=0.1)
    drawn = log_likelihood(model, many, "iwae", BoundSettings(start="prior", particles=3000))
    assert_below(drawn.nats.reshape(40, -1) - truth)


def test_the_posterior_as_encoder():
    model = linear(10, 50, 0.1, kind=Encoded)
    x = model.sample(8)
    for method, k in (("elbo", 1), ("elbo", 7), ("iwae", 30)):
        found = log_likelihood(model, x, method, BoundSettings(particles=k))
        np.testing.assert_allclose(found.nats, model.log_p(x), atol=1e-9)
        np.testing.assert_allclose(found.ess, k, rtol=1e-9)
        if k > 1:
            assert np.nanmax(found.stderr) < 1e-6  # the root of rounding


@pytest.mark.slow
@pytest.mark.parametrize("start", ["prior", "pilot"])
def test_estimates_are_unbiased_from_end_to_end(start: str):
    # every datum with a pilot of its own: what pilots find may not leak into the runs
    model = linear(2, 3, 1.0)
    x = model.sample(1, seed=1)
    found = log_likelihood(model, x.expand(3000, -1), "smc", BoundSettings(particles=2, temperatures=4, start=start))
    over = found.nats - model.log_p(x)[0]
    assert_mean(np.exp(over), 1.0, 3, most=0.02)
    assert_below(over)


def test_resampling_off_is_annealed_importance_sampling():
    model = linear(4, 10)
    x = model.sample(7)
    given: dict[str, Any] = {"start": "prior", "temperatures": 12, "seed": 3}
    ais, smc = (log_likelihood(model, x, method, BoundSettings(**given)) for method in ("ais", "smc"))
    assert (ais.nats != smc.nats).any() and ais.settings["resample_below"] == 0
    assert smc.settings["resample_below"] == 0.5
    never = BoundSettings(**given, resample_below=0.0)
    assert (log_likelihood(model, x, "smc", never).nats == ais.nats).all()
    one, other = (log_likelihood(model, x, method, BoundSettings(**given, particles=1)).nats for method in ("ais", "smc"))
    truth = model.log_p(x)
    assert np.isfinite(one).all() and one.mean() < truth.mean() and other.mean() < truth.mean()


def of(model: Any, x: Tensor, method: str, place: Place = ALONE, **changes: Any) -> np.ndarray:
    how: dict[str, Any] = {"temperatures": 6, "particles": 8} | changes
    return log_likelihood(model, x, method, BoundSettings(**how), place=place).nats


def with_rows(rows: int, x: Tensor) -> Place:
    """A place whose memory is enough for so many data times particles at once."""
    return ALONE._replace(memory=int(rows * 4 * x[:1].numel() / PARTICLES.share) + 1)


@pytest.mark.parametrize("start", ["auto", "prior", "encoder"])
@pytest.mark.parametrize("method", METHODS)
def test_a_number_is_its_datums_own(method: str, start: str):
    model = linear(3, 6, 0.2, kind=Amortised, widen=1.3)
    x = model.sample(9)
    x = torch.cat([x, x[2:3], x[:1], x[2:3]])
    found = of(model, x, method, start=start)
    assert len(set(found.round(9))) == 12  # equal data have streams of their own
    order = torch.tensor([1, 0, 8, 3, 5, 4, 7, 6, 2])
    np.testing.assert_allclose(of(model, x[order], method, start=start), found[order], atol=1e-9)
    np.testing.assert_allclose(of(model, x[:4], method, start=start), found[:4], atol=1e-9)
    np.testing.assert_allclose(of(model, x[6:7], method, start=start), found[6:7], atol=1e-9)
    np.testing.assert_allclose(of(model, x, method, with_rows(25, x), start=start), found, atol=1e-9)
    if method in ("iwae", "elbo"):  # fewer than the particles: in chunks
        np.testing.assert_allclose(of(model, x, method, with_rows(3, x), start=start), found, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_threads_change_nothing(method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workers, "NUMBERS", 1)
    before = torch.get_num_threads()
    model = linear(3, 6, 0.2, kind=Amortised, widen=1.3, prior=PRIORS["correlated"]() if method == "smc" else None)
    x = model.sample(13)
    try:
        found = []
        for n in (1, 4):
            torch.set_num_threads(n)
            found.append(of(model, x, method, start="prior"))
            assert torch.get_num_threads() == n
        np.testing.assert_allclose(found[1], found[0], atol=1e-9)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("prior", ["mixture", "correlated"])
def test_a_number_is_its_datums_own_under_any_prior(prior: str):
    model = linear(3, 6, 0.2, prior=PRIORS[prior]())
    x = model.sample(5)
    for method in ("smc", "iwae"):
        found = of(model, x, method, start="prior")
        np.testing.assert_allclose(of(model, x.flip(0), method, start="prior"), found[::-1], atol=1e-9)
        np.testing.assert_allclose(of(model, x, method, with_rows(16, x), start="prior"), found, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_seeds(method: str):
    model = linear(3, 6, 0.2, kind=Amortised, widen=1.3)
    x = model.sample(4)
    first, again, other = (of(model, x, method, seed=seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).all()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert (of(model, x, method) == first).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_batched_particles_change_nothing():
    class Flat(Amortised):
        """Takes z [n, d] alone."""

        def decode(self, z: Tensor):
            assert z.ndim == 2
            return super().decode(z)

    model = linear(3, 6, 0.2, kind=Amortised)
    flat = linear(3, 6, 0.2, kind=Flat)
    x = model.sample(5)
    for method in METHODS:
        np.testing.assert_allclose(of(flat, x, method), of(model, x, method), atol=1e-9)


def test_images_of_several_dimensions():
    model = linear(2, 6, 0.5)

    class Image(Simple):
        """The same, as images 2 x 3."""

        def decode(self, z: Tensor):
            mean = (z @ model.weight.T + model.bias).unflatten(-1, (2, 3))
            return Independent(Normal(mean, math.sqrt(model.s2)), 2)

    x = model.sample(4)
    for method in ("smc", "iwae"):
        found = of(Image(model.prior, model.decode), x.unflatten(-1, (2, 3)), method, start="prior")
        np.testing.assert_allclose(found, of(model, x, method, start="prior"), atol=1e-9)


def test_the_importance_weighted_bound():
    model = linear(3, 6, 0.2, kind=Amortised, widen=0.5)
    x = model.sample(300)
    by_k = {k: of(model, x, "iwae", particles=k) for k in (1, 8, 64)}
    assert (by_k[1] == of(model, x, "iwae", particles=1)).all()
    for few, more in ((1, 8), (8, 64)):
        mean, se = mean_and_se(by_k[more] - by_k[few])
        assert mean > 3 * se
    assert_below(by_k[64] - model.log_p(x))
    assert_mean(of(model, x, "elbo", particles=1) - by_k[1], 0.0)  # the same bound, other draws


def test_what_is_reported():
    model = linear(3, 6, 0.2, kind=Amortised, widen=1.3)
    x = model.sample(6)
    found = log_likelihood(model, x, "iwae", BoundSettings(particles=400, seed=2))
    assert (found.method, found.side, found.settings) == ("iwae", "lower", {"particles": 400, "seed": 2})
    assert (found.n_evaluations, found.n_gradients, found.n_pilot) == (400, 0, 0)
    assert found.lengths is found.acceptance is found.n_lost is None
    assert ((found.ess > 1) & (found.ess <= 400)).all() and np.isfinite(found.pareto_k).all()
    elbo = log_likelihood(model, x, "elbo", BoundSettings(particles=50))
    assert np.isfinite(elbo.stderr).all() and (elbo.nats < found.nats).all()
    assert np.isnan(log_likelihood(model, x, "elbo").stderr).all()
    smc = log_likelihood(model, x, settings=BoundSettings(particles=8, temperatures=5, leapfrogs=3))
    assert smc.method == "smc" and smc.n_gradients == smc.n_evaluations == 8 * (1 + 4 * 3) + smc.n_pilot
    assert smc.lengths is not None and (smc.lengths > 0).all() and smc.n_lost == 0
    assert smc.acceptance is not None and ((smc.acceptance > 0.5) & (smc.acceptance <= 1)).all()
    assert smc.seconds > 0


def test_errors_of_estimates_are_what_they_say():
    model = linear(3, 6, 0.5, kind=Amortised)
    x = model.sample(1).expand(400, -1)
    for method, k in (("elbo", 20), ("iwae", 200), ("ais", 30)):
        found = log_likelihood(model, x, method, BoundSettings(particles=k, temperatures=10))
        assert np.nanmean(found.stderr) == pytest.approx(found.nats.std(), rel=0.2), method


class Counting(Amortised):
    count = 0

    def decode(self, z: Tensor):
        type(self).count += z.shape[:-1].numel()
        return super().decode(z)


@pytest.mark.parametrize("method", METHODS)
def test_evaluations_are_counted(method: str):
    model = linear(3, 6, 0.3, kind=Counting)
    x = model.sample(1)
    Counting.count = 0
    check_latent(model, x)
    checks, Counting.count = Counting.count, 0
    found = log_likelihood(model, x, method, BoundSettings(particles=9, temperatures=5))
    assert Counting.count - checks == found.n_evaluations


@pytest.mark.parametrize("method", METHODS)
def test_progress_reaches_its_end(method: str):
    model = linear(3, 6, 0.3, kind=Amortised)
    told = Told()
    log_likelihood(model, model.sample(5), method, BoundSettings(particles=7, temperatures=4), progress=told)
    [(name, total, unit)] = told.stages
    assert (name, unit) == (method, "evaluations") and sum(told.numbers) == total


def test_exact_models():
    law = Independent(Normal(torch.zeros(3), 2.0), 1)
    x = law.sample((10,))
    for method in (None, "exact"):
        found = log_likelihood(law, x, method)
        np.testing.assert_allclose(found.nats, law.log_prob(x).numpy())
        assert (found.side, found.method, found.settings) == ("exact", "exact", {})

    class Bound:
        side = "lower"

        def log_prob(self, x: Tensor) -> Tensor:
            return law.log_prob(x) - 1

    assert log_likelihood(Bound(), x).side == "lower"


def test_an_exact_model_without_a_number():
    class Holed:
        def __init__(self, worst: float) -> None:
            self.worst = worst

        def log_prob(self, x: Tensor) -> Tensor:
            return torch.where((x[:, 0] - 4).abs() < 0.1, self.worst, -x[:, 0])

    x = torch.arange(10.0)[:, None]
    for worst in (math.nan, -math.inf):
        with pytest.raises(LmevalError, match="datum 4") as caught:
            log_likelihood(Holed(worst), x)
        assert "\n" not in str(caught.value)


def implicit() -> Any:
    return type("Sampler", (), {"sample": lambda self, n: torch.zeros(n, 2)})()


X = torch.zeros(3, 6).double()
PLAIN = linear(3, 6)
BAD: dict[str, tuple[Any, Tensor, dict[str, Any], type[Exception], str]] = {
    "method": (PLAIN, X, {"method": "kde"}, InputError, "unknown method 'kde': use one of exact, elbo, iwae, ais, smc"),
    "start": (PLAIN, X, {"method": "smc", "start": "here"}, InputError, "unknown start 'here'"),
    "schedule": (PLAIN, X, {"method": "smc", "schedule": "cosine"}, InputError, "unknown schedule 'cosine'"),
    "particles": (PLAIN, X, {"method": "smc", "particles": 0}, InputError, "particles is 0"),
    "particles iwae": (PLAIN, X, {"method": "iwae", "particles": -5}, InputError, "particles is -5"),
    "gap": (PLAIN, X, {"method": "smc", "gap": 0.0}, InputError, "gap is 0"),
    "gap iwae": (PLAIN, X, {"method": "iwae", "gap": 0.1}, InputError, "a gap plans the temperatures of ais and smc"),
    "gap twice": (PLAIN, X, {"method": "smc", "gap": 0.1, "temperatures": 9}, InputError, "gap"),
    "elbo": (PLAIN, X, {"method": "elbo"}, DensityError, r"LinearGaussian has no encode\(x\)"),
    "iwae": (PLAIN, X, {"method": "iwae"}, DensityError, "use method 'smc' or start 'prior'"),
    "encoder": (PLAIN, X, {"method": "smc", "start": "encoder"}, DensityError, "use start 'pilot' or 'prior'"),
    "exact": (PLAIN, X, {"method": "exact"}, DensityError, "method 'exact' is for models with log_prob"),
    "annealed": (standard(6), X, {"method": "smc"}, DensityError, "use method 'exact'"),
    "implicit": (implicit(), X[:, :2], {}, DensityError, "an implicit model has no likelihood"),
    "integers": (PLAIN, X.long(), {"method": "smc"}, InputError, "int64"),
    "no data": (PLAIN, X[:0], {"method": "smc"}, EmptyInput, "at least one datum"),
    "NaN in x": (
        PLAIN,
        torch.where(torch.eye(3, 6) > 0, math.nan, X),
        {"method": "smc"},
        InputError,
        r"x\[0\] is not finite",
    ),
    "bounded": (
        Simple(Independent(Uniform(torch.zeros(6).double(), 1.0), 1), lambda z: Independent(Normal(z, 1.0), 1)),
        X,
        {"method": "smc"},
        DensityError,
        "prior",
    ),
    "no gradient": (
        Simple(standard(6), lambda z: Independent(Normal(z.detach(), 1.0), 1)),
        X,
        {"method": "smc"},
        DensityError,
        "no finite gradient",
    ),
    "steps": (
        Simple(standard(6), lambda z: Independent(Bernoulli(probs=0.2 + 0.6 * (z > 0).double()), 1)),
        X,
        {"method": "smc"},
        DensityError,
        "no finite gradient",
    ),
    "NaN": (
        Simple(standard(6), lambda z: Independent(Normal(z * math.nan, 1.0, validate_args=False), 1)),
        X,
        {"method": "smc"},
        DensityError,
        "NaN",
    ),
    "dtype": (PLAIN, X.float(), {"method": "smc", "start": "prior"}, LmevalError, "float64|double"),
    "real x": (PLAIN, X, {"method": "smc", "levels": 2}, DensityError, "density over real x"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_cannot_be_used_is_told_in_one_line(name: str):
    model, x, how, kind, words = BAD[name]
    with pytest.raises(kind, match=words) as caught:
        call: dict[str, Any] = {key: how[key] for key in ("method", "levels") if key in how}
        settings = BoundSettings(**{key: value for key, value in how.items() if key not in call})
        log_likelihood(model, x, settings=settings, **call)
    assert "\n" not in str(caught.value)


def test_a_decoder_that_breaks_for_some_z_is_never_a_number():
    def decoder(z: Tensor) -> Independent:
        return Independent(Normal(torch.where(z.sum(-1, keepdim=True) > 1.5, math.nan, z), 1.0, validate_args=False), 1)

    model = Simple(standard(2), decoder)
    x = torch.tensor([[0.0, 0.0], [4.0, 4.0]]).double()
    for method in ("ais", "smc"):
        with pytest.raises(
            NonFiniteScore, match=r"datum [01]: decode\(z\) gives log p\(x \| z\) = NaN at \d+ of 16 starting"
        ):
            log_likelihood(model, x, method, BoundSettings(start="prior", particles=16))
    with pytest.raises(NonFiniteScore, match=r"2 of 2 data have log p\(x\) = nan \(the first is datum 0\)"):
        log_likelihood(model, x, "iwae", BoundSettings(start="prior", particles=500))


def test_a_decoder_that_breaks_far_away_is_rejected_there():
    # NaN where no start lies, but where trajectories go: rejected, counted, and the number is right
    def decoder(z: Tensor) -> Independent:
        far = (z**2).sum(-1, keepdim=True) > 30
        return Independent(Normal(torch.where(far, math.nan, 3 * z), 0.5, validate_args=False), 1)

    model = Simple(standard(1), decoder)
    x = torch.tensor([[12.0]]).double().repeat(50, 1)
    found = log_likelihood(model, x, "smc", BoundSettings(start="prior", temperatures=60, schedule="linear"))
    truth = quadrature(Simple(model.prior, lambda z: Independent(Normal(3 * z, 0.5), 1)), x[:1])[0]
    assert found.n_lost is not None and np.isfinite(found.nats).all()
    assert_mean(found.nats - truth, 0.0, 4, most=0.2)


def test_data_without_probability_are_told():
    def decoder(z: Tensor) -> Independent:
        return Independent(Normal(z, 1e-170, validate_args=False), 1)  # squares overflow: log p(x | z) = -inf

    with pytest.raises(LmevalError) as caught:
        log_likelihood(
            Simple(standard(1), decoder), torch.tensor([[0.5], [1.0]]).double(), "smc", BoundSettings(start="prior")
        )
    assert "\n" not in str(caught.value)


def test_encoders_that_are_not_normal():
    class Heavy(Amortised):
        def encode(self, x: Tensor):
            exact = self.posterior(x)
            return Independent(Laplace(exact.mean, exact.stddev), 1)

    model = linear(3, 6, 0.5, kind=Heavy)
    x = model.sample(30)
    truth = model.log_p(x)
    found = log_likelihood(model, x, "iwae", BoundSettings(particles=500))
    assert_below(found.nats - truth)
    np.testing.assert_allclose(found.nats, truth, atol=0.5)
    np.testing.assert_allclose(
        log_likelihood(model, x[3:9], "iwae", BoundSettings(particles=500)).nats, found.nats[3:9], atol=1e-9
    )
    assert_below(log_likelihood(model, x, "smc", BoundSettings(temperatures=8)).nats - truth)


WORKER = """
import sys
import torch
from toy_densities import Amortised, linear
from lmeval.compute import gather
from lmeval.compute.place import Place
from lmeval.likelihood import BoundSettings, log_likelihood, sandwich

group = gather.connect("cpu")
ALONE = Place(0, 1, torch.device("cpu"))
model = linear(3, 6, 0.2, kind=Amortised)
x = model.sample(7)
x = torch.cat([x, x[:2]])
equal = []
for method in ("elbo", "iwae", "smc"):
    how = BoundSettings(particles=8, temperatures=5)
    alone = log_likelihood(model, x, method, how, place=ALONE)
    together = log_likelihood(model, x, method, how, place=group)
    equal.append(bool((abs(alone.nats - together.nats) < 1e-9).all()))
how = BoundSettings(particles=4, temperatures=4)
a, b = sandwich(model, 5, how, place=ALONE), sandwich(model, 5, how, place=group)
equal.append(bool((abs(a.lower.nats - b.lower.nats) < 1e-9).all() and (abs(a.upper.nats - b.upper.nats) < 1e-9).all()))
class Broken:
    def log_prob(self, x):
        return torch.where(x[:, 0] == 3, torch.nan, x[:, 0]) - 9
try:
    log_likelihood(Broken(), torch.arange(8.0)[:, None], place=group)
    failure = "none"
except Exception as error:
    failure = type(error).__name__
with open(f"{sys.argv[1]}/{group.rank}", "w") as out:
    out.write(f"{group.size} {equal} {failure}")
gather.disconnect(group)
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path):
    first, second = run_workers(WORKER, tmp_path)
    assert first == "2 [True, True, True, True] WorkerError"
    assert second == "2 [True, True, True, True] NonFiniteScore"


@pytest.fixture(scope="module")
def published() -> tuple[Any, Tensor]:
    """The VAE of Townsend et al. (2019) and MNIST's test images as its README binarises them."""
    shared("models/bbans_binary_vae/model.safetensors")
    images = read_images(str(shared("images/mnist/t10k-images-idx3-ubyte.gz"))).x.reshape(10000, 784).float() / 255
    x = (torch.rand(10000, 784, generator=torch.Generator().manual_seed(0)) < images).float()
    assert int(x.sum()) == 1_038_635
    return load_density(ROOT / "tasks/densities/bbans_binary_vae.yaml", SHARED / "data").model, x


def near(found: LogLikelihood, expected: float, noise: float) -> None:
    """Data are the same, so only the draws differ, here and in the recorded number."""
    assert abs(found.mean.value - expected) < 3 * noise, found.mean


def test_the_published_bound(published: tuple[Any, Tensor]):
    model, x = published
    found = log_likelihood(model, x, "elbo", levels=2)
    near(found, -105.50, 0.07)
    assert -found.mean.value / 784 / math.log(2) == pytest.approx(0.19, abs=0.005)  # as published


@pytest.mark.slow
def test_recorded_importance_weighted_bounds(published: tuple[Any, Tensor]):
    model, x = published
    fifty = log_likelihood(model, x[:1000], "iwae", BoundSettings(particles=50), levels=2)
    near(fifty, -99.812, 0.07)
    more = log_likelihood(model, x[:1000], "iwae", BoundSettings(particles=500), levels=2)
    near(more, -98.948, 0.06)
    assert np.median(more.ess) < 10 and (more.pareto_k > 0.7).mean() > 0.5  # far from converged, and it says so


@pytest.mark.slow
def test_annealing_beats_five_thousand_importance_samples(published: tuple[Any, Tensor]):
    model, x = published
    found = log_likelihood(model, x[:100], "smc", levels=2)
    assert found.mean.value > -97.683 + 1.2
    assert found.mean.value < -96.1  # a bound still: AIS of 300 temperatures has -96.49, the tightest known run -96.3
    assert found.n_gradients < 6000


def test_the_gap_to_be_expected_is_of_the_right_size():
    model = linear(10, 50, 0.1)
    x = model.sample(80)
    for start, temperatures in (("prior", 15), ("prior", 40), ("pilot", 15)):
        found = log_likelihood(model, x, "smc", BoundSettings(start=start, temperatures=temperatures))
        assert found.expected_gap_nats is not None
        gap, expected = float((model.log_p(x) - found.nats).mean()), float(found.expected_gap_nats.mean())
        assert expected / 5 - 0.02 < gap < 5 * expected + 0.02
    assert log_likelihood(linear(2, 4, 0.5, kind=Amortised), linear(2, 4, 0.5).sample(2), "iwae").expected_gap_nats is None


def test_large_images_go_through_fewer_at_a_time():
    sizes: list[int] = []

    class Watched(Simple):
        def decode(self, z: Tensor) -> Any:
            sizes.append(z.shape[:-1].numel())
            return super().decode(z)

    def decoder(z: Tensor) -> Independent:
        return Independent(Normal(z.new_zeros(1).expand(*z.shape[:-1], 1 << 18) + z[..., :1], 1.0), 1)

    log_likelihood(Watched(standard(1), decoder), torch.zeros(2, 1 << 18).double(), "iwae", BoundSettings(40, start="prior"))
    assert max(sizes) == 16  # 2^22 pixels


def test_a_batch_that_does_not_fit_is_computed_in_halves():
    model = linear(3, 6, 0.2, kind=Amortised)
    x = model.sample(8)

    class Small(Amortised):
        """Has memory for 30 z at once."""

        def decode(self, z: Tensor) -> Any:
            if z.shape[:-1].numel() > 30:
                raise RuntimeError("CUDA out of memory")
            return super().decode(z)

    small = linear(3, 6, 0.2, kind=Small)
    np.testing.assert_allclose(of(small, x, "smc"), of(model, x, "smc"), atol=1e-9)
    with pytest.raises(OutOfMemory, match="one datum with its 40 particles does not fit on cpu"):
        of(small, x, "smc", particles=40)
