"""What an archive of images records of its density: read and written in its header."""

from pathlib import Path
from typing import Any, NamedTuple

from lmeval.compression.images import pixels
from lmeval.compression.images.bitsback import MAX_PARTICLE_BITS
from lmeval.compression.images.imagefile import DTYPES
from lmeval.compression.images.integer_vae import IntegerVAE, integer_vae
from lmeval.compression.images.latent_tables import FEWEST_STEP_BITS, MAX_STEP_BITS
from lmeval.data.resources import bundled_by_fingerprint
from lmeval.densities.modelfile import load_density
from lmeval.densities.named import LoadedDensity, names_density
from lmeval.densities.networks import OBSERVATIONS, LayeredVAE
from lmeval.errors import CorruptArchive, ModelError, ModelMismatch

DensityLike = LoadedDensity | str | Path
"""A density that is loaded, the name of a bundled one, a folder with density.yaml, or a density file."""


class DensitySettings(NamedTuple):
    """Identity of the density, the latents' grid (steps of 2^-step_bits), the latents drawn for each image
    (2^particle_bits), and the numbers that the images' file holds.

    `weights_sha256` is of the weights as float32, by which a bundled density is found; `network_sha256` is of the whole
    numbers that are computed with: with equal ones, encoder and decoder cannot differ.
    """

    name: str
    weights_sha256: str
    network_sha256: str
    observation: str
    levels: int
    n_dims: int
    n_latent: int
    step_bits: int
    particle_bits: int
    dtype: str

    @property
    def n_particles(self) -> int:
        """Latents drawn for each image."""
        return 1 << self.particle_bits


def as_meta(settings: DensitySettings) -> dict[str, Any]:
    """JSON-ready."""
    return settings._asdict()


def from_meta(meta: Any) -> DensitySettings:
    """Raises CorruptArchive where something is missing or cannot be."""
    try:
        kinds = DensitySettings.__annotations__
        values = {key: meta[key] for key in kinds}
        if any(type(values[key]) is not kinds[key] for key in kinds):
            raise TypeError("a value is of the wrong kind")
        settings = DensitySettings(**values)
    except (KeyError, TypeError) as error:
        raise CorruptArchive(f"the archive's header lacks what decoding needs: {error}") from error
    sound = (
        settings.observation in OBSERVATIONS
        and 2 <= settings.levels <= pixels.MAX_LEVELS
        and FEWEST_STEP_BITS <= settings.step_bits <= MAX_STEP_BITS
        and 0 <= settings.particle_bits <= MAX_PARTICLE_BITS
        and 1 <= settings.n_dims <= 1 << 26
        and 1 <= settings.n_latent <= 1 << 20
        and settings.dtype in DTYPES
    )
    if not sound:
        raise CorruptArchive("the archive's header claims what no encoder writes")
    return settings


def as_density(model: DensityLike, data_dir: str | Path | None = None) -> LoadedDensity:
    """Load what is a name; pass on what is loaded."""
    return model if isinstance(model, LoadedDensity) else load_density(model, data_dir)


def describe_density(density: LoadedDensity) -> dict[str, Any]:
    """What identifies a density in a result, JSON-ready."""
    return {"name": density.name, "kind": density.kind, "weights_sha256": density.weights_sha256}


def short_name(density: LoadedDensity) -> str:
    """A density's name without the folders that lead to it: an archive says nothing of the machine it was made on."""
    path = Path(density.name)
    return path.stem if path.suffix in (".yaml", ".yml") else path.name


def whole_numbers(density: LoadedDensity) -> IntegerVAE:
    """The density as bits-back coding runs it. Raises ModelError, one line, for one that has no encoder and decoder."""
    if not isinstance(density.model, LayeredVAE):
        raise ModelError(
            f"{density.name} is a density of kind {density.kind}: bits-back coding needs a latent one with an encoder"
        )
    return integer_vae(density.model, density.name)


def needed_density(wanted: DensitySettings, given: Any, data_dir: str | Path | None) -> IntegerVAE:
    """The density that an archive was made with: the one given, or the bundled one of this fingerprint.

    Raises ModelMismatch, naming both, unless it is the very one.
    """
    source = given if given is not None else bundled_by_fingerprint(wanted.weights_sha256)
    if source is None:
        raise ModelMismatch(
            f"the archive was made with the density {wanted.name} (weights {wanted.weights_sha256[:16]}...), which is not "
            "bundled: give its folder or density file with --model"
        )
    if not names_density(source):
        raise ModelMismatch(f"the archive holds images that the density {wanted.name} coded: give it with --model")
    density = as_density(source, data_dir)
    if density.weights_sha256 != wanted.weights_sha256:
        raise ModelMismatch(
            f"the archive needs the density {wanted.name} with weights {wanted.weights_sha256[:16]}..., but {density.name} "
            f"has {density.weights_sha256[:16]}...: give the density that encoded with --model"
        )
    vae = whole_numbers(density)
    if vae.sha256 != wanted.network_sha256:
        raise ModelMismatch(
            f"{density.name} has the weights of {wanted.name}, but its file puts them together differently: give the "
            "density file that encoded with --model"
        )
    described = (wanted.observation, wanted.levels, wanted.n_dims, wanted.n_latent)
    if (vae.observation, vae.levels, vae.n_dims, vae.n_latent) != described:
        raise CorruptArchive("the archive's header contradicts the density that it names")
    return vae
