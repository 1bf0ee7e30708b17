"""torch's checks of distributions' arguments, switched off while many are made. The switch is one for the whole process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributions import Distribution

_LOCK, _n_quiet, _checks_before = threading.Lock(), 0, True


@contextmanager
def quiet_distributions() -> Iterator[None]:
    """Distributions without their checks of every argument, which cost passes over all pixels: `check_latent` did them."""
    global _n_quiet, _checks_before
    with _LOCK:  # several threads may need it: the first to come switches it, the last to go switches back
        if _n_quiet == 0:
            _checks_before = Distribution._validate_args  # pyright: ignore[reportPrivateUsage]
            Distribution.set_default_validate_args(False)
        _n_quiet += 1
    try:
        yield
    finally:
        with _LOCK:
            _n_quiet -= 1
            if _n_quiet == 0:
                Distribution.set_default_validate_args(_checks_before)
