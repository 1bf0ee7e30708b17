"""torch's checks are off inside, and as they were outside."""

import math

import pytest
import torch
from torch.distributions import Distribution, Normal

from lmeval.likelihood.quiet import quiet_distributions


def test_distributions_are_checked_again_afterwards():
    with quiet_distributions():
        Normal(torch.tensor(math.nan), 1.0)
    with pytest.raises(ValueError, match="loc"):
        Normal(torch.tensor(math.nan), 1.0)
    with pytest.raises(ZeroDivisionError), quiet_distributions():
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="loc"):
        Normal(torch.tensor(math.nan), 1.0)
    with quiet_distributions():
        Distribution.set_default_validate_args(False)
        with quiet_distributions():
            pass
        Normal(torch.tensor(math.nan), 1.0)


def test_overlapping_calls_leave_torchs_checks_as_they_were():
    first, second = quiet_distributions(), quiet_distributions()
    with first:
        second.__enter__()
    assert not Normal._validate_args  # the second still needs it quiet
    second.__exit__(None, None, None)
    with pytest.raises(ValueError, match="loc"):
        Normal(torch.tensor(math.nan), 1.0)
