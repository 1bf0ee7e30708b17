"""Scoring rules: from the log-probabilities of an item's choices to the scores that are compared. All read one record.

With s_c = log p(choice c | context), summed over its tokens, a rule's score is

    sum            s_c                                        lm-evaluation-harness's acc
    per_character  s_c / characters of c                      its acc_norm (its paper says bytes, its code counts characters)
    per_byte       s_c / UTF-8 bytes of c                     its acc_bytes
    per_token      s_c / tokens of c
    pmi            s_c - log p(c | no question)               its acc_mutual_info; Holtzman et al. 2021 with a domain context
    contextual     log q_c - log mean_m q_c(neutral input m)  contextual calibration, Zhao et al. 2021
    batch          log q_c - log mean over all items of q_c   batch calibration, Zhou et al. 2024

where q is the softmax of s over the item's choices. Lengths are those of the choice's own text, without the delimiter, and
for choices inside the context those of the context's option, as the harness has it. A rule that needs what a record lacks
(an unconditional score, neutral inputs, the same choices for every item) is not there, rather than replaced by another.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy.special import logsumexp

from lmeval.prompting.records import Record

Scores = list[Float64[np.ndarray, " choices"]]


class Rule(NamedTuple):
    """A scoring rule.

    Attributes:
        metric: Name of its accuracy among the results, which a task file's `metric_list` may name.
        description: What is compared, in a few words.
        scores: Computes the scores of every item's choices from the records: one array [choices] an item, higher for
            likelier; None where the records lack what the rule needs.
        unconditional: Whether it needs the choices scored after no question too: then a task that names its metric has them
            scored.
    """

    metric: str
    description: str
    scores: Callable[[Sequence[Record]], Scores | None]
    unconditional: bool = False


def same_choices(records: Sequence[Record]) -> bool:
    """Whether all items have the same choices in the same order: labels, about which all items can be taken together."""
    texts = [choice.text for choice in records[0].choices]
    return len(texts) > 1 and all([choice.text for choice in record.choices] == texts for record in records)


def rule_scores(records: Sequence[Record]) -> dict[str, Scores]:
    """Scores of every item under each rule that the records allow, by the rule's name."""
    by_rule = {name: rule.scores(records) for name, rule in RULES.items()}
    return {name: scores for name, scores in by_rule.items() if scores is not None}


def _sums(records: Sequence[Record]) -> Scores:
    return [np.array([choice.total_nats for choice in record.choices]) for record in records]


def _divided(length: Callable[[Record], list[int]]) -> Callable[[Sequence[Record]], Scores]:
    def scores(records: Sequence[Record]) -> Scores:
        return [sums / np.array(length(record)) for sums, record in zip(_sums(records), records, strict=True)]

    return scores


def _pmi(records: Sequence[Record]) -> Scores | None:
    scores = []
    for sums, record in zip(_sums(records), records, strict=True):
        free = [choice.unconditional_nats for choice in record.choices]
        if any(nats is None for nats in free):
            return None
        scores.append(sums - np.array(free, dtype=np.float64))
    return scores


def _contextual(records: Sequence[Record]) -> Scores | None:
    if not all(record.neutral_nats for record in records):
        return None
    scores = []
    for sums, record in zip(_sums(records), records, strict=True):
        neutral = _normalised(np.array(record.neutral_nats))
        scores.append(_normalised(sums) - (logsumexp(neutral, axis=0) - np.log(len(neutral))))
    return scores


def _batch(records: Sequence[Record]) -> Scores | None:
    if not same_choices(records):
        return None
    table = _normalised(np.stack(_sums(records)))
    return list(table - (logsumexp(table, axis=0) - np.log(len(table))))


def _normalised(nats: np.ndarray) -> np.ndarray:
    return nats - logsumexp(nats, axis=-1, keepdims=True)


RULES: dict[str, Rule] = {
    "sum": Rule("acc", "log p(choice | context)", _sums),
    "per_character": Rule("acc_norm", "... per character", _divided(lambda r: [c.n_characters for c in r.choices])),
    "per_byte": Rule("acc_bytes", "... per byte", _divided(lambda r: [c.n_bytes for c in r.choices])),
    "per_token": Rule("acc_tokens", "... per token", _divided(lambda r: [len(c.ids) for c in r.choices])),
    "pmi": Rule("acc_mutual_info", "... less log p(choice | no question)", _pmi, unconditional=True),
    "contextual": Rule("acc_contextual", "calibrated by content-free inputs", _contextual),
    "batch": Rule("acc_batch", "calibrated by the mean over items", _batch),
}
"""The rules by name, in the order of tables. A new rule is one entry: its accuracy is then measured, compared and rescored,
and a task file may name it."""
