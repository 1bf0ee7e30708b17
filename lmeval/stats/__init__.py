"""How sure a figure is: ratios of sums, means of items, differences between two runs, spread between seeds. Numbers alone.

A corpus figure is a ratio estimator R = sum_i y_i / sum_i x_i (nats over bytes, tokens, words). Its units i are documents
where there are enough of them, else consecutive pieces of one long text, which are correlated. A figure of a prompted task
is a mean over items, whose units are the items or, where items share a passage or a template, clusters of them.
"""

from lmeval.stats.clusters import cluster_codes, independent_units
from lmeval.stats.estimates import CONFIDENCE, Estimate, mean_estimate, student_quantile, wilson_interval
from lmeval.stats.paired import Difference, McNemar, mcnemar, mean_difference, paired_difference, ratio_difference
from lmeval.stats.ratios import Moments, add_row, bootstrapped_ratio, linearised_ratio, no_moments, ratio_estimate
from lmeval.stats.resampling import BlockBootstrap, automatic_block_length, block_bootstrap
from lmeval.stats.seeds import SeedSpread, seed_variance
from lmeval.stats.significance import holm, minimum_detectable_effect, t_test
from lmeval.stats.units import bits_per_dim

__all__ = [
    "CONFIDENCE",
    "BlockBootstrap",
    "Difference",
    "Estimate",
    "McNemar",
    "Moments",
    "SeedSpread",
    "add_row",
    "automatic_block_length",
    "bits_per_dim",
    "block_bootstrap",
    "bootstrapped_ratio",
    "cluster_codes",
    "holm",
    "independent_units",
    "linearised_ratio",
    "mcnemar",
    "mean_difference",
    "mean_estimate",
    "minimum_detectable_effect",
    "no_moments",
    "paired_difference",
    "ratio_difference",
    "ratio_estimate",
    "seed_variance",
    "student_quantile",
    "t_test",
    "wilson_interval",
]
