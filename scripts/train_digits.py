#!/usr/bin/env python
"""Train the bundled densities of images: six small models of handwritten digits.

    scripts/train_digits.py --out runs/digits                                   the four of scikit-learn's digits
    scripts/train_digits.py --out runs/digits --only mnist-vae --data-dir DIR   one of MNIST; DIR holds images/mnist/
    scripts/train_digits.py --out runs/digits --only digits-vae --figures       the test figures of a trained model

A run is a function of its arguments and the number of threads. It trains on a part of the training images, watches the rest
of them (validation) and never reads the test images: each time the validation loss is the best so far, the exponentially
averaged weights go to OUT/lmeval-NAME-v1 as float16, with density file and loss curve. Training ends after `epochs`, or when
validation has not improved for `patience` epochs. `--figures` then measures what was written, on the test images. No GPU is
needed: the digits take minutes, the MNIST models about twenty minutes on two cores.

Losses are in nats per image, but for the generator's, which is a maximum mean discrepancy (Gretton et al. 2012).
"""

import argparse
import gzip
import itertools
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from lmeval.densities.layers import ACTIVATIONS
from lmeval.densities.modelfile import FILE_NAME, build_density, checked_keys, load_density
from lmeval.specs.reader import Node

DIGITS = "the first 1,237 of scikit-learn's digits (UCI optdigits); the next 200 chose the weights"
MNIST = "the first 55,000 training images of MNIST, binarised anew in every epoch; the last 5,000 chose the weights"
DIGITS_FILE = {"weights": "model.safetensors", "shape": [8, 8], "levels": 17, "trained_on": DIGITS}
MNIST_FILE = {"weights": "model.safetensors", "shape": [28, 28], "levels": 2, "binarisation": "sampled", "trained_on": MNIST}


class Recipe(NamedTuple):
    """How a model is trained. `file` are the keys of its density file."""

    file: Mapping[str, Any]
    widths: Mapping[str, tuple[int, int]]  # of its layers, inputs and outputs
    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float = 0.0
    patience: int = 10_000
    averaging: float = 0.999  # of the weights, a step
    particles: int = 1  # of the training bound of a latent model
    validate_every: int = 1
    shifts: float = 0.0  # share of the training digits that are moved by a pixel


class Images(NamedTuple):
    """Training, validation and test images [n, D]: levels, or shares of white where they are binarised anew."""

    train: Tensor
    validation: Tensor
    test: Tensor
    batch_of: Callable[[Tensor, Recipe], Tensor]  # what training sees of some of them


def vae_layers(n_in: int, hidden: int, n_latent: int, n_out: int) -> dict[str, tuple[int, int]]:
    encoder = {"fc1": (n_in, hidden), "fc2": (hidden, hidden), "mean": (hidden, n_latent), "log_std": (hidden, n_latent)}
    return encoder | {"fc3": (n_latent, hidden), "fc4": (hidden, hidden), "out": (hidden, n_out)}


VAE_FILE = {
    "density": "latent",
    "encoder": ["fc1", "relu", "fc2", "relu"],
    "mean": "mean",
    "log_std": "log_std",
    "decoder": ["fc3", "relu", "fc4", "relu", "out"],
}

RECIPES = {
    "digits-vae": Recipe(
        DIGITS_FILE | VAE_FILE | {"latent": 12, "observation": "discretized_logistic"},
        vae_layers(64, 192, 12, 128),
        epochs=250,
        batch=64,
        learning_rate=2e-3,
        weight_decay=0.2,
        validate_every=5,
        patience=100,
        shifts=0.7,
    ),
    "digits-made": Recipe(
        DIGITS_FILE | {"density": "made", "layers": ["fc1", "relu", "out"], "orderings": list(range(8)), "inputs": "scaled"},
        {"fc1": (64, 256), "out": (256, 64 * 17)},
        epochs=300,
        batch=64,
        learning_rate=2e-3,
        weight_decay=0.05,
        validate_every=2,
        patience=60,
        shifts=0.2,
    ),
    "digits-flow": Recipe(
        DIGITS_FILE
        | {"density": "flow", "flow": {"kind": "nsf", "transforms": 2, "hidden": [64, 64], "bins": 8}}
        | {"alpha": 0.01, "dequantisations": 64},
        {},
        epochs=300,
        batch=64,
        learning_rate=2e-3,
        weight_decay=0.01,
        validate_every=2,
        patience=60,
        shifts=0.5,
    ),
    "digits-generator": Recipe(
        DIGITS_FILE | {"density": "implicit", "latent": 10, "decoder": ["fc1", "relu", "fc2", "relu", "out", "sigmoid"]},
        {"fc1": (10, 128), "fc2": (128, 256), "out": (256, 64)},
        epochs=400,
        batch=618,
        learning_rate=2e-3,
        validate_every=10,
    ),
    "mnist-vae": Recipe(
        MNIST_FILE | VAE_FILE | {"latent": 40, "observation": "bernoulli"},
        vae_layers(784, 400, 40, 784),
        epochs=120,
        batch=128,
        learning_rate=1e-3,
    ),
    "mnist-made": Recipe(
        MNIST_FILE
        | {"density": "made", "layers": ["fc1", "relu", "out"], "direct": "skip", "orderings": [0], "inputs": "scaled"},
        {"fc1": (784, 700), "out": (700, 784), "skip": (784, 784)},
        epochs=100,
        batch=128,
        learning_rate=2e-3,
        weight_decay=0.02,
        patience=15,
    ),
}


def digits_images() -> Images:
    from sklearn.datasets import load_digits

    x = torch.tensor(load_digits().data, dtype=torch.float32)
    return Images(x[:1237], x[1237:1437], x[1437:], shifted)


def shifted(x: Tensor, recipe: Recipe) -> Tensor:
    """8 x 8 images, a share of them moved by one pixel in one of eight directions, with black coming in."""
    if recipe.shifts == 0:
        return x
    framed = torch.nn.functional.pad(x.unflatten(1, (8, 8)), (1, 1, 1, 1))
    windows = framed.unfold(1, 8, 1).unfold(2, 8, 1).flatten(3).flatten(1, 2)  # [n, 9, 64]; the fourth is the image
    chosen = torch.where(torch.rand(len(x)) < recipe.shifts, torch.randint(9, (len(x),)), torch.tensor(4))
    return windows[torch.arange(len(x)), chosen]


def mnist_images(data_dir: Path) -> Images:
    grey = [read_idx(data_dir / "images" / "mnist" / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")]
    train, test = (torch.tensor(images, dtype=torch.float32).flatten(1) / 255 for images in grey)
    return Images(
        train[:55000], binarised(train[55000:], 1), binarised(test, 0), lambda x, _: (torch.rand_like(x) < x).float()
    )


def read_idx(path: Path) -> np.ndarray:
    raw = gzip.decompress(path.read_bytes())
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)


def binarised(white: Tensor, seed: int) -> Tensor:
    return (torch.rand(white.shape, generator=torch.Generator().manual_seed(seed)) < white).float()


def log_weights(model: Any, x: Tensor, particles: int) -> Tensor:
    """log p(x, z) - log q(z|x) [particles, n] for z from q."""
    q = model.encode(x)
    z = q.rsample((particles,))
    return model.prior.log_prob(z) + model.decode(z).log_prob(x) - q.log_prob(z)


def discrepancy(samples: Tensor, x: Tensor) -> Tensor:
    """Maximum mean discrepancy, its square root: kernels sum over widths of exp(-|a-b|^2 / (2 width^2)), unbiased."""
    both = torch.cat([samples, x]) / 16
    squares = torch.cdist(both, both).square()
    kernel = sum(torch.exp(squares * (-0.5 / width**2)) for width in (0.5, 1.0, 1.5, 2.0, 3.0))
    assert isinstance(kernel, Tensor)
    n, m = len(samples), len(x)
    own = kernel[:n, :n].sum() - kernel[:n, :n].diagonal().sum()
    other = kernel[n:, n:].sum() - kernel[n:, n:].diagonal().sum()
    squared = own / (n * (n - 1)) + other / (m * (m - 1)) - 2 * kernel[:n, n:].mean()
    return squared.clamp_min(1e-8).sqrt()


def loss_of(model: Any, kind: str, x: Tensor, particles: int = 1) -> Tensor:
    """What training lowers: nats an image, or the discrepancy of as many samples."""
    if kind == "latent":
        weights = log_weights(model, x, particles)
        return math.log(particles) - weights.logsumexp(dim=0).mean()
    if kind == "flow":
        return -model.log_density(x + torch.rand_like(x)).mean()
    if kind == "implicit":
        return discrepancy(model.images(torch.randn(len(x), model.n_latent)), x)
    return -model.log_prob(x).mean()


@torch.no_grad()
def validated(model: Any, kind: str, x: Tensor) -> float:
    """The loss on validation images, with the same noise every time; of latent models always the ELBO's."""
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        repeats = {"latent": 8, "flow": 8, "implicit": 20}.get(kind, 1) if len(x) < 1000 else 1
        return float(np.mean([float(loss_of(model, kind, x)) for _ in range(repeats)]))


def initial_weights(recipe: Recipe, images: Images) -> dict[str, Tensor]:
    """Normal weights of variance 2/n_in before a ReLU and 0.1/n_in elsewhere, zeros for "skip"; output biases at the mean
    image where it is known what they mean."""
    listed = [name for value in recipe.file.values() if isinstance(value, list) for name in value]
    before_relu = {a for a, b in itertools.pairwise(listed) if b == "relu" and a not in ACTIVATIONS}
    weights = {}
    for name, (n_in, n_out) in recipe.widths.items():
        variance = 0 if name == "skip" else (2 if name in before_relu else 0.1) / n_in
        weights[f"{name}.weight"] = torch.randn(n_out, n_in) * math.sqrt(variance)
        weights[f"{name}.bias"] = torch.zeros(n_out)
    if recipe.file["levels"] == 2:
        weights["out.bias"] = torch.logit(images.train.mean(dim=0).clamp(0.002, 0.998))
    elif recipe.file.get("observation") == "discretized_logistic":
        weights["out.bias"] = torch.cat([images.train.mean(dim=0) / 8 - 1, torch.full((64,), 0.5)])
    return weights


class Trained(NamedTuple):
    """Weights that training changes, and the model that has them now."""

    weights: Mapping[str, Tensor]
    model: Callable[[], Any]


def start(recipe: Recipe, keys: Node, images: Images) -> Trained:
    if recipe.file["density"] == "flow":
        import zuko

        given = recipe.file["flow"]
        flow = zuko.flows.NSF(64, bins=given["bins"], transforms=given["transforms"], hidden_features=given["hidden"])
        model: Any = build_density(keys, dict(flow.named_parameters()))
        return Trained(dict(model.flow.named_parameters()), lambda: model)
    weights = {name: tensor.requires_grad_() for name, tensor in initial_weights(recipe, images).items()}
    orderings = recipe.file.get("orderings", [0])

    def model() -> Any:
        # Of a mixture of orders a step trains one: the mean of their losses bounds the mixture's from above.
        seed = orderings[int(torch.randint(len(orderings), ()))]
        return build_density(keys._replace(values={**keys.values, "orderings": [seed]}), weights)

    return Trained(weights, model)


def train(name: str, recipe: Recipe, images: Images, out: Path, seed: int, stop: int | None = None) -> None:
    """Train one model and keep the best of it in its folder."""
    torch.manual_seed(seed)
    keys, kind = checked_keys(recipe.file), recipe.file["density"]
    trained = start(recipe, keys, images)
    average = {key: tensor.detach().clone() for key, tensor in trained.weights.items()}
    decayed = [tensor for key, tensor in trained.weights.items() if key.endswith("weight")]
    rest = [tensor for key, tensor in trained.weights.items() if not key.endswith("weight")]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.99))
    n_steps, step = recipe.epochs * (len(images.train) // recipe.batch), 0
    folder, curve, best, best_epoch, began = out / f"lmeval-{name}-v1", [], math.inf, 0, time.time()
    for epoch in range(1, recipe.epochs + 1):
        losses = []
        order = torch.randperm(len(images.train))
        for rows in order[: len(order) // recipe.batch * recipe.batch].split(recipe.batch):
            step += 1
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * min(1, step / 200) * (0.5 + 0.5 * math.cos(math.pi * step / n_steps))
            loss = loss_of(trained.model(), kind, images.batch_of(images.train[rows], recipe), recipe.particles)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.weights.values(), 100.0 if kind != "flow" else 20.0)
            optimiser.step()
            losses.append(loss.item())
            share = min(recipe.averaging, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.values()), list(trained.weights.values()), 1 - share)
        if not math.isfinite(losses[-1]):
            raise SystemExit(f"{name}: the loss is {losses[-1]} in epoch {epoch}: lower the learning rate")
        if epoch % recipe.validate_every:
            continue
        found = validated(build_density(keys, average), kind, images.validation)
        curve.append({"epoch": epoch, "train": round(float(np.mean(losses)), 4), "validation": round(found, 4)})
        print(f"{name} {json.dumps(curve[-1])}  {time.time() - began:.0f} s", flush=True)
        if found < best:
            best, best_epoch = found, epoch
            export(recipe, average, folder)
        rows = ",\n".join(json.dumps(row) for row in curve)
        (folder / "curve.json").write_text(f"[\n{rows}\n]\n", encoding="utf-8")
        if epoch - best_epoch >= recipe.patience or epoch == stop:
            break


def export(recipe: Recipe, weights: Mapping[str, Tensor], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.half().contiguous() for key, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    keys = {"density": recipe.file["density"], **recipe.file}
    text = yaml.safe_dump(keys, sort_keys=False, default_flow_style=None, width=125)
    (folder / FILE_NAME).write_text(text, encoding="utf-8")


@torch.no_grad()
def figures(folder: Path, images: Images, seed: int) -> dict[str, Any]:
    """Test figures of what lies in a folder: means over the test images, nats, with their standard errors."""
    loaded = load_density(folder)
    torch.manual_seed(seed)
    x = images.test
    model: Any = loaded.model
    found: dict[str, Any] = {"n_test": len(x), "n_parameters": model.n_parameters, "weights_sha256": loaded.weights_sha256}
    per_image: dict[str, Tensor] = {}
    if loaded.kind == "latent":
        per_image["elbo"] = torch.cat([log_weights(model, rows, 1)[0].double() for rows in x.split(500)])
        parts = [log_weights(model, rows, 500).double() for rows in x[:1000].split(20)]
        per_image[f"iwae 500, first {min(1000, len(x))}"] = torch.cat([part.logsumexp(dim=0) for part in parts]) - math.log(
            500
        )
    elif loaded.kind == "implicit":
        samples = model.sample(len(x))
        found |= {"mmd": float(discrepancy(samples, x)), "mmd of training images": float(discrepancy(images.train[:360], x))}
    else:
        per_image[getattr(model, "side", "exact")] = torch.cat([model.log_prob(rows).double() for rows in x.split(500)])
    for name, values in per_image.items():
        error = float(values.std() / math.sqrt(len(values)))
        bits = -float(values.mean()) / (x.shape[1] * math.log(2))
        found[name] = {"nats": round(float(values.mean()), 3), "stderr": round(error, 3), "bits_per_dim": round(bits, 4)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the models' folders")
    parser.add_argument("--only", action="append", choices=sorted(RECIPES), help="train this one (may be given again)")
    parser.add_argument("--data-dir", type=Path, help="folder that holds images/mnist")
    parser.add_argument("--figures", action="store_true", help="train nothing: measure what is there on the test images")
    parser.add_argument("--stop", type=int, help="stop after this epoch; the learning rate goes on as if for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; numbers depend on them in the last digits")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.distributions.Distribution.set_default_validate_args(False)
    for name in args.only or [name for name in RECIPES if name.startswith("digits")]:
        if name.startswith("mnist") and args.data_dir is None:
            parser.error(f"{name} needs --data-dir DIR, a folder that holds images/mnist/train-images-idx3-ubyte.gz")
        images = mnist_images(args.data_dir) if name.startswith("mnist") else digits_images()
        if not args.figures:
            train(name, RECIPES[name], images, args.out, args.seed, args.stop)
        print(f"{name} {json.dumps(figures(args.out / f'lmeval-{name}-v1', images, args.seed))}", flush=True)


if __name__ == "__main__":
    main()
