#!/usr/bin/env python
"""Where the bits of an archive go, and what other entropy coders and other tolerance schemes would take for the same text.

    scripts/bench_tolerance --model folder/of/a/model --model-file text --json out.json

1   Grid, phases, coder, framing and header, as shares of the ideal code length, without online models.
2   constriction's range coder and ANS coder on the same decisions.
3   Three tolerance schemes on the same log-odds and margin: ours, a uniform grid of log-odds with our phases, and PMATIC
    (Adler & Tang, arXiv 2601.10678). The last two get the width whose expected cost is least for this very text; ours gets
    the width of its formula.

The text is --file, cut to --bytes; by default Python's own manual (pydoc_data.topics). Nothing is timed here.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import constriction  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
from bench_compression import Ids, Text, manual, show
from bench_scoring import TABLE_WIDTH
from jaxtyping import Float64, Int32, Int64
from rich.console import Console

from lmeval.compression.coding import coder, grid
from lmeval.compression.compress import CompressSettings, compress_to
from lmeval.compression.container import archive
from lmeval.compression.text import decisions, encode, lanes
from lmeval.compression.text.log_odds import block_log_odds
from lmeval.compression.text.model_header import from_header
from lmeval.compression.text.text_model import TextModel, of_library
from lmeval.errors import LmevalError
from lmeval.models import load_model

ONE = 1 << grid.FREQUENCY_BITS
SAMPLE_DECISIONS = 1 << 18  # on which the best widths are looked for

Found = dict[str, Any]  # JSON-ready


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--file", type=Path, help="the text (default: Python's manual)")
    add("--bytes", type=int, default=150_000, help="cut the text to so many bytes (default: 150,000)")
    add("--bytes64", type=int, default=50_000, help="bytes of text for float64 (default: 50,000)")
    add("--model", help="a second model: folder or hub id")
    add("--model-file", type=Path, help="the second model's text (default: the same), cut to --bytes too")
    add("--json", type=Path, metavar="OUT", help="write all numbers here")
    options = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    try:
        found = overhead(options, console)
    except (LmevalError, OSError) as error:
        sys.exit(f"bench_tolerance: {error}")
    show_accounts(console, found)
    if options.json:
        options.json.write_text(json.dumps({"accounts": found}, indent=2) + "\n")


def overhead(options: argparse.Namespace, console: Console) -> list[Found]:
    def text_of(path: Path | None) -> Text:
        return manual(options.bytes) if path is None else Text(path.name, path.read_bytes()[: options.bytes])

    sources = [("bundled", text_of(options.file))]
    if options.model:
        sources.append((options.model, text_of(options.model_file or options.file)))
    found = []
    for name, text in sources:
        console.print(f"{name}: {len(text.data):,} bytes of {text.name}", highlight=False)
        short = text.data[: options.bytes64]
        whole = [] if short == text.data else [("float32", text.data)]
        for dtype, part in (*whole, ("float32", short), ("float64", short)):
            found.append(account(of_library(load_model(name, dtype=dtype)), part))
    return found


def account(model: TextModel, data: bytes) -> Found:
    """The archive's bits, and what other coders and grids would make of the same decisions."""
    out = io.BytesIO()
    ledger = compress_to(out, memoryview(data), model, CompressSettings(verify=False, adapt="none")).ledger
    blocks = blocks_inside(model, data, out.getvalue())
    if not ledger["model"] or ledger["model_bytes"] < ledger["n_bytes"]:
        sys.exit(f"bench_tolerance: {model.name} did not code all of these {len(data):,} bytes: give another text")
    settings = from_header(dict(ledger))
    log_odds = np.concatenate([block_log_odds(model, settings, ids, n_lanes) for ids, n_lanes in blocks])
    bits = np.concatenate([coding_bits(ids, n_lanes, settings.depth) for ids, n_lanes in blocks])
    ideal = ledger["length_bits"]["ideal"]
    parts = {**ledger["length_bits"]} | {part: 8.0 * ledger[f"n_{part}_bytes"] for part in ("framing", "header")}
    assert abs(sum(parts.values()) - 8 * ledger["n_archive_bytes"]) < 1e-6 * ideal + 1
    margin = settings.grid.margin
    return {
        "model": Path(model.name).name,
        "dtype": settings.dtype,
        "n_bytes": len(data),
        "n_tokens": ledger["n_tokens"],
        "n_blocks": len(blocks),
        "n_lanes": ledger["n_lanes"],
        "margin": margin,
        "cells": settings.grid.cells,
        "n_archive_bytes": ledger["n_archive_bytes"],
        "bits": parts,
        "coders": compare_coders(log_odds, bits, settings.grid),
        "schemes": compare_schemes(log_odds, bits, settings.grid),
    }


def blocks_inside(model: TextModel, data: bytes, packed: bytes) -> list[tuple[Ids, int]]:
    """Tokens and number of lanes of every block of an archive that a model coded."""
    header, position = archive.read_header(memoryview(packed))
    blocks = [b for b in archive.Blocks(memoryview(packed), position, header) if b.kind == encode.MODEL]
    found = [(model.spell(data[b.offset : b.offset + b.n_bytes]), b.n_lanes) for b in blocks]
    return [(tokens.ids, n_lanes) for tokens, n_lanes in found if tokens is not None]


def coding_bits(ids: Ids, n_lanes: int, depth: int) -> Int32[np.ndarray, "tokens depth"]:
    """The decisions of a block, tokens in coding order."""
    bits = np.empty((len(ids), depth), dtype=np.int32)
    bits[lanes.coding_order(len(ids), n_lanes)] = decisions.path_bits(ids, depth)
    return bits


LogOdds = Float64[np.ndarray, "tokens depth"]
Bits = Int32[np.ndarray, "tokens depth"]


class Cost(NamedTuple):
    """Bits that a tolerance scheme takes beyond the ideal code, and the parameter it was run with. `rounding` is of the text
    as it is, `expected` what rounding costs where the model's probabilities are right: it is never negative, while a text
    that the model is too sure of is helped by any rounding. `side` is phases, or helper bits."""

    parameter: float
    rounding: float
    expected: float
    side: float


def cost(parameter: float, log_odds: LogOdds, bits: Bits, p: LogOdds, side: float) -> Cost:
    """Of coding the decisions with probabilities `p` of bit 1."""
    code_of_1, code_of_0 = -np.log2(p), -np.log2(1 - p)
    coded = float(np.where(bits == 1, code_of_1, code_of_0).sum())
    ideal_of_1, ideal_of_0 = (np.logaddexp(0.0, z) / np.log(2) for z in (-log_odds, log_odds))
    expected = np.exp2(-ideal_of_1) * (code_of_1 - ideal_of_1) + np.exp2(-ideal_of_0) * (code_of_0 - ideal_of_0)
    return Cost(parameter, coded - ideal_bits(log_odds, bits), float(expected.sum()), side)


def compare_coders(log_odds: LogOdds, bits: Bits, on: grid.Grid) -> Found:
    """Bits of both coders for the decisions as quantised at phase 0."""
    edges = grid.edges_below(log_odds, on)
    frequencies = grid.frequencies(edges, np.zeros_like(edges), on.cells).reshape(-1)
    flat = np.ascontiguousarray(bits.reshape(-1))
    stream: Any = constriction.stream  # pyright: ignore[reportAttributeAccessIssue]
    range_coder = stream.queue.RangeEncoder()
    pairs = np.stack([ONE - frequencies, frequencies], axis=1).astype(np.float64)
    range_coder.encode(flat, stream.model.Categorical(perfect=False), pairs)
    return {
        "quantised": coder.quantised_bits(flat, frequencies),
        "range": 32.0 * len(range_coder.get_compressed()),
        "ans": 8.0 * len(coder.encode_bits(flat, frequencies)),
    }


def compare_schemes(log_odds: LogOdds, bits: Bits, ours: grid.Grid) -> Found:
    """Each scheme for decisions that the decoder knows to within our margin."""
    every = max(1, log_odds.size // SAMPLE_DECISIONS)  # evenly from all over the text: its beginnings are in front
    sample, sample_bits = log_odds[::every], bits[::every]
    width = best(lambda w: uniform_cost(sample, sample_bits, ours.margin, w), 1e-3, 4.0)
    delta = ours.margin / 4  # logits within eps = margin / 2, and PMATIC's delta is eps / 2
    radius = best(lambda r: pmatic_cost(sample, sample_bits, delta, r), 2.5 * delta, 0.25)
    found = {
        "ours": our_cost(log_odds, bits, ours),
        "uniform log-odds, our phases": uniform_cost(log_odds, bits, ours.margin, width),
        "PMATIC": pmatic_cost(log_odds, bits, delta, radius),
    }
    costs = {name: cost._asdict() for name, cost in found.items() if cost is not None}
    return {"ideal": ideal_bits(log_odds, bits), **costs}


def best(cost_at: Callable[[float], Cost | None], least: float, greatest: float) -> float:
    """Where the expected cost is least, among values in geometric progression, then among finer ones beside the best."""
    tried, place = [least, greatest], 0
    for _ in range(2):
        tried = np.geomspace(least, greatest, 20).tolist()
        costs = [cost_at(value) for value in tried]
        place = int(np.argmin([float("inf") if c is None else c.expected + c.side for c in costs]))
        least, greatest = tried[max(0, place - 1)], tried[min(19, place + 1)]
    return tried[place]


def ideal_bits(log_odds: LogOdds, bits: Bits) -> float:
    return decisions.code_length_nats(log_odds, bits) / np.log(2)


def our_cost(log_odds: LogOdds, bits: Bits, on: grid.Grid) -> Cost:
    phases = grid.choose_phases(log_odds, on)
    assert phases is not None
    phase = grid.phase_of(phases.ranks)[np.arange(len(log_odds)) // phases.group_tokens]
    frequencies = grid.frequencies(grid.edges_below(log_odds, on), np.broadcast_to(phase[:, None], bits.shape), on.cells)
    return cost(on.cells, log_odds, bits, frequencies / ONE, 8.0 * len(coder.encode_ranks(phases.ranks)))


def uniform_cost(log_odds: LogOdds, bits: Bits, margin: float, width: float) -> Cost | None:
    """Cells of equal width in log-odds, up to the same limit; phases are chosen and coded as ours are."""
    limit = grid.LOG_ODDS_LIMIT

    def edges(z: LogOdds) -> Int64[np.ndarray, "tokens depth"]:
        return ((np.clip(z, -limit, limit) + limit) / width * grid.PHASES).astype(np.int64)

    group, ranks = uniform_phases(edges(log_odds - margin), edges(log_odds + margin))
    if ranks is None:
        return None
    below = edges(log_odds)
    phase = grid.phase_of(ranks)[np.arange(len(log_odds)) // group][:, None]
    lower = below - (below - phase) % grid.PHASES
    ends = [np.clip(edge / grid.PHASES * width - limit, -limit, limit) for edge in (lower, lower + grid.PHASES)]
    frequencies = np.clip(np.rint(ONE / (1 + np.exp(-(ends[0] + ends[1]) / 2))), 1, ONE - 1)
    return cost(width, log_odds, bits, frequencies / ONE, 8.0 * len(coder.encode_ranks(ranks)))


def uniform_phases(
    low: Int64[np.ndarray, "tokens depth"], high: Int64[np.ndarray, "tokens depth"]
) -> tuple[int, Int64[np.ndarray, " groups"] | None]:
    """`grid.choose_phases` for intervals of fine edges: tokens of a group, and the groups' ranks."""
    hazards = float((high - low).sum()) / grid.PHASES
    group = max(1, min(len(low), int(grid.HAZARDS_PER_GROUP * len(low) / max(hazards, grid.HAZARDS_PER_GROUP))))
    while (ranks := grid._safe_ranks(low, high, group)) is None and group > 1:
        group = (group + 1) // 2
    return group, ranks


def pmatic_cost(log_odds: LogOdds, bits: Bits, delta: float, radius: float) -> Cost | None:
    """Bins of probability, 1 / m wide. Within delta of an inner edge a helper bit says so and the edge is the probability,
    elsewhere it is the bin's centre. Helper bits cost what they cost at P(1) = delta / radius."""
    m = max(2, round(1 / (2 * radius)))
    if 4 * m * delta >= 1:  # the scheme needs radius > 2 delta
        return None
    scaled = m / (1 + np.exp(-log_odds))
    nearest = np.rint(scaled)
    helped = (np.abs(scaled - nearest) < m * delta) & (nearest > 0) & (nearest < m)
    p = np.where(helped, nearest, np.minimum(np.floor(scaled), m - 1) + 0.5) / m
    helper = -np.log2(np.where(helped, 2 * m * delta, 1 - 2 * m * delta)).sum()
    return cost(1 / (2 * m), log_odds, bits, p, float(helper))


def show_accounts(console: Console, found: list[Found]) -> None:
    def label(one: Found) -> str:
        return f"{one['model']}, {one['dtype']}, {one['n_bytes']:,} bytes"

    names = ("grid", "phases", "coder", "framing", "header")
    show(
        console,
        "1. What an archive takes beyond the ideal code",
        "Each part as a share of the model's own code length; the sum with and without what does not grow with the text.",
        ("", "blocks", "lanes", "margin", "cells", "bits/byte", "ideal", *names, "all", "but header"),
        [
            (
                label(one),
                *(f"{one[name]:,}" for name in ("n_blocks", "n_lanes")),
                f"{one['margin']:.2e}",
                f"{one['cells']:,}",
                f"{8 * one['n_archive_bytes'] / one['n_bytes']:.4f}",
                f"{one['bits']['ideal'] / one['n_bytes']:.4f}",
                *(percent(one["bits"][name] / one["bits"]["ideal"]) for name in names),
                percent(8 * one["n_archive_bytes"] / one["bits"]["ideal"] - 1),
                percent((8 * one["n_archive_bytes"] - one["bits"]["header"]) / one["bits"]["ideal"] - 1),
            )
            for one in found
        ],
    )
    show(
        console,
        "2. Entropy coders on the same decisions",
        "What constriction's coders write beyond the quantised code length, as a share of it.",
        ("", "quantised bits", "RangeEncoder", "AnsCoder"),
        [
            (label(one), f"{made['quantised']:,.0f}", *(percent(made[c] / made["quantised"] - 1) for c in ("range", "ans")))
            for one in found
            for made in [one["coders"]]
        ],
    )
    show(
        console,
        "3. Tolerance schemes on the same log-odds and margin",
        "Code length beyond the ideal, as a share of it: by rounding (on this text; and expected, were the model's "
        "probabilities right),\nand by what is sent so that both ends agree (phases; helper bits). The parameter is the "
        "number of cells, the width in nats,\nthe radius in probability.",
        ("", "parameter", "rounding", "(expected)", "sent", "rounding + sent"),
        [row for one in found for row in scheme_rows(label(one), one["schemes"])],
    )


def scheme_rows(label: str, schemes: Found) -> Iterator[Sequence[str]]:
    yield (label,)
    for name, cost in schemes.items():
        if name != "ideal":
            rounding, expected, side = (cost[part] / schemes["ideal"] for part in ("rounding", "expected", "side"))
            yield (f"  {name}", f"{cost['parameter']:.4g}", *map(percent, (rounding, expected, side, rounding + side)))


def percent(share: float) -> str:
    return f"{100 * share:.4f}%"


if __name__ == "__main__":
    main()
