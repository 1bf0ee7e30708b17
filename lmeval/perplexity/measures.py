"""The figures of a scored corpus: every normalisation of its one sum of nats, each with its interval.

With l_t = ln p(x_t | context of x_t) of the scored tokens t, N = -sum_t l_t in nats, and B bytes, C characters, W words and
T tokens of exactly the text that was scored:

    bits_per_byte       N / (B ln 2)          byte_perplexity    exp(N / B)
    bits_per_character  N / (C ln 2)          word_perplexity    exp(N / W)
    bits_per_token      N / (T ln 2)          token_perplexity   exp(N / T)

A figure over another unit is a column of `tally` and its names in METRICS.
"""

import math
from collections.abc import Mapping

from lmeval.perplexity.tally import COLUMN, Spread, ratio
from lmeval.results import ItemMetric, Measurement
from lmeval.stats import Estimate

MAX_EXPONENT = 700.0  # exp of more is no float64
UNITS = {"byte": "bytes", "character": "characters", "word": "words", "token": "tokens"}
"""The units that nats are divided by, and their columns."""
METRICS = (
    "bits_per_byte",
    "bits_per_character",
    "bits_per_token",
    "byte_perplexity",
    "word_perplexity",
    "token_perplexity",
    "nll_nats",
)
"""What is reported, in this order."""


def measurements(spread: Spread, of: Mapping[str, str], *, exact: bool) -> tuple[Measurement, ...]:
    """All figures of METRICS.

    Args:
        spread: The sums, and how far their ratios may lie from those of more text like it.
        of: What the figures are of: model and corpus.
        exact: Whether the tokens determine the text. Where they do not, figures per unit of text would describe another
            text than the one that was read, and are withheld; so is a perplexity too large for a float64.
    """
    total = spread.moments.total
    units = [unit for unit, column in UNITS.items() if (exact or unit == "token") and total[COLUMN[column]] > 0]
    made = [m for unit in units for m in _of_unit(unit, ratio(spread, UNITS[unit]))]
    made.append(Measurement("nll_nats", float(total[COLUMN["nats"]]), "nats", "exact", None, None, spread.n, False))
    reported = (m._replace(of=dict(of)) for m in made if m.name in METRICS and math.isfinite(m.value))
    return tuple(sorted(reported, key=lambda m: METRICS.index(m.name)))


def item_metrics(*, exact: bool) -> tuple[ItemMetric, ...]:
    """How the sums of documents, or of blocks of text, make up the figures that are ratios of sums."""
    per_bit = 1 / math.log(2)
    return tuple(
        ItemMetric(f"bits_per_{unit}", f"bits/{unit}", "nll_nats", f"n_{column}", per_bit)
        for unit, column in UNITS.items()
        if f"bits_per_{unit}" in METRICS and (exact or unit == "token")
    )


def bits_per(nats: float, n: float) -> float | None:
    """Bits for each of n units; None where there are none."""
    return nats / n / math.log(2) if n else None


def perplexity_per(nats: float, n: float) -> float | None:
    """exp of the nats of each of n units; None where there are none, and where it is too large for a float64."""
    return _finite(_exp(nats / n)) if n else None


def _of_unit(unit: str, nats: Estimate) -> tuple[Measurement, Measurement]:
    """Bits per unit, and the perplexity exp(nats per unit) with the interval's ends mapped and a delta-method error."""
    ln2, ci = math.log(2), nats.ci95
    bits = Measurement(
        name=f"bits_per_{unit}",
        value=nats.value / ln2,
        unit=f"bits/{unit}",
        side="exact",
        stderr=None if nats.stderr is None else nats.stderr / ln2,
        ci95=None if ci is None else (max(0.0, ci[0]) / ln2, ci[1] / ln2),  # certain tokens cost nothing, none less
        n=nats.n,
        higher_is_better=False,
    )
    perplexity = _exp(nats.value)
    return bits, Measurement(
        name=f"{unit}_perplexity",
        value=perplexity,
        unit=f"1/probability per {unit}",
        side="exact",
        stderr=None if nats.stderr is None else _finite(perplexity * nats.stderr),
        ci95=None if ci is None or ci[1] >= MAX_EXPONENT else (_exp(max(0.0, ci[0])), _exp(ci[1])),
        n=nats.n,
        higher_is_better=False,
    )


def _exp(x: float) -> float:
    return math.exp(x) if x < MAX_EXPONENT else math.inf


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
