"""Fingerprints of weights: equal for equal numbers, whatever file, framework object or device holds them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    import torch


def weights_sha256(network: "torch.nn.Module") -> str:
    """SHA-256 over all parameters: over the sorted lines "name shape sha256(values)".

    Values are hashed as little-endian float32, which holds bfloat16, float16 and float32 exactly, so a float32 model read as
    float64 keeps its fingerprint; float64 values that float32 cannot hold are hashed as float64. Weights that are tied count
    once. Buffers (rotary tables, masks) are left out: the configuration makes them.
    """
    return tensors_sha256(network.named_parameters())


def tensors_sha256(named: "Iterable[tuple[str, torch.Tensor]]") -> str:
    """The same for tensors and their names."""
    return _joined(named, _tensor_sha256)


def arrays_sha256(arrays: Mapping[str, Float[np.ndarray, "..."]]) -> str:
    """The same for arrays by name, without PyTorch."""
    return _joined(arrays.items(), _array_sha256)


def _joined(named: Iterable[tuple[str, Any]], digest: Callable[[Any], str]) -> str:
    named = sorted(named)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(digest, (values for _, values in named)))
    lines = (f"{name} {list(values.shape)} {sha256}\n" for (name, values), sha256 in zip(named, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _tensor_sha256(parameter: "torch.Tensor") -> str:
    values = parameter.detach().cpu()
    return _array_sha256((values if values.dtype.itemsize == 8 else values.float()).numpy())


def _array_sha256(values: Float[np.ndarray, "..."]) -> str:
    with np.errstate(over="ignore"):
        narrow = values.astype("<f4", copy=False)
    if values.dtype == np.float64 and not np.array_equal(narrow, values):
        narrow = values
    return hashlib.sha256(np.ascontiguousarray(narrow).data).hexdigest()
