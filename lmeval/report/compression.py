"""Tables of compression: one archive, and what it says of itself."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from rich.console import RenderableType
from rich.markup import escape

from lmeval.report.tables import plain_table

if TYPE_CHECKING:
    from lmeval.compression import ImageCompression
    from lmeval.data.images import ImageSet


def running_rate(n_archive_bytes: int, n_bytes: int) -> str:
    """Bits per byte so far, for a progress bar."""
    return f"{8 * n_archive_bytes / n_bytes:.3f} bits/byte" if n_bytes and n_archive_bytes else ""


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
