"""The model of an archive, found, checked against the archive's header, and put to decoding its blocks."""

from collections.abc import Iterable, Sequence

import numpy as np

from lmeval.compression.container.frame import Block
from lmeval.compression.container.header import Header
from lmeval.compression.container.kinds import Decoder, Holder, Lost
from lmeval.compression.text import decisions
from lmeval.compression.text.decode import decode_blocks
from lmeval.compression.text.encode import ADAPTED
from lmeval.compression.text.loading import load_text_model
from lmeval.compression.text.log_odds import stepwise_log_odds
from lmeval.compression.text.model_header import ModelSettings, check_model, from_header, where_model_is
from lmeval.compression.text.text_model import TextModel, by_library
from lmeval.compression.text.windows import lane_bytes
from lmeval.compute.memory import LANES, at_once
from lmeval.compute.place import Place, on_processor
from lmeval.densities.named import names_density
from lmeval.errors import ModelMismatch, NumericalDrift
from lmeval.models.compiled.network import Network
from lmeval.progress import Progress, counting


def model_decoder(header: Header, holder: Holder) -> Decoder:
    """Decoder of the blocks that the archive's language model coded, as many at a time as make a full set of lanes.

    Where compiled steps differ from the encoder's numbers by too much for the archive, the library's modules decode.

    Raises:
        CorruptArchive: The header names no model, or one that cannot be.
        ModelMismatch: The model at hand is another one, or none is to be found.
        NumericalDrift: Its numbers here differ from the encoder's by more than the archive tolerates.
    """
    wanted = from_header(header.meta)
    model, place = _model(wanted, holder)
    check_model(wanted, model)
    drift = canary_drift(model, wanted)
    if not drift <= wanted.grid.margin and isinstance(model.network(wanted.layout.window), Network):
        model = by_library(model, f"its log-probabilities differ from the encoder's by {drift:.2g} nats")
        drift = canary_drift(model, wanted)
    if not drift <= wanted.grid.margin:
        raise NumericalDrift(_drift_message(model, wanted, drift, header))
    most = at_once(LANES, place, lane_bytes(model, wanted))

    def decode(blocks: Sequence[Block], progress: Progress) -> Iterable[bytes | Lost]:
        on_tokens = counting(progress, sum(b.n_bytes for b in blocks) / sum(b.n_units for b in blocks))
        for data in decode_blocks(model, wanted, blocks, holder.lanes_per_pass, on_tokens):
            if isinstance(data, Lost) and isinstance(data.error, NumericalDrift):
                yield Lost(NumericalDrift(f"{data.error}: {_drift_message(model, wanted, drift, header)}"))
            else:
                yield data

    def share(block: Block) -> float:
        """An adapted block has online models of its own, which take the memory that there is."""
        return 1.0 if block.kind == ADAPTED else block.n_lanes / most

    return Decoder(decode, share, gathers=True)


def _model(wanted: ModelSettings, holder: Holder) -> tuple[TextModel, Place]:
    given = holder.given
    if names_density(given):
        raise ModelMismatch(f"the archive was made with the language model {wanted.name}: give that with --model")
    source = where_model_is(wanted) if given is None else given
    if source is None:
        raise ModelMismatch(
            f"the archive was made with {wanted.name} (weights {wanted.weights_sha256[:16]}...), which is not bundled: give "
            "its folder or hub id with --model"
        )
    # The fingerprint and the canary say of a network that is given with its tokenizer what there is to know of it.
    key = id(given) if isinstance(given, tuple) else (str(source), wanted.dtype)
    place = on_processor() if holder.place is None else holder.place
    return holder.get(key, lambda: load_text_model(source, place, wanted.dtype, examined=False))


def canary_drift(model: TextModel, settings: ModelSettings) -> float:
    """Largest difference (nats) between the stored canary log-probabilities and this machine's, read token by token."""
    ids = np.array(settings.canary.ids, dtype=np.int64)
    if not len(ids):
        return 0.0
    log_odds = stepwise_log_odds(model, settings, ids, 1)
    bits = decisions.path_bits(ids, settings.depth)
    here = [-decisions.code_length_nats(z, b) for z, b in zip(log_odds, bits, strict=True)]
    return float(np.abs(np.array(here) - settings.canary.log_probs).max())


def _drift_message(model: TextModel, wanted: ModelSettings, drift: float, header: Header) -> str:
    made = header.meta.get("made_on")
    made = made if isinstance(made, dict) else {}
    return (
        f"numerical drift: log-probabilities here differ from the encoder's by {drift:.3g} nats, and the archive "
        f"tolerates {wanted.grid.margin:.3g} (epsilon {wanted.epsilon:.3g}); it was made in {wanted.dtype} on "
        f"{made.get('device', '?')}, this is {model.dtype} on {model.device}: decode as it was "
        "made, or encode with a larger --tolerance"
    )
