"""Likelihoods: log p(x) of latent-variable models bounded from both sides, beside models that know theirs."""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.likelihood.estimate import log_likelihood
    from lmeval.likelihood.gap_planner import Plan, plan
    from lmeval.likelihood.result import LogLikelihood
    from lmeval.likelihood.settings import BoundSettings
    from lmeval.likelihood.simulate import Sandwich, sandwich


__all__ = ["BoundSettings", "LogLikelihood", "Plan", "Sandwich", "log_likelihood", "plan", "sandwich"]

lazy.attach(__name__)
