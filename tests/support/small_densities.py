"""Densities of nine pixels, images for them, and specs, written to files for the tests of `lmeval likelihood`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

LEVELS = 5
KEYS: dict[str, dict[str, Any]] = {
    "latent": {"latent": 2, "encoder": ["a", "relu"], "mean": "m", "log_std": "s", "decoder": ["d", "relu", "e"]},
    "made": {"layers": ["a", "relu", "b"], "orderings": [0], "inputs": "scaled"},
    "flow": {"flow": {"kind": "maf", "transforms": 1, "hidden": [8]}, "alpha": 0.01, "dequantisations": 8},
    "implicit": {"latent": 2, "decoder": ["a", "relu", "b", "sigmoid"]},
}


def weights_of(kind: str, levels: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    if kind == "flow":
        import zuko

        parameters = zuko.flows.MAF(features=9, transforms=1, hidden_features=[8]).named_parameters()
        return {name: 0.3 * torch.randn(parameter.shape, generator=rng) for name, parameter in parameters}
    n_out = 9 if levels == 2 else 9 * levels
    shapes = {
        "latent": {"a": (16, 9), "m": (2, 16), "s": (2, 16), "d": (16, 2), "e": (n_out, 16)},
        "made": {"a": (18, 9), "b": (n_out, 18)},
        "implicit": {"a": (16, 2), "b": (9, 16)},
    }[kind]
    found = {}
    for name, (rows, columns) in shapes.items():
        found[f"{name}.weight"] = scale * torch.randn(rows, columns, generator=rng) / columns**0.5
        found[f"{name}.bias"] = 0.3 * torch.randn(rows, generator=rng)
    return found


def write_density(
    folder: Path, kind: str, levels: int = LEVELS, weights: dict[str, Tensor] | None = None, **changes: Any
) -> Path:
    """A folder with a density of 3 x 3 images."""
    folder.mkdir(parents=True)
    keys: dict[str, Any] = {"density": kind, "weights": "model.safetensors", "shape": [3, 3], "levels": levels}
    keys |= {"binarisation": "sampled" if levels == 2 else None} | KEYS[kind]
    if kind == "latent":
        keys["observation"] = "bernoulli" if levels == 2 else "categorical"
    (folder / "density.yaml").write_text(yaml.safe_dump(keys | changes, sort_keys=False))
    save_file(weights_of(kind, levels) if weights is None else weights, folder / "model.safetensors")
    return folder


def write_images(path: Path, n: int = 12, levels: int = 256, seed: int = 0) -> np.ndarray:
    """Images [n, 3, 3] of so many levels; the greatest and the least are there."""
    images = np.random.default_rng(seed).integers(0, levels, size=(n, 3, 3), dtype=np.uint8)
    images.flat[0], images.flat[1] = 0, levels - 1
    np.save(path, images)
    return images


def write_spec(path: Path, models: list[dict[str, Any]], data: dict[str, Any] | None = None, **changes: Any) -> Path:
    spec = {"likelihood": "small", "data": data or {"images": "images.npy", "binarise": {"seed": 0}}, "models": models}
    path.write_text(yaml.safe_dump(spec | changes, sort_keys=False))
    return path
