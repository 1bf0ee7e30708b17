"""The account of a compression of images: blocks, bits and seconds, and the report that is made of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from lmeval.compression.container.frame import Block
from lmeval.compression.container.kinds import REGISTRY
from lmeval.compression.images.bounds import BOUND_SAMPLES
from lmeval.compression.images.density_header import DensitySettings, as_meta
from lmeval.compression.images.imagefile import ImageFile
from lmeval.results import Column, Measurement, Report, Table
from lmeval.results.measurement import Side
from lmeval.results.table import count, words
from lmeval.stats import Estimate, mean_estimate
from lmeval.stats.units import bits_per_dim

BLOCK_COLUMNS = (words("kind"), count("blocks"))
BOUND_COLUMNS = (
    words("bound"),
    Column("bits_per_dim", "bits/dim", "bits/dim", digits=5),
    Column("nats", "nats an image", "nats", digits=3),
    Column("stderr_nats", "standard error", "nats", digits=3),
    count("n", "images"),
)


class ByDensity(NamedTuple):
    """What the density did for one block.

    Attributes:
        n_images: Images of the block.
        initial_bits: Bits of the words that the stack began with.
        net_bits: Bits of the block's words without them: what the coder paid for the images.
        draws_nats: Draws for the evidence lower bound of each image.
    """

    n_images: int
    initial_bits: int
    net_bits: int
    draws_nats: Float64[np.ndarray, "samples n"]


@dataclass
class Tally:
    """What is counted while blocks are coded and written: lines of the index, blocks by their kinds, what the density did
    for those that it coded, seconds, and the blocks that did not decode here, which were then coded without the density."""

    n_header_bytes: int
    n_bytes: int = 0
    n_payload_bytes: int = 0
    n_not_verified: int = 0
    encode_seconds: float = 0.0
    verify_seconds: float = 0.0
    lines: list[tuple[int, int]] = field(default_factory=list)
    n_blocks: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REGISTRY, 0))
    by_density: list[ByDensity] = field(default_factory=list)

    def add(self, line: tuple[int, int], block: Block, by_density: ByDensity | None) -> None:
        """Count a block that was written.

        Args:
            line: Its line of the index.
            block: The block.
            by_density: What the density did for it, if it coded it.
        """
        self.lines.append(line)
        self.n_blocks[block.kind] += 1
        self.n_bytes += block.n_bytes
        self.n_payload_bytes += len(block.payload)
        if by_density is not None:
            self.by_density.append(by_density)

    @property
    def running_rate(self) -> str:
        """Bits of the archive so far for each byte of the data in it, for a progress bar."""
        n_written = self.n_header_bytes + sum(stored for stored, _ in self.lines)
        return f"{8 * n_written / self.n_bytes:.3f} bits/byte" if self.n_bytes else ""


class _Net(NamedTuple):
    """Net code length of the images that the density coded, and their bound.

    `bits_per_dim` is of the blocks' words without the initial ones. `elbo` is the evidence lower bound of the float model in
    nats an image, from BOUND_SAMPLES draws of the latent for each. `draw_nats` is the standard deviation of such a draw
    about its image's bound, by which both the estimate of the bound and the code length (one draw) are uncertain.
    """

    n_images: int
    initial_bits: int
    net_bits: int
    bits_per_dim: float
    elbo: Estimate
    draw_nats: float

    @property
    def relative_noise(self) -> float:
        """Standard error of net code length over bound."""
        return float(self.draw_nats * np.sqrt((1 + 1 / BOUND_SAMPLES) / self.n_images) / abs(self.elbo.value))


def image_report(
    tally: Tally,
    layout: ImageFile,
    n_archive_bytes: int,
    density: DensitySettings,
    *,
    verify: bool,
    provenance: Mapping[str, Any],
) -> Report:
    """The report of a compression of images.

    Args:
        tally: What was counted.
        layout: Where the images were in the file.
        n_archive_bytes: Length of the archive.
        density: What the header says of the density.
        verify: Whether blocks were decoded before they were written.
        provenance: By what and from what the archive was made.

    Returns:
        A report of kind "compress". Its measurements are the archive's size, its bits for each byte of the file and for each
        number of the images, and of the images that the density coded: the net bits for each of their numbers (without
        initial bits, header and frame), the evidence lower bound in the same unit (an upper bound on the negative
        log-likelihood), and the excess, net over bound less 1. Tables: "blocks" counts blocks by kind; "bounds" has the
        bounds that the net code length is held against, in nats as lower bounds on the log-likelihood.
    """
    net = _net(tally, layout.n_dims)
    blocks = tuple({"kind": kind, "blocks": n} for kind, n in tally.n_blocks.items() if n)
    bounds = () if net is None else (_bound_row("-ELBO", net.elbo, layout.n_dims),)
    ledger = {
        "coder": "density",
        "n_bytes": tally.n_bytes,
        "n_archive_bytes": n_archive_bytes,
        "n_header_bytes": tally.n_header_bytes,
        "n_framing_bytes": n_archive_bytes - tally.n_header_bytes - tally.n_payload_bytes,
        "n_payload_bytes": tally.n_payload_bytes,
        "n_blocks": dict(tally.n_blocks),
        "n_not_verified": tally.n_not_verified,
        "verified": verify and net is not None,
        "encode_seconds": tally.encode_seconds,
        "verify_seconds": tally.verify_seconds,
        "n_images": layout.n,
        "n_coded": net.n_images if net else 0,
        "n_dims": layout.n_dims,
        "initial_bits": net.initial_bits if net else 0,
        "net_bits": net.net_bits if net else 0,
        "draw_nats": net.draw_nats if net else None,
        "density": as_meta(density),
    }
    return Report(
        "compress",
        tuple(_measurements(ledger, net)),
        {"blocks": Table(BLOCK_COLUMNS, blocks), "bounds": Table(BOUND_COLUMNS, bounds)},
        ledger,
        provenance,
    )


def with_bound(report: Report, name: str, bound: Estimate) -> Report:
    """The report with one more bound that the net code length is held against.

    Args:
        report: Of `compress_images_to`.
        name: What the bound is called.
        bound: A lower bound on the log-likelihood in nats, the mean over the first images (see `bounds.bounded_images`).

    Returns:
        The report with a row in the table "bounds" and a measurement "bound_bits_per_dim".
    """
    table, n_dims = report.tables["bounds"], report.ledger["n_dims"]
    rows = (*table.rows, _bound_row(name, bound, n_dims))
    of = {"model": report.ledger["density"]["name"], "bound": name}
    measurement = _in_bits("bound_bits_per_dim", bound, n_dims, of)
    tables = {**report.tables, "bounds": replace(table, rows=rows)}
    return replace(report, results=(*report.results, measurement), tables=tables)


def _net(tally: Tally, n_dims: int) -> _Net | None:
    """What the density did for all blocks that it coded; None where there are none."""
    if not tally.by_density:
        return None
    draws = np.concatenate([block.draws_nats for block in tally.by_density], axis=1)
    n_images, net_bits = draws.shape[1], sum(block.net_bits for block in tally.by_density)
    return _Net(
        n_images=n_images,
        initial_bits=sum(block.initial_bits for block in tally.by_density),
        net_bits=net_bits,
        bits_per_dim=net_bits / (n_images * n_dims),
        elbo=mean_estimate(draws.mean(axis=0)),
        draw_nats=float(np.sqrt(draws.var(axis=0, ddof=1).mean())),
    )


def _bound_row(name: str, bound: Estimate, n_dims: int) -> dict[str, Any]:
    bits = float(bits_per_dim(bound.value, n_dims))
    return {"bound": name, "bits_per_dim": bits, "nats": bound.value, "stderr_nats": bound.stderr, "n": bound.n}


def _measurements(ledger: Mapping[str, Any], net: _Net | None) -> list[Measurement]:
    of = {"model": ledger["density"]["name"]}
    n_dims, bits = ledger["n_dims"], 8 * ledger["n_archive_bytes"]
    results = [Measurement("archive_bytes", ledger["n_archive_bytes"], "bytes", "exact", of=of)]
    if ledger["n_images"]:
        n = ledger["n_images"]
        results.insert(0, Measurement("bits_per_dim", bits / (n * n_dims), "bits/dim", "exact", n=n, of=of))
    if ledger["n_bytes"]:
        results.insert(0, Measurement("bits_per_byte", bits / ledger["n_bytes"], "bits/byte", "exact", of=of))
    if net is not None:
        bound = _in_bits("bound_bits_per_dim", net.elbo, n_dims, of | {"bound": "-ELBO"})
        excess = net.bits_per_dim / bound.value - 1
        results += [
            Measurement("net_bits_per_dim", net.bits_per_dim, "bits/dim", "exact", n=net.n_images, of=of),
            bound,
            Measurement("excess", excess, "1", "estimate", net.relative_noise, n=net.n_images, of=of),
        ]
    return results


def _in_bits(name: str, bound: Estimate, n_dims: int, of: Mapping[str, str]) -> Measurement:
    """A lower bound in nats as an upper bound in bits a dimension."""
    side: Side = "upper"
    stderr = None if bound.stderr is None else bound.stderr / (n_dims * math.log(2))
    ci95 = None
    if bound.ci95 is not None:
        high, low = (float(bits_per_dim(end, n_dims)) for end in bound.ci95)
        ci95 = (low, high)
    return Measurement(name, float(bits_per_dim(bound.value, n_dims)), "bits/dim", side, stderr, ci95, bound.n, of=of)
