#!/usr/bin/env python
"""Measure likelihood bounds: how narrow for their cost, and how near to the bare decoder in speed.

    scripts/bench_likelihood --rounds 3 --json out.json
    scripts/bench_likelihood --sections A --budgets 30 100 300

A   Width of the sandwich (upper minus lower bound, nats, mean over data) at equal gradient evaluations of the decoder, where
    log p(x) is known: z ~ N(0, I), x | z ~ N(W z, s2 I), W_ij ~ N(0, 1 / latents), on data drawn from the model. For each
    budget (the evaluations that our default takes with so many temperatures):

        BDMC, linear / sigmoid    the baseline (Grosse et al. 2015, Wu et al. 2017): 16 chains from the prior forward, 16
                                  back that all start at the z that made x; unit mass, one trajectory of 10 leapfrogs at
                                  each temperature. In its favour: steps are tuned for each datum at each temperature
                                  towards 65% acceptance, in a pilot whose cost is NOT counted, and frozen; values and
                                  gradients are cached (10 evaluations a trajectory; published code takes up to 15)
        prior, sigmoid, AIS       ours with mass, step and 5 leapfrogs from a pilot; one chain back, 15 of the forward law
        + thermodynamic           the same, temperatures of equal thermodynamic length
        + resampling              SMC below, conditional SMC above
        + pilot's start (ours)    the defaults of `sandwich`: starts at a normal distribution that the pilot fitted

    Ours counts ALL evaluations: both pilots once, the run forward, the chain back and the conditional run. Every row but
    the last gets as many temperatures as the budget allows; "seconds" leave out the baseline's tuning. "error" is bound
    minus exact log p(x): at most 0 in expectation below, at least 0 above. "ratio" is the width over that of the narrower
    BDMC of the same budget.

B   Gradient evaluations a second of [particles x data] on one decoder, in turns (after one round that is not counted):

        bare        z.requires_grad_(); model.decode(z).log_prob(x repeated); torch.autograd.grad; nothing else
        bare, lean  the same without distributions or their checks, by the shortest formula that autograd takes
        run         our weighted run alone: moves, weights, resampling, random numbers
        whole call  `log_likelihood(model, x, "smc")` from checks and pilots to results

    "ratio" is evaluations a second over those of `bare`, "to lean" over those of `bare, lean`, round by round: median, and
    least and greatest.

C   Seconds and evaluations a second of whole calls with 10 temperatures against particles, data and latents (once each).

D   IWAE-5000: samples a second of ours, of a bare forward pass of the decoder over as many z (no weights, no encoder), and
    of the usual loop (one datum at a time, its rows repeated 100 or 500 times through encoder and decoder, logsumexp at
    the end). Means must agree (paired differences: 5 standard errors and 1 nat), or the run ends with status 1.

Decoders of B and D: the published VAE of tasks/densities where $LMEVAL_SHARED (or the folder `shared` beside the repository)
has its weights, else the same shape (40-100-784) with random weights; 50-400-400-784 with random weights; linear ones.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_scoring import TABLE_WIDTH, describe_machine, shared_folder
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal
from torch.nn.functional import softplus

from lmeval.densities.layers import Layers, Linear, run_layers
from lmeval.densities.modelfile import load_density
from lmeval.densities.networks import LayeredVAE
from lmeval.densities.protocols import check_latent
from lmeval.errors import LmevalError
from lmeval.likelihood import BoundSettings, Sandwich, log_likelihood, sandwich
from lmeval.likelihood.annealed_run import prepare_run
from lmeval.likelihood.annealing import forward
from lmeval.likelihood.ladder import sigmoid_at
from lmeval.likelihood.noise import Streams, keys_of
from lmeval.likelihood.quiet import quiet_distributions
from lmeval.likelihood.result import Batch
from lmeval.likelihood.settings import LEAPFROGS, fix_settings

ROOT = Path(__file__).resolve().parent.parent
CHAINS, BASELINE_LEAPFROGS, BASELINE_ACCEPTANCE, TUNING_SWEEPS = 16, 10, 0.65, 6
IWAE = 5000
WANTED_WIDTH, WANTED_SPEED = 0.25, 0.8
RUN_TEMPERATURES = 10

Found = list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    """x | z ~ N(W z, s2 I), z ~ N(0, I): log p(x) is known."""

    weight: Tensor  # [dims, latents]
    variance: float

    @property
    def prior(self) -> Distribution:
        """p(z)."""
        return standard_normal(self.weight.shape[1])

    def decode(self, z: Tensor) -> Distribution:
        """p(x | z), for z [..., latents]."""
        return Independent(Normal(z @ self.weight.T, math.sqrt(self.variance)), 1)

    def exact(self, x: Tensor) -> np.ndarray:
        """log p(x) of each datum, in float64."""
        w = self.weight.double()
        covariance = w @ w.T + self.variance * torch.eye(len(w), dtype=torch.float64)
        mean = torch.zeros(len(w), dtype=torch.float64)
        return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.double()).numpy()


def main() -> None:
    options = parse(sys.argv[1:])
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    machine = describe_machine("cpu")
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False, soft_wrap=True)
    sections = {"A": widths, "B": speed, "C": scaling, "D": iwae}
    found: dict[str, Any] = {"machine": machine, "options": {key: str(value) for key, value in vars(options).items()}}
    began = time.perf_counter()
    for name in options.sections:
        found[name] = sections[name](options, console)
    console.print(f"\n{time.perf_counter() - began:.0f} seconds in all", highlight=False)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if not all(row["agrees"] for row in found.get("D", [])):
        sys.exit("bench_likelihood: the three ways to IWAE-5000 disagree: the times above are of different work")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sections", nargs="+", choices="ABCD", default=list("ABCD"), help="what to run (default: all)")
    add("--rounds", type=int, default=3, help="counted rounds of B and D (default: 3)")
    add("--budgets", nargs="+", type=int, default=[30, 100], metavar="T", help="A: our temperatures (default: 30 100)")
    add("--data", type=float, default=1.0, help="A: multiplies the number of data (default: 1)")
    add("--quick", action="store_true", help="small everything, in seconds: does it run at all")
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--json", type=Path, metavar="OUT", help="write all numbers here")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.budgets, options.data = 1, options.budgets[:1], min(options.data, 0.1)
    return options


# A: widths


class Case(NamedTuple):
    """A linear-Gaussian model, and data drawn from it for one table."""

    latents: int
    dims: int
    variance: float
    n: int

    @property
    def model(self) -> LinearGaussian:
        """The same at every call."""
        return linear_model(self.latents, self.dims, self.variance)


CASES = (Case(10, 50, 0.1, 100), Case(20, 784, 0.05, 40), Case(50, 784, 0.025, 20))


class Width(NamedTuple):
    """One method on one case: bounds of each datum, the gradient evaluations that each took, seconds."""

    method: str
    temperatures: int
    lower: np.ndarray
    upper: np.ndarray
    evaluations: float
    seconds: float


def widths(options: argparse.Namespace, console: Console) -> Found:
    rows: Found = []
    for case in CASES[: 1 if options.quick else None]:
        model, n = case.model, max(4, round(case.n * options.data))
        for i, temperatures in enumerate(options.budgets):
            ours = timed_sandwich("+ pilot's start (ours)", model, n, temperatures=temperatures)
            x, z = ours[1].x, ours[1].z
            results = [bdmc_at(model, x, z, kind, ours[0].evaluations) for kind in ("linear", "sigmoid")]
            if i == 0:
                results += [within(name, model, n, ours[0].evaluations, **how) for name, how in ABLATIONS.items()]
            exact = model.exact(x)
            made = [width_row(case, n, temperatures, result, exact, results[:2]) for result in [*results, ours[0]]]
            console.print(width_table(case, n, made), highlight=False)
            rows += made
    ratios = [row["ratio"] for row in rows if row["method"].endswith("(ours)")]
    console.print(f"ours / narrower BDMC: {min(ratios):.3f} to {max(ratios):.3f} (wanted: at most {WANTED_WIDTH})")
    return rows


ABLATIONS: dict[str, dict[str, Any]] = {
    "prior, sigmoid, AIS": {"start": "prior", "schedule": "sigmoid", "resample_below": 0.0},
    "+ thermodynamic": {"start": "prior", "resample_below": 0.0},
    "+ resampling": {"start": "prior"},
}


def timed_sandwich(name: str, model: Any, n: int, **how: Any) -> tuple[Width, Sandwich]:
    """Our sandwich and its cost. Both bounds count the pilots, which ran once."""
    began = time.perf_counter()
    found = sandwich(model, n, BoundSettings(particles=CHAINS, **how))
    seconds = time.perf_counter() - began
    both = found.lower.n_evaluations + found.upper.n_evaluations - found.lower.n_pilot
    return Width(name, how["temperatures"], found.lower.nats, found.upper.nats, both, seconds), found


def within(name: str, model: Any, n: int, budget: float, **how: Any) -> Width:
    """Our sandwich with as many temperatures as the budget leaves after the pilot, whose cost a run of two tells."""
    pilot = sandwich(model, n, BoundSettings(particles=CHAINS, temperatures=2, **how)).lower.n_pilot
    moves = ((budget - pilot) / (2 * CHAINS) - 1) / LEAPFROGS
    return timed_sandwich(name, model, n, temperatures=max(2, 1 + round(moves)), **how)[0]


class Tempered(NamedTuple):
    """Chains z [chains, data, latents] with log p(x | z) and its gradient there."""

    z: Tensor
    likelihood: Tensor
    slope: Tensor


def bdmc_at(model: Any, x: Tensor, z: Tensor, schedule: str, budget: float) -> Width:
    """Bidirectional Monte Carlo as published, with as many temperatures as the budget allows."""
    steps = max(2, 1 + round((budget / (2 * CHAINS) - 1) / BASELINE_LEAPFROGS))
    betas = [t / steps if schedule == "linear" else sigmoid_at(t / steps) for t in range(steps + 1)]
    random = torch.Generator().manual_seed(1)
    with quiet_distributions():
        sizes = tuned_steps(model, x, betas, random)
        began = time.perf_counter()
        lower, upper = ais(model, x, betas, sizes, random), reverse_ais(model, x, z, betas, sizes, random)
    cost = 2 * CHAINS * (1 + (steps - 1) * BASELINE_LEAPFROGS)
    return Width(f"BDMC, {schedule}", steps, lower, upper, cost, time.perf_counter() - began)


def tempered(model: Any, x: Tensor, z: Tensor) -> Tempered:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        likelihood = lean_log_prob(model, x)(z)
        (slope,) = torch.autograd.grad(likelihood.sum(), z)
    return Tempered(z.detach(), likelihood.detach(), slope)


def from_prior(model: Any, x: Tensor, random: torch.Generator) -> Tempered:
    d = model.prior.event_shape[0]
    return tempered(model, x, torch.randn(CHAINS, len(x), d, generator=random))


def hmc(model: Any, x: Tensor, at: Tempered, beta: float, step: Tensor, random: torch.Generator) -> tuple[Tempered, Tensor]:
    """A trajectory with unit mass on p(z) p(x | z)^beta, and the probabilities of acceptance; `step` [data]."""
    size = step[:, None]
    momentum = begun = torch.randn(at.z.shape, generator=random)
    end = at
    for _ in range(BASELINE_LEAPFROGS):
        momentum = momentum + 0.5 * size * (beta * end.slope - end.z)
        end = tempered(model, x, end.z + size * momentum)
        momentum = momentum + 0.5 * size * (beta * end.slope - end.z)
    rise = beta * (end.likelihood - at.likelihood).double()
    rise -= 0.5 * ((end.z**2).sum(-1) - (at.z**2).sum(-1) + (momentum**2).sum(-1) - (begun**2).sum(-1)).double()
    chance = torch.nan_to_num(rise, nan=-math.inf).clamp_max(0).exp()
    accepted = torch.rand(chance.shape, generator=random) < chance
    wide = accepted[..., None]
    likelihood = torch.where(accepted, end.likelihood, at.likelihood)
    moved = Tempered(torch.where(wide, end.z, at.z), likelihood, torch.where(wide, end.slope, at.slope))
    return moved, chance


def tuned_steps(model: Any, x: Tensor, betas: list[float], random: torch.Generator) -> list[Tensor]:
    """Steps [data] for each temperature, from a pilot of several trajectories at each that follows the mean acceptance of a
    datum's chains towards 65%.

    Runs of few temperatures lag behind their targets, so that they accept more forward (70 to 90%) and less back. Steps
    tuned longer, or to 65% in the run itself, were tried too: these gave the baseline its narrowest widths in most cases.
    """
    at, log_step, sizes = from_prior(model, x, random), torch.full((len(x),), math.log(0.05)), []
    for beta in betas[1:-1]:
        seen = []
        for _ in range(TUNING_SWEEPS):
            at, chance = hmc(model, x, at, beta, log_step.exp(), random)
            log_step = log_step + 0.5 * (chance.mean(0).float() - BASELINE_ACCEPTANCE)
            seen.append(log_step)
        sizes.append(torch.stack(seen[TUNING_SWEEPS // 2 :]).mean(0).exp())
    return sizes


def ais(model: Any, x: Tensor, betas: list[float], sizes: list[Tensor], random: torch.Generator) -> np.ndarray:
    at, weight = from_prior(model, x, random), torch.zeros(CHAINS, len(x), dtype=torch.float64)
    for t in range(1, len(betas)):
        weight += (betas[t] - betas[t - 1]) * at.likelihood.double()
        if t < len(betas) - 1:
            at, _ = hmc(model, x, at, betas[t], sizes[t - 1], random)
    return (torch.logsumexp(weight, 0) - math.log(CHAINS)).numpy()


def reverse_ais(
    model: Any, x: Tensor, z: Tensor, betas: list[float], sizes: list[Tensor], random: torch.Generator
) -> np.ndarray:
    """-log of the mean over chains, all from the one exact posterior sample z, of estimates of 1 / p(x)."""
    at, weight = tempered(model, x, z.expand(CHAINS, *z.shape)), torch.zeros(CHAINS, len(x), dtype=torch.float64)
    for t in range(len(betas) - 1, 0, -1):
        if t < len(betas) - 1:
            at, _ = hmc(model, x, at, betas[t], sizes[t - 1], random)
        weight -= (betas[t] - betas[t - 1]) * at.likelihood.double()
    return -(torch.logsumexp(weight, 0) - math.log(CHAINS)).numpy()


def width_row(case: Case, n: int, budget: int, found: Width, exact: np.ndarray, baselines: list[Width]) -> dict[str, Any]:
    narrower = min(float((width.upper - width.lower).mean()) for width in baselines)
    width, low, high = (
        mean_and_error(values) for values in (found.upper - found.lower, found.lower - exact, found.upper - exact)
    )
    return {
        **case._asdict(),
        "n": n,
        "budget": budget,
        "method": found.method,
        "temperatures": found.temperatures,
        "evaluations": found.evaluations,
        "width": width,
        "error_lower": low,
        "error_upper": high,
        "ratio": width[0] / narrower,
        "seconds": found.seconds,
    }


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def width_table(case: Case, n: int, rows: Found) -> Table:
    title = f"\nA  {case.latents} latents, {case.dims} dims, s2 = {case.variance}: {n} data, nats, mean and standard error"
    columns = ("temperatures", "evaluations", "width", "", "error below", "", "error above", "", "ratio", "seconds")
    made = new_table(title, "method", *columns)
    for row in rows:
        cells = [
            f"{number:{form}}"
            for key in ("width", "error_lower", "error_upper")
            for number, form in zip(row[key], SIGNED, strict=True)
        ]
        counts = (f"{row['temperatures']:,}", f"{row['evaluations']:,.0f}")
        made.add_row(row["method"], *counts, *cells, f"{row['ratio']:.3f}", f"{row['seconds']:.1f}")
    return made


SIGNED = ("+.3f", ".3f")


# B: speed


class Contestant(NamedTuple):
    """One way of the work that is timed; `run` does it and says how many evaluations it was."""

    name: str
    run: Callable[[], float]


def speed(options: argparse.Namespace, console: Console) -> Found:
    n, rows = (10 if options.quick else 100), []
    for name, model in decoders().items():
        x = drawn(model, n)
        rounds = in_turns(speed_contestants(model, x, 10 if options.quick else 50), options.rounds)
        made = [speed_row(name, runner, rounds) for runner in rounds]
        console.print(speed_table(f"\nB  {name}, {CHAINS} particles x {n} data", made), highlight=False)
        rows += made
    for key in ("run", "whole call"):
        told = ", ".join(f"{row['ratio']:.2f} ({row['case']})" for row in rows if row["contestant"] == key)
        console.print(f"{key} / bare: {told}; wanted {WANTED_SPEED}", highlight=False, soft_wrap=True)
    return rows


def speed_contestants(model: Any, x: Tensor, times: int) -> list[Contestant]:
    d, n = model.prior.event_shape[0], len(x)
    repeated, z = x.repeat(CHAINS, 1), torch.randn(CHAINS * n, d)
    density, batch = check_latent(model, x), Batch(x, tuple(range(n)), keys_of(x), CHAINS * n)
    settings = fix_settings(BoundSettings(temperatures=RUN_TEMPERATURES), CHAINS)
    with quiet_distributions():
        prepared = prepare_run(density, batch, settings)

    def loop(log_prob: Callable[[Tensor], Tensor]) -> float:
        for _ in range(times):
            point = z.detach().requires_grad_()
            torch.autograd.grad(log_prob(point).sum(), point)
        return times * CHAINS * n

    def run() -> float:
        with quiet_distributions():
            forward(prepared.target, prepared.ladder, CHAINS, Streams(0, "run", batch.keys, x), lambda _: None)
        return settings.n_gradients * n

    def whole() -> float:
        return log_likelihood(model, x, "smc", BoundSettings(particles=CHAINS)).n_gradients * n

    return [
        Contestant("bare", partial(loop, lambda point: model.decode(point).log_prob(repeated))),
        Contestant("bare, lean", partial(loop, lean_log_prob(model, repeated))),
        Contestant("run", run),
        Contestant("whole call", whole),
    ]


def lean_log_prob(model: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    if isinstance(model, LinearGaussian):
        constant = 0.5 * x.shape[1] * math.log(2 * math.pi * model.variance)
        return lambda z: (x - z @ model.weight.T).square().sum(-1) * (-0.5 / model.variance) - constant

    def bernoulli(z: Tensor) -> Tensor:
        logits = run_layers(model.decoder, z)
        return (logits * x - softplus(logits)).sum(-1)

    return bernoulli


def in_turns(contestants: list[Contestant], rounds: int) -> dict[str, list[float]]:
    """Evaluations a second of each contestant in each round; the first round is not counted."""
    rates: dict[str, list[float]] = {runner.name: [] for runner in contestants}
    for round_ in range(rounds + 1):
        for runner in contestants:
            began = time.perf_counter()
            count = runner.run()
            if round_:
                rates[runner.name].append(count / (time.perf_counter() - began))
    return rates


def speed_row(case: str, name: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    against = {
        key: sorted(a / b for a, b in zip(rates[name], rates[other], strict=True))
        for key, other in (("ratio", "bare"), ("to_lean", "bare, lean"))
    }
    return {
        "case": case,
        "contestant": name,
        "per_second": statistics.median(rates[name]),
        "rates": rates[name],
        **{key: statistics.median(values) for key, values in against.items()},
        **{f"{key}_range": (values[0], values[-1]) for key, values in against.items()},
    }


def speed_table(title: str, rows: Found) -> Table:
    made = new_table(title, "", "evaluations/s", "ratio", "(min-max)", "to lean", "(min-max)")
    for row in rows:
        cells = [
            cell
            for key in ("ratio", "to_lean")
            for cell in (f"{row[key]:.2f}", "({:.2f}-{:.2f})".format(*row[f"{key}_range"]))
        ]
        made.add_row(row["contestant"], f"{row['per_second']:,.0f}", *cells)
    return made


# C: scaling


def scaling(options: argparse.Namespace, console: Console) -> Found:
    runs = [("particles", k, 100, 40) for k in (4, 16, 64, 256)]
    runs += [("data", 16, n, 40) for n in (10, 100, 1000)]
    runs += [("latents", 16, 100, d) for d in (2, 8, 32, 64)]
    if options.quick:
        runs = [(axis, min(k, 16), min(n, 20), d) for axis, k, n, d in runs if k <= 16 and n <= 100]
    rows: Found = []
    made = new_table(f"\nC  d-100-784, Bernoulli, random weights, {RUN_TEMPERATURES} temperatures: whole calls")
    for i, column in enumerate(("against", "particles", "data", "latents", "seconds", "evaluations/s", "of them pilot")):
        made.add_column(column, justify="right" if i else "left", no_wrap=True)
    for axis, k, n, d in runs:
        model = random_vae((d, 100, 784))
        x = drawn(model, n)
        found = log_likelihood(model, x, "smc", BoundSettings(particles=k, temperatures=RUN_TEMPERATURES))
        rate, share = found.n_gradients * n / found.seconds, found.n_pilot / found.n_gradients
        rows.append({"axis": axis, "particles": k, "data": n, "latents": d, "seconds": found.seconds, "per_second": rate})
        made.add_row(axis, str(k), f"{n:,}", str(d), f"{found.seconds:.2f}", f"{rate:,.0f}", f"{share:.0%}")
    console.print(made, highlight=False)
    return rows


# D: IWAE-5000


def iwae(options: argparse.Namespace, console: Console) -> Found:
    n, k = (5, 500) if options.quick else (20, IWAE)
    name, model = next(iter(decoders().items()))
    x, nats = drawn(model, n), {}

    def ours() -> float:
        nats["lmeval"] = log_likelihood(model, x, "iwae", BoundSettings(particles=k)).nats
        return n * k

    def bare() -> float:
        z = torch.randn(4096, model.n_latent)
        with torch.no_grad():
            for first in range(0, n * k, 4096):
                model.decode(z[: min(4096, n * k - first)])
        return n * k

    def loop(batch: int) -> float:
        nats[f"loop, batches of {batch}"] = np.array([loop_iwae(model, datum, k, batch) for datum in x])
        return n * k

    loops = [Contestant(f"loop, batches of {batch}", partial(loop, batch)) for batch in (100, 500)]
    rates = in_turns([Contestant("bare", bare), Contestant("lmeval", ours), *loops], options.rounds)
    made = new_table(
        f"\nD  IWAE-{k}, {name}, {n} data", "", "samples/s", "ratio", "(min-max)", "nats", "seconds for 10,000 data"
    )
    rows: Found = []
    for way, values in rates.items():
        ratios = sorted(a / b for a, b in zip(values, rates["bare"], strict=True))
        median = statistics.median(values)
        mean, apart, error = math.nan, 0.0, 1.0
        if way in nats:
            mean = float(nats[way].mean())
            apart, error = mean_and_error(nats[way] - nats["lmeval"])
        agrees = way not in nats or abs(apart) <= max(1.0, 5 * error)
        rows.append({"way": way, "per_second": median, "ratio": statistics.median(ratios), "nats": mean, "agrees": agrees})
        cells = (f"{statistics.median(ratios):.2f}", f"({ratios[0]:.2f}-{ratios[-1]:.2f})")
        made.add_row(way, f"{median:,.0f}", *cells, f"{mean:.3f}" if way in nats else "", f"{10_000 * k / median:,.0f}")
    console.print(made, highlight=False)
    return rows


def loop_iwae(model: Any, datum: Tensor, k: int, batch: int) -> float:
    """log p(x) of one datum as evaluation code of VAEs usually has it."""
    found = []
    with torch.no_grad():
        for _ in range(k // batch):
            x = datum.expand(batch, -1).contiguous()
            q = model.encode(x)
            z = q.rsample()
            weight = model.decode(z).log_prob(x) + model.prior.log_prob(z) - q.log_prob(z)
            found.append(weight.numpy())
    weights = np.concatenate(found).astype(np.float64)
    return float(np.logaddexp.reduce(weights) - math.log(len(weights)))


# Models, data, tables


def standard_normal(d: int) -> Distribution:
    return Independent(Normal(torch.zeros(d), torch.ones(d)), 1)


def linear_model(latents: int, dims: int, variance: float) -> LinearGaussian:
    random = torch.Generator().manual_seed(0)
    return LinearGaussian(torch.randn(dims, latents, generator=random) / math.sqrt(latents), variance)


def random_vae(sizes: tuple[int, ...]) -> LayeredVAE:
    """A decoder of these sizes with random weights and ReLUs between, and an encoder that says little."""
    random = torch.Generator().manual_seed(0)

    def linear(n_in: int, n_out: int, gain: float) -> Linear:
        return Linear(torch.randn(n_out, n_in, generator=random) * (gain / math.sqrt(n_in)), torch.zeros(n_out))

    layers: list[Linear | str] = []
    for n_in, n_out in pairwise(sizes):
        layers += [linear(n_in, n_out, 1.4), "relu"]
    d, n_dims = sizes[0], sizes[-1]
    encoder: Layers = (linear(n_dims, 100, 1.4), "relu")
    mean, log_std = linear(100, d, 0.1), linear(100, d, 0.1)
    return LayeredVAE(encoder, mean, log_std, tuple(layers[:-1]), "bernoulli", 2, n_dims, d)


def decoders() -> dict[str, Any]:
    try:
        first = load_density(ROOT / "tasks/densities/bbans_binary_vae.yaml", shared_folder() / "data").model
        name = "published VAE 40-100-784, Bernoulli"
    except (LmevalError, OSError):
        first, name = random_vae((40, 100, 784)), "random VAE 40-100-784, Bernoulli"
    return {
        name: first,
        "random VAE 50-400-400-784, Bernoulli": random_vae((50, 400, 400, 784)),
        "linear 20-784, Normal": linear_model(20, 784, 0.05),
        "linear 10-50, Normal": linear_model(10, 50, 0.1),
    }


def drawn(model: Any, n: int) -> Tensor:
    """n data from the model, always the same."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return model.decode(model.prior.sample(torch.Size([n]))).sample()


def new_table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, column in enumerate(columns):
        made.add_column(column, justify="right" if i else "left", no_wrap=True)
    return made


if __name__ == "__main__":
    main()
