"""Fingerprints of weights: equal for equal numbers, whatever file, framework object or device holds them."""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch


def weights_sha256(network: torch.nn.Module) -> str:
    """SHA-256 over all parameters: over the sorted lines "name shape sha256(values)".

    Values are hashed as little-endian float32, which holds bfloat16, float16 and float32 exactly, so a float32 model read as
    float64 keeps its fingerprint; float64 values that float32 cannot hold are hashed as float64. Weights that are tied count
    once. Buffers (rotary tables, masks) are left out: the configuration makes them.
    """
    return tensors_sha256(network.named_parameters())


def tensors_sha256(named: Iterable[tuple[str, torch.Tensor]]) -> str:
    """The same for tensors and their names."""
    named = sorted(named)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        digests = list(pool.map(_values_sha256, (parameter for _, parameter in named)))
    lines = (f"{name} {list(p.shape)} {digest}\n" for (name, p), digest in zip(named, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _values_sha256(parameter: torch.Tensor) -> str:
    values = parameter.detach().cpu()
    narrow = values.to(torch.float32)
    if values.dtype == torch.float64 and not torch.equal(narrow.double(), values):
        narrow = values
    return hashlib.sha256(narrow.contiguous().numpy().data).hexdigest()
