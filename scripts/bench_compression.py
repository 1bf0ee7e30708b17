#!/usr/bin/env python
"""Time and weigh the model coder: how near it comes to the bare network, and what an archive takes beyond the ideal code.

    scripts/bench_compression --sections A --lanes 1 16 64 256 512 --rounds 3 --json out.json
    scripts/bench_compression --sections B --model shared/data/models/stories260K --model-file tinystories.valid.txt

A   Speed and memory of the bundled model on one text. For every number of lanes, on the same tokens, in turns:

        forward, plain windows    a limit: `network(input_ids=ids, use_cache=False)` over the tokens cut into windows of the
                                  model's context, without overlap; logits and nothing else, no coding
        forward, own windows      a limit: the same over the very batches of windows that our encoder runs (overlap and
                                  padding are work, but only coded tokens are counted)
        encode_tokens             our encoder: tokens to payload, no survey, no tokenisation
        decode_blocks             our decoder: payload to bytes, checked. It chooses how many of torch's threads it uses;
                                  all the others use all
        encode by steps           what one writes without a tolerant grid: an encoder that goes the decoder's way, token by
                                  token with transformers' DynamicCache, all lanes in one batch; same log-odds, cells and
                                  coder; no phases. What it writes decodes only where its very numbers come out again

    A lane has --steps tokens (default: two full windows), so fewer lanes run on less text. Then, on the whole text with the
    library's own choice of lanes and blocks: `compress_to` without verification, with and without its survey, and
    `decompress_to`. Memory is the high-water mark of resident memory, each in a fresh process that holds the model already.

B   Where the bits go, as shares of the ideal code length: grid, phases, coder, framing, header; constriction's range coder
    and ANS coder on the same decisions; three tolerance schemes on the same log-odds and margin: ours, a uniform grid of
    log-odds with our phases, and PMATIC (Adler & Tang, arXiv 2601.10678). The last two get the width whose expected cost is
    least for this very text; ours gets the width of its formula. Nothing is timed here, so there are no rounds.

C   Time of tree, grid and coder against the time of the network, for vocabularies of 256, 512 and 50,257: GPT-2 with random
    weights (6 layers of width 384; 30 million parameters with the last) on random tokens, and the bundled model on the text.
    The library's own functions are timed where they are called, while it encodes and decodes.

D   General-purpose compressors on the same text.

The text is --file, cut to --bytes; by default Python's own manual (pydoc_data.topics). All times are of one process; what is
compared takes turns, round by round, after a short warm-up. Ratios are of tokens per second, taken round by round: median,
least and greatest. What does not decode to what was encoded ends the run with status 1.
"""

import argparse
import gc
import io
import json
import multiprocessing
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import constriction  # pyright: ignore[reportMissingTypeStubs]
import numpy as np
import torch
from bench_scoring import TABLE_WIDTH, describe_machine
from jaxtyping import Float64, Int32, Int64
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from lmeval.compression.benchmark.baselines import BASELINES, measure_baseline
from lmeval.compression.coding import coder, grid
from lmeval.compression.compress import CompressSettings, compress_to
from lmeval.compression.container import archive
from lmeval.compression.container.frame import MAX_LANES, Block
from lmeval.compression.container.kinds import Lost
from lmeval.compression.decompress import decompress
from lmeval.compression.text import decode, encode, lanes, tree
from lmeval.compression.text.model_header import Canary, ModelSettings, from_header
from lmeval.compression.text.survey import LEAST_DRIFT, SAFETY, survey
from lmeval.compute.place import alone
from lmeval.data.documents import python_manual
from lmeval.errors import LmevalError
from lmeval.models import CausalLM, from_pair, load_model
from lmeval.models.spelling import ByteTokens, decode_bytes, encode_bytes
from lmeval.models.toys import byte_tokenizer
from lmeval.results import Report
from lmeval.scoring.batching import batching_at, plan_batches

LANES = (1, 16, 64, 256, 512)
PLAIN, OWN = "forward, plain windows", "forward, own windows"
VOCABULARIES = (256, 512, 50_257)
ONE = 1 << grid.FREQUENCY_BITS
SAMPLE_DECISIONS = 1 << 18  # on which the best widths of B are looked for

Ids = Int64[np.ndarray, " tokens"]
Times = dict[str, list[float]]
Found = dict[str, Any]  # of one section, JSON-ready


def main() -> None:
    options = parse(sys.argv[1:])
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    machine = describe_machine("cpu")
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False, soft_wrap=True)
    sections = {"A": speed, "B": overhead, "C": coder_share, "D": baselines}
    found: Found = {"machine": machine, "options": {key: str(value) for key, value in vars(options).items()}}
    try:
        data = read_text(options.file, options.bytes)
        source = str(options.file or "pydoc_data.topics")
        found |= {"source": source, "n_bytes": len(data)}
        console.print(f"{len(data):,} bytes of text: {source}", highlight=False, soft_wrap=True)
        for name in options.sections:
            found[name] = sections[name](data, options, console)
    except (LmevalError, OSError) as error:
        sys.exit(f"bench_compression: {error}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--sections", type=section_names, default=list("ABCD"), metavar="A,B,C,D", help="what to run (default: all)")
    add("--file", type=Path, help="the text (default: Python's manual)")
    add("--bytes", type=int, help="cut the text to so many bytes")
    add("--rounds", type=int, default=3, help="counted rounds of A, C and D (default: 3)")
    add("--threads", type=int, help="threads of torch (default: its own choice)")
    add("--lanes", nargs="+", type=int, default=list(LANES), metavar="N", help=f"A: lanes (default: {LANES})")
    add("--steps", type=int, help="A: tokens of a lane, at most (default: two full windows)")
    add("--no-memory", action="store_true", help="A: leave out memory, for which everything runs once more")
    add("--bytes64", type=int, default=50_000, help="B: bytes of text for float64 (default: 50,000)")
    add("--model", help="B: a second model: folder or hub id")
    add("--model-file", type=Path, help="B: the second model's text (default: the same), cut to --bytes too")
    add("--coder-lanes", type=int, default=64, help="C: lanes (default: 64)")
    add("--coder-steps", type=int, default=256, help="C: tokens of a lane (default: 256)")
    add("--json", type=Path, metavar="OUT", help="write all numbers here, times of every round included")
    return parser.parse_args(arguments)


def section_names(text: str) -> list[str]:
    names = text.upper().replace(",", "")
    if not names or set(names) - set("ABCD"):
        raise argparse.ArgumentTypeError(f"sections are A, B, C and D, not {text}")
    return sorted(set(names))


def read_text(path: Path | None, n_bytes: int | None) -> bytes:
    manual = ("".join(document.pieces) for document in python_manual().documents)
    data = "".join(manual).encode() if path is None else path.read_bytes()
    if not data:
        sys.exit(f"bench_compression: {path} is empty")
    return cut(data, n_bytes)


def cut(data: bytes, n_bytes: int | None) -> bytes:
    """The first `n_bytes`, or a few less: characters stay whole."""
    stop = len(data) if n_bytes is None else max(1, n_bytes)
    while 1 < stop < len(data) and data[stop] & 0xC0 == 0x80:
        stop -= 1
    return data[:stop]


# What all sections share


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()  # what the one before left behind is not counted against this one
    began = time.perf_counter()
    outcome = run()
    return time.perf_counter() - began, outcome


def spread(values: Sequence[float], form: str = "{:.3f}") -> tuple[str, str]:
    """Median, and (least-greatest)."""
    least, greatest = (form.format(x) for x in (min(values), max(values)))
    return form.format(statistics.median(values)), f"({least}-{greatest})"


def show(console: Console, title: str, statement: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table; the first column is text, and a row that is empty but for it begins a group."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(f"\n[bold]{title}[/bold]\n{statement}", highlight=False, soft_wrap=True)
    console.print(table, highlight=False)


def percent(share: float) -> str:
    return f"{100 * share:.4f}%"


def block_of(model: CausalLM, settings: ModelSettings, ids: Ids, n_lanes: int) -> Block:
    """The tokens as one block of an archive."""
    coded = encode.encode_tokens(model, settings, ids, n_lanes)
    if coded is None:
        sys.exit(f"bench_compression: the grid of {model.name} has no safe phase for this text")
    return encode.model_block(coded, ByteTokens(ids, extra_space=False), decode_bytes(model.encoder, ids), 0, n_lanes)


def decode_checked(model: CausalLM, settings: ModelSettings, block: Block) -> None:
    """Decode, and believe nothing."""
    if isinstance(decode.decode_blocks(model, settings, [block])[0], Lost):
        sys.exit(f"bench_compression: a block of {block.n_lanes} lanes does not decode to what was encoded")


def blocks_inside(model: CausalLM, data: bytes, packed: bytes) -> list[tuple[Ids, int]]:
    """Tokens and number of lanes of every block of an archive that a model coded."""
    header, position = archive.read_header(memoryview(packed))
    blocks = [b for b in archive.Blocks(memoryview(packed), position, header) if b.kind == encode.MODEL]
    found = [(encode_bytes(model.encoder, data[b.offset : b.offset + b.n_bytes]), b.n_lanes) for b in blocks]
    return [(tokens.ids, n_lanes) for tokens, n_lanes in found if tokens is not None]


def settings_of(made: Report) -> ModelSettings | None:
    """What the archive's header says of the model, where a block needs it."""
    return from_header(dict(made.ledger)) if made.ledger["model"] else None


def settings_for(model: CausalLM, data: bytes) -> ModelSettings:
    found = survey(model, memoryview(data))
    if found is None:
        sys.exit(f"bench_compression: {model.name} cannot shorten this text: give another with --file")
    return found.settings


# A. Speed and memory


class Case(NamedTuple):
    """One thing to time. `run` can be sent to another process, where its memory is measured."""

    group: str
    label: str
    n_tokens: int
    run: Callable[[CausalLM], Any]

    @property
    def key(self) -> str:
        """Its name among all."""
        return f"{self.group}: {self.label}"


def speed(data: bytes, options: argparse.Namespace, console: Console) -> Found:
    model = load_model("bundled")
    settings = settings_for(model, data)
    tokens = encode_bytes(model.encoder, data)
    assert tokens is not None
    steps = options.steps or 2 * settings.layout.window - settings.layout.overlap
    with Console(stderr=True).status("A: making ready"):
        for case in (*lane_cases(model, settings, tokens.ids[:512], 4), *whole_cases(model, data[:4096])):
            case.run(model)  # a short warm-up
        usable = [n for n in sorted(set(options.lanes)) if 1 <= n <= min(len(tokens.ids), MAX_LANES)]
        cases = [case for n in usable for case in lane_cases(model, settings, tokens.ids[: n * steps], n)]
        cases += whole_cases(model, data)
    for n in set(options.lanes) - set(usable):
        console.print(f"A: no {n:,} lanes: at most {MAX_LANES:,}, and no more than the text has tokens")
    seconds: Times = defaultdict(list)
    outcomes: dict[str, Any] = {}
    with Console(stderr=True).status("") as status:
        for i in range(options.rounds):
            for case in cases:
                status.update(f"A: round {i + 1} of {options.rounds}: {case.key}")
                taken, outcomes[case.key] = timed(partial(case.run, model))
                seconds[case.key].append(taken)
                if isinstance(outcomes[case.key], Report):
                    survey_seconds = outcomes[case.key].ledger["survey_seconds"]
                    seconds[f"{case.key}, less its survey"].append(taken - survey_seconds)
        memory: dict[str, tuple[float, float] | None] = {}
        for case in () if options.no_memory else cases:
            status.update(f"A: memory: {case.key}")
            memory[case.key] = memory_alone(case)
    lines = [line for case in cases for line in case_lines(case, seconds, outcomes, memory)]
    show_speed(console, model, settings, lines)
    return {"settings": settings._asdict() | {"canary": None}, "lines": lines}


def lane_cases(model: CausalLM, settings: ModelSettings, ids: Ids, n_lanes: int) -> list[Case]:
    """What is compared at one number of lanes, one block."""
    n_lanes = min(n_lanes, len(ids))
    group = f"lanes: {n_lanes} x {lanes.n_steps(len(ids), n_lanes):,} tokens"
    with recorded(model) as batches:
        block = block_of(model, settings, ids, n_lanes)
    runs: dict[str, Callable[[CausalLM], Any]] = {
        PLAIN: partial(bare_forward, batches=plain_batches(model, ids, settings.layout.window)),
        OWN: partial(bare_forward, batches=batches),
        "encode_tokens": partial(encode_block, settings=settings, ids=ids, n_lanes=n_lanes),
        "decode_blocks": partial(decode_checked, settings=settings, block=block),
        "encode by steps": partial(encode_by_steps, settings=settings, ids=ids, n_lanes=n_lanes),
    }
    return [Case(group, label, len(ids), run) for label, run in runs.items()]


def whole_cases(model: CausalLM, data: bytes) -> list[Case]:
    """The whole way from bytes to an archive and back, laid out as the library chooses."""
    out = io.BytesIO()
    settings = settings_of(compress_to(out, memoryview(data), model, CompressSettings(verify=False)))
    blocks = blocks_inside(model, data, out.getvalue())
    if settings is None or not blocks:
        return []
    with recorded(model) as batches:
        for ids, n_lanes in blocks:
            encode.block_log_odds(model, settings, ids, n_lanes)
    whole = np.concatenate([ids for ids, _ in blocks])
    most = max(n_lanes for _, n_lanes in blocks)
    group = f"library's choice: {len(blocks)} x {most} lanes"
    runs: dict[str, Callable[[CausalLM], Any]] = {
        PLAIN: partial(bare_forward, batches=plain_batches(model, whole, settings.layout.window)),
        OWN: partial(bare_forward, batches=batches),
        "compress": partial(compress_whole, data=data),
        "decompress": partial(decompress_whole, packed=out.getvalue(), data=data),
    }
    return [Case(group, label, len(whole), run) for label, run in runs.items()]


@contextmanager
def recorded(model: CausalLM) -> Iterator[list[np.ndarray]]:
    """The padded ids of every batch that goes through the trunk meanwhile."""
    batches: list[np.ndarray] = []

    def record(_: object, arguments: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        batches.append((arguments[0] if arguments else named["input_ids"]).numpy())

    handle = model.network.base_model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield batches
    finally:
        handle.remove()


def plain_batches(model: CausalLM, ids: Ids, window: int) -> list[np.ndarray]:
    """Windows without overlap, batched as our encoder does it; what is left at the end is a batch of its own."""
    whole = len(ids) // window * window
    rows = ids[:whole].reshape(-1, window)
    rest = [ids[None, whole:]] if whole < len(ids) else []
    return [rows[batch] for batch in plan_batches([window] * len(rows), batching_at(alone(model.device), model))] + rest


def bare_forward(model: CausalLM, batches: list[np.ndarray]) -> None:
    with torch.inference_mode():
        for ids in batches:
            model.network(input_ids=torch.from_numpy(ids), use_cache=False)


def encode_block(model: CausalLM, settings: ModelSettings, ids: Ids, n_lanes: int) -> int | None:
    """Bytes of the payload."""
    coded = encode.encode_tokens(model, settings, ids, n_lanes)
    return None if coded is None else len(coded.payload)


def encode_by_steps(model: CausalLM, settings: ModelSettings, ids: Ids, n_lanes: int) -> int:
    """Bytes of the code of an encoder that steps as a decoder must: the library's cache, every lane in one batch."""
    window, overlap, start_id = settings.layout
    bounds = lanes.lane_bounds(len(ids), n_lanes)
    padded = np.append(ids, 0)  # a lane that is one token shorter steps along to the end
    lane_ids = padded[np.minimum(bounds[:-1, None] + np.arange(lanes.n_steps(len(ids), n_lanes)), len(ids))]
    bits, frequencies = [], []
    cache, n_read = None, window
    with torch.inference_mode():
        for step in range(lane_ids.shape[1]):
            if n_read == window:
                start = np.full((n_lanes, 1), start_id, dtype=np.int64)
                inputs = np.concatenate([start, lane_ids[:, max(0, step - overlap) : step]], axis=1)
                cache, n_read = DynamicCache(config=model.network.config), 0
            else:
                inputs = lane_ids[:, step - 1 : step]
            n_read += inputs.shape[1]
            output = model.network(
                input_ids=torch.from_numpy(np.ascontiguousarray(inputs)),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            active = lanes.n_active(step, len(ids), n_lanes)
            targets = np.ascontiguousarray(lane_ids[:active, step])
            log_odds = tree.path_log_odds(output.logits[:active, -1], torch.from_numpy(targets), settings.depth).numpy()
            edges = grid.edges_below(log_odds, settings.grid)
            frequencies.append(grid.frequencies(edges, np.zeros_like(edges), settings.grid.cells).T.reshape(-1))
            bits.append(tree.path_bits(targets, settings.depth).T.reshape(-1))
    return len(coder.encode_bits(np.concatenate(bits), np.concatenate(frequencies)))


def compress_whole(model: CausalLM, data: bytes) -> Report:
    return compress_to(io.BytesIO(), memoryview(data), model, CompressSettings(verify=False))


def decompress_whole(model: CausalLM, packed: bytes, data: bytes) -> None:
    if decompress(packed, model) != data:
        sys.exit("bench_compression: the archive does not decode to the text")


def memory_alone(case: Case) -> tuple[float, float] | None:
    """Megabytes of a fresh process before and at the height of the run; None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(height_of, case.run, torch.get_num_threads()).result()


def height_of(run: Callable[[CausalLM], Any], n_threads: int) -> tuple[float, float]:
    """In the fresh process. (Not getrusage's maximum: a child's begins with that of its parent.)"""
    torch.set_num_threads(n_threads)
    model = load_model("bundled")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark of loading is forgotten
    before = resident("VmRSS")
    run(model)
    return before, resident("VmHWM")


def resident(name: str) -> float:
    """Megabytes, from /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) / 1000


def case_lines(
    case: Case, seconds: Times, outcomes: dict[str, Any], memory: dict[str, tuple[float, float] | None]
) -> list[Found]:
    """What was found of a case; two lines for one that also says how long a part of it took."""
    limits = {name: seconds[f"{case.group}: {name}"] for name in (PLAIN, OWN)}
    outcome = outcomes[case.key]
    n_bytes = outcome.ledger["n_archive_bytes"] if isinstance(outcome, Report) else outcome
    return [
        {
            "group": case.group,
            "label": case.label + key.removeprefix(case.key),
            "n_tokens": case.n_tokens,
            "seconds": seconds[key],
            "ratios": {name: [a / b for a, b in zip(limit, seconds[key], strict=True)] for name, limit in limits.items()},
            "n_coded_bytes": n_bytes,
            "megabytes": memory.get(case.key),
        }
        for key in seconds
        if key in (case.key, f"{case.key}, less its survey")
    ]


def show_speed(console: Console, model: CausalLM, settings: ModelSettings, lines: list[Found]) -> None:
    window, overlap, _ = settings.layout
    rows: list[Sequence[str]] = []
    group = None
    for line in lines:
        if line["group"] != group:
            group = line["group"]
            rows.append((group,))
        bits = "" if line["n_coded_bytes"] is None else f"{8 * line['n_coded_bytes'] / line['n_tokens']:.4f}"
        megabytes = ("", "") if line["megabytes"] is None else tuple(f"{x:,.0f}" for x in line["megabytes"])
        ratios = [text for name in (PLAIN, OWN) for text in spread(line["ratios"][name])]
        speed = f"{line['n_tokens'] / statistics.median(line['seconds']):,.0f}"
        rows.append(
            (f"  {line['label']}", f"{line['n_tokens']:,}", *spread(line["seconds"]), speed, *ratios, bits, *megabytes)
        )
    show(
        console,
        f"A. Speed of {model.name}",
        "Tokens per second as ratios to the bare forward pass over plain windows and over the encoder's own; bits per token "
        "(for compress:\nof the whole archive); resident MB with the model loaded, and at the height of the run. "
        f"Windows of {window} tokens, overlap {overlap}.",
        ("", "tokens", "seconds", "", "tokens/s", "to plain", "", "to own", "", "bits", "MB", "height"),
        rows,
    )


# B. Where the bits go


def overhead(data: bytes, options: argparse.Namespace, console: Console) -> Found:
    sources = [("bundled", data)]
    if options.model:
        text = data if options.model_file is None else read_text(options.model_file, options.bytes)
        sources.append((options.model, text))
    found = []
    with Console(stderr=True).status("") as status:
        for name, text in sources:
            short = cut(text, options.bytes64)
            whole = [] if short == text else [("float32", text)]
            for dtype, part in (*whole, ("float32", short), ("float64", short)):
                status.update(f"B: {name}, {dtype}, {len(part):,} bytes")
                found.append(account(load_model(name, dtype=dtype), part))
    show_accounts(console, found)
    return {"accounts": found}


def account(model: CausalLM, data: bytes) -> Found:
    """The archive's bits, and what other coders and grids would make of the same decisions."""
    out = io.BytesIO()
    made = compress_to(out, memoryview(data), model, CompressSettings(verify=False))
    blocks = blocks_inside(model, data, out.getvalue())
    settings, ledger = settings_of(made), made.ledger
    if settings is None or ledger["model_bytes"] < ledger["n_bytes"]:
        sys.exit(f"bench_compression: {model.name} did not code all of these {len(data):,} bytes: give another text")
    log_odds = np.concatenate([encode.block_log_odds(model, settings, ids, n_lanes) for ids, n_lanes in blocks])
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


def coding_bits(ids: Ids, n_lanes: int, depth: int) -> Int32[np.ndarray, "tokens depth"]:
    """The decisions of a block, tokens in coding order."""
    bits = np.empty((len(ids), depth), dtype=np.int32)
    bits[lanes.coding_order(len(ids), n_lanes)] = tree.path_bits(ids, depth)
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
    return tree.code_length_nats(log_odds, bits) / np.log(2)


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
        "B1. What an archive takes beyond the ideal code",
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
        "B2. Entropy coders on the same decisions",
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
        "B3. Tolerance schemes on the same log-odds and margin",
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


# C. Coder against network

ENCODING = (
    (tree, "path_log_odds", "tree"),
    (grid, "choose_phases", "grid"),
    (grid, "edges_below", "grid"),
    (grid, "frequencies", "grid"),
    (coder, "encode_bits", "coder"),
    (coder, "encode_ranks", "coder"),
)
DECODING = (
    (decode, "restart", "network"),
    (decode, "advance", "network"),
    (tree, "descend", "tree"),
    (grid, "edges_below", "grid"),
    (grid, "frequencies", "grid"),
    (coder, "decode_ranks", "coder"),
    (coder.BitReader, "read", "coder"),
)
PARTS: tuple[str, ...] = ("network", "tree", "grid", "coder")


class Stopwatch:
    """Seconds by part. While one part runs inside another, the outer one stands still."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    def clocked(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, with its time counted as that part."""

        def run(*arguments: Any, **named: Any) -> Any:
            self._enter(part)
            try:
                return function(*arguments, **named)
            finally:
                self._leave()

        return run

    def clocked_steps(self, function: Callable[..., Iterator[Any]], part: str) -> Callable[..., Iterator[Any]]:
        """The same for a generator: the time it takes to give each item."""

        def run(*arguments: Any) -> Iterator[Any]:
            following = self.clocked(partial(next, function(*arguments), None), part)
            while (item := following()) is not None:
                yield item

        return run

    def _enter(self, part: str) -> None:
        self._count()
        self._open.append(part)

    def _leave(self) -> None:
        self._count()
        self._open.pop()

    def _count(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


def coder_share(data: bytes, options: argparse.Namespace, console: Console) -> Found:
    n_lanes, n_tokens = options.coder_lanes, options.coder_lanes * options.coder_steps
    inputs = [random_input(n_ids, n_tokens) for n_ids in VOCABULARIES] + [text_input(data, n_tokens)]
    blocks = []
    with Console(stderr=True).status("C: making ready"):
        for model, settings, ids in inputs:
            block = block_of(model, settings, ids, min(n_lanes, len(ids)))
            decode_checked(model, settings, block_of(model, settings, ids[:64], min(n_lanes, 64)))  # a short warm-up
            blocks.append(block)
    found: list[Found] = [
        {"model": model.name, "direction": direction, "n_tokens": len(ids), "n_lanes": block.n_lanes, "rounds": []}
        for (model, _, ids), block in zip(inputs, blocks, strict=True)
        for direction in ("encode", "decode")
    ]
    with Console(stderr=True).status("") as status:
        for i in range(options.rounds):
            lines = iter(found)
            for (model, settings, ids), block in zip(inputs, blocks, strict=True):
                status.update(f"C: round {i + 1} of {options.rounds}: {model.name}")
                next(lines)["rounds"].append(parts_of(partial(encode_block, model, settings, ids, block.n_lanes), ENCODING))
                next(lines)["rounds"].append(parts_of(partial(decode_checked, model, settings, block), DECODING))
    show_shares(console, found)
    return {"lines": found}


def random_input(n_ids: int, n_tokens: int) -> tuple[CausalLM, ModelSettings, Ids]:
    """A random GPT-2 with at least `n_ids` ids, and random ids. Its tokenizer knows only bytes and is not asked."""
    torch.manual_seed(0)
    n_vocab = max(n_ids, 257)
    config = GPT2Config(
        vocab_size=n_vocab, n_embd=384, n_layer=6, n_head=6, n_positions=512, bos_token_id=256, eos_token_id=256
    )
    model = from_pair(GPT2LMHeadModel(config), byte_tokenizer(), name=f"GPT-2, random, {n_ids:,} ids")
    drift = LEAST_DRIFT["float32"]
    settings = ModelSettings(
        name=model.name,
        weights_sha256="",
        vocabulary_sha256="",
        dtype="float32",
        depth=tree.depth_of(n_ids),
        layout=lanes.Layout(512, 64, 256),
        grid=grid.grid_for_margin(SAFETY * drift),
        epsilon=(SAFETY - 1) / 2 * drift,
        drift=drift,
        canary=Canary((), ()),
    )
    return model, settings, np.random.default_rng(0).integers(0, n_ids, n_tokens)


def text_input(data: bytes, n_tokens: int) -> tuple[CausalLM, ModelSettings, Ids]:
    model = load_model("bundled")
    tokens = encode_bytes(model.encoder, data)
    assert tokens is not None
    return model, settings_for(model, data), tokens.ids[:n_tokens]


def parts_of(run: Callable[[], Any], parts: Sequence[tuple[Any, str, str]]) -> dict[str, float]:
    """Seconds of the parts of one run, and of the rest of it."""
    watch = Stopwatch()
    with ExitStack() as stack:
        for owner, name, part in parts:
            stack.enter_context(patch.object(owner, name, watch.clocked(getattr(owner, name), part)))
        stack.enter_context(patch.object(encode, "logit_slices", watch.clocked_steps(encode.logit_slices, "network")))
        total, _ = timed(run)
    return {**watch.seconds, "rest": total - sum(watch.seconds.values())}


def show_shares(console: Console, found: list[Found]) -> None:
    rows = []
    for line in found:
        rounds, n_tokens = line["rounds"], line["n_tokens"]
        medians = (statistics.median(one[part] for one in rounds) / n_tokens for part in (*PARTS, "rest"))
        shares = [sum(one[part] for part in PARTS[1:]) / one["network"] for one in rounds]
        with_rest = [sum(one.values()) / one["network"] - 1 for one in rounds]
        times = (f"{1e6 * seconds:.2f}" for seconds in medians)
        label = f"{line['model']}: {line['direction']}"
        rows.append((label, f"{n_tokens:,}", *times, *spread(shares), *spread(with_rest)))
    show(
        console,
        f"C. Tree, grid and coder against the network, {found[0]['n_lanes']} lanes",
        "Microseconds per token (rest: layout, accounts, checks); the share is tree + grid + coder over network.",
        ("", "tokens", *PARTS, "rest", "share", "", "with rest", ""),
        rows,
    )


# D. General-purpose compressors


def baselines(data: bytes, options: argparse.Namespace, console: Console) -> Found:
    found = {name: [] for name in BASELINES}
    with Console(stderr=True).status("") as status:
        for i in range(options.rounds):
            for name, baseline in BASELINES.items():
                status.update(f"D: round {i + 1} of {options.rounds}: {name}")
                found[name].append(measure_baseline(baseline, data))
    if not all(result.verified for results in found.values() for result in results):
        sys.exit("bench_compression: a compressor did not give the text back")
    rows = []
    for name, results in found.items():
        speeds = [
            text
            for kind in ("encode_seconds", "decode_seconds")
            for text in spread([len(data) / max(getattr(result, kind), 1e-9) / 1000 for result in results], "{:,.0f}")
        ]
        rows.append((name, f"{results[0].n_bytes_out:,}", f"{results[0].bits_per_byte:.4f}", *speeds))
    show(
        console,
        "D. General-purpose compressors",
        "Bits of the whole file per byte of text, and kB of text per second in both directions; all gave the text back.",
        ("", "bytes", "bits/byte", "encode kB/s", "", "decode kB/s", ""),
        rows,
    )
    return {name: [result._asdict() for result in results] for name, results in found.items()}


if __name__ == "__main__":
    main()
