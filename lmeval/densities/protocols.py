"""What a density is: three kinds of object, told apart by what they have, and the checks that find every misuse of them.

x is always a float tensor [n, *event] in the model's own data space, log-probabilities are nats a datum.

    Latent     prior and decode(z), perhaps encode(x): log p(x) is an integral over z, so it is bounded
    Exact      log_prob(x): the number itself, or a lower bound where the attribute `side` is "lower"
    Implicit   sample(n): no likelihood at all

Any object with these parts will do; nothing has to be inherited. The checks try a model on a few data and a few z, keep the
caller's random state, and say what is wrong, and what to do, in one line.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from lmeval.compute.seeds import seeded
from lmeval.densities.checks import (
    N_TRIED,
    REPEATED,
    Data,
    call_foreign,
    check_data,
    check_distribution,
    check_log_prob,
    check_parameters,
    check_same,
    check_support,
    check_values,
    is_discrete,
    name_of,
    probe_rows,
    refuse_training_mode,
    support_of,
    words,
)
from lmeval.errors import DensityError
from lmeval.results import Side

Kind = Literal["latent", "exact", "implicit"]


class Latent(Protocol):
    """p(x) = integral of p(z) p(x | z) dz. `encode(x) -> Distribution` over z may be there too."""

    @property
    def prior(self) -> Distribution:
        """Distribution of z: batch_shape (), event_shape (d,), any real z allowed."""
        ...

    def decode(self, z: Float[Tensor, "n d"], /) -> Distribution:
        """p(x | z): batch_shape (n,), event_shape x.shape[1:]; so its log_prob(x) is [n]."""
        ...


class Exact(Protocol):
    """A density that knows its own log-probabilities."""

    def log_prob(self, x: Data, /) -> Float[Tensor, " n"]:
        """log p(x), nats a datum."""
        ...


class Implicit(Protocol):
    """A density that can only be sampled."""

    def sample(self, n: int, /) -> Data:
        """`n` independent samples."""
        ...


class LatentShape(NamedTuple):
    """What `check_latent` finds out.

    The dimension of z; whether decode takes z [k, n, d] and then gives the very log_prob(x) [k, n] that it gives for z
    [k * n, d]; whether there is encode; whether log p(x | z) has a finite gradient with respect to z.
    """

    d_latent: int
    batched_particles: bool
    has_encoder: bool
    differentiable: bool


class CheckedLatent(NamedTuple):
    """A latent variable model that has been tried on data, and the shape it turned out to have. Carried on, it is not tried
    again."""

    model: Any
    shape: LatentShape

    @property
    def kind(self) -> Kind:
        """The kind of density that it is."""
        return "latent"


class CheckedExact(NamedTuple):
    """A model with log_prob that has been tried on data, and the side of log p(x) on which its numbers lie."""

    model: Any
    side: Side

    @property
    def kind(self) -> Kind:
        """The kind of density that it is."""
        return "exact"


CheckedDensity = CheckedLatent | CheckedExact


def kind_of(model: object) -> Kind:
    """Which kind of density an object is: latent if it has prior and decode, else exact if it has log_prob, else implicit if
    it has sample.

    Args:
        model: Any object.

    Returns:
        "latent", "exact" or "implicit".

    Raises:
        DensityError: It says what is missing.

    >>> kind_of(torch.distributions.Normal(0.0, 1.0))
    'exact'
    """
    if isinstance(model, type):
        raise DensityError(f"{model.__name__} is a class, not a density: make an object of it and give that")
    prior, decode = getattr(model, "prior", None) is not None, callable(getattr(model, "decode", None))
    if prior and decode:
        return "latent"
    if callable(getattr(model, "log_prob", None)):
        return "exact"
    if prior or decode:
        has, lacks = ("prior", "decode(z)") if prior else ("decode(z)", "prior")
        raise DensityError(f"{name_of(model)} has {has} but no {lacks}: a latent variable model needs both")
    if callable(getattr(model, "sample", None)):
        return "implicit"
    raise DensityError(
        f"{name_of(model)} is no density: it needs prior and decode(z), or log_prob(x), or sample(n); "
        "lmeval.densities.from_flow, from_pythae and from_autoencoder_kl wrap other libraries' models"
    )


def check_density(model: Any, x: Data, levels: int | None = None) -> CheckedDensity:
    """Try a latent variable model or one with log_prob on a few data of `x`.

    Args:
        model: Any object that has the parts of a kind of density. One that was checked before stays as it is.
        x: The data [n, *event] that it will be asked about.
        levels: Says that x holds levels 0 .. levels - 1 of discrete data: then numbers must be those of probabilities.

    Returns:
        The model with what was found out, for everything that computes with it.

    Raises:
        DensityError: In one line, for parts, shapes and values that cannot be used, and for an implicit model.
        InputError: x cannot be used.
    """
    if isinstance(model, CheckedLatent | CheckedExact):
        return model
    kind = KINDS[kind_of(model)]
    if kind.check is None:
        raise DensityError(
            f"{kind.description} has no likelihood: lmeval.likelihood.kde estimates a density from its samples"
        )
    return kind.check(model, x, levels)


def check_latent(model: Any, x: Data, levels: int | None = None) -> CheckedLatent:
    """Try a latent variable model on a few data of `x` and a few z from its prior.

    Args:
        model: An object with `prior` and `decode(z)`, perhaps `encode(x)`.
        x: The data [n, *event], float32 or float64.
        levels: Says that x holds levels 0 .. levels - 1 of discrete data: p(x | z) must then be a probability, no density.

    Returns:
        The model with its shape.

    Raises:
        DensityError: In one line, for parts, shapes and values that cannot be used.
        InputError: x is no such tensor, or (EmptyInput) holds no data.
    """
    check_data(x, levels)
    refuse_training_mode(model)
    name, rows = name_of(model), probe_rows(x)
    with seeded(0, x.device), torch.no_grad():
        d_latent = _check_prior(model, x)
        z = model.prior.sample((N_TRIED,))
        _check_decode(model, z, rows, x, levels)
        has_encoder = callable(getattr(model, "encode", None))
        if has_encoder:
            _check_encode(f"{name}.encode(x)", model.encode, rows, d_latent)
        batched, differentiable = _takes_particles(model, z, rows), _has_gradient(model, z, rows)
        return CheckedLatent(model, LatentShape(d_latent, batched, has_encoder, differentiable))


def check_exact(model: Any, x: Data, levels: int | None = None) -> CheckedExact:
    """Try a model with log_prob on a few data of `x`.

    Args:
        model: An object with `log_prob(x)`; its attribute `side` says "lower" where that is a bound.
        x: The data [n, *event], float32 or float64.
        levels: Says that x holds levels 0 .. levels - 1 of discrete data: then no log_prob may be above 0.

    Returns:
        The model with the side of its numbers, "exact" or "lower".

    Raises:
        DensityError: In one line, for shapes and values that cannot be used.
        InputError: x is no such tensor, or (EmptyInput) holds no data.
    """
    check_data(x, levels)
    refuse_training_mode(model)
    name, rows = f"{name_of(model)}.log_prob(x)", probe_rows(x)
    side = getattr(model, "side", "exact")
    if side not in ("exact", "lower"):
        raise DensityError(f"{name_of(model)}.side is {side!r}: what log_prob gives is 'exact', or a bound, 'lower'")

    def log_prob(data: Tensor) -> Tensor:
        return check_log_prob(call_foreign(lambda: model.log_prob(data), name, data), data, name)

    with seeded(0, x.device), torch.no_grad():
        support = support_of(model)
        check_support(support, x, rows, name_of(model))
        log_probs = log_prob(rows)
        check_values(log_probs, name, discrete=levels is not None or is_discrete(support), levels=levels)
        check_same(log_probs, log_prob(rows), f"{name} differs between two calls", REPEATED)
        check_same(log_probs[:1], log_prob(rows[:1]), f"{name} of a datum depends on the other data of the batch")
    return CheckedExact(model, side)


class KindOfDensity(NamedTuple):
    """A kind of density: what messages call it, and how a model of it is tried (None where it has no likelihood)."""

    description: str
    check: Callable[[Any, Data, int | None], CheckedDensity] | None


KINDS: Mapping[Kind, KindOfDensity] = {
    "latent": KindOfDensity("a latent variable model", check_latent),
    "exact": KindOfDensity("a model with exact log p", check_exact),
    "implicit": KindOfDensity("an implicit model", None),
}


def _check_prior(model: Any, x: Data) -> int:
    """The dimension of z."""
    name, prior = name_of(model), model.prior
    if not isinstance(prior, Distribution):
        raise DensityError(
            f"{name}.prior is {type(prior).__name__}, not a torch Distribution: give the distribution itself, such as "
            "Independent(Normal(torch.zeros(d), torch.ones(d)), 1)"
        )
    batch, event = tuple(prior.batch_shape), tuple(prior.event_shape)
    if batch or len(event) != 1:
        remedy = "flatten z to one dimension"
        if len(batch) == 1 and not event:
            remedy = "its coordinates count as separate distributions: wrap it in Independent(prior, 1)"
        elif not batch and not event:
            remedy = "give a vector of one number: Independent(Normal(torch.zeros(1), torch.ones(1)), 1)"
        elif batch == (1,) and len(event) == 1:
            remedy = "its parameters have a leading dimension too many: leave it out"
        elif batch:
            remedy = f"wrap it in Independent(prior, {len(batch)}) and flatten z"
        raise DensityError(f"{name}.prior has batch_shape {batch} and event_shape {event}, not () and (d,): {remedy}")
    far = torch.tensor([1e3 + 0.5, -1e3 - 0.5], device=x.device)[:, None].expand(2, *event)
    support = support_of(prior)
    z = call_foreign(lambda: prior.sample((2,)), f"{name}.prior.sample((2,))", None)
    if z.device != x.device:
        raise DensityError(
            f"{name}.prior lies on {z.device} and x on {x.device}: move the model and its prior to {x.device}"
        )
    if z.dtype != x.dtype:
        kind = str(z.dtype).removeprefix("torch.")
        raise DensityError(
            f"{name}.prior samples {z.dtype} and x is {x.dtype}: give x.to(torch.{kind}), or convert the model"
        )
    if support is not None and not bool(support.check(far.to(z)).all()):
        raise DensityError(
            f"{name}.prior allows only some z ({words(support)}), and chains must be able to go anywhere: let z be standard "
            "normal and map it to the range you want in decode(z)"
        )
    check_parameters(prior, f"{name}.prior")
    log_probs = call_foreign(lambda: prior.log_prob(z), f"{name}.prior.log_prob(z)", z)
    if log_probs.shape != (2,):
        raise DensityError(f"{name}.prior.log_prob(z [2, {event[0]}]) has shape {list(log_probs.shape)}, not [2]")
    if torch.isnan(log_probs).any():
        raise DensityError(f"{name}.prior gives its own samples log-probability NaN: check its parameters")
    return event[0]


def _check_decode(model: Any, z: Tensor, rows: Data, x: Data, levels: int | None) -> None:
    name, event = f"{name_of(model)}.decode(z)", tuple(rows.shape[1:])

    def decoded(some: Tensor) -> Distribution:
        return check_distribution(call_foreign(lambda: model.decode(some), name, some), (len(some), event), name, "x")

    def log_prob(some: Tensor, data: Data) -> Tensor:
        distribution = decoded(some)
        log_probs = call_foreign(lambda: distribution.log_prob(data), f"{name}.log_prob(x)", data)
        return check_log_prob(log_probs, data, f"{name}.log_prob(x)")

    given = z.clone()
    support = support_of(decoded(z))
    if not torch.equal(z, given):
        raise DensityError(f"{name} changes z in place: copy z first")
    if levels is not None and support is not None and not is_discrete(support):
        raise DensityError(
            f"{name} is a density over real x, and x holds {levels} levels: give a probability of levels (Bernoulli, "
            "categorical, discretised logistic), or dequantise x first (lmeval.densities.spaces)"
        )
    check_support(support, x, rows, name)
    log_probs = log_prob(z, rows)
    check_values(log_probs, f"{name}.log_prob(x) at ordinary z", discrete=is_discrete(support), levels=levels)
    check_same(log_probs, log_prob(z, rows), f"{name} differs between two calls with the same z", REPEATED)
    other = log_prob(torch.cat([z[:1], z[2:]]), torch.cat([rows[:1], rows[2:]]))
    check_same(log_probs[:1], other[:1], f"{name} depends on the other z of the batch")
    check_same(log_probs[:1], log_prob(z[:1], rows[:1]), f"{name} depends on the size of the batch")


def _check_encode(name: str, encode: Any, rows: Data, d_latent: int) -> None:
    def encoded(data: Data) -> Distribution:
        posterior = call_foreign(lambda: encode(data), name, data)
        return check_distribution(posterior, (len(data), (d_latent,)), name, "the prior's z")

    def log_prob(data: Data, some: Tensor) -> Tensor:
        q = encoded(data)
        return check_log_prob(
            call_foreign(lambda: q.log_prob(some), f"{name}.log_prob(z)", some), some, f"{name}.log_prob(z)"
        )

    q = encoded(rows)
    z = call_foreign(q.sample, f"{name}.sample()", None)
    try:
        spread = q.stddev
    except (NotImplementedError, AttributeError):  # many distributions do not know their own
        spread = torch.ones_like(z)
    usable = torch.isfinite(z).all() and torch.isfinite(spread).all() and (spread > 0).all()
    if not usable or not torch.isfinite(log_probs := log_prob(rows, z)).all():
        raise DensityError(
            f"{name} has a mean or scale that is NaN or infinite, or a scale of 0: check the weights, and whether the "
            "network gives a scale, its logarithm, or the logarithm of its square"
        )
    check_same(log_probs, log_prob(rows, z), f"{name} differs between two calls with the same x", REPEATED)
    others = torch.tensor([0, 2], device=rows.device)
    check_same(
        log_probs[:1], log_prob(rows[others], z[others])[:1], f"{name} of a datum depends on the other data of the batch"
    )
    check_same(log_probs[:1], log_prob(rows[:1], z[:1]), f"{name} of a datum depends on the size of the batch")


def _takes_particles(model: Any, z: Tensor, rows: Data) -> bool:
    """Whether decode(z [k, n, d]) gives log_prob(x [n]) [k, n] equal to that of z one by one."""
    particles = torch.stack([z, z.flip(0)])
    n = len(rows)
    try:
        many = model.decode(particles)
        log_probs = many.log_prob(rows)
        one = model.decode(particles[:1, :1])
        if tuple(many.batch_shape) != (2, n) or tuple(one.batch_shape) != (1, 1) or log_probs.shape != (2, n):
            return False
        flat = model.decode(particles.flatten(0, 1)).log_prob(torch.cat([rows, rows]))
        return torch.allclose(log_probs, flat.unflatten(0, (2, n)), rtol=1e-4, atol=1e-4)
    except (
        Exception
    ):  # a network that takes no more dimensions fails in its own way, and is asked for one batch of z instead
        return False


def _has_gradient(model: Any, z: Tensor, rows: Data) -> bool:
    """Whether log p(x | z) has a finite gradient with respect to z."""
    try:
        with torch.enable_grad():
            z = z.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(model.decode(z).log_prob(rows).sum(), z, allow_unused=True)
    except RuntimeError:  # nothing in it needs a gradient, or an operation has none
        return False
    return gradient is not None and bool(torch.isfinite(gradient).all())
