"""Density files: YAML that says of what layers a density is made, beside a safetensors file with their weights.

    density: latent                # latent, made, flow or implicit
    weights: model.safetensors     # looked for beside this file, then in the data folder
    shape: [28, 28]                # of an image; pixels are in row-major order
    levels: 2                      # a pixel is one of 0..levels-1
    binarisation: sampled          # how two levels were made of more (`data.tags.BINARISATIONS`); null where not
    trained_on: the first 55,000 training images of MNIST           # for people

and, by kind, with layers named as in the weights file ("fc1" has "fc1.weight" and "fc1.bias") and activations by name:

    latent: 40                     # numbers in z, which is standard normal
    encoder: [fc1, relu]
    mean: fc21
    log_std: fc22                  # or log_var: fc22
    decoder: [fc3, relu, fc4]
    observation: bernoulli         # categorical, discretized_logistic

    layers: [fc1, relu, fc2]       # made; masks are made here
    orderings: [0]                 # seeds of the orders of pixels: 0 is their own order; several make an even mixture
    inputs: scaled                 # or one_hot
    direct: skip                   # may be left out: a layer from inputs to outputs, whose result is added

    flow: {kind: nsf, transforms: 3, hidden: [64, 64], bins: 8}     # or maf; as zuko builds them, in features' own order
    alpha: 0.01                    # of the logit transform
    dequantisations: 32            # draws of the importance-weighted bound

    latent: 10                     # implicit
    decoder: [fc1, relu, fc2, sigmoid]

A key that is not known is an error that tells file, line and the nearest known key. No file runs code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lmeval.data.locate import find_in
from lmeval.data.resources import bundled_densities
from lmeval.densities.kinds import KINDS, Density
from lmeval.densities.named import FILE_NAME, LoadedDensity, density_path
from lmeval.errors import DensityError, ModelNotFound, first_line
from lmeval.models.fingerprints import tensors_sha256
from lmeval.specs.keys import choice, needed
from lmeval.specs.reader import FileKind, Node, check, read_file

DENSITY_FILE = FileKind("density file", ("density", "weights", "shape"), DensityError, ModelNotFound)


def load_density(name: str | Path, data_dir: str | Path | None = None, device: str | torch.device = "cpu") -> LoadedDensity:
    """Load a bundled density by its name, a folder that holds density.yaml, or a density file.

    Weights are read as float32, whatever they are stored as.

    Args:
        name: The bundled name, or a path.
        data_dir: A folder where weights may lie that do not lie beside the density file.
        device: Where the model is put.

    Raises:
        ModelNotFound: There is no such file, or it lacks weights.
        DensityError: A value or a shape is wrong; it names file and line.
    """
    path = density_path(str(name))
    if path is None:
        known = ", ".join(bundled_densities())
        raise ModelNotFound(f"no density {name}: give a folder with {FILE_NAME}, a density file (.yaml) or one of {known}")
    keys = read_density_file(path)
    weights = {name: tensor.float() for name, tensor in _weights_of(keys, data_dir).items()}
    model = build_density(keys, weights, device)
    values = keys.values
    fingerprint = tensors_sha256(weights.items())
    return LoadedDensity(
        str(name),
        values["density"],
        model,
        values["levels"],
        tuple(values["shape"]),
        values["binarisation"],
        fingerprint,
        path,
    )


def read_density_file(path: Path) -> Node:
    """Read and check a density file, without its weights. Raises DensityError with file and line, and ModelNotFound."""
    return _checked(read_file(path, DENSITY_FILE))


def checked_keys(values: Mapping[str, Any]) -> Node:
    """The keys of a density that no file describes, checked like those of a file. Raises DensityError."""
    return _checked(Node(Path(FILE_NAME), DENSITY_FILE, values, {}))


def _checked(keys: Node) -> Node:
    """Keys that were checked one by one and together; `binarisation` and `trained_on` are given their defaults."""
    check(keys, {"density": needed(choice(KINDS))}, others=True)
    kind = KINDS[keys.values["density"]]
    check(keys, kind.keys, f" for density {kind.name}")
    given = {key: value for key, value in keys.values.items() if value is not None}
    keys = keys._replace(values={"binarisation": None, "trained_on": "", **given})
    kind.check(keys)
    if keys.values["binarisation"] is not None and keys.values["levels"] != 2:
        raise DensityError(f"{keys.where('binarisation')} must be null where levels is {keys.values['levels']}, not 2")
    return keys


def build_density(keys: Node, weights: Mapping[str, Tensor], device: str | torch.device = "cpu") -> Density:
    """A density of given weights (name -> tensor, as in the weights file), which it shares: their gradients reach them, but
    for a flow's, which are copied into its module.

    Raises DensityError where a layer has no weights, a shape does not fit, or weights belong to no layer.
    """
    return KINDS[keys.values["density"]].build(keys, weights, device)


def _weights_of(keys: Node, data_dir: str | Path | None) -> dict[str, Tensor]:
    given = keys.values["weights"]
    folders = [keys.path.parent, *([Path(data_dir)] if data_dir is not None else [])]
    file = find_in(folders, given, Path.is_file)
    if file is None:
        looked = " nor ".join(str(folder) for folder in folders)
        remedy = "" if data_dir is not None else ": name the data folder that holds it (--data-dir)"
        raise ModelNotFound(f"{keys.where('weights')}: no file {given} in {looked}{remedy}")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelNotFound(f"{file} is no safetensors file: {first_line(error)}") from error
