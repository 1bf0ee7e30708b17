"""The engine: requests (context, target) in, log-probabilities of the target tokens out, in input order."""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.scoring.engine import LogProbs, score
    from lmeval.scoring.requests import Request, request
    from lmeval.scoring.trees import Cost, Scored, SharedScores, score_shared
    from lmeval.scoring.windows import BosPolicy, Window, Windowing, WindowRequest, rolling_requests, windows


__all__ = [
    "BosPolicy",
    "Cost",
    "LogProbs",
    "Request",
    "Scored",
    "SharedScores",
    "Window",
    "WindowRequest",
    "Windowing",
    "request",
    "rolling_requests",
    "score",
    "score_shared",
    "windows",
]

lazy.attach(__name__)
