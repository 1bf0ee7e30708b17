"""View of `lmeval images`, and what `lmeval compress` shows of images that a density coded."""

from collections.abc import Mapping
from typing import Any

from lmeval.report.blocks import Block
from lmeval.results import Report, find
from lmeval.results.table import facts

ELBO = "-ELBO"  # the bound that the net code length is held against


def view(report: Report) -> list[Block]:
    """A set of images: its size, what its numbers are, and its hash."""
    ledger = report.ledger
    shape = " x ".join(str(size) for size in ledger["shape"])
    return [
        facts(
            ("images", f"{ledger['file']}  {ledger['n_images']:,} of {shape}"),
            ("levels", ledger["space"]),
            ("mean level", f"{report['mean_level']:.6g}"),
            ("sha256", f"{ledger['sha256']} (of the levels)"),
        )
    ]


def density_facts(report: Report) -> list[tuple[str, str]]:
    """Size and speed of a compression of images, beside the bounds that its net length comes near to."""
    ledger = report.ledger
    density = ledger["density"]
    grid = f"{density['n_latent']:,} latents on a grid of 1/{1 << density['step_bits']:,}"
    gross = _per_dim(report["bits_per_dim"]) if ledger["n_images"] else "no images"
    kinds = ", ".join(f"{row['blocks']:,} {row['kind']}" for row in report.tables["blocks"])
    images = f"{ledger['n_images']:,} images of {ledger['n_dims']:,} numbers"
    rows = [
        ("input", f"{report.results[0].of.get('file', '')}  {ledger['n_bytes']:,} bytes, {images}".strip()),
        ("archive", f"{ledger['n_archive_bytes']:,} bytes  {gross}"),
        ("blocks", kinds or "none"),
        ("density", f"{density['name']}, {density['observation']}, {density['levels']:,} levels, {grid}"),
    ]
    own = [_bound(row, ledger["n_coded"]) for row in report.tables["bounds"] if row["bound"] == ELBO]
    further = [_bound(row, ledger["n_images"]) for row in report.tables["bounds"] if row["bound"] != ELBO]
    if not ledger["n_coded"]:
        return rows + further
    coded = "" if ledger["n_coded"] == ledger["n_images"] else f", the {ledger['n_coded']:,} images that the density coded"
    excess = find(report, "excess")
    return [
        *rows,
        ("initial bits", f"{ledger['initial_bits']:,}, part of the archive"),
        ("net", f"{_per_dim(report['net_bits_per_dim'])} without them, header and frame{coded}"),
        *own,
        ("excess", f"{excess.value:+.3%} of net over {ELBO} (standard error {excess.stderr:.3%})"),
        *further,
        ("speed", _speed(ledger)),
    ]


def _bound(row: Mapping[str, Any], n_whole: int) -> tuple[str, str]:
    error = "" if row["stderr_nats"] is None else f" (standard error {row['stderr_nats']:.3f})"
    first = f", first {row['n']:,} images" if row["n"] < n_whole else ""
    return row["bound"], f"{_per_dim(row['bits_per_dim'])}  {-row['nats']:.3f} nats an image{error}{first}"


def _speed(ledger: Mapping[str, Any]) -> str:
    encode, verify = (ledger["n_images"] / max(ledger[f"{way}_seconds"], 1e-9) for way in ("encode", "verify"))
    decoded = f"decoded {verify:,.0f} images/s" if ledger["verified"] else "not verified"
    return f"encoded {encode:,.0f} images/s, {decoded}"


def _per_dim(bits: float) -> str:
    return f"{bits:.5f} bits/dim"
