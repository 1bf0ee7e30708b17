"""The engine: requests (context, target) in, log-probabilities of the target tokens out, in input order."""

from lmeval.scoring.engine import LogProbs, score
from lmeval.scoring.requests import Request, request
from lmeval.scoring.windows import BosPolicy, Window, Windowing, WindowRequest, rolling_requests, windows

__all__ = [
    "BosPolicy",
    "LogProbs",
    "Request",
    "Window",
    "WindowRequest",
    "Windowing",
    "request",
    "rolling_requests",
    "score",
    "windows",
]
