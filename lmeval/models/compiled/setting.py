"""The switch of compiled steps."""

import os


def compiled_steps_allowed() -> bool:
    """Whether the environment leaves compiled steps on: LMEVAL_COMPILED=0 turns them off."""
    return os.environ.get("LMEVAL_COMPILED", "1") != "0"
