"""Spaces that images are modelled in, and what it takes to compare numbers across them: bits a dimension of the LEVELS.

A density of real numbers is no probability of levels. Two steps lead from one to the other:

    P(k) = integral over u in [0, 1)^D of p(k + u)       p per unit of level; dequantisation bounds its logarithm from below
    p_levels(k + u) = p_unit((k + u) / L) / L^D          the constant D log L, 8 bits a dimension for 256 levels

and a density of logits needs the volume of that map as well (`Logit`). Levels are whole numbers 0 .. L - 1: data that were
divided by L - 1 have steps of 1 / (L - 1), noise of width 1 / L does not fill them, and so they are refused here.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from lmeval.compute.memory import DENSITY_ROWS, at_once
from lmeval.compute.place import alone
from lmeval.compute.seeds import seeded
from lmeval.data.tags import Tags
from lmeval.densities.checks import Data, call_foreign, check_data, check_log_prob, name_of
from lmeval.densities.protocols import Exact
from lmeval.errors import DensityError, InputError
from lmeval.results import Side

Space = Literal["levels", "unit"]
Convention = Literal["margin", "total"]
MAX_CONFIGURATIONS = 2**16  # that check_normalised sums over
_ROWS = 8192  # that check_normalised sums over at once
_PANELS, _NODES = {1: 128, 2: 25}, 16  # quadrature: panels an axis, Gauss-Legendre nodes a panel
_REACH = {1: 9.0, 2: 7.0}  # of the variable that sinh maps to the real line: +-4051, and +-548 in two dimensions


def log_mean_exp(log_values: Float[Tensor, "draws n"]) -> Float64[Tensor, " n"]:
    """log (1/K) sum over k of exp(log_values[k]), over K draws, without overflow and in float64.

    Args:
        log_values: Logarithms (nats) [draws, n].

    Returns:
        Logarithms of the means (nats) [n].

    Raises:
        ValueError: There are no draws.
    """
    return torch.logsumexp(log_values.double(), dim=0) - math.log(len(log_values))


@dataclass(frozen=True)
class UniformLevels:
    """Every image of levels has probability levels^-n_dims: log2(levels) bits a dimension on any data."""

    levels: int
    n_dims: int
    side: Side = "exact"

    def log_prob(self, x: Data) -> Float64[Tensor, " n"]:
        """-n_dims log(levels) nats; -inf for what is no image of levels."""
        flat = x.flatten(1)
        inside = ((flat >= 0) & (flat <= self.levels - 1) & (flat == flat.round())).all(1)
        value = -self.n_dims * math.log(self.levels) if flat.shape[1] == self.n_dims else -math.inf
        log_probs = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
        return log_probs.masked_fill(inside, value)


def uniform_levels(levels: int, n_dims: int) -> UniformLevels:
    """The uniform density of images of levels, the yardstick of every unit conversion.

    Args:
        levels: How many levels a pixel has, at least 2.
        n_dims: How many pixels an image has, at least 1.

    Raises:
        InputError: There are fewer.
    """
    if levels < 2 or n_dims < 1:
        raise InputError(f"levels is {levels} and n_dims {n_dims}: give at least 2 levels and 1 dimension")
    return UniformLevels(levels, n_dims)


@dataclass(frozen=True)
class Dequantised:
    """A density of real numbers as a lower bound on the log-probability of levels. `dequantise` makes one with its checks.

        log P(k) >= E log( 1/K sum_j p(k + u_j) ),    u_1 .. u_K uniform in [0, 1)^D

    K = 1 is uniform dequantisation (Theis, van den Oord & Bethge 2016), more draws are the importance-weighted form, which
    is tighter. A density of [0, 1]^D (`space` "unit") is taken at (k + u) / L, and D log L subtracted. It is a bound in
    expectation over u; the draws of an image are seeded by its levels and `seed`, so its number depends on no other image.
    """

    density: Exact
    levels: int
    draws: int
    space: Space
    seed: int
    side: Side = "lower"

    @torch.no_grad()
    def log_prob(self, x: Data) -> Float64[Tensor, " n"]:
        """The bound, nats an image, for levels x. Raises InputError where x holds no levels."""
        check_data(x, self.levels)
        upper = self.levels if self.space == "levels" else 1
        constant = 0.0 if self.space == "levels" else x[0].numel() * math.log(self.levels)
        last_inside = torch.nextafter(torch.tensor(upper, dtype=x.dtype), torch.tensor(0, dtype=x.dtype)).item()

        def log_density(rows: Data, noise: Tensor) -> Tensor:
            values = ((rows.double().cpu() + noise) * (upper / self.levels)).to(rows).clamp(max=last_inside)
            return _density_at(self.density, values.flatten(0, 1)).unflatten(0, (self.draws, len(rows)))

        return dequantised_bound(log_density, x, self.draws, self.seed) - constant


def dequantised_bound(
    log_density: Callable[[Data, Tensor], Tensor], x: Data, draws: int, seed: int | None = None
) -> Float64[Tensor, " n"]:
    """log of the mean, over draws of noise u in [0, 1)^D, of the density at x + u: in expectation at most log P(x).

    Args:
        log_density: Gives log-densities [draws, n] per unit of level, of levels [n, *event] with noise [draws, n, *event].
        x: Levels [n, *event].
        draws: How many draws of noise each image gets. They depend on its own levels and the seed alone.
        seed: As of `content_noise`.
    """
    bounds = []
    rows_at_once = at_once(DENSITY_ROWS, alone(x.device), 4 * x[:1].numel())
    for rows in x.split(max(1, rows_at_once // draws)):
        noise = torch.stack([content_noise(row, draws, seed) for row in rows.detach().cpu()], dim=1)
        bounds.append(log_mean_exp(log_density(rows, noise)))
    return torch.cat(bounds)


def dequantise(density: Exact, levels: int, draws: int = 1, *, space: Space = "unit", seed: int = 0) -> Dequantised:
    """The dequantisation bound of a density of real numbers.

    Args:
        density: A density of [0, 1]^D (`space` "unit") or of [0, levels)^D ("levels").
        levels: How many levels a pixel has, at least 2.
        draws: How many draws of noise are averaged for each image; more are a tighter bound.
        space: Which numbers `density` is of.
        seed: Of the noise, beside the levels of each image.

    Returns:
        A density of levels, on side "lower".

    Raises:
        InputError: An argument cannot be used.
    """
    if space not in ("levels", "unit"):
        raise InputError(f"space is {space!r}: a density is of 'unit', [0, 1]^D, or of 'levels', [0, {levels})^D")
    if levels < 2 or draws < 1:
        raise InputError(f"levels is {levels} and draws {draws}: give at least 2 levels and 1 draw")
    return Dequantised(density, levels, draws, space, seed)


def content_noise(levels: Tensor, draws: int, seed: int | None = None) -> Tensor:
    """Uniform numbers [draws, *event] in [0, 1) that the levels of one image determine, with a seed in float64.

    Without a seed they are the float32 numbers of density files, whose bounds must stay what they were.
    """
    content = levels.round().to(torch.int32).numpy().astype("<i4").tobytes()
    if seed is None:
        state, dtype = int.from_bytes(hashlib.sha256(content).digest()[:8], "little") >> 1, torch.float32
    else:
        digest = hashlib.sha256(seed.to_bytes(8, "little", signed=True) + content).digest()
        state, dtype = int.from_bytes(digest[:7], "little"), torch.float64
    return torch.rand(draws, *levels.shape, generator=torch.Generator().manual_seed(state), dtype=dtype)


def dequantise_values(values: Float64[np.ndarray, "n d"], seed: int, part: int) -> Float64[np.ndarray, "n d"]:
    """Levels with noise u in [-1/2, 1/2), so that a level is the middle of its cell; real numbers stay as they are.

    Values count as levels where all of them are whole numbers. Each `part` of the data has noise of its own.
    """
    if (values == np.round(values)).all():
        return values + np.random.default_rng([seed, part]).random(values.shape) - 0.5
    return values


def _density_at(density: Exact, values: Tensor) -> Tensor:
    name = f"{name_of(density)}.log_prob"
    return check_log_prob(call_foreign(lambda: density.log_prob(values), name, values), values, name)


def margin_of(alpha: float, convention: Convention) -> float:
    """How far from 0 and 1 a logit transform stays, by either of the conventions that papers call alpha.

        "margin"   s = alpha + (1 - 2 alpha) v          RealNVP, MAF (1e-6 for MNIST, 0.05 for CIFAR-10): the margin itself
        "total"    s = (1 - alpha) v + alpha / 2        Glow-like code, normflows (0.05): both margins together

    Raises:
        InputError: Nothing is left between the margins.
    """
    if convention not in ("margin", "total"):
        raise InputError(f"convention is {convention!r}: alpha is a 'margin' (RealNVP, MAF) or the 'total' (normflows)")
    margin = alpha if convention == "margin" else alpha / 2
    if not 0 <= margin < 0.5:
        raise InputError(f"alpha is {alpha:g} as {convention}: the margin must be at least 0 and less than 1/2")
    return margin


def to_logits(v: Data, alpha: float, convention: Convention = "margin") -> tuple[Data, Float64[Tensor, " n"]]:
    """y = logit(s) with s = alpha + (1 - 2 alpha) v, of v in [0, 1]; and its log-volume, [n].

    log |det dy/dv| = sum over dimensions of log(1 - 2 alpha) - log s - log(1 - s), and
    log p(v) = log q(y) + log |det dy/dv| for q the density of y.

    Args:
        v: Values [n, *event] in [0, 1].
        alpha: The margin, as `margin_of` has it.
        convention: Which margin alpha is.

    Returns:
        Logits like v, and log |det dy/dv| [n] in float64.

    Raises:
        InputError: v leaves [0, 1], or is 0 or 1 where alpha is 0.
    """
    margin = margin_of(alpha, convention)
    outside = ~((v >= 0) & (v <= 1)) if margin else ~((v > 0) & (v < 1))
    if outside.any():
        remedy = "dequantise levels and divide by their number first" if margin else "give alpha > 0, or noise"
        raise InputError(f"a logit transform with margin {margin:g} takes no value {float(v[outside][0]):g}: {remedy}")
    y, log_volume = logit_map(margin + (1 - 2 * margin) * v.double(), math.log(1 - 2 * margin))
    return y.to(v), log_volume.flatten(1).sum(1)


def logit_map(s: Tensor, log_slope: float) -> tuple[Tensor, Tensor]:
    """y = log(s / (1 - s)) of s in (0, 1), and the logarithm of dy/dv in every dimension, where log ds/dv = `log_slope`."""
    log_s, log_rest = torch.log(s), torch.log1p(-s)
    return log_s - log_rest, log_slope - log_s - log_rest


def logit_inverse(y: Tensor, margin: float) -> Tensor:
    """v of logits y = logit(margin + (1 - 2 margin) v): a margin outside [0, 1] at most."""
    return (torch.sigmoid(y) - margin) / (1 - 2 * margin)


def from_logits(y: Data, alpha: float, convention: Convention = "margin") -> tuple[Data, Float64[Tensor, " n"]]:
    """The inverse of `to_logits`.

    Args:
        y: Logits [n, *event].
        alpha: As of `to_logits`.
        convention: As of `to_logits`.

    Returns:
        v like y, which lies a margin outside [0, 1] at most, and log |det dv/dy| [n] in float64.
    """
    margin = margin_of(alpha, convention)
    wide = y.double()
    log_s, log_rest = torch.nn.functional.logsigmoid(wide), torch.nn.functional.logsigmoid(-wide)
    log_det = (log_s + log_rest - math.log(1 - 2 * margin)).flatten(1).sum(1)
    return logit_inverse(wide, margin).to(y), log_det


@dataclass(frozen=True)
class Logit:
    """A density of logits as one of v in [0, 1]^D: log p(v) = log q(y(v)) + log |det dy/dv|, exact.

    What q puts outside the logits of [alpha, 1 - alpha] lies outside [0, 1] and is lost, so p integrates to at most 1 there.
    """

    density: Exact
    alpha: float
    convention: Convention = "margin"

    @property
    def side(self) -> Side:
        """That of the density of logits."""
        return getattr(self.density, "side", "exact")

    def log_prob(self, v: Data) -> Float64[Tensor, " n"]:
        """log p(v) in nats. Raises InputError where v leaves [0, 1]."""
        y, log_det = to_logits(v, self.alpha, self.convention)
        return _density_at(self.density, y) + log_det


def in_logit_space(tags: Tags, alpha: float, convention: Convention = "margin") -> Tags:
    """The tags of numbers that are densities of logits, without the volume of that map, such as those in MAF's tables.

    They compare with none of other tags. A density in `Logit` includes the volume, and its tags stay as they are.

    Args:
        tags: Of the data before the map.
        alpha: The margin, as `margin_of` has it.
        convention: Which margin alpha is.

    Returns:
        The tags, with the map and its margin as `transform`.

    Raises:
        InputError: Nothing is left between the margins.
    """
    return replace(tags, transform=f"logit, margin {margin_of(alpha, convention):g}")


def check_normalised(
    model: Exact,
    levels: int | None,
    n_dims: int,
    *,
    box: tuple[float, float] | None = None,
    tolerance: float = 1e-3,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> float:
    """The total probability of a model with log_prob, computed by going everywhere.

    For discrete data the sum over all levels^n_dims images, at most 65,536 of them. For real numbers (`levels` None) in 1 or
    2 dimensions an integral by Gauss-Legendre quadrature: over [low, high]^n_dims where `box` is given, else over the real
    line by x = sinh(t), which sees scales from about 0.05 to 1000 near 0. A model whose side is "lower" may stay below 1;
    where its bounds are drawn by chance, so is their total, and `tolerance` has to allow for that.

    For everything larger no sum or integral can tell. There, log_prob > 0 of discrete data is all that shows.

    Args:
        model: A model with log_prob.
        levels: How many levels a pixel has; None for real numbers.
        n_dims: How many numbers a datum has.
        box: Where the real numbers lie, in every dimension.
        tolerance: How far from 1 the total may lie.
        device: Where the model lies.
        dtype: Of the x that the model gets.

    Returns:
        The total.

    Raises:
        DensityError: It is not 1.
        InputError: There is too much to sum.
    """
    side = getattr(model, "side", "exact")
    if levels is not None:
        if n_dims * math.log2(levels) > math.log2(MAX_CONFIGURATIONS):
            raise InputError(
                f"{levels} levels in {n_dims} dimensions are more than {MAX_CONFIGURATIONS:,} images, too many to sum: "
                "check a smaller model of the same kind"
            )
        total = _total_of_levels(model, levels, n_dims, torch.empty(0, device=device, dtype=dtype))
        what = f"the probabilities of all {levels**n_dims:,} images"
    else:
        if n_dims > 2:
            raise InputError(
                f"an integral over {n_dims} real dimensions is out of reach: check a model of 1 or 2 dimensions"
            )
        total = _integral(model, n_dims, box, torch.empty(0, device=device, dtype=dtype))
        what = f"the integral over {'the box' if box else 'the real line'}"
    if not math.isfinite(total) or total > 1 + tolerance or (side != "lower" and total < 1 - tolerance):
        raise DensityError(f"{name_of(model)}: {what} is {total:.6g}, not 1: log_prob is not normalised, or of other data")
    return total


def _total_of_levels(model: Exact, levels: int, n_dims: int, like: Tensor) -> float:
    places = levels ** torch.arange(n_dims - 1, -1, -1)
    total = 0.0
    with seeded(0, like.device), torch.no_grad():
        for numbers in torch.arange(levels**n_dims).split(_ROWS):
            x = (numbers[:, None] // places % levels).to(like)
            total += float(_density_at(model, x).exp().sum())
    return total


def _integral(model: Exact, n_dims: int, box: tuple[float, float] | None, like: Tensor) -> float:
    low, high = (-_REACH[n_dims], _REACH[n_dims]) if box is None else box
    if not low < high:
        raise InputError(f"box is {list((low, high))}: give its lower end first")
    at, weight = np.polynomial.legendre.leggauss(_NODES)
    edges = np.linspace(low, high, _PANELS[n_dims] + 1)
    half = (edges[1] - edges[0]) / 2
    t = ((edges[:-1] + half)[:, None] + half * at).ravel()
    weights = np.tile(half * weight, _PANELS[n_dims])
    nodes, log_weights = (t, np.log(weights)) if box is not None else (np.sinh(t), np.log(weights) + np.log(np.cosh(t)))
    grid = torch.cartesian_prod(*[torch.from_numpy(nodes)] * n_dims).reshape(-1, n_dims)
    volume = torch.cartesian_prod(*[torch.from_numpy(log_weights)] * n_dims).reshape(-1, n_dims).sum(1)
    total = 0.0
    with seeded(0, like.device), torch.no_grad():
        for x, log_volume in zip(grid.split(_ROWS), volume.split(_ROWS), strict=True):
            log_probs = _density_at(model, x.to(like)).cpu()
            total += float((log_probs + log_volume).exp().sum())
    return total
