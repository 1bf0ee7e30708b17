"""Kernel density estimates: what they converge to, how the bandwidth is chosen, and where they fail."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from told import Told
from torch import Tensor
from torch.distributions import Independent, Normal

from lmeval.compute.place import Place
from lmeval.errors import DensityError, EmptyInput, InputError, NonFiniteScore
from lmeval.likelihood.kde import KdeSettings, kde_log_likelihood


class Sampler:
    """Samples that the test gave."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def sample(self, n: int) -> Tensor:
        assert n == len(self.values)
        return self.values


class Cloud:
    """Normal samples, continuous."""

    def __init__(self, mean: float, sd: float, d: int) -> None:
        self.law = Independent(Normal(torch.full((d,), float(mean)), torch.full((d,), float(sd))), 1)

    def sample(self, n: int) -> Tensor:
        return self.law.sample((n,))


def levels(n: int, d: int, top: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(0, top + 1, (n, d), generator=torch.Generator().manual_seed(seed)).float()


def estimate(model: Any, x: Tensor, levels: int = 17, **given: Any):
    settings = {"samples": 200, "bandwidths": [1.0]} | {key: given.pop(key) for key in KdeSettings._fields if key in given}
    return kde_log_likelihood(model, x, levels, KdeSettings(**settings), **given)


@pytest.mark.parametrize(("d", "n", "width"), [(3, 20, 2.5), (64, 1500, 0.3), (64, 1500, 1.0)])
def test_it_is_the_mean_of_the_kernels(d: int, n: int, width: float):
    # 64 dimensions: there scikit-learn's own trees are off by hundreds of nats, and their density beats the truth
    torch.manual_seed(99)
    points, x = Cloud(8, 0.5, d).law.sample((n,)), Cloud(8, 1, d).law.sample((60,))
    found = estimate(Sampler(points), x, samples=n, bandwidths=[width])
    square = ((x[:, None].double() - points[None].double()) ** 2).sum(2).numpy()
    expected = np.asarray(logsumexp(-square / 2 / width**2, axis=1)) - math.log(n) - d / 2 * math.log(2 * math.pi * width**2)
    np.testing.assert_allclose(found.nats, expected, rtol=1e-9)
    assert found.nats.dtype == np.float64


def test_a_level_has_volume_one():
    # Samples spread evenly over the levels' cells are a uniform density on them: -log 17 a dimension.
    points = torch.rand(100_000, 1, generator=torch.Generator().manual_seed(0)) * 17 - 0.5
    x = torch.arange(3, 14).float()[:, None].repeat(10, 1)
    found = estimate(Sampler(points), x, samples=len(points), bandwidths=[0.3])
    assert found.nats.mean() == pytest.approx(-math.log(17), abs=0.01)
    whole = torch.arange(17).repeat(2000).float()[:, None]  # the same from samples that lie on levels
    found = estimate(Sampler(whole), x, samples=len(whole), bandwidths=[0.3])
    assert found.nats.mean() == pytest.approx(-math.log(17), abs=0.02)


def test_a_level_is_the_middle_of_its_cell():
    # Continuous samples about level 8 make 7 and 9 equally likely, and 8 the likeliest.
    points = 8 + 0.3 * torch.randn(20_000, 1, generator=torch.Generator().manual_seed(99))
    x = torch.tensor([7.0, 8.0, 9.0]).repeat(400)[:, None]
    found = estimate(Sampler(points), x, samples=len(points), bandwidths=[0.5])
    below, middle, above = found.nats.reshape(400, 3).mean(0)
    assert below == pytest.approx(above, abs=0.15) and middle > below + 1


def test_data_and_samples_are_dequantised_by_noise_of_their_own():
    # Far apart, each datum sees its own copy among the samples alone, at a squared distance of 1/6 a dimension on average.
    x = levels(200, 20, top=1) * 16
    found = estimate(Sampler(x), x, bandwidths=[0.5])
    expected = -math.log(200) - 10 * math.log(2 * math.pi * 0.25) - (20 / 6) / (2 * 0.25)
    assert found.nats.mean() == pytest.approx(expected, abs=0.5)


def test_it_converges_to_a_known_density():
    x = Cloud(8, 3, 1).law.sample((500,))
    found = estimate(Cloud(8, 3, 1), x, samples=100_000, bandwidths=[0.2])
    truth = Cloud(8, math.sqrt(3**2 + 0.2**2), 1).law.log_prob(x)
    assert np.abs(found.nats - truth.numpy()).mean() < 0.02


def test_held_out_data_choose_the_bandwidth():
    torch.manual_seed(99)
    x, held_out = Cloud(8, 3, 2).law.sample((50,)), Cloud(8, 3, 2).law.sample((400,))
    widths = [0.01, 0.1, 0.5, 1.0, 3.0, 30.0]
    found = estimate(Cloud(8, 3, 2), x, samples=500, bandwidths=widths, held_out=held_out)
    assert found.bandwidth in (0.5, 1.0) and not found.at_edge
    assert (found.held_out, found.n_held_out, found.n_shared) == ("held-out data", 400, 0)
    assert [width for width, _ in found.scores] == widths
    assert dict(found.scores)[found.bandwidth] == max(score for _, score in found.scores)
    alone = estimate(Cloud(8, 3, 2), held_out, samples=500, bandwidths=[0.5])
    assert dict(found.scores)[0.5] == pytest.approx(alone.nats.mean(), abs=1e-9)  # the very number that the choice is by


def test_test_data_never_choose_it():
    x, others = levels(40, 4), levels(60, 4, seed=1)
    alone = estimate(Cloud(8, 4, 4), x, bandwidths=[0.3, 1.0, 3.0], held_out=others)
    mixed = estimate(Cloud(8, 4, 4), x, bandwidths=[0.3, 1.0, 3.0], held_out=torch.cat([x[:25], others]))
    assert mixed.n_shared == 25 and mixed.n_held_out == alone.n_held_out == 60
    assert mixed.scores == alone.scores
    # ... and a single datum's number does not depend on the others
    few = estimate(Cloud(8, 4, 4), x[:3], bandwidths=[0.3, 1.0, 3.0], held_out=others)
    assert few.bandwidth == alone.bandwidth
    np.testing.assert_allclose(few.nats, alone.nats[:3], rtol=1e-12)
    with pytest.raises(EmptyInput, match="all held-out data"):
        estimate(Cloud(8, 4, 4), x, held_out=x[:5])


def test_samples_choose_it_where_nothing_is_held_out():
    found = estimate(Cloud(8, 3, 2), levels(10, 2), samples=400, bandwidths=[0.01, 1.0, 30.0])
    assert (found.bandwidth, found.held_out, found.n_held_out, found.at_edge) == (1.0, "samples", 400, False)
    # a sample's own kernel is left out: with it the least bandwidth would always win
    assert found.scores[0][1] < found.scores[1][1]
    assert estimate(Cloud(8, 3, 2), levels(10, 2), bandwidths=[1.0, 30.0]).at_edge
    assert not estimate(Cloud(8, 3, 2), levels(10, 2), bandwidths=[30.0]).at_edge
    assert estimate(Cloud(8, 3, 2), levels(10, 2), samples=2).n_held_out == 2


def test_the_grid_follows_the_levels():
    for top in (2, 17, 256):
        found = estimate(Cloud(8, 3, 2), levels(10, 2), levels=top, bandwidths=None)
        assert len(found.scores) == 12
        assert found.scores[0][0] == pytest.approx(0.01 * (top - 1)) and found.scores[-1][0] == pytest.approx(
            0.6 * (top - 1)
        )


def test_it_orders_models_wrongly():
    # The failure that every table states: in many dimensions samples of the true law lose to those of a narrow one.
    torch.manual_seed(99)
    x, held_out = Cloud(0, 1, 64).law.sample((2, 200))
    true = estimate(Cloud(0, 1, 64), x, samples=300, bandwidths=None, held_out=held_out)
    narrow = estimate(Cloud(0, 0.2, 64), x, samples=300, bandwidths=None, held_out=held_out)
    log_p = [float(Cloud(0, sd, 64).law.log_prob(x).mean()) for sd in (1, 0.2)]
    assert log_p[0] - log_p[1] > 500
    assert narrow.nats.mean() > true.nats.mean()


def test_equal_seeds_give_equal_numbers_and_the_callers_random_state_stays():
    x = levels(10, 3)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = estimate(Cloud(8, 3, 3), x, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(first.nats, estimate(Cloud(8, 3, 3), x, seed=1).nats)
    assert not np.array_equal(first.nats, estimate(Cloud(8, 3, 3), x, seed=2).nats)


def test_progress_counts_bandwidths():
    told = Told()
    estimate(Cloud(8, 3, 3), levels(4, 3), bandwidths=[1.0, 2.0], progress=told)
    assert told.stages == [("bandwidth", 2, "bandwidths")] and told.numbers == [1, 1]


def test_what_cannot_be_used():
    x = levels(10, 3)
    with pytest.raises(EmptyInput, match="at least one datum"):
        estimate(Cloud(8, 3, 3), x[:0])
    with pytest.raises(DensityError, match="4 numbers and the data 3"):
        estimate(Cloud(8, 3, 4), x)
    with pytest.raises(InputError, match=r"held-out data have shape \[5, 4\]"):
        estimate(Cloud(8, 3, 3), x, held_out=levels(5, 4))
    with pytest.raises(DensityError, match="not finite"):
        estimate(Sampler(torch.full((200, 3), torch.nan)), x)
    with pytest.raises(NonFiniteScore, match="datum 0"):
        estimate(Cloud(8, 3, 3), x, bandwidths=[1e-200])


def test_a_part_of_the_processes_work_is_a_part_of_the_result(monkeypatch: pytest.MonkeyPatch):
    x, held_out = levels(11, 3), levels(9, 3, seed=4)
    whole = estimate(Cloud(8, 3, 3), x, held_out=held_out, bandwidths=[1.0, 2.0])
    parts: dict[int, list[dict[int, float]]] = {}

    def gathered(mine: dict[int, float], n: int, place: Place, failure: BaseException | None) -> list[float]:
        assert failure is None
        parts.setdefault(n, []).append(mine)
        return [mine.get(i, 0.0) for i in range(n)]

    monkeypatch.setattr("lmeval.likelihood.kde.gather_by_id", gathered)
    for rank in range(3):
        estimate(
            Cloud(8, 3, 3), x, held_out=held_out, bandwidths=[whole.bandwidth], place=Place(rank, 3, torch.device("cpu"))
        )
    together = {i: value for part in parts[11] for i, value in part.items()}
    np.testing.assert_allclose([together[i] for i in range(11)], whole.nats, rtol=1e-12)
    assert sum(len(part) for part in parts[11]) == 11
