"""Random numbers that belong to a datum: results do not depend on which data share a batch, a process or an order.

Every datum has a stream of its own for each purpose (pilot, run, simulation), seeded by (seed, purpose, the datum's key).
The key is a hash of its content with a count of earlier equal data, so that equal data have independent streams.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Key = tuple[int, int]
"""What a datum's streams are seeded by: a hash of its content, and how many equal data came before."""


def keys_of(x: Tensor) -> list[Key]:
    """A key for each datum of x [n, ...]: 64 bits of BLAKE2b of its values as float64, and how many equal ones came."""
    seen: Counter[int] = Counter()
    keys = []
    for row in x.detach().cpu().double().reshape(len(x), -1).numpy():
        digest = int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little")
        keys.append((digest, seen[digest]))
        seen[digest] += 1
    return keys


class Streams:
    """One stream of random numbers for each datum of a batch. What a datum gets does not depend on the others."""

    def __init__(self, seed: int, purpose: str, keys: Sequence[Key], like: Tensor) -> None:
        """`like` gives device and dtype; `purpose` keeps streams of equal seeds apart."""
        tag = int.from_bytes(purpose.encode(), "little")
        seeds = [np.random.SeedSequence([seed, tag, digest, count]) for digest, count in keys]
        self._streams = [np.random.Generator(np.random.SFC64(s)) for s in seeds]
        self._like = like
        self._dtype: Any = np.float64 if like.dtype == torch.float64 else np.float32

    def normal(self, k: int, d: int) -> Tensor:
        """Standard normal numbers [k, batch, d]."""
        return self._filled((k, d), lambda stream, out: stream.standard_normal(dtype=self._dtype, out=out))

    def uniform(self, k: int) -> Tensor:
        """Uniform numbers on (0, 1), [k, batch]."""
        drawn = self._filled((k,), lambda stream, out: stream.random(dtype=self._dtype, out=out))
        return drawn.clamp_min(torch.finfo(drawn.dtype).tiny)

    @property
    def device(self) -> torch.device:
        """Where the numbers lie."""
        return self._like.device

    def torch_seeds(self) -> list[int]:
        """A seed of torch's own generator for each datum, for distributions that only sample themselves."""
        return [int(stream.integers(1 << 62)) for stream in self._streams]

    def _filled(self, shape: tuple[int, ...], fill: Any) -> Tensor:
        out = np.empty((len(self._streams), *shape), dtype=self._dtype)
        for stream, row in zip(self._streams, out, strict=True):
            fill(stream, row)
        return torch.from_numpy(out).to(self._like.device).movedim(0, 1).contiguous()
