"""Both sides at once, on data that the model itself made: bidirectional Monte Carlo.

Only for such data is an exact posterior sample at hand (the z that made x), and with it an upper bound. The gap between the
bounds is a property of that population: real data may be harder, or easier.
"""

import time
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from lmeval.compute.gather import as_place
from lmeval.compute.place import Place
from lmeval.compute.seeds import seeded
from lmeval.densities.checks import call_foreign, refuse_training_mode
from lmeval.densities.protocols import CheckedLatent, check_latent, kind_of
from lmeval.errors import DensityError, InputError
from lmeval.likelihood.methods import ANNEALED
from lmeval.likelihood.noise import Streams
from lmeval.likelihood.paths import is_standard_normal, sample_prior
from lmeval.likelihood.result import Advance, Batch, DatumResult, LogLikelihood, as_columns
from lmeval.likelihood.settings import BoundSettings, FixedSettings, fix_settings
from lmeval.likelihood.workers import score_all
from lmeval.progress import SILENT, Progress
from lmeval.stats import Estimate, paired_difference

DEFAULTS = BoundSettings()


@dataclass(frozen=True, eq=False)
class Sandwich:
    """Lower and upper bounds on the same simulated data x [n, *event], with the z [n, d] that made them."""

    lower: LogLikelihood
    upper: LogLikelihood
    x: Tensor
    z: Tensor

    @property
    def gap(self) -> Estimate:
        """Mean of upper minus lower, nats. In expectation it is at least 0; its parts are noisy."""
        return paired_difference(self.upper.nats, self.lower.nats)


def sandwich(
    model: Any,
    n: int = 100,
    settings: BoundSettings = DEFAULTS,
    *,
    place: Place | str = "cpu",
    progress: Progress = SILENT,
) -> Sandwich:
    """Bound log p(x) from both sides for data drawn from a latent variable model.

    Lower: sequential Monte Carlo. Upper: the same conditioned on a path from the z that made x. Both use the ladder and
    kernels that one pilot froze, which saw x and never z.

    Args:
        model: A latent variable model.
        n: How many data to simulate.
        settings: Settings of the bounds; a gap cannot be planned for data that are not there yet.
        place: A device, or the place of this process among several, which share the data.
        progress: Told of one stage, in evaluations of the model.

    Returns:
        Both bounds, and the data with what made them.

    Raises:
        DensityError: The model is no latent variable model, or cannot be annealed.
        InputError: `n` or a setting cannot be used.
        NonFiniteScore: A bound is not finite.
    """
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise InputError(f"n is {n!r}: give the number of data to simulate, at least 1")
    if settings.gap is not None:
        raise InputError("a sandwich takes temperatures, and no gap: its data are not there before it begins")
    place = as_place(place)
    fixed = fix_settings(settings, ANNEALED.particles, ANNEALED.resample_below)
    if kind_of(model) != "latent":
        raise DensityError("a sandwich needs a model with prior and decode(z): of others log p(x) is exact, or unknown")
    refuse_training_mode(model)
    what = f"simulating data from {type(model).__name__}"
    x, z = call_foreign(lambda: simulate_data(model, int(n), fixed.seed, place.device), what, None)
    return _bound_both_sides(check_latent(model, x), x, z, fixed, place, progress)


def sandwich_checked(
    density: CheckedLatent, n: int, fixed: FixedSettings, *, place: Place, progress: Progress = SILENT
) -> Sandwich:
    """`sandwich` of a model that was checked on such data, with settings that are filled in."""
    x, z = simulate_data(density.model, n, fixed.seed, place.device)
    return _bound_both_sides(density, x, z, fixed, place, progress)


def _bound_both_sides(
    density: CheckedLatent, x: Tensor, z: Tensor, fixed: FixedSettings, place: Place, progress: Progress
) -> Sandwich:
    score_both_sides = ANNEALED.score_both_sides
    assert score_both_sides is not None
    began = time.perf_counter()
    progress.stage("sandwich", 2 * fixed.n_gradients * len(x), "evaluations")

    def score(batch: Batch, advance: Advance) -> list[tuple[DatumResult, DatumResult]]:
        return score_both_sides(density, fixed, batch, advance, z[list(batch.ids)])

    results = score_all(score, x, place, progress.advance, k=fixed.particles)
    seconds, described = time.perf_counter() - began, fixed._asdict()
    lower = as_columns([lower for lower, _ in results], "lower", "smc", described, seconds)
    upper = as_columns([upper for _, upper in results], "upper", "conditional smc", described, 0.0)
    return Sandwich(lower, upper, x, z)


@torch.no_grad()
def simulate_data(model: Any, n: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """x [n, *event] and the z [n, d] that made them; the first data are the same for every n."""
    with seeded(seed, device):
        like = model.prior.sample()  # for its dtype and device
    streams = Streams(seed, "simulation", [(i, 0) for i in range(n)], like)
    (z,) = streams.normal(1, len(like)) if is_standard_normal(model.prior) else sample_prior(model.prior, 1, streams)
    made = []
    for i, chosen in enumerate(streams.torch_seeds()):
        with seeded(chosen, device):
            made.append(model.decode(z[i : i + 1].to(device)).sample())
    return torch.cat(made), z.to(device)
