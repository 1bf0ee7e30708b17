"""Likelihoods: log p(x) of latent-variable models bounded from both sides, beside models that know theirs."""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.likelihood.estimate import log_likelihood
    from lmeval.likelihood.gap_planner import plan
    from lmeval.likelihood.methods import METHODS, Method
    from lmeval.likelihood.result import LogLikelihood
    from lmeval.likelihood.settings import BoundSettings, Plan
    from lmeval.likelihood.simulate import Sandwich, sandwich


__all__ = ["METHODS", "BoundSettings", "LogLikelihood", "Method", "Plan", "Sandwich", "log_likelihood", "plan", "sandwich"]

lazy.attach(__name__)
