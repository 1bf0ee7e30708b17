"""Densities that know their own log p(x)."""

import torch

from lmeval.densities.protocols import CheckedExact
from lmeval.errors import DensityError
from lmeval.likelihood.result import Advance, Batch, DatumResult
from lmeval.likelihood.settings import FixedSettings


def score_exact(density: CheckedExact, settings: FixedSettings, batch: Batch, advance: Advance) -> list[DatumResult]:
    """The model's own log_prob; there is nothing to set."""
    with torch.no_grad():
        log_probs = density.model.log_prob(batch.x).double().cpu()
    advance(1)
    n = len(batch.ids)
    if log_probs.shape != (n,):
        raise DensityError(f"log_prob of {n} data gives shape {list(log_probs.shape)}, and must give [{n}]")
    return [DatumResult(nats) for nats in log_probs.tolist()]
