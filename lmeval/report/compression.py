"""Tables of compression: one archive, and what it says of itself."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Group, RenderableType
from rich.markup import escape

from lmeval.report.tables import plain_table, speed

if TYPE_CHECKING:
    from lmeval.compression import Compression, ImageCompression
    from lmeval.data.images import ImageSet


def running_rate(n_archive_bytes: int, n_bytes: int) -> str:
    """Bits per byte so far, for a progress bar."""
    return f"{8 * n_archive_bytes / n_bytes:.3f} bits/byte" if n_bytes and n_archive_bytes else ""


def compression_table(name: str, found: "Compression") -> RenderableType:
    """Size and speed of one compression, and where the bits went."""
    table = plain_table("", "")
    rate = f"  {found.bits_per_byte:.4f} bits/byte" if found.n_bytes else ""
    table.add_row("input", f"{escape(name)}  {found.n_bytes:,} bytes")
    table.add_row("archive", f"{found.n_archive_bytes:,} bytes{rate}")
    kinds = [f"{n:,} {kind}" for kind, n in found.n_blocks.items() if n]
    table.add_row("blocks", ", ".join(kinds) or "none")
    if found.n_blocks["adapted"] or found.n_blocks["online"]:
        table.add_row("online models", found.adapt)
    if found.settings is not None and found.model_bytes:
        settings, length = found.settings, found.length
        table.add_row("model", escape(f"{settings.name}, {settings.dtype}"))
        lanes = f"{found.n_lanes:,} lanes, context {settings.layout.window:,}, overlap {settings.layout.overlap:,}"
        table.add_row("layout", lanes)
        table.add_row("tolerance", f"{settings.epsilon:.2g} nats beyond a drift of {settings.drift:.2g} between passes here")
        table.add_row("ideal", f"{length.ideal / 8:,.0f} bytes  {length.ideal / found.model_bytes:.4f} bits/byte")
        adaptation = [("adaptation", length.adaptation)] if found.n_blocks["adapted"] else []
        extras = [("grid", length.grid), ("phases", length.phases), *adaptation, ("coder", length.coder)]
        extras += [("framing", 8.0 * found.n_framing_bytes), ("header", 8.0 * found.n_header_bytes)]
        table.add_row("on top", ", ".join(f"{what} {100 * bits / length.ideal:.3f}%" for what, bits in extras))
    encode = found.n_bytes / max(found.survey_seconds + found.encode_seconds, 1e-9)
    verify = f", verified {speed(found.n_bytes / found.verify_seconds)}" if found.verified else ", not verified"
    table.add_row("speed", f"encoded {speed(encode)}{verify}")
    return table


class Bound(NamedTuple):
    """A lower bound on the mean log-likelihood of the first `n` images, in nats an image."""

    label: str
    mean_nats: float
    stderr_nats: float | None
    n: int


def image_compression_table(name: str, found: "ImageCompression", bounds: Sequence[Bound] = ()) -> RenderableType:
    """Size and speed of one compression of images, beside the bound that its net length comes near to; `bounds` are further
    ones on the same images, or on the first of them."""
    table, wanted = plain_table("", ""), found.settings
    table.add_row("input", f"{escape(name)}  {found.n_bytes:,} bytes, {found.n_images:,} images of {found.n_dims:,} numbers")
    table.add_row("archive", f"{found.n_archive_bytes:,} bytes  {_per_dim(found.gross_bits_per_dim)}")
    kinds = [f"{n:,} {kind}" for kind, n in found.n_blocks.items() if n]
    table.add_row("blocks", ", ".join(kinds) or "none")
    grid = f"{wanted.n_latent:,} latents on a grid of 1/{1 << wanted.step_bits:,}"
    table.add_row("density", escape(f"{wanted.name}, {wanted.observation}, {wanted.levels:,} levels, {grid}"))
    if found.elbo is not None:
        rest = "" if found.n_coded == found.n_images else f", the {found.n_coded:,} images that the density coded"
        table.add_row("initial bits", f"{found.initial_bits:,}, part of the archive")
        table.add_row("net", f"{_per_dim(found.net_bits_per_dim)} without them, header and frame{rest}")
        table.add_row("-ELBO", f"{_per_dim(found.bound_bits_per_dim)}  {_nats(found.elbo.value, found.elbo.stderr)}")
        over = f"{100 * found.excess:+.3f}% of net over -ELBO (standard error {100 * found.excess_stderr:.3f}%)"
        table.add_row("excess", over)
    for bound in bounds:
        bits = -bound.mean_nats / (found.n_dims * math.log(2))
        where = f", first {bound.n:,} images" if bound.n < found.n_images else ""
        table.add_row(escape(bound.label), f"{_per_dim(bits)}  {_nats(bound.mean_nats, bound.stderr_nats)}{where}")
    if found.elbo is not None:
        encode, verify = (found.n_images / max(s, 1e-9) for s in (found.encode_seconds, found.verify_seconds))
        decoded = f"decoded {verify:,.0f} images/s" if found.verified else "not verified"
        table.add_row("speed", f"encoded {encode:,.0f} images/s, {decoded}")
    return table


def images_table(name: str, images: "ImageSet") -> RenderableType:
    """A set of images: its size, what its numbers are, and its hash."""
    table = plain_table("", "")
    shape = " x ".join(str(size) for size in images.shape)
    table.add_row("images", f"{escape(name)}  {len(images):,} of {shape}")
    table.add_row("levels", escape(images.tags.describe()))
    values = images.x.float()
    table.add_row("mean level", f"{float(values.mean()):.6g}")
    table.add_row("sha256", f"{images.sha256} (of the levels)")
    return table


def _per_dim(bits: float) -> str:
    return f"{bits:.5f} bits/dim" if math.isfinite(bits) else "no images"


def _nats(mean: float, stderr: float | None) -> str:
    return f"{-mean:.3f} nats an image" + ("" if stderr is None else f" (standard error {stderr:.3f})")


def inspect_table(archives: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Headers and blocks of the archives of a file."""
    return Group(*(part for found in archives for part in _inspected(found)))


def _inspected(found: Mapping[str, Any]) -> list[RenderableType]:
    head = plain_table("", "")
    for key, value in found.items():
        if key == "blocks":
            continue
        for name, cell in value.items() if isinstance(value, Mapping) else [("", value)]:
            label = f"{key}.{name}" if name else key
            head.add_row(escape(label), escape(_cell(cell)))
    kinds = {"images": "n_images", "initial words": "n_initial_words"}
    if "density" not in found:
        kinds = {"lanes": "n_lanes", "tokens": "n_tokens", "group": "group_tokens"}
        kinds |= {"level": "level"} if any("level" in block for block in found["blocks"]) else {}
    blocks = plain_table("block", "position", "data from", "bytes", "kind", "payload", *kinds, "bits/byte")
    for i, block in enumerate(found["blocks"]):
        numbers = [_cell(block.get(key, "")) for key in kinds.values()]
        places = [f"{block[key]:,}" for key in ("position", "offset", "n_bytes")]
        rate = 8 * block["payload_bytes"] / block["n_bytes"]
        blocks.add_row(str(i), *places, block["kind"], f"{block['payload_bytes']:,}", *numbers, f"{rate:.4f}")
    return [head, "", blocks, ""]


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
