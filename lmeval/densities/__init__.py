"""Densities: models of images, and of any tensors, whose likelihood is exact, bounded or implicit.

`protocols` says what a density is and checks one (with `checks`), `adapters` wrap other libraries' models, `layers`,
`observations` and `networks` are our own, which `modelfile` loads, and `spaces` says what numbers on images mean.
"""

from typing import TYPE_CHECKING

from lmeval import lazy

if TYPE_CHECKING:
    from lmeval.data.images import ImageSet, binarise, image_set, limited, read_images, threshold
    from lmeval.data.tags import Tags, require_same_space
    from lmeval.densities.adapters import Flow, TokenImages, from_autoencoder_kl, from_causal_lm, from_flow, from_pythae
    from lmeval.densities.checks import draw
    from lmeval.densities.modelfile import load_density
    from lmeval.densities.named import LoadedDensity, is_density
    from lmeval.densities.networks import DequantisedFlow, Generator, LayeredVAE, Made
    from lmeval.densities.protocols import (
        CheckedDensity,
        CheckedExact,
        CheckedLatent,
        Exact,
        Implicit,
        Kind,
        Latent,
        LatentShape,
        check_density,
        check_exact,
        check_latent,
        kind_of,
    )
    from lmeval.densities.spaces import (
        Logit,
        check_normalised,
        dequantise,
        from_logits,
        in_logit_space,
        log_mean_exp,
        to_logits,
        uniform_levels,
    )
    from lmeval.stats.units import bits_per_dim

__all__ = [
    "CheckedDensity",
    "CheckedExact",
    "CheckedLatent",
    "DequantisedFlow",
    "Exact",
    "Flow",
    "Generator",
    "ImageSet",
    "Implicit",
    "Kind",
    "Latent",
    "LatentShape",
    "LayeredVAE",
    "LoadedDensity",
    "Logit",
    "Made",
    "Tags",
    "TokenImages",
    "binarise",
    "bits_per_dim",
    "check_density",
    "check_exact",
    "check_latent",
    "check_normalised",
    "dequantise",
    "draw",
    "from_autoencoder_kl",
    "from_causal_lm",
    "from_flow",
    "from_logits",
    "from_pythae",
    "image_set",
    "in_logit_space",
    "is_density",
    "kind_of",
    "limited",
    "load_density",
    "log_mean_exp",
    "read_images",
    "require_same_space",
    "threshold",
    "to_logits",
    "uniform_levels",
]

lazy.attach(__name__)
