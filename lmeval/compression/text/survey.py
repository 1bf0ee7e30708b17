"""A look at the input before it is coded: how far parallel and stepwise passes differ, and what a cold start costs."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from lmeval.compression.coding.grid import LOG_ODDS_LIMIT, grid_for_margin
from lmeval.compression.text import decisions
from lmeval.compression.text.lanes import Layout
from lmeval.compression.text.log_odds import stepwise_log_odds
from lmeval.compression.text.model_header import Canary, ModelSettings
from lmeval.compression.text.text_model import LEAST_DRIFT, TextModel
from lmeval.compression.text.windows import lane_bytes
from lmeval.errors import InputError, NumericalDrift

DEFAULT_WINDOW = 1024  # at most, unless asked for: keys and values of 64 lanes must fit into memory
SAMPLE_WINDOWS = 32
FEW_WINDOWS = 8  # where drift need not be measured
SAMPLE_SHARE = 1 / 4  # of the input, at most
CANARY_TOKENS = 16
LEAST_CANARY_TOKENS, BYTES_PER_CANARY_TOKEN = 2, 4096  # where the header is to be small
DRIFT_QUANTILE = 0.9999  # of the sample: steadier than its maximum, which is about 1.4 times as much
SAFETY = 3.0  # margin / drift, where margin = 2 epsilon + drift
TOO_MUCH_DRIFT = 1.0
COLD_START_SHARE = 0.01  # of the code length: the estimate is noisy, and the promise is 2%


class Survey(NamedTuple):
    """Settings for the whole input, and what the choice of lanes needs: bits and bytes per token in the steady state, and
    the bits that a cold start costs beyond it."""

    settings: ModelSettings
    bits_per_token: float
    bytes_per_token: float
    cold_start_bits: float
    lane_bytes: int  # of keys and values


def survey(
    model: TextModel,
    data: memoryview,
    context: int | None = None,
    overlap: int | None = None,
    tolerance: float | None = None,
    adapt: str = "none",
) -> Survey | None:
    """Measure on windows spread over the input. None where the model cannot code it: no token spells it, or even the
    model's ideal code is longer than the input. With online models after it (`adapt`) the latter says nothing, as they
    know what it got wrong, unless its passes do not agree either.

    Raises InputError, NoCache, NumericalDrift (passes that do not agree at all).
    """
    layout = _layout(model, context, overlap)
    settings = ModelSettings(
        name=model.name,
        weights_sha256=model.weights_sha256,
        vocabulary_sha256=model.vocabulary_sha256,
        dtype=model.dtype,
        depth=model.depth,
        layout=layout,
        grid=grid_for_margin(1.0),
        epsilon=0.0,
        drift=0.0,
        canary=Canary((), ()),
        adapt=adapt,
    )
    sample = _sample(model, data, layout.window)
    if sample is None:
        return None
    ids, bytes_per_token = sample
    known = model.known_drift is not None
    if known and adapt != "none":  # nothing depends on what a cold start costs
        ids = ids[:1, :CANARY_TOKENS]
    found = _known(model, settings, ids) if known else _measured(model, settings, ids)
    bits = _token_bits(found.log_odds, ids, settings.depth)
    poor = bool(bits.mean() > 8 * bytes_per_token)
    if poor and (adapt == "none" or found.drift > TOO_MUCH_DRIFT):
        return None  # where it is wrong its logits are huge, so its passes may well differ, and nothing is lost
    if found.drift > TOO_MUCH_DRIFT:
        raise NumericalDrift(
            f"{model.name} read token by token differs from its parallel pass by {found.drift:.2g} nats, and at most "
            f"{TOO_MUCH_DRIFT:g} can be tolerated: its cache does not work as transformers means it to, or {settings.dtype} "
            "is too coarse (try --dtype float32)"
        )
    late = float(bits[len(bits) // 2 :].mean())
    return Survey(
        settings=_with_margins(settings, found.drift, tolerance)._replace(
            canary=_canary(ids[0], bits[:, 0], CANARY_TOKENS if adapt == "none" else _few(len(data)))
        ),
        bits_per_token=max(late, 1e-3),
        bytes_per_token=bytes_per_token,
        cold_start_bits=_cold_start_bits(bits),
        lane_bytes=lane_bytes(model, settings),
    )


class _Found(NamedTuple):
    """Log-odds of a sample's decisions, in coding order, and how far those of two ways to compute them are apart (nats)."""

    log_odds: Float64[np.ndarray, "tokens depth"]
    drift: float


def _known(model: TextModel, settings: ModelSettings, ids: Int64[np.ndarray, "lanes time"]) -> _Found:
    assert model.known_drift is not None
    return _Found(stepwise_log_odds(model, settings, ids.reshape(-1), len(ids)), model.known_drift)


def _measured(model: TextModel, settings: ModelSettings, ids: Int64[np.ndarray, "lanes time"]) -> _Found:
    """The library's parallel pass beside steps as a decoder takes them here, by compiled code or the library's modules."""
    from lmeval.compression.text.library import parallel_log_odds

    parallel = parallel_log_odds(model.library(), settings, ids.reshape(-1), len(ids))
    half = -(-ids.shape[1] // 2)  # as good a sample as the whole window, in half the time
    stepwise = stepwise_log_odds(model, settings, ids[:, :half].reshape(-1), len(ids))
    limited = [np.clip(z, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT) for z in (parallel[: len(stepwise)], stepwise)]
    drift = float(np.quantile(np.abs(limited[0] - limited[1]), DRIFT_QUANTILE))
    return _Found(parallel, max(drift, LEAST_DRIFT[settings.dtype]))


def _with_margins(settings: ModelSettings, drift: float, tolerance: float | None) -> ModelSettings:
    """What is tolerated, and the grid that goes with it; in short numbers where the header is to be small."""
    epsilon = (SAFETY - 1) / 2 * drift if tolerance is None else tolerance
    if settings.adapt == "none":
        return settings._replace(grid=grid_for_margin(2 * epsilon + drift), epsilon=epsilon, drift=drift)
    epsilon, drift = _rounded_up(epsilon), _rounded_up(drift)
    return settings._replace(grid=grid_for_margin(_rounded_up(2 * epsilon + drift)), epsilon=epsilon, drift=drift)


def _rounded_up(x: float) -> float:
    """To two digits; what rounding errors alone put beyond such a number counts as the number.

    >>> [_rounded_up(x) for x in (0.0, 1.5e-05, 4.5000000000000003e-05, 1.2301e-3, 0.991)]
    [0.0, 1.5e-05, 4.5e-05, 0.0013, 1.0]
    """
    nearest = float(f"{x:.1e}")
    unit = 10.0 ** (math.floor(math.log10(nearest)) - 1) if nearest else 0.0
    return nearest if nearest >= x * (1 - 1e-12) else float(f"{nearest + unit:.1e}")


def _few(n_bytes: int) -> int:
    """Tokens of a canary that a small archive can afford."""
    return max(LEAST_CANARY_TOKENS, min(CANARY_TOKENS, n_bytes // BYTES_PER_CANARY_TOKEN))


def _canary(ids: Int64[np.ndarray, " time"], bits: Float64[np.ndarray, " time"], most: int) -> Canary:
    """The first tokens of a window, with their ideal bits in the encoder's pass."""
    count = min(most, len(ids))
    return Canary(tuple(int(i) for i in ids[:count]), tuple(float(-x * np.log(2)) for x in bits[:count]))


def _cold_start_bits(bits: Float64[np.ndarray, "time lanes"]) -> float:
    """What the first half of a cold window costs beyond its second half."""
    half = len(bits) // 2
    return max(0.0, float((bits[:half].sum(axis=0) - bits[len(bits) - half :].sum(axis=0)).mean()))


def _layout(model: TextModel, context: int | None, overlap: int | None) -> Layout:
    limit = model.context_length
    window = min(limit or DEFAULT_WINDOW, DEFAULT_WINDOW) if context is None else context
    if limit is not None and window > limit:
        raise InputError(f"context {window:,} is more than the {limit:,} tokens that {model.name} takes: lower --context")
    taken_over = window // 8 if overlap is None else overlap
    if not 0 <= taken_over < window:
        raise InputError(f"overlap {taken_over:,} must be less than the context, {window:,}")
    return Layout(window, taken_over, model.start_id)


def _sample(model: TextModel, data: memoryview, window: int) -> tuple[Int64[np.ndarray, "lanes time"], float] | None:
    """Equally long stretches of tokens from all over the input, and bytes per token; None where no token spells it."""
    longest = 1 if model.n_ids < 300 else 8  # bytes that a token may well have
    most = SAMPLE_WINDOWS if model.known_drift is None else FEW_WINDOWS
    n = max(1, min(most, int(len(data) * SAMPLE_SHARE / (window * longest))))
    pieces, n_bytes = [], 0
    for i in range(n):
        first = len(data) * i // n
        piece = bytes(data[first : first + window * longest])
        piece = piece[next((k for k in range(4) if (piece[k : k + 1] or b"a")[0] & 0xC0 != 0x80), 0) :]
        tokens = model.spell(piece)
        if tokens is not None and len(tokens.ids):
            pieces.append(tokens.ids)
            n_bytes += len(piece)
    if not pieces:
        return None
    bytes_per_token = n_bytes / sum(map(len, pieces))
    time = min(window, max(map(len, pieces)))
    kept = [ids[:time] for ids in pieces if len(ids) >= time]
    return np.stack(kept), bytes_per_token


def _token_bits(
    log_odds: Float64[np.ndarray, "tokens depth"], ids: Int64[np.ndarray, "lanes time"], depth: int
) -> Float64[np.ndarray, "time lanes"]:
    """Ideal bits of each token of lanes that are equally long."""
    chosen = decisions.path_bits(ids.T.reshape(-1), depth)
    nats = np.logaddexp(0.0, np.where(chosen == 1, -log_odds, log_odds)).sum(axis=1)
    return (nats / np.log(2)).reshape(ids.shape[1], ids.shape[0])
