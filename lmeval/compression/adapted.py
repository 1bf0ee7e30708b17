"""The code length of texts under a language model and the online models after it, without writing archives."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from lmeval.compression.compress import code_length
from lmeval.compression.text.encode import CodeLength
from lmeval.compression.text.loading import load_text_model
from lmeval.compression.text.plan import CompressSettings
from lmeval.compression.text.text_model import TextModel
from lmeval.compute.place import Place
from lmeval.errors import EmptyInput
from lmeval.models import ModelLike
from lmeval.progress import SILENT, Progress
from lmeval.results import Measurement


class AdaptedLength(NamedTuple):
    """`adapted_bits_per_byte` of some texts, and the ledger that says what was coded and how."""

    measurement: Measurement
    ledger: dict[str, Any]


def measure_adapted(
    texts: Sequence[bytes | memoryview],
    model: ModelLike | TextModel = "bundled",
    level: str = "full",
    *,
    place: Place | str = "auto",
    progress: Progress = SILENT,
) -> AdaptedLength:
    """Bits per byte that `compress` reaches on texts, each coded on its own: payloads without headers and framing.

    This is no perplexity of the model: the online models learn from each text while it is coded.

    Args:
        texts: UTF-8, or any other bytes; empty ones are left out.
        model: The language model: loaded, a pair (network, tokenizer), a folder, a hub id, or "bundled".
        level: Of the online models: "full" or "light"; "none" leaves them out.
        place: Where the model computes; a model that is given loaded stays where it is.
        progress: Is told of the stage "coding", in bytes of the texts.

    Returns:
        The measurement, of all texts together, and what was coded.

    Raises:
        EmptyInput: There is not one byte.
        InputError: There are no online models of this level.
        ModelError: The model cannot be loaded, or cannot code.
    """
    n_bytes = sum(map(len, texts))
    if not n_bytes:
        raise EmptyInput("no text to code: all are empty")
    settings = CompressSettings(adapt=level)
    loaded, place = load_text_model(model, place, n_bytes=n_bytes)
    progress.stage("coding", n_bytes, "bytes")
    coded = [
        code_length(text, loaded, settings, place=place, progress=_Counted(progress)).ledger for text in texts if len(text)
    ]
    n_payload = sum(one["n_payload_bytes"] for one in coded)
    value = 8 * n_payload / n_bytes
    ledger = {
        "adapt": level,
        "what": "code length of model and online models, as compress --adapt reaches it, without headers and framing: not "
        "the model's own perplexity",
        "n_documents": len(coded),
        "n_bytes": n_bytes,
        "n_payload_bytes": n_payload,
        "model_bytes": sum(one["model_bytes"] for one in coded),
        "bits_of_model_bytes": {name: float(sum(one["length_bits"][name] for one in coded)) for name in CodeLength._fields},
    }
    return AdaptedLength(Measurement("adapted_bits_per_byte", value, "bits/byte", "exact", n=len(coded)), ledger)


class _Counted:
    """Passes on what was done, as part of a stage that is open already."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def stage(self, name: str, total: int | None, unit: str) -> None:
        """Stay in the stage "coding": those of each text are parts of it."""

    def advance(self, n: int, note: str = "") -> None:
        """Count, without a rate: it is that of one text."""
        self.progress.advance(n)
