"""Choices with scores -> accuracy, class-wise measures, calibration; each with its interval. Numbers alone, no model.

An item is an array of scores, one for each of its choices, in nats and higher for likelier, with the indices of its right
choices. The prediction is the highest score, the first one at a tie. Probabilities are the softmax of the scores over the
item's choices: the model's belief given that one of them is meant. Scores must be finite: a choice of -inf would make the
log loss infinite, and no softmax over a vocabulary gives a text the probability 0.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import sparse

from lmeval import stats
from lmeval.errors import EmptyInput, InputError, NonFiniteScore
from lmeval.results import Measurement

Scores = Sequence[Float64[np.ndarray, " _"]]
Gold = Sequence[Sequence[int]]
Clusters = Sequence[Hashable] | np.ndarray

CALIBRATION_BINS = 15
REPLICATES = 2000
_CHUNK = 2**22  # bootstrap weights held at a time


class _Answers(NamedTuple):
    """Items in a rectangle, as wide as the item with the most choices; padding has probability 0 and is not right."""

    probabilities: Float64[np.ndarray, "n choices"]
    right: Bool[np.ndarray, "n choices"]
    predicted: Int64[np.ndarray, " n"]
    confidence: Float64[np.ndarray, " n"]
    correct: Bool[np.ndarray, " n"]
    log_loss: Float64[np.ndarray, " n"]


def predictions(scores: Scores) -> Int64[np.ndarray, " n"]:
    """Index of each item's highest score; the first one at a tie, as numpy and lm-evaluation-harness have it."""
    return _rectangle(scores).argmax(axis=1)


def ties(scores: Scores) -> int:
    """Number of items whose highest score two or more choices share to the last bit: order decides the prediction."""
    table = _rectangle(scores)
    return int(((table == table.max(axis=1, keepdims=True)).sum(axis=1) > 1).sum())


def probabilities(scores: Scores) -> list[Float64[np.ndarray, " _"]]:
    """Softmax of each item's scores over its choices, safe at any size of score."""
    shares = np.exp(_log_softmax(_rectangle(scores)))
    return [row[: len(own)] for row, own in zip(shares, scores, strict=True)]


def measure(
    scores: Scores, gold: Gold, clusters: Clusters | None = None, labels: int | None = None, seed: int = 0
) -> tuple[Measurement, ...]:
    """All measures of one task.

    Args:
        scores: Of each item, one score a choice, in nats and higher for likelier.
        gold: Of each item, the indices of its right choices.
        clusters: Of each item, what it shares with others that are not independent of it.
        labels: The number of classes where every item has the same ones, else None.
        seed: Of the bootstrap.

    Returns:
        The measures below, in this order.

    Means over items, with `stats.mean_estimate`'s interval (cut at 0 for the losses, which cannot be negative):
      acc            share of items whose prediction is right. Any right choice counts where several are.
      log_loss       mean of -log p(right), nats; p = softmax over the choices, summed over right ones.
      brier          mean of (1 - p(right))^2 + sum_{j wrong} p_j^2, from 0 to 2. With one right choice this is the sum over
                     classes of Brier (1950) and of lm-evaluation-harness's `brier_score`; scikit-learn's
                     `brier_score_loss` of two classes is half of it.
    Measures of all items at once, with a bootstrap over items (over clusters where there are some) of 2000 replicates:
      balanced_acc   mean recall of the classes that occur in gold.
      macro_f1       mean over the classes that occur in gold or predictions of F1 = 2 TP / (gold + predicted). The harness's
                     `f1` is another number: F1 of class 1 alone.
      mcc            Matthews correlation for any number of classes (Gorodkin 2004), 0 where a margin has one class only.
      ece            expected calibration error, `_calibration_error`.
    The three class-wise ones are left out where `labels` is None or an item has several right choices: no class is its own.
    All three equal scikit-learn's `balanced_accuracy_score`, `f1_score(average="macro")` and `matthews_corrcoef`.

    `n` counts items, or clusters where there are some. `stderr` of a bootstrap is the replicates' standard deviation; it and
    `ci95` are None below two units, and where all replicates agree (all right, say): they tell nothing of spread then.
    Equal seeds give equal intervals. The items' order changes no value, and bootstrap intervals by simulation noise alone.

    Raises:
        EmptyInput: There are no items.
        InputError: Gold, labels or clusters do not fit the scores.
        NonFiniteScore: A score is NaN or infinite.
    """
    answers = _answer(scores, gold)
    n = len(answers.correct)
    if labels is not None:
        _check_labels(scores, labels)
    classes = labels if labels is not None and all(len(set(right)) == 1 for right in gold) else 0
    codes = np.arange(n) if clusters is None else stats.cluster_codes(clusters, n)
    by_unit = _contributions(answers, codes, classes)
    units = int(codes.max()) + 1
    sums, resampled = by_unit @ np.ones((units, 1)), _resample(by_unit, units, seed)
    values, replicates = _pooled(sums, classes), _pooled(resampled, classes)
    pooled = {name: _with_percentiles(name, float(values[name][0]), replicates[name], units) for name in values}
    pooled["ece"] = _mirror_interval(pooled["ece"], _calibration_noise(sums, resampled))
    missed = -np.expm1(-answers.log_loss)  # 1 - p(right)
    brier = missed**2 + (np.where(answers.right, 0.0, answers.probabilities) ** 2).sum(axis=1)
    return (
        _mean("acc", "1", answers.correct.astype(np.float64), clusters),
        *(pooled[name] for name in ("balanced_acc", "macro_f1", "mcc") if name in pooled),
        _mean("log_loss", "nats", answers.log_loss, clusters),
        _mean("brier", "1", brier, clusters),
        pooled["ece"],
    )


def reliability(scores: Scores, gold: Gold, bins: int = 10, clusters: Clusters | None = None) -> list[dict[str, Any]]:
    """Rows of a reliability table: of items with confidence in (first, stop], their mean confidence and their accuracy.

    Args:
        scores: Of each item, one score a choice.
        gold: Of each item, the indices of its right choices.
        bins: How many bins of equal width.
        clusters: Of each item, what it shares with others.

    Returns:
        Rows with "first", "stop", "n", "confidence", "accuracy" and "ci95".

    Confidence is the probability of the predicted choice, so that no bin below 1 / (number of choices) has items. `ci95` is
    the accuracy's (Wilson's; with clusters `stats.mean_estimate`'s, None for a single one): a bin is miscalibrated
    beyond chance where it leaves the confidence outside. Empty bins are left out.
    """
    answers = _answer(scores, gold)
    codes = None if clusters is None else stats.cluster_codes(clusters, len(answers.correct))
    place, edges = _bins(answers.confidence, bins)
    rows = []
    for b in np.unique(place):
        inside = place == b
        n, accuracy = int(inside.sum()), float(answers.correct[inside].mean())
        row = {"first": float(edges[b]), "stop": float(edges[b + 1]), "n": n}
        row |= {"confidence": float(answers.confidence[inside].mean()), "accuracy": accuracy}
        right = answers.correct[inside].astype(np.float64)
        clustered = None if codes is None else stats.mean_estimate(right, codes[inside], share=True).ci95
        rows.append(row | {"ci95": stats.wilson_interval(accuracy, n) if codes is None else clustered})
    return rows


def confusion(scores: Scores, gold: Gold, labels: int) -> Int64[np.ndarray, "labels labels"]:
    """Number of items by [gold, predicted] class. Raises InputError where an item has several right choices."""
    answers = _answer(scores, gold)
    _check_labels(scores, labels)
    for index, right in enumerate(gold):
        if len(set(right)) > 1:
            raise InputError(f"item {index} has right choices {tuple(right)}: a confusion matrix needs exactly one")
    cells = answers.right.argmax(axis=1) * labels + answers.predicted
    return np.bincount(cells, minlength=labels * labels).reshape(labels, labels)


def _rectangle(scores: Scores) -> Float64[np.ndarray, "n choices"]:
    """Scores with one row an item, padded with -inf."""
    if not len(scores):
        raise EmptyInput("no items to measure: give at least one")
    lengths = np.array([len(own) for own in scores])
    if not lengths.all():
        raise InputError(f"item {int(lengths.argmin())} has no choices: every item needs at least one")
    present = np.arange(lengths.max()) < lengths[:, None]
    table = np.full(present.shape, -np.inf)
    table[present] = np.concatenate(scores)
    broken = np.flatnonzero((~np.isfinite(table) & present).any(axis=1))
    if len(broken):
        raise NonFiniteScore(
            f"item {broken[0]} has scores {scores[broken[0]].tolist()}: every score must be a finite number"
        )
    return table


def _log_softmax(table: Float64[np.ndarray, "n choices"]) -> Float64[np.ndarray, "n choices"]:
    shifted = table - table.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _answer(scores: Scores, gold: Gold) -> _Answers:
    table = _rectangle(scores)
    if len(gold) != len(scores):
        raise InputError(f"{len(scores)} items have scores and {len(gold)} have gold: give both for every item")
    right = np.zeros(table.shape, dtype=bool)
    for index, (own, indices) in enumerate(zip(scores, gold, strict=True)):
        if not indices or not all(0 <= i < len(own) for i in indices):
            raise InputError(f"item {index} has right choices {tuple(indices)} of {len(own)}: name at least one, from 0 on")
        right[index, list(indices)] = True
    logs = _log_softmax(table)
    predicted, rows = table.argmax(axis=1), np.arange(len(table))
    log_right = np.logaddexp.reduce(np.where(right, logs, -np.inf), axis=1)
    confidence = np.exp(logs[rows, predicted])
    return _Answers(np.exp(logs), right, predicted, confidence, right[rows, predicted], np.maximum(0.0, -log_right))


def _check_labels(scores: Scores, labels: int) -> None:
    for index, own in enumerate(scores):
        if len(own) != labels:
            raise InputError(f"item {index} has {len(own)} choices, not the {labels} labels of the task: leave `labels` out")


def _bins(confidence: Float64[np.ndarray, " n"], bins: int) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " edges"]]:
    """The bin (edge_b, edge_{b+1}] of every confidence, and the edges of `bins` equal widths."""
    edges = np.arange(bins + 1) / bins
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1), edges


def _mean(name: str, unit: str, values: Float64[np.ndarray, " n"], clusters: Clusters | None) -> Measurement:
    share = name == "acc"
    mean = stats.mean_estimate(values, clusters, share=share)
    ci95 = mean.ci95 if share or mean.ci95 is None else (max(0.0, mean.ci95[0]), mean.ci95[1])
    return Measurement(name, mean.value, unit, "exact", mean.stderr, ci95, mean.n_clusters, share)


def _contributions(answers: _Answers, codes: Int64[np.ndarray, " n"], classes: int) -> sparse.csr_array:
    """What each unit adds to the sums of `_pooled`, as a sparse table [rows, units]; a unit is a cluster of items.

    Rows: 1 an item; correct - confidence in each bin; then, by class, gold, predicted, and both at once.
    """
    n = len(codes)
    ones, items = np.ones(n), np.arange(n)
    place, _ = _bins(answers.confidence, CALIBRATION_BINS)
    entries = [(np.zeros(n, dtype=np.int64), items, ones), (1 + place, items, answers.correct - answers.confidence)]
    if classes:
        start, hit = 1 + CALIBRATION_BINS, np.flatnonzero(answers.correct)
        entries.append((start + answers.right.argmax(axis=1), items, ones))
        entries.append((start + classes + answers.predicted, items, ones))
        entries.append((start + 2 * classes + answers.predicted[hit], hit, ones[hit]))
    rows, columns, amounts = (np.concatenate(parts) for parts in zip(*entries, strict=True))
    shape = (1 + CALIBRATION_BINS + 3 * classes, int(codes.max()) + 1)
    return sparse.coo_array((amounts, (rows, codes[columns])), shape=shape).tocsr()


def _resample(by_unit: sparse.csr_array, units: int, seed: int) -> Float64[np.ndarray, "rows replicates"]:
    """Sums over as many units as there are, drawn with replacement: 2000 times, in chunks of constant memory."""
    rng = np.random.default_rng(seed)
    sums, at_once = [], max(1, _CHUNK // units)
    for start in range(0, REPLICATES, at_once):
        size = min(at_once, REPLICATES - start)
        drawn = rng.integers(units, size=(size, units)) * size + np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=units * size).reshape(units, size)  # [unit, replicate]
        sums.append(by_unit @ times.astype(np.float64))
    return np.concatenate(sums, axis=1)


def _pooled(sums: Float64[np.ndarray, "rows m"], classes: int) -> dict[str, Float64[np.ndarray, " m"]]:
    """The measures of all items at once from m columns of sums."""
    items, bins, counts = sums[0], sums[1 : 1 + CALIBRATION_BINS], sums[1 + CALIBRATION_BINS :]
    pooled = {"ece": _calibration_error(items, bins)}
    if not classes:
        return pooled
    gold, predicted, both = counts.reshape(3, classes, -1)
    recall, f1 = _shares(both, gold), _shares(2 * both, gold + predicted)
    pooled["balanced_acc"] = recall.sum(axis=0) / (gold > 0).sum(axis=0)
    pooled["macro_f1"] = f1.sum(axis=0) / (gold + predicted > 0).sum(axis=0)
    above = both.sum(axis=0) * items - (gold * predicted).sum(axis=0)
    margins = (items**2 - (predicted**2).sum(axis=0)) * (items**2 - (gold**2).sum(axis=0))
    pooled["mcc"] = _shares(above, np.sqrt(np.maximum(margins, 0.0)))
    return pooled


def _calibration_error(items: Float64[np.ndarray, " m"], bins: Float64[np.ndarray, "bins m"]) -> Float64[np.ndarray, " m"]:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599): sum_b n_b / n |accuracy_b - confidence_b|.

    15 bins (first, stop] of equal width by the probability of the predicted choice. Biased upward: in every bin the noise of
    the accuracy counts as a gap, up to 0.4 / sqrt(n_b) on average; for a few hundred items of a perfectly calibrated model
    that makes several hundredths. Compare values of equal n only. Gaps that cancel within a bin are not seen.
    """
    return np.abs(bins).sum(axis=0) / items


def _shares(amounts: Float64[np.ndarray, "*shape"], totals: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Amounts by totals, 0 where the total is 0."""
    return np.divide(amounts, totals, out=np.zeros_like(amounts), where=totals > 0)


def _calibration_noise(sums: Float64[np.ndarray, "rows 1"], resampled: Float64[np.ndarray, "rows m"]) -> float:
    """Largest calibration error that a perfectly calibrated model would show by chance 95 times in 100.

    From the same replicates, with the gap that was seen taken out of every bin.
    """
    bins = slice(1, 1 + CALIBRATION_BINS)
    noise = resampled[bins] - sums[bins] / sums[0] * resampled[0]
    return float(np.quantile(_calibration_error(resampled[0], noise), stats.CONFIDENCE))


def _mirror_interval(error: Measurement, noise: float) -> Measurement:
    """The calibration error with 2 value - percentiles, the basic bootstrap interval, in place of percentiles.

    Resampling adds the upward bias a second time: percentiles would lie too high and often leave out the truth and even the
    value. The interval is cut to [0, 1], widened to hold the value, and begins at 0 where the value is within the `noise`
    of perfect calibration. In simulations it holds the truth 87 to 95 times in 100, from 100 items on.
    """
    if error.ci95 is None:
        return error
    low, high = (2 * error.value - q for q in reversed(error.ci95))
    low = 0.0 if error.value <= noise else max(0.0, min(error.value, low))
    return error._replace(ci95=(low, min(1.0, max(error.value, high))))


def _with_percentiles(name: str, value: float, replicates: Float64[np.ndarray, " m"], units: int) -> Measurement:
    """A measure with the percentile interval of its replicates."""
    better = name != "ece"
    if units < 2 or np.ptp(replicates) < 1e-12:  # rounding
        return Measurement(name, value, "1", "exact", None, None, units, better)
    tail = (1 - stats.CONFIDENCE) / 2
    low, high = (float(q) for q in np.quantile(replicates, [tail, 1 - tail]))
    return Measurement(name, value, "1", "exact", float(replicates.std(ddof=1)), (low, high), units, better)
