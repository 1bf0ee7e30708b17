"""From whatever names or holds a language model to one that is ready to code."""

import os
from typing import TYPE_CHECKING

from lmeval.compression.text.text_model import TextModel, of_library
from lmeval.compute.gather import as_place
from lmeval.compute.place import Place, on_processor
from lmeval.data.resources import BUNDLED_MODEL, reference_folder
from lmeval.models.compiled.setting import compiled_steps_allowed

if TYPE_CHECKING:
    from lmeval.models import ModelLike

LIGHT_BYTES = 1 << 20


def is_light(model: object, place: Place | str, dtype: str, n_bytes: int) -> bool:
    """Whether the bundled byte model is asked for, where it can be read without PyTorch."""
    bundled = model in ("bundled", BUNDLED_MODEL, str(reference_folder()))
    on_cpu = place == "cpu" or (place == "auto" and n_bytes < LIGHT_BYTES)
    if isinstance(place, Place):
        on_cpu = not place.on_accelerator
    return bundled and on_cpu and dtype == "float32" and compiled_steps_allowed() and "RANK" not in os.environ


def _place_of(model: TextModel, place: Place | str) -> Place:
    if isinstance(place, Place):
        return place
    return on_processor() if model.device == "cpu" else as_place(model.device)


def load_text_model(
    model: "ModelLike | TextModel", place: Place | str, dtype: str = "float32", n_bytes: int = 0, *, examined: bool = True
) -> tuple[TextModel, Place]:
    """A model by whatever names or holds it, and the place where it computes.

    The bundled byte model is read without PyTorch where compiled steps may be used, on the CPU, and by "auto" for less than
    LIGHT_BYTES of input: more is worth the time to look for an accelerator.

    Args:
        model: As for `models.as_model`.
        place: Where a model is loaded that is given by name.
        dtype: The precision of a model that is given by name.
        n_bytes: The size of the input.
        examined: Whether a pair (network, tokenizer) is tried (see `models.from_pair`).

    Raises:
        ModelError: It cannot be loaded, or its tokenizer does not tell the bytes of its tokens.
        DeviceError: There is no such device.
    """
    if isinstance(model, TextModel):
        return model, _place_of(model, place)
    if is_light(model, place, dtype, n_bytes):
        from lmeval.compression.text.bundled import bundled_text_model

        return bundled_text_model(), place if isinstance(place, Place) else on_processor()
    from lmeval.models import as_model, from_pair

    place = as_place(place)
    loaded = from_pair(*model, examined=examined) if isinstance(model, tuple) else as_model(model, str(place.device), dtype)
    return of_library(loaded), place._replace(device=loaded.device)
