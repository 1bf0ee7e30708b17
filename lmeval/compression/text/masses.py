"""What masses in a tree of decisions are, for the tree of any vocabulary (`tree.py`) and the compiled one of at most 256 ids
(`byte_tree.py`)."""

from lmeval.errors import NonFiniteScore

LEAST_LOGIT = -80.0  # below the largest: keeps every mass a normal float32. Clamping moves no two logits farther apart
TINY = 1e-300  # a subtree without ids has mass 0: its log-odds become a number beyond the grid's limit


def require_finite(all_finite: bool) -> None:
    """Raises NonFiniteScore where not every row's largest logit is a number."""
    if not all_finite:
        raise NonFiniteScore(
            "the model gives NaN or infinite logits for this text: its weights are damaged, or its dtype overflows "
            "(try --dtype float32)"
        )
