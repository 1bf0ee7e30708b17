"""Kernel density estimates of models that can only be sampled: an estimate of a density near the model's, not a likelihood.

    log p(x) ~ log 1/S sum_s N(x + u; x_s + u_s, h^2 I)        S samples x_s, bandwidth h, in units of levels

x and samples that lie on levels are dequantised: u, u_s are uniform on [-1/2, 1/2), so that a level has volume 1 and the
number is in the same units as a probability of levels. The bandwidth is the one under which held-out data are likeliest;
test data never choose it.

What it is worth: in D dimensions the estimate needs a number of samples that grows exponentially with D, it prefers wide
kernels, and it can order models wrongly (Wu et al. 2017, arXiv 1611.04273, table 1: two decoders whose likelihoods differ by
286 nats came out in the reverse order). It is given since nothing else can be said of a model without a likelihood.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from torch import Tensor

from lmeval.compute.gather import as_place, gather_by_id
from lmeval.compute.place import Place
from lmeval.densities.checks import draw
from lmeval.densities.spaces import dequantise_values
from lmeval.errors import DensityError, EmptyInput, InputError, NonFiniteScore
from lmeval.progress import SILENT, Progress

FOLDS = 5
N_BANDWIDTHS = 12
MAX_HELD_OUT = 500  # of the data that choose the bandwidth: their mean is known well enough by then
Values = Float64[np.ndarray, "n d"]


class KdeLikelihood(NamedTuple):
    """Log densities of data in nats, and how the bandwidth was chosen.

    `nats` [n]; `bandwidth` in levels; `held_out` says whose log density chose it: "held-out data" (n_held_out of them, after
    those equal to test data were left out: n_shared) or "samples" (cross-validation over the model's own samples). `scores`
    are bandwidths with the mean log density that they gave; `at_edge` tells that the best was the least or greatest tried.
    """

    nats: Float64[np.ndarray, " n"]
    bandwidth: float
    n_samples: int
    held_out: str
    n_held_out: int
    n_shared: int
    scores: tuple[tuple[float, float], ...]
    at_edge: bool
    seconds: float


class KdeSettings(NamedTuple):
    """How many samples of the model are drawn, which bandwidths (in levels) are tried, and the seed of all draws.

    Without `bandwidths` they are a geometric grid from 0.01 to 0.6 times the range of levels.
    """

    samples: int = 10_000
    bandwidths: Sequence[float] | None = None
    seed: int = 0


DEFAULTS = KdeSettings()


def kde_log_likelihood(
    model: Any,
    x: Tensor,
    levels: int,
    settings: KdeSettings = DEFAULTS,
    *,
    held_out: Tensor | None = None,
    place: Place | str = "cpu",
    progress: Progress = SILENT,
) -> KdeLikelihood:
    """Log density under a Gaussian kernel density estimate from samples of a model.

    The bandwidth is chosen by the mean log density of held-out data, from which data equal to one of x are left out; without
    any by FOLDS-fold cross-validation over the samples.

    Args:
        model: Anything with sample(n).
        x: The data [n, D], levels 0 .. levels - 1.
        levels: The number of levels of a pixel.
        settings: Samples, bandwidths, seed.
        held_out: The data [m, D] that choose the bandwidth.
        place: A device, or the place of this process among several, which share the data.
        progress: Told of one stage, in bandwidths.

    Returns:
        Log densities [n] in nats, and how the bandwidth was chosen.

    Raises:
        InputError: Shapes do not fit.
        DensityError: Samples cannot be used.
        NonFiniteScore: A log density is not finite.
    """
    if x.ndim != 2 or not len(x):
        raise EmptyInput(f"x has shape {list(x.shape)}: give at least one datum, as [n, D]")
    began, place, seed = time.perf_counter(), as_place(place), settings.seed
    drawn = draw(model, settings.samples, seed, place.device).flatten(1).double().cpu().numpy()
    if drawn.shape[1] != x.shape[1]:
        raise DensityError(
            f"samples of the model have {drawn.shape[1]} numbers and the data {x.shape[1]}: give data of its shape"
        )
    points = dequantise_values(drawn, seed, 0)
    queries = dequantise_values(x.double().cpu().numpy(), seed, 1)
    others, n_shared = _held_out_values(held_out, x, seed)
    widths = sorted(settings.bandwidths or np.geomspace(0.01, 0.6, N_BANDWIDTHS) * max(1, levels - 1))
    scores = []
    progress.stage("bandwidth", len(widths), "bandwidths")
    for width in widths:
        scores.append((float(width), _held_out_score(points, others, width, place)))
        progress.advance(1)
    best = max(range(len(scores)), key=lambda i: scores[i][1])
    nats = _log_density(points, queries, widths[best], place)
    if not np.isfinite(nats).all():
        raise NonFiniteScore(
            f"the kernel density estimate gives datum {int((~np.isfinite(nats)).argmax())} no finite log density"
        )
    return KdeLikelihood(
        nats,
        float(widths[best]),
        settings.samples,
        "samples" if others is None else "held-out data",
        len(points) if others is None else len(others),
        n_shared,
        tuple(scores),
        len(widths) > 1 and best in (0, len(widths) - 1),
        time.perf_counter() - began,
    )


def _held_out_values(held_out: Tensor | None, x: Tensor, seed: int) -> tuple[Values | None, int]:
    """At most MAX_HELD_OUT of the held-out data that are not among x, dequantised; and how many are among x."""
    if held_out is None:
        return None, 0
    if held_out.ndim != 2 or held_out.shape[1] != x.shape[1]:
        raise InputError(f"held-out data have shape {list(held_out.shape)} and the data {list(x.shape)}: give the same D")
    others, n_shared = _without(held_out, x)
    if not len(others):
        raise EmptyInput("all held-out data of the kernel density estimate are test data too: name other held_out images")
    spread = np.linspace(0, len(others) - 1, min(len(others), MAX_HELD_OUT)).astype(int)
    return dequantise_values(others[spread], seed, 2), n_shared


def _without(held_out: Tensor, x: Tensor) -> tuple[Values, int]:
    """The held-out data that are not among x, and how many were left out."""
    test = {row.tobytes() for row in x.double().cpu().numpy()}
    rows = held_out.double().cpu().numpy()
    keep = np.array([row.tobytes() not in test for row in rows], dtype=bool)
    return rows[keep], int((~keep).sum())


def _held_out_score(points: Values, others: Values | None, width: float, place: Place) -> float:
    """Mean log density of data that the estimate was not made from."""
    if others is not None:
        return float(_log_density(points, others, width, place).mean())
    folds = np.arange(len(points)) % FOLDS
    chosen = np.linspace(0, len(points) - 1, min(len(points), MAX_HELD_OUT)).astype(int)  # evenly, over all folds
    parts = [
        _log_density(points[folds != fold], points[chosen[folds[chosen] == fold]], width, place)
        for fold in range(FOLDS)
        if (folds[chosen] == fold).any() and (folds != fold).any()
    ]
    return float(np.concatenate(parts).mean())


def _log_density(points: Values, queries: Values, width: float, place: Place) -> Float64[np.ndarray, " n"]:
    """Log density of queries under the estimate from points, shared out over the processes."""
    from sklearn.neighbors import KernelDensity  # costs a second to import, and only implicit models need it

    mine = range(place.rank, len(queries), place.size)
    failure, log_densities = None, {}
    try:
        # One leaf: with several the library adds and subtracts bounds of whole branches, and in many dimensions rounding
        # leaves nothing of the sum (scikit-learn 1.9: off by up to hundreds of nats in 64 dimensions).
        estimate = KernelDensity(bandwidth=float(width), kernel="gaussian", leaf_size=len(points)).fit(points)
        if len(mine):
            log_densities = dict(zip(mine, estimate.score_samples(queries[list(mine)]).tolist(), strict=True))
    except Exception as error:  # the others must not wait for this process
        failure = error
    return np.array(gather_by_id(log_densities, len(queries), place, failure))
