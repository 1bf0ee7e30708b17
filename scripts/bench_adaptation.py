#!/usr/bin/env python
"""What the online models behind a language model bring, and what they cost.

    scripts/bench_adaptation FILE... --sections A B --json out.json
    scripts/bench_adaptation stories.txt --model folder/of/a/model --sections A --bytes 200000

A   Whole archives: without adaptation, light and full, beside ppmd -o16 -m256m and xz -9e; each is decoded and compared.
    The last columns say what decoded the archive's blocks, and the bytes of ppmd's archive that full takes.

B   Ablation: the code length under full adaptation with one partner left out at a time, and with few left. The language
    model's decisions are the same in every row: one parallel pass, quantised, with phases; without header and framing.

C   Lanes: in 1, 16, 64 and 256 of them (`--lanes`), the code length of the whole text, encoded only; and speeds of encoding
    and decoding, plain and adapted in turns, --rounds times, the median. For speeds a lane has at most --steps tokens, so
    that few lanes do not take for ever: few lanes run on less text. Ratios of speeds are of the same round.

Without files the text is Python's own manual (pydoc_data.topics).
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from bench_scoring import describe_machine
from rich.console import Console
from rich.table import Table

from lmeval.compression import CompressSettings, compress, decompress
from lmeval.compression.benchmark.baselines import BASELINES, measure_baseline
from lmeval.compression.coding import grid
from lmeval.compression.coding.coder import quantised_bits
from lmeval.compression.text import adaptive, encode, lanes, tree
from lmeval.compression.text.decode import decode_blocks
from lmeval.compression.text.model_header import ModelSettings
from lmeval.compression.text.online.recipes import Recipe, recipe_for
from lmeval.compression.text.online.state import open_state
from lmeval.compression.text.survey import survey
from lmeval.data.documents import python_manual
from lmeval.models import CausalLM, load_model
from lmeval.models.spelling import ByteTokens, decode_bytes, encode_bytes

LAYOUT = range(8, 16)  # contexts of words, lines and columns (FORMAT.md, section 8)


class Sample(NamedTuple):
    """A text with its tokens in file order."""

    name: str
    data: bytes
    ids: np.ndarray
    settings: ModelSettings


def main() -> None:
    args = parse()
    model = load_model(args.model, device=args.device)
    machine = describe_machine(args.device)
    console = Console(width=150, highlight=False)
    console.print(f"{model.name}, {model.n_parameters:,} parameters; {machine}")
    texts = [(file.name, file.read_bytes()) for file in args.files]
    if not texts:
        manual = "".join(piece for document in python_manual().documents for piece in document.pieces)
        texts = [("pydoc_data.topics", manual.encode())]
    texts = [(name, data[: args.bytes]) for name, data in texts]
    rows: dict[str, list[dict[str, Any]]] = {}
    for letter in args.sections:
        rows[letter] = []
        for name, data in texts:
            found = SECTIONS[letter](model, name, data, args)
            rows[letter] += found
            console.print(table(letter, name, found))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "model": model.name, **rows}, indent=2) + "\n")
    if not all(row.get("decoded", True) for part in rows.values() for row in part):
        sys.exit("an archive did not decode to what was encoded")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--sections", nargs="+", choices=list("ABC"), default=list("ABC"))
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--bytes", type=int, help="of every file, at most")
    parser.add_argument("--lanes", nargs="+", type=int, default=[1, 16, 64, 256])
    parser.add_argument("--steps", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def archives(model: CausalLM, name: str, data: bytes, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Section A."""
    rows = []
    for level in adaptive.LEVELS:
        began = time.perf_counter()
        coded = compress(data, model, CompressSettings(adapt=level, verify=False))
        encoded = time.perf_counter()
        decoded = decompress(coded, model) == data
        seconds = encoded - began, time.perf_counter() - encoded
        rows.append(_archive_row(name, f"{model.name}, adapt {level}", data, len(coded), seconds, decoded))
    for baseline in BASELINES.values():
        if baseline.name.startswith(("ppmd", "xz")):
            found = measure_baseline(baseline, data)
            seconds = found.encode_seconds, found.decode_seconds
            rows.append(_archive_row(name, baseline.name, data, found.n_bytes_out, seconds, found.verified))
    ppmd = next(row["archive bytes"] for row in rows if row["compressor"].startswith("ppmd"))
    return [row | {"of ppmd": round(row["archive bytes"] / ppmd, 3)} for row in rows]


def _archive_row(
    name: str, compressor: str, data: bytes, size: int, seconds: tuple[float, float], decoded: bool
) -> dict[str, Any]:
    return {
        "text": name,
        "compressor": compressor,
        "archive bytes": size,
        "bits/byte": round(8 * size / len(data), 4),
        "encode kB/s": round(len(data) / 1000 / max(seconds[0], 1e-9), 1),
        "decode kB/s": round(len(data) / 1000 / max(seconds[1], 1e-9), 1),
        "decoded": decoded,
    }


def read_sample(model: CausalLM, name: str, data: bytes) -> Sample:
    found, tokens = survey(model, memoryview(data)), encode_bytes(model.encoder, data)
    if found is None or tokens is None:
        sys.exit(f"{model.name} cannot code {name}")
    return Sample(name, data, tokens.ids, found.settings)


def ablation(model: CausalLM, name: str, data: bytes, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Section B."""
    sample = read_sample(model, name, data)
    n_lanes = max(1, min(128, len(sample.ids) // 4096))
    frequencies, ids = _quantised(model, sample, n_lanes)
    depth = sample.settings.depth
    plain = quantised_bits(tree.path_bits(ids, depth), frequencies)
    full = recipe_for("full", depth, n_lanes)
    rows = [_ablation_row(name, "the language model alone (plain)", plain, data)]
    for what, recipe, use_model in _variants(full, recipe_for("light", depth, n_lanes)):
        state = open_state(recipe, depth, len(ids), n_lanes, use_model=use_model)
        began = time.perf_counter()
        adapted = adaptive.adapt_known(adaptive.Adaptive(state), frequencies, ids)
        seconds = time.perf_counter() - began
        bits = quantised_bits(tree.path_bits(ids, depth), adapted)
        rows.append(_ablation_row(name, what, bits, data) | {"kB/s": round(len(data) / 1000 / seconds, 1)})
    whole = next(row["bits/byte"] for row in rows if row["partners"] == "full")
    return [row | {"of full": round(row["bits/byte"] / whole, 4)} for row in rows]


def _ablation_row(name: str, what: str, bits: float, data: bytes) -> dict[str, Any]:
    return {"text": name, "partners": what, "bits/byte": round(bits / len(data), 4)}


def _variants(full: Recipe, light: Recipe) -> list[tuple[str, Recipe, bool]]:
    """Recipes with something left out, and whether the language model takes part."""

    def keeping(which: Callable[[Any], bool]) -> Recipe:
        kept = tuple(c for c in full.contexts if which(c))
        runs = tuple(kept.index(full.contexts[r]) for r in full.runs if full.contexts[r] in kept)
        return full._replace(contexts=kept, runs=runs)

    return [
        ("full", full, True),
        ("light", light, True),
        ("without the language model", full, False),
        ("without matches", full._replace(match_lengths=()), True),
        ("without runs", full._replace(runs=()), True),
        ("without second averages", full._replace(novel=False), True),
        ("without maps of histories", full._replace(contexts=tuple(c._replace(mapped=False) for c in full.contexts)), True),
        ("without words, lines and columns", keeping(lambda c: c.number not in LAYOUT), True),
        ("without lanes' own contexts", keeping(lambda c: not c.private), True),
        ("without orders above 3", keeping(lambda c: not (c.is_order and c.number > 3)), True),
        ("one set of weights", full._replace(n_sets=1, finals=(0,)), True),
        ("final weights of one set", full._replace(finals=(2,)), True),
        ("without the hashed last maps", full._replace(refined=()), True),
        ("matches alone", full._replace(contexts=(), runs=()), True),
        ("refining alone (no online model)", full._replace(contexts=(), runs=(), match_lengths=()), True),
    ]


def _quantised(model: CausalLM, sample: Sample, n_lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies behind the grid, and ids, in coding order."""
    log_odds = encode.block_log_odds(model, sample.settings, sample.ids, n_lanes)
    phases = grid.choose_phases(log_odds, sample.settings.grid)
    if phases is None:
        sys.exit(f"no safe phase for {sample.name}")
    ids = np.empty_like(sample.ids)
    ids[lanes.coding_order(len(ids), n_lanes)] = sample.ids
    return grid.block_frequencies(log_odds, phases, sample.settings.grid), ids


def lanes_and_speed(model: CausalLM, name: str, data: bytes, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Section C."""
    sample = read_sample(model, name, data)
    rows = []
    for n_lanes in args.lanes:
        ids = sample.ids[: n_lanes * args.steps]
        if len(ids) < n_lanes * 16:
            continue
        n_bytes = len(data) * len(ids) / len(sample.ids)
        found: dict[str, list[tuple[float, float]]] = {level: [] for level in ("none", "light", "full")}
        for round_ in range(args.rounds + 1):  # the first warms up
            for level, times in found.items():
                measured = _coded_once(model, sample.settings._replace(adapt=level), ids, n_lanes)
                times += [measured] if round_ else []
        for level, times in found.items():
            whole = encode.encode_tokens(model, sample.settings._replace(adapt=level), sample.ids, n_lanes)
            encoding, decoding = (statistics.median(column) for column in zip(*times, strict=True))
            ratios = sorted(plain[1] / mine[1] for plain, mine in zip(found["none"], times, strict=True))
            rows.append(
                {
                    "text": name,
                    "lanes": n_lanes,
                    "adapt": level,
                    "bits/byte": round(8 * len(whole.payload) / len(data), 4) if whole else None,
                    "bytes timed": round(n_bytes),
                    "encode kB/s": round(n_bytes / 1000 / encoding, 2),
                    "decode kB/s": round(n_bytes / 1000 / decoding, 2),
                    "decoding, of plain": f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                    "tables MB": round(adaptive.memory_bytes(level, sample.settings.depth, len(ids), n_lanes) / 1e6)
                    if level != "none"
                    else 0,
                }
            )
    return rows


def _coded_once(model: CausalLM, settings: ModelSettings, ids: np.ndarray, n_lanes: int) -> tuple[float, float]:
    """Seconds of encoding and of decoding."""
    began = time.perf_counter()
    coded = encode.encode_tokens(model, settings, ids, n_lanes)
    encoded = time.perf_counter()
    if coded is None:
        sys.exit("no safe phase")
    data = decode_bytes(model.encoder, ids)
    block = encode.model_block(coded, ByteTokens(ids, extra_space=False), data, 0, n_lanes)
    resumed = time.perf_counter()
    (back,) = decode_blocks(model, settings, [block])
    done = time.perf_counter()
    if back != data:
        sys.exit("a block did not decode to what was encoded")
    return encoded - began, done - resumed


SECTIONS = {"A": archives, "B": ablation, "C": lanes_and_speed}
TITLES = {"A": "whole archives", "B": "what each partner brings", "C": "lanes and speed"}


def table(letter: str, name: str, rows: list[dict[str, Any]]) -> Table:
    shown = Table(title=f"{letter}  {name}: {TITLES[letter]}", title_justify="left", box=None)
    for column in [key for key in rows[0] | rows[-1] if key != "text"]:
        shown.add_column(column, justify="left" if isinstance(rows[0].get(column), str) else "right")
    for row in rows:
        shown.add_row(*(str(row.get(str(c.header), "")) for c in shown.columns))
    return shown


if __name__ == "__main__":
    main()
