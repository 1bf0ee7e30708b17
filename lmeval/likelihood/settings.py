"""How log p(x) is bounded: the settings that a caller gives, and the same checked, with every default filled in; plans."""

from numbers import Integral
from typing import NamedTuple

from lmeval.errors import InputError

SCHEDULES = ("thermodynamic", "sigmoid", "linear")
STARTS = ("auto", "pilot", "encoder", "prior")
TEMPERATURES = {"pilot": 30, "encoder": 60, "prior": 100}
"""How many temperatures are usual, by where the path starts."""
LEAPFROGS = 5
RESAMPLE_BELOW = 0.5


class BoundSettings(NamedTuple):
    """Settings of a bound as a caller gives them; None stands for the method's own default.

    `particles` counts the draws of each datum. The others are of annealed methods: `temperatures` is T, the number of steps
    from the start to the posterior, or `gap` the nats that a planned T may cost; `schedule` spaces the temperatures, `start`
    says where chains begin ("prior", the widened "encoder", or "pilot": the normal distribution that a pilot fitted; "auto"
    is that). `leapfrogs` are the gradient evaluations of the one trajectory at each temperature, and `resample_below`
    is the share of the particles below which the effective sample size calls for resampling. `seed` is that of all draws.
    """

    particles: int | None = None
    temperatures: int | None = None
    gap: float | None = None
    schedule: str = "thermodynamic"
    start: str = "auto"
    leapfrogs: int = LEAPFROGS
    resample_below: float | None = None
    seed: int = 0


class FixedSettings(NamedTuple):
    """Settings with nothing left open, fields as of `BoundSettings`; `resample_below` 0 is annealed importance sampling."""

    particles: int
    temperatures: int
    schedule: str
    start: str
    leapfrogs: int
    resample_below: float
    seed: int

    @property
    def n_gradients(self) -> int:
        """Gradient evaluations of the weighted run, for each datum."""
        return self.particles * (1 + (self.temperatures - 1) * self.leapfrogs)


class Plan(NamedTuple):
    """Settings that should keep log Z-hat within `gap_nats` of log p(x), on average and on either side, and their cost for
    all data: gradient evaluations of the decoder (pilot included) and seconds on this device. `length` is the mean
    thermodynamic length; `gap_nats` is an estimate from `n_data` data, and no bound."""

    settings: FixedSettings
    gap_nats: float
    length: float
    n_gradients: int
    seconds: float
    n_data: int


def fix_settings(given: BoundSettings, particles: int, resample_below: float = RESAMPLE_BELOW) -> FixedSettings:
    """Check settings and fill in defaults; a `gap` is left to the planner.

    Args:
        given: What the caller set.
        particles: How many particles there are where the caller set none.
        resample_below: When to resample where the caller did not say.

    Raises:
        InputError: It names the setting, its value and what may stand there.
    """
    k = particles if given.particles is None else given.particles
    below = resample_below if given.resample_below is None else given.resample_below
    if given.schedule not in SCHEDULES:
        raise InputError(f"unknown schedule '{given.schedule}': use one of {', '.join(SCHEDULES)}")
    if isinstance(below, bool) or not isinstance(below, int | float) or not 0 <= below <= 1:
        raise InputError(f"resample_below is {below!r}: give a share of the particles from 0 (never) to 1")
    if given.start not in STARTS:
        raise InputError(f"unknown start '{given.start}': use one of {', '.join(STARTS)}")
    steps = usual_temperatures(given.start) if given.temperatures is None else given.temperatures
    for name, value in (("particles", k), ("temperatures", steps), ("leapfrogs", given.leapfrogs)):
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise InputError(f"{name} is {value!r}: give a whole number of at least 1")
    if isinstance(given.seed, bool) or not isinstance(given.seed, Integral) or given.seed < 0:
        raise InputError(f"seed is {given.seed!r}: give a whole number of at least 0")
    return FixedSettings(
        int(k), int(steps), given.schedule, given.start, int(given.leapfrogs), float(below), int(given.seed)
    )


def usual_temperatures(start: str | None) -> int:
    """How many temperatures a path takes by default from a start (None: "auto").

    >>> usual_temperatures("prior"), usual_temperatures(None)
    (100, 30)
    """
    return TEMPERATURES["pilot" if start in (None, "auto") else start]
