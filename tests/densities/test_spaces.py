import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import special
from torch.distributions import Bernoulli, Beta, Independent, MultivariateNormal, Normal, Uniform

from lmeval.densities import (
    Logit,
    Tags,
    bits_per_dim,
    check_exact,
    check_normalised,
    dequantise,
    from_logits,
    in_logit_space,
    log_mean_exp,
    require_same_space,
    to_logits,
    uniform_levels,
)
from lmeval.densities.spaces import Convention, margin_of
from lmeval.errors import DensityError, InputError, MixedSpaces, NonFiniteScore

LEVELS = torch.arange(256.0)[:, None]


def independent(distribution: Any) -> Independent:
    return Independent(distribution, 1)


def unit_cube(n_dims: int) -> Independent:
    return independent(Uniform(torch.zeros(n_dims), torch.ones(n_dims)))


class WithLogProb:
    def __init__(self, log_prob: Any, side: str = "exact"):
        self.log_prob, self.side = log_prob, side


@pytest.mark.parametrize("n_dims", [1, 2, 3, 7, 784, 1000, 3072, 12288])
@pytest.mark.parametrize(("levels", "bits"), [(2, 1.0), (4, 2.0), (16, 4.0), (256, 8.0), (65536, 16.0)])
def test_the_uniform_model_has_exactly_its_bits(levels: int, bits: float, n_dims: int):
    x = torch.randint(0, levels, (3, n_dims)).float()
    assert bits_per_dim(uniform_levels(levels, n_dims).log_prob(x), n_dims).tolist() == [bits] * 3


@pytest.mark.parametrize("levels", [3, 17, 32, 100])
def test_other_numbers_of_levels_have_their_logarithm_in_bits(levels: int):
    found = bits_per_dim(uniform_levels(levels, 784).log_prob(torch.zeros(1, 784)), 784)
    assert float(found[0]) == pytest.approx(math.log2(levels), rel=1e-15)


def test_the_uniform_model_gives_nothing_to_what_is_no_image():
    found = uniform_levels(4, 2).log_prob(torch.tensor([[0.0, 3.0], [0.5, 1.0], [4.0, 0.0], [-1.0, 0.0]]))
    assert found.tolist() == [-2 * math.log(4), -math.inf, -math.inf, -math.inf]
    assert uniform_levels(4, 2).log_prob(torch.zeros(1, 3)).tolist() == [-math.inf]
    assert check_normalised(uniform_levels(4, 8), 4, 8) == pytest.approx(1, abs=1e-12)
    assert check_exact(uniform_levels(4, 2), torch.zeros(3, 2), levels=4).side == "exact"


def test_bits_keep_the_type_that_they_are_given():
    assert bits_per_dim(-math.log(2) * 6, 3) == 2.0
    assert np.array_equal(bits_per_dim(np.array([-math.log(2)]), 1), [1.0])
    assert isinstance(bits_per_dim(torch.zeros(2), 1), torch.Tensor)
    assert bits_per_dim(-math.inf, 3) == math.inf
    with pytest.raises(InputError, match="n_dims is 0"):
        bits_per_dim(-1.0, 0)


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_a_datum_without_number_is_never_left_out(kind: Any):
    # normflows' bitsPerDimDataset takes the mean over what is not NaN: a model that fails on hard images looks better.
    values = kind([-1.0, math.nan, -3.0])
    with pytest.raises(NonFiniteScore, match=r"1 of 3 log-probabilities are NaN, the first at 1"):
        bits_per_dim(values, 4)


def test_means_of_probabilities_do_not_underflow():
    values = torch.tensor([[-2000.0], [-2000.0 + math.log(3)]], dtype=torch.float64)
    assert float(log_mean_exp(values)) == pytest.approx(-2000 + math.log(2), abs=1e-9)
    single = torch.tensor([[-500.25], [-501.125]])  # exact in float32, but their mean is not
    expected = -500.25 + math.log((1 + math.exp(-0.875)) / 2)
    assert float(log_mean_exp(single)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("n_dims", [1, 784])
def test_the_uniform_density_of_the_cube_is_8_bits(n_dims: int, draws: int):
    # The missing constant (rosinality's glow-pytorch, issue 4) would make 0 bits of it.
    x = torch.randint(0, 256, (4, n_dims), generator=torch.Generator().manual_seed(0)).float()
    x[0], x[1] = 0, 255
    bits = bits_per_dim(dequantise(unit_cube(n_dims), 256, draws).log_prob(x), n_dims)
    assert bits.tolist() == pytest.approx([8.0] * 4, abs=1e-9)
    wide = independent(Uniform(torch.zeros(n_dims), torch.full((n_dims,), 256.0)))
    assert bits_per_dim(dequantise(wide, 256, draws, space="levels").log_prob(x), n_dims).tolist() == pytest.approx(
        [8.0] * 4
    )


def test_steps_of_1_over_255_do_not_fit_noise_of_1_over_256():
    # glow-pytorch, issue 17: x = level / 255 and noise of width 1/256. The cells leave gaps and the last one leaves the
    # cube, so what comes out is no probability. Here such x are refused, and whole levels tile the cube.
    density = independent(Beta(torch.tensor([4.0]), torch.tensor([1.5])))
    with pytest.raises(InputError, match="256 levels are the whole numbers"):
        dequantise(density, 256).log_prob(LEVELS / 255)
    inside = (LEVELS / 255 + torch.linspace(0, 1, 99)[None] / 256).clamp(1e-6, 1 - 1e-6)
    past_the_end = (LEVELS / 255 + torch.linspace(0, 1, 99)[None] / 256) >= 1
    wrong = torch.where(past_the_end, 0.0, density.log_prob(inside.reshape(-1, 1)).exp().view(256, 99)).mean(1).sum() / 256
    right = dequantise(density, 256, draws=2000).log_prob(LEVELS).exp().sum()
    assert abs(float(right) - 1) < 1e-3 < 2e-3 < abs(float(wrong) - 1)


def test_the_bound_is_below_the_probability_and_more_draws_bring_it_closer():
    # Normal noise so narrow that the density falls by orders of magnitude within a level: the bound is far from tight.
    scale, levels = 0.004, np.arange(121, 128)
    above, below = (special.log_ndtr((edge / 256 - 0.5) / scale) for edge in (levels + 1, levels))
    truth = torch.from_numpy(above + np.log1p(-np.exp(below - above)))
    x = torch.from_numpy(levels)[:, None].double()
    density = independent(Normal(torch.tensor([0.5]).double(), torch.tensor([scale]).double()))
    gaps = {}
    for draws in (1, 8, 64, 512):
        bounds = torch.stack([dequantise(density, 256, draws, seed=seed).log_prob(x) for seed in range(300)])
        error = bounds.std(0) / math.sqrt(300)
        assert (bounds.mean(0) <= truth + 4 * error).all()  # a lower bound in expectation, level by level
        weights = (bounds - truth).exp()  # and unbiased outside of the logarithm
        assert ((weights.mean(0) - 1).abs() <= 4 * weights.std(0) / math.sqrt(300)).all()
        gaps[draws] = float((truth - bounds.mean(0)).mean())
    assert gaps[1] > 2 * gaps[8] > 4 * gaps[64] > 8 * gaps[512]
    assert gaps[512] < 0.01 < 0.5 < gaps[1]


def test_the_two_spaces_give_the_same_bound():
    unit = independent(Normal(torch.tensor([0.4, 0.6]), torch.tensor([0.2, 0.1])))
    levels = independent(Normal(torch.tensor([0.4, 0.6]) * 16, torch.tensor([0.2, 0.1]) * 16))
    x = torch.randint(0, 16, (20, 2), generator=torch.Generator().manual_seed(1)).float()
    one, other = dequantise(unit, 16, 5).log_prob(x), dequantise(levels, 16, 5, space="levels").log_prob(x)
    assert torch.allclose(one, other, atol=1e-4)


def test_the_noise_of_an_image_depends_on_the_image_and_the_seed_alone():
    model = dequantise(independent(Normal(torch.zeros(3), torch.ones(3))), 256, 4, seed=2)
    x = torch.randint(0, 256, (30, 3), generator=torch.Generator().manual_seed(0)).float()
    before = torch.random.get_rng_state()
    found = model.log_prob(x)
    assert torch.equal(found.flip(0), model.log_prob(x.flip(0)))
    assert torch.equal(found[4:5], model.log_prob(x[4:5]))
    assert torch.equal(torch.random.get_rng_state(), before)
    other = dequantise(independent(Normal(torch.zeros(3), torch.ones(3))), 256, 4, seed=3).log_prob(x)
    assert not torch.equal(found, other)
    assert check_exact(model, x, levels=256).side == "lower"


def test_the_last_level_stays_inside_the_cube():
    class Strict:
        def log_prob(self, x: torch.Tensor) -> torch.Tensor:
            assert (x >= 0).all() and (x < 1).all()
            return torch.zeros(len(x))

    dequantise(Strict(), 256, 4000).log_prob(torch.full((5, 200), 255.0))
    dequantise(Strict(), 3, 40).log_prob(torch.full((5, 200), 2.0))


@pytest.mark.parametrize(("levels", "draws", "space"), [(256, 0, "unit"), (1, 1, "unit"), (256, 1, "logit")])
def test_dequantisation_is_checked(levels: int, draws: int, space: Any):
    with pytest.raises(InputError):
        dequantise(unit_cube(1), levels, draws, space=space)


CONVENTIONS: list[Convention] = ["margin", "total"]


@given(st.floats(1e-6, 0.2), st.sampled_from(CONVENTIONS), st.integers(1, 5), st.integers(0, 99))
def test_logits_come_back_and_their_volume_is_the_jacobians(alpha: float, convention: Convention, n_dims: int, seed: int):
    v = torch.rand(4, n_dims, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    y, log_det = to_logits(v, alpha, convention)
    back, inverse = from_logits(y, alpha, convention)
    assert torch.allclose(back, v, atol=1e-9)
    # phlippe's tutorial 11 left the volume out in one direction (issues 57 and 93): both must cancel.
    assert torch.allclose(log_det + inverse, torch.zeros(4, dtype=torch.float64), atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda one: to_logits(one[None], alpha, convention)[0][0], v[0])
    assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(log_det[0]), abs=1e-8)


def test_the_logit_transform_leaves_bits_as_they_are():
    # q is the density of the logits of v ~ p: taken back to v, it is p again, whatever alpha.
    p = independent(Beta(torch.tensor([2.0, 3.0], dtype=torch.float64), torch.tensor([1.5, 2.5], dtype=torch.float64)))
    v = p.sample((50,))
    for convention in CONVENTIONS:
        for alpha in (1e-6, 0.05, 0.3):

            def log_q(y: torch.Tensor, alpha: float = alpha, convention: Convention = convention) -> torch.Tensor:
                back, log_det = from_logits(y, alpha, convention)
                return p.log_prob(back) + log_det

            found = Logit(WithLogProb(log_q), alpha, convention).log_prob(v)
            assert torch.allclose(found, p.log_prob(v), atol=1e-8)
            bits = bits_per_dim(found, 2) + 8
            assert torch.allclose(bits, bits_per_dim(p.log_prob(v), 2) + 8, atol=1e-8)


def test_a_density_of_logits_integrates_to_one_over_the_cube_but_for_what_it_puts_outside():
    normal = independent(Normal(torch.zeros(1), torch.ones(1)))
    margin = 0.05
    inside = math.erf(math.log((1 - margin) / margin) / math.sqrt(2))
    total = check_normalised(WithLogProb(Logit(normal, margin).log_prob, "lower"), None, 1, box=(0.0, 1.0))
    assert total == pytest.approx(inside, abs=1e-5)


def test_both_conventions_of_alpha_are_told_apart():
    assert margin_of(0.05, "margin") == 0.05 and margin_of(0.05, "total") == 0.025
    v = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    assert torch.sigmoid(to_logits(v, 0.05)[0])[0].tolist() == pytest.approx([0.05, 0.95])  # alpha + (1 - 2 alpha) v
    assert torch.sigmoid(to_logits(v, 0.05, "total")[0])[0].tolist() == pytest.approx(
        [0.025, 0.975]
    )  # (1-alpha) v + alpha/2
    for alpha, convention in ((0.5, "margin"), (1.0, "total"), (-0.1, "margin"), (0.1, "glow")):
        with pytest.raises(InputError):
            margin_of(alpha, convention)  # pyright: ignore[reportArgumentType]


def test_values_without_logits_are_refused():
    with pytest.raises(InputError, match=r"takes no value 255: dequantise"):
        to_logits(torch.tensor([[255.0]]), 0.05)
    with pytest.raises(InputError, match=r"takes no value 0: give alpha > 0"):
        to_logits(torch.tensor([[0.5, 0.0]]), 0.0)
    with pytest.raises(InputError, match="takes no value nan"):
        to_logits(torch.tensor([[math.nan]]), 0.05)


def test_a_number_of_logits_stays_out_of_tables_of_levels():
    tags = Tags(256)
    with pytest.raises(MixedSpaces):
        require_same_space([("MAF, as published", in_logit_space(tags, 1e-6)), ("VAE", tags)])
    assert in_logit_space(tags, 0.05, "margin") == in_logit_space(tags, 0.1, "total")


def test_the_side_of_logits_is_that_of_their_density():
    assert Logit(WithLogProb(None, "lower"), 0.05).side == "lower"
    assert Logit(unit_cube(1), 0.05).side == "exact"


def test_probabilities_of_levels_are_summed():
    assert check_normalised(independent(Bernoulli(torch.tensor([0.1, 0.7, 0.5]))), 2, 3) == pytest.approx(1, abs=1e-6)
    assert check_normalised(uniform_levels(16, 4), 16, 4) == pytest.approx(1, abs=1e-9)


def test_what_does_not_sum_to_one_is_refused():
    for shift in (0.01, -0.01, math.nan):
        with pytest.raises(DensityError, match="the probabilities of all 8 images is"):
            check_normalised(WithLogProb(lambda x, shift=shift: uniform_levels(2, 3).log_prob(x) + shift), 2, 3)
    below = WithLogProb(lambda x: uniform_levels(2, 3).log_prob(x) - 1, "lower")
    assert check_normalised(below, 2, 3) == pytest.approx(math.exp(-1))
    with pytest.raises(DensityError):
        check_normalised(WithLogProb(lambda x: uniform_levels(2, 3).log_prob(x) + 1, "lower"), 2, 3)


def test_densities_are_integrated():
    assert check_normalised(independent(Normal(torch.zeros(1), torch.ones(1))), None, 1) == pytest.approx(1, abs=1e-6)
    assert check_normalised(independent(Normal(torch.full((1,), 3.0), torch.full((1,), 0.1))), None, 1) == pytest.approx(
        1, abs=1e-5
    )
    skewed = MultivariateNormal(torch.tensor([1.0, -2.0]), torch.tensor([[1.0, 0.8], [0.8, 2.0]]))
    assert check_normalised(skewed, None, 2) == pytest.approx(1, abs=1e-5)
    assert check_normalised(unit_cube(2), None, 2, box=(0.0, 1.0)) == pytest.approx(1, abs=1e-6)
    wide = MultivariateNormal(torch.zeros(1).double(), 900 * torch.eye(1).double())
    assert check_normalised(wide, None, 1, dtype=torch.float64) == pytest.approx(1, abs=1e-9)


def test_a_flow_without_its_volume_does_not_integrate_to_one():
    # The sigmoid of a normal variable, its log-determinant forgotten.
    normal = independent(Normal(torch.zeros(1), torch.ones(1)))
    forgotten = WithLogProb(lambda v: normal.log_prob(torch.logit(v)))
    with pytest.raises(DensityError, match="integral over the box is"):
        check_normalised(forgotten, None, 1, box=(0.0, 1.0))
    assert check_normalised(Logit(normal, 0.0), None, 1, box=(0.0, 1.0)) == pytest.approx(1, abs=1e-4)


def test_what_nobody_can_sum_is_said():
    with pytest.raises(InputError, match="256 levels in 784 dimensions are more than 65,536"):
        check_normalised(uniform_levels(256, 784), 256, 784)
    with pytest.raises(InputError, match="3 real dimensions"):
        check_normalised(unit_cube(3), None, 3)
    with pytest.raises(InputError, match="lower end first"):
        check_normalised(unit_cube(1), None, 1, box=(1.0, 0.0))
    assert check_normalised(uniform_levels(256, 2), 256, 2) == pytest.approx(1)  # 65,536 is the last that goes


def test_checking_keeps_the_random_state():
    before = torch.random.get_rng_state()
    check_normalised(WithLogProb(lambda x: uniform_levels(2, 3).log_prob(x) + 0 * torch.rand(1)), 2, 3)
    assert torch.equal(torch.random.get_rng_state(), before)
