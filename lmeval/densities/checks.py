"""What every check of a density is made of: foreign code called, data that tell much, shapes, values.

Each finding is one line that names the model's part, what it gave, and what to do. `protocols` puts them together.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, constraints

from lmeval.compute.seeds import seeded
from lmeval.errors import DensityError, EmptyInput, InputError, first_line

Data = Float[Tensor, "n *event"]
N_TRIED = 3  # z values, and data, that a check looks at
# Relative and absolute difference of one datum's numbers in batches of other sizes: more than rounding in bfloat16 makes of
# it, less than batch statistics do. Two calls with the very same arguments agree far better.
ROUNDING, REPEATED = 1e-3, 1e-5


def check_data(x: Any, levels: int | None = None) -> None:
    """Raise InputError where x is no float tensor [n, *event] of finite numbers, or of levels; EmptyInput without data."""
    if not isinstance(x, Tensor):
        raise InputError(
            f"x must be a float tensor [n, *event], not {type(x).__name__}: convert it, e.g. torch.as_tensor(x)"
        )
    if not x.is_floating_point():
        raise InputError(f"x holds {x.dtype}, and densities take float tensors: give x.float()")
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"x holds {x.dtype}, too coarse for log-probabilities: give x.float() to a model in float32")
    if x.ndim < 2:
        raise InputError(f"x has shape {list(x.shape)}, and a batch is [n, *event]: give x[:, None] for n numbers")
    if x.numel() == 0:
        raise EmptyInput(f"x has shape {list(x.shape)} and holds no data: give at least one datum")
    bad = ~torch.isfinite(x.flatten(1)).all(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise InputError(
            f"x[{first}] is not finite ({int(bad.sum())} of {len(x)} data are not): a mean must not leave it out"
        )
    if levels is not None:
        wrong = (x < 0) | (x > levels - 1) | (x != x.round())
        if wrong.any():
            raise InputError(f"x holds {float(x[wrong][0]):g}, and {levels} levels are the whole numbers 0 to {levels - 1}")


def refuse_training_mode(model: Any) -> None:
    """Raise DensityError where dropout or batch normalisation is in training mode, or weights are not finite."""
    held = [model, *getattr(model, "__dict__", {}).values()]
    for part in (part for part in held if isinstance(part, nn.Module)):
        for name, module in part.named_modules():
            mixes = isinstance(module, nn.modules.batchnorm._BatchNorm)
            draws = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
            if (mixes or draws) and module.training:
                raise DensityError(
                    f"{name_of(model)}: {name or 'the model'} ({type(module).__name__}) is in training mode, and numbers "
                    "would depend on chance or on the batch: call model.eval()"
                )
        for name, weight in part.named_parameters():
            if not torch.isfinite(weight).all():
                raise DensityError(f"{name_of(model)}: parameter {name} is not finite (NaN or infinite): load other weights")


def name_of(model: Any) -> str:
    """What to call a model in a message: its own name, or its type's."""
    name = getattr(model, "name", None)
    return name if isinstance(name, str) and name else type(model).__name__


def call_foreign(function: Callable[[], Any], what: str, given: Tensor | None) -> Any:
    """Call foreign code. What it raises becomes one line that says what it was `given` and guesses the remedy."""
    try:
        return function()
    except DensityError:
        raise
    except Exception as error:  # any code of any library
        line, shown = first_line(error), ""
        if given is not None:
            shown = f" for {str(given.dtype).removeprefix('torch.')} {list(given.shape)} on {given.device}"
        remedy = "check what it expects"
        if "same device" in line or "different from other tensors" in line:
            remedy = "move the model and its prior to the device of the data"
        elif "invalid values" in line or "nan" in line.lower().split():
            remedy = (
                "a parameter leaves its range or is NaN: check the weights, and whether the network gives a scale, its "
                "logarithm, a probability or log-odds"
            )
        elif "more than 1 value per channel" in line:
            remedy = "call model.eval()"
        elif "dtype" in line:
            remedy = "convert model and data to one dtype"
        elif "within the support" in line:
            remedy = "that lies outside the values that the distribution allows"
        raise DensityError(f"{what} fails{shown}: {line:.200}; {remedy}") from error


def draw(model: Any, n: int, seed: int, device: torch.device | str = "cpu") -> Data:
    """Samples of a model, from a seed; the caller's random state stays as it is.

    Args:
        model: Anything with sample(n) or, as torch's distributions have it, sample(torch.Size).
        n: How many.
        seed: Of torch's generators.
        device: Where the model lies.

    Returns:
        Samples [n, *event].

    Raises:
        DensityError: Samples are no finite float tensor [n, *event].
    """
    name, is_torch = name_of(model), isinstance(model, Distribution)
    with seeded(seed, device), torch.no_grad():
        samples = call_foreign(lambda: model.sample((n,) if is_torch else n), f"{name}.sample({n})", None)
    if not isinstance(samples, Tensor) or samples.shape[:1] != (n,) or samples.ndim < 2 or not samples.is_floating_point():
        shown = f"{samples.dtype} {list(samples.shape)}" if isinstance(samples, Tensor) else type(samples).__name__
        raise DensityError(f"{name}.sample({n}) gives {shown}, and must give a float tensor [{n}, *event]")
    if not torch.isfinite(samples).all():
        raise DensityError(f"{name}.sample({n}) gives numbers that are not finite: check the model's weights")
    return samples


def probe_rows(x: Data) -> Data:
    """Rows to try a model on, N_TRIED of them: the first, and those with the least and the greatest value.

    Where these are the same, the last row and the middle one follow; where there are no others, the first one backwards.
    """
    flat = x.flatten(1)
    places = dict.fromkeys([0, int(flat.amin(1).argmin()), int(flat.amax(1).argmax()), len(x) - 1, len(x) // 2])
    rows = x[list(places)[:N_TRIED]]
    backwards = flat[:1].flip(1).reshape(1, *x.shape[1:])
    return torch.cat([rows, backwards.expand(N_TRIED - len(rows), *x.shape[1:])])


def check_distribution(returned: Any, shape: tuple[int, tuple[int, ...]], name: str, of_what: str) -> Distribution:
    """The distribution, whose batch and event must be `shape`, the event that of `of_what`."""
    n, event = shape
    if not isinstance(returned, Distribution):
        kind = "a tensor" if isinstance(returned, Tensor) else f"a {type(returned).__name__}"
        such = "Bernoulli(logits=...)" if of_what == "x" else "Normal(mean, std)"
        raise DensityError(f"{name} returns {kind}, not a torch Distribution: return one, such as Independent({such}, 1)")
    batch, has = tuple(returned.batch_shape), tuple(returned.event_shape)
    whole = batch + has
    if batch == (n,) and has == event:
        check_parameters(returned, name)
        return returned
    remedy = f"they must be ({n},) and {event}, those of {of_what}"
    if whole == (n, *event) and len(has) < len(event):
        remedy = f"dimensions count as separate distributions: wrap it in Independent(..., {len(event) - len(has)})"
    elif whole == (n, *event):
        remedy = f"the batch counts as a part of x: wrap the distribution in Independent(..., {len(event)})"
    elif whole[:1] == (n,) and math.prod(whole[1:]) == math.prod(event):
        remedy = f"{of_what} has shape {event} and this {whole[1:]}: reshape one to the other"
    elif whole == event or (n > 1 and math.prod(whole) == math.prod(event)):
        remedy = "the batch dimension is lost: keep the first dimension of the input"
    elif len(event) == 1 and whole[:1] == (n,) and len(whole) == 2:
        remedy = f"{of_what} has {event[0]} numbers and this {whole[1]}"
    raise DensityError(f"{name} of {n} has batch_shape {batch} and event_shape {has}: {remedy}")


def check_parameters(distribution: Distribution, name: str) -> None:
    """Raise DensityError where parameters leave their range.

    torch checks them itself unless that is switched off, as it is for the whole process once zuko has been imported.
    """
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    for parameter, constraint in (distribution.arg_constraints or {}).items():
        value = distribution.__dict__.get(parameter)  # others are computed from these
        if isinstance(value, Tensor) and not constraints.is_dependent(constraint) and not constraint.check(value).all():
            raise DensityError(
                f"{name}: the {parameter} of its {type(distribution).__name__} leaves its range ({words(constraint)}) or "
                "is NaN: check the weights, and whether the network gives a scale, its logarithm, a probability or log-odds"
            )


def check_log_prob(log_probs: Any, data: Data, name: str) -> Tensor:
    """Log-probabilities [n] in float64, one for each of the data."""
    n = len(data)
    if not isinstance(log_probs, Tensor):
        raise DensityError(f"{name} returns {type(log_probs).__name__}, not a tensor [{n}]")
    if log_probs.shape != (n,):
        remedy = "one number for every datum"
        if log_probs.shape[:1] == (n,):
            n_dims = log_probs.ndim - 1
            remedy = f"dimensions count as separate distributions: wrap the distribution in Independent(..., {n_dims})"
        elif log_probs.ndim == 0:
            remedy = "it is summed or averaged over the batch: return one number for every datum"
        raise DensityError(f"{name} of {n} data has shape {list(log_probs.shape)}, not [{n}]: {remedy}")
    return log_probs.double()


def check_values(log_probs: Tensor, name: str, *, discrete: bool, levels: int | None = None) -> None:
    """Raise DensityError where log-probabilities are NaN or +inf, all -inf, or above 0 although x is discrete."""
    if torch.isnan(log_probs).any() or (log_probs == math.inf).any():
        raise DensityError(
            f"{name} is {float(log_probs[~(log_probs < math.inf)][0])}: check the weights and the scale of the data"
        )
    if (log_probs == -math.inf).all():
        raise DensityError(
            f"{name} is -inf for all data tried: the model holds them impossible; check the scale of the data"
        )
    if discrete and (log_probs > ROUNDING).any():
        worst = float(log_probs.max())
        if levels is None:
            raise DensityError(f"{name} is {worst:.4g}, and no probability exceeds 1: the distribution is not normalised")
        raise DensityError(
            f"{name} is {worst:.4g} > 0, so it is a density and not a probability of {levels} levels; "
            "dequantise (see lmeval.densities.spaces)"
        )


def check_same(one: Tensor, other: Tensor, complaint: str, tolerance: float = ROUNDING) -> None:
    """Raise DensityError with `complaint` where two evaluations of the same log-probabilities disagree beyond rounding."""
    if not torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True):
        worst = float((one - other).abs().nan_to_num(nan=math.inf).max())
        raise DensityError(f"{complaint} (by {worst:.3g} nats): call model.eval(), and draw no noise in it")


def support_of(distribution: Any) -> Any:
    """The support of a distribution; None where it does not say."""
    try:
        return getattr(distribution, "support", None) if isinstance(distribution, Distribution) else None
    except NotImplementedError:
        return None


def is_discrete(support: Any) -> bool:
    """Whether a support is of whole numbers. One that does not say counts as continuous."""
    try:
        return support is not None and bool(support.is_discrete)
    except NotImplementedError:
        return False


def check_support(support: Any, x: Data, rows: Data, name: str) -> None:
    """Raise DensityError where x leaves the support: all of x where that is 0/1 or an interval of levels, else `rows`."""
    base = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    if base is constraints.boolean:
        outside = (x != 0) & (x != 1)
        if outside.any():
            raise DensityError(
                f"{name} is of 0 and 1, and x holds {float(x[outside][0]):g}: a Bernoulli gives grey levels no probability; "
                "binarise x first (lmeval.densities.binarise or threshold)"
            )
        return
    if isinstance(base, constraints.integer_interval):
        low, high = base.lower_bound, base.upper_bound
        outside = (x < low) | (x > high) | (x != x.round())
        if outside.any():
            raise DensityError(f"{name} is of whole levels {low} to {high}, and x holds {float(x[outside][0]):g}: rescale x")
        return
    if support is None or isinstance(base, type(constraints.dependent)):
        return
    inside = call_foreign(lambda: support.check(rows), f"{name}'s support", rows)
    if not bool(inside.all()):
        raise DensityError(
            f"{name} allows only {words(support)}, and x holds {float(rows.min()):g} to {float(rows.max()):g}: rescale x"
        )


def words(support: Any) -> str:
    """A support as a reader would name it, without its numbers."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    name = type(support).__name__.strip("_")
    bounds = [getattr(support, side, None) for side in ("lower_bound", "upper_bound")]
    numbers = [f"{float(torch.as_tensor(bound).flatten()[0]):g}" for bound in bounds if bound is not None]
    return f"{name} {' to '.join(numbers)}".strip()
