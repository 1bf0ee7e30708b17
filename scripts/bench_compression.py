#!/usr/bin/env python
"""Time the coder of text, and weigh its archives: how near it comes to the bare network, and what a user waits for.

    scripts/bench_compression FILE... --json out.json
    scripts/bench_compression FILE --sections B --before "PYTHONPATH=/old/checkout /old/checkout/.venv/bin/python -m lmeval"

A   Encoding and decoding by the bundled model, in bytes per second and as ratios to the limit: a bare parallel forward of
    the same network over the same text, cut into full windows; all logits, no cache, no coding, in batches of the size that
    is fastest. By compiled steps, and by the library's modules (as LMEVAL_COMPILED=0 has it) on the first --library-steps
    bytes of every lane. Every block that is timed is decoded and compared. Then the peak memory of decoding.
B   `lmeval compress` and `lmeval decompress` as a user runs them, each in a fresh process: seconds by the clock, imports and
    verification included. What is compiled on first use has been compiled. Texts up to 100 kB are run --repeats times, of
    which the median counts, larger ones once; so is everything of --before.
C   Whole archives of every file beside gzip, bzip2, xz and ppmd; all are decoded and compared.
D   Steps of networks with random weights, of the kinds of Llama and GPT-2: compiled code against the library's modules.

Without files the text is Python's own manual (pydoc_data.topics). A and B take the first file, as far as they need it. What
is compared takes turns; ratios are taken round by round, and their median is shown. All threads are as many as
OMP_NUM_THREADS says, else as there are processors. What does not decode to what was encoded ends the run with status 1.
"""

import argparse
import gc
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bench_scoring import TABLE_WIDTH, describe_machine
from jaxtyping import Int64
from rich.console import Console
from rich.table import Table
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lmeval.compression import CompressSettings, compress, decompress
from lmeval.compression.benchmark.baselines import BASELINES, STANDARD_LIBRARY, measure_baseline
from lmeval.compression.benchmark.decoder_size import model_bytes
from lmeval.compression.coding.grid import grid_for_margin
from lmeval.compression.container.frame import Block
from lmeval.compression.text.bundled import bundled_text_model
from lmeval.compression.text.decode import decode_blocks
from lmeval.compression.text.encode import encode_tokens, model_block
from lmeval.compression.text.lanes import Layout
from lmeval.compression.text.model_header import Canary, ModelSettings
from lmeval.compression.text.survey import survey
from lmeval.compression.text.text_model import TextModel, by_library, of_library
from lmeval.compression.text.windows import open_windows
from lmeval.compute.place import n_processors
from lmeval.data.documents import python_manual
from lmeval.errors import LmevalError
from lmeval.models import from_pair, load_model
from lmeval.models.byte_table import ByteTokens
from lmeval.models.compiled.network import Network
from lmeval.models.toys import byte_tokenizer

LANES, SIZES = (1, 16, 64, 128), (3_000, 50_000, 500_000)
LEVELS = ("none", "full")
BATCHES = (1, 4, 16)  # windows of a bare forward, to choose from
BARE_WINDOWS = 32  # of a round
REPEATED_BYTES = 100_000
MEMORY_BYTES = 4096  # of an archive whose decoding is measured, at least
BESIDE = (*STANDARD_LIBRARY, "ppmd -o16 -m256m")
MEMORY_OF_DECODING = """
import sys
from pathlib import Path
from lmeval.compression import decompress
decompress(Path(sys.argv[1]).read_bytes(), place="cpu")
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""

Ids = Int64[np.ndarray, "*shape"]
Found = dict[str, Any]  # of one section, JSON-ready


class Text(NamedTuple):
    """A text and where it is from."""

    name: str
    data: bytes


def main() -> None:
    options = parse(sys.argv[1:])
    torch.set_num_threads(n_processors())
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    machine = describe_machine("cpu")
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False, soft_wrap=True)
    found: Found = {"machine": machine, "options": {key: str(value) for key, value in vars(options).items()}}
    sections = {"A": coding_speed, "B": commands, "C": whole_archives, "D": random_networks}
    try:
        texts = [Text(file.name, file.read_bytes()[: options.bytes]) for file in options.files] or [manual(options.bytes)]
        if not all(text.data for text in texts):
            sys.exit("bench_compression: a file is empty")
        for name in options.sections:
            began = time.perf_counter()
            found[name] = sections[name](texts, options, console)
            console.print(f"({name} took {time.perf_counter() - began:.0f} s)", highlight=False)
    except (LmevalError, OSError) as error:
        sys.exit(f"bench_compression: {error}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("files", nargs="*", type=Path, metavar="FILE", help="texts (default: Python's manual)")
    add("--sections", nargs="+", choices=list("ABCD"), default=list("ABCD"), help="what to run (default: all)")
    add("--bytes", type=int, help="cut every file to so many bytes")
    add("--quick", action="store_true", help="small sizes, one round: about a minute, and no figures to publish")
    add("--rounds", type=int, default=2, help="A and D: rounds (default: 2)")
    add("--lanes", nargs="+", type=int, default=list(LANES), metavar="N", help=f"A: lanes (default: {LANES})")
    add("--steps", type=int, default=1200, help="A: bytes of a lane, more than a window (default: 1,200)")
    add("--library-steps", type=int, default=256, help="A: bytes of a lane for the library's modules (default: 256)")
    add("--sizes", nargs="+", type=int, default=list(SIZES), metavar="N", help=f"B: bytes (default: {SIZES})")
    add("--repeats", type=int, default=3, help="B: runs of the small texts (default: 3)")
    add("--before", metavar="COMMAND", help="B: the `lmeval` of another checkout, to time beside this one")
    add("--network-steps", type=int, default=64, help="D: tokens of a lane (default: 64)")
    add("--json", type=Path, metavar="OUT", help="write all numbers here, those of every round included")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = options.repeats = 1
        options.lanes = [n for n in options.lanes if n <= 64]
        options.steps, options.library_steps, options.network_steps = 192, 48, 16
        options.sizes, options.bytes = (
            [n for n in options.sizes if n <= REPEATED_BYTES],
            min(options.bytes or 50_000, 50_000),
        )
    return options


def manual(n_bytes: int | None) -> Text:
    pieces = (piece for document in python_manual().documents for piece in document.pieces)
    return Text("pydoc_data.topics", "".join(pieces).encode()[:n_bytes])


# What all sections share


def seconds_of(run: Callable[[], object]) -> float:
    gc.collect()  # what the one before left behind is not counted against this one
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def show(console: Console, title: str, statement: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table under a sentence; columns of words stand left, all others right. A row may be shorter than the others."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    rows = list(rows)
    for i, name in enumerate(columns):
        words = any(cell.strip()[:1].isalpha() for row in rows for cell in row[i : i + 1])
        table.add_column(name, justify="left" if words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(f"\n[bold]{title}[/bold]\n{statement}", highlight=False, soft_wrap=True)
    console.print(table, highlight=False)


def bare_forward(network: PreTrainedModel, windows: Ids, n_rows: int) -> None:
    """The limit: logits of all positions of full windows, so many at a time."""
    with torch.inference_mode():
        for first in range(0, len(windows), n_rows):
            network(input_ids=torch.from_numpy(windows[first : first + n_rows]), use_cache=False)


def fastest_batch(network: PreTrainedModel, windows: Ids) -> int:
    bare_forward(network, windows[:1], 1)
    sizes = [n for n in BATCHES if n <= len(windows)]
    return min(sizes, key=lambda n: seconds_of(lambda: bare_forward(network, windows[: max(sizes)], n)))


def median_ratio(speeds: Sequence[float], limits: Sequence[float]) -> str:
    return f"{statistics.median(mine / limit for mine, limit in zip(speeds, limits, strict=True)):.2f}"


def median_speed(speeds: Sequence[float]) -> str:
    return f"{statistics.median(speeds):,.0f}"


# A. Encoding and decoding


def coding_speed(texts: list[Text], options: argparse.Namespace, console: Console) -> Found:
    data, library = texts[0].data, load_model("bundled")
    models = {"compiled": bundled_text_model(), "library": by_library(of_library(library), "to be compared")}
    surveyed = survey(models["compiled"], memoryview(data))
    if surveyed is None:
        sys.exit(f"bench_compression: the bundled model cannot shorten {texts[0].name}: give another text first")
    settings = surveyed.settings
    window = settings.layout.window
    windows = _windows(_ids(data), window)
    n_rows = fastest_batch(library.network, windows)
    lines = []
    for steps_by, model in models.items():
        for level in LEVELS:  # whatever is done once is not counted
            code_once(model, settings._replace(adapt=level), data[:64], 4)
        for n_lanes in options.lanes:
            most = n_lanes * (options.steps if steps_by == "compiled" else options.library_steps)
            if len(data) < n_lanes * 16:
                sys.exit(f"bench_compression: {texts[0].name} is too short for {n_lanes} lanes")
            part, speeds = data[:most], defaultdict[str, list[float]](list)
            for _ in range(options.rounds):
                bare = seconds_of(lambda: bare_forward(library.network, windows, n_rows))
                speeds["forward"].append(windows.size / bare)
                for level in LEVELS:
                    seconds = code_once(model, settings._replace(adapt=level), part, n_lanes)
                    for direction, taken in zip(("encode", "decode"), seconds, strict=True):
                        speeds[f"{direction} {level}"].append(len(part) / taken)
            lines.append({"steps": steps_by, "n_lanes": n_lanes, "n_bytes": len(part), "speeds": speeds})
    n_windows = f"{len(windows)} windows of {windows.shape[1]:,}, {n_rows} at a time"
    show_coding(console, texts[0].name, n_windows, lines)
    memory = decoding_memory(data, options, console)
    return {"text": texts[0].name, "batch": n_rows, "lines": lines, "memory": memory}


def _ids(data: bytes) -> Ids:
    return np.frombuffer(data, dtype=np.uint8).astype(np.int64)


def _windows(ids: Ids, window: int) -> Ids:
    window = min(window, len(ids))
    return ids[: len(ids) // window * window].reshape(-1, window)[:BARE_WINDOWS]


def code_once(model: TextModel, settings: ModelSettings, data: bytes, n_lanes: int) -> tuple[float, float]:
    """Seconds of encoding and of decoding one block."""
    tokens, blocks = ByteTokens(_ids(data), extra_space=False), list[Block]()

    def encode() -> None:
        coded = encode_tokens(model, settings, tokens.ids, n_lanes)
        if coded is None:
            sys.exit("bench_compression: the grid has no safe phase for this text: give another text first")
        blocks.append(model_block(coded, tokens, data, 0, n_lanes))

    def decode() -> None:
        if decode_blocks(model, settings, blocks) != [data]:
            sys.exit(f"bench_compression: a block of {n_lanes} lanes does not decode to what was encoded")

    return seconds_of(encode), seconds_of(decode)


def show_coding(console: Console, name: str, limit: str, lines: list[Found]) -> None:
    kinds = [f"{direction} {level}" for direction in ("decode", "encode") for level in LEVELS]
    titles = {"none": "", "full": " +full"}
    rows = []
    for line in lines:
        speeds = line["speeds"]
        cells = [c for k in kinds for c in (median_speed(speeds[k]), median_ratio(speeds[k], speeds["forward"]))]
        rows.append((line["steps"], str(line["n_lanes"]), f"{line['n_bytes']:,}", median_speed(speeds["forward"]), *cells))
    show(
        console,
        f"A. Bytes per second of the bundled model on {name}",
        f"Coding one block of so many lanes against the bare forward of the text ({limit}), and their ratio;\n"
        "'+full' is with the online models. The library's modules are timed on shorter lanes, whose steps are cheaper.",
        ("steps", "lanes", "bytes", "forward", *(c for k in kinds for c in (_title(k, titles), "ratio"))),
        rows,
    )


def _title(kind: str, titles: dict[str, str]) -> str:
    direction, level = kind.split()
    return direction + titles[level]


def decoding_memory(data: bytes, options: argparse.Namespace, console: Console) -> list[Found]:
    """Megabytes at the height of a fresh process; none where the system does not tell."""
    if not Path("/proc/self/status").exists():
        return []
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for n_lanes in options.lanes:
            part = data[: max(n_lanes * options.library_steps, MEMORY_BYTES)]
            line: Found = {"n_lanes": n_lanes, "n_bytes": len(part)}
            for level in LEVELS:
                archive = Path(folder, f"{n_lanes}-{level}")
                archive.write_bytes(
                    compress(part, "bundled", CompressSettings(n_lanes, adapt=level, verify=False), place="cpu")
                )
                run = [sys.executable, "-c", MEMORY_OF_DECODING, str(archive)]
                kilobytes = int(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
                line[level] = kilobytes / 1000
            found.append(line)
    show(
        console,
        "A. Memory of decoding",
        "Resident megabytes at the height of a process that decodes an archive in so many lanes, imports included.",
        ("lanes", "bytes", "MB", "MB +full"),
        [(str(f["n_lanes"]), f"{f['n_bytes']:,}", *(f"{f[level]:,.0f}" for level in LEVELS)) for f in found],
    )
    return found


# B. The commands


def commands(texts: list[Text], options: argparse.Namespace, console: Console) -> Found:
    prefixes = {"now": f"{shlex.quote(sys.executable)} -m lmeval"}
    if options.before:
        prefixes = {"before": options.before, **prefixes}
    parts = {min(size, len(texts[0].data)): texts[0].data[:size] for size in sorted(options.sizes)}
    lines: list[Found] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, prefix in prefixes.items():
            run_commands(prefix, texts[0].data[:1000], Path(folder))  # compiles what is compiled on first use
            for n_bytes, data in parts.items():
                n_runs = options.repeats if name == "now" and n_bytes <= REPEATED_BYTES else 1
                runs = [run_commands(prefix, data, Path(folder)) for _ in range(n_runs)]
                seconds = [statistics.median(column) for column in zip(*(run[:2] for run in runs), strict=True)]
                lines.append(
                    {"of": name, "n_bytes": n_bytes, "seconds": seconds, "runs": runs, "n_archive_bytes": runs[0][2]}
                )
    show(
        console,
        f"B. The commands, on the first bytes of {texts[0].name}",
        "Seconds by the clock of `lmeval compress` (which verifies) and `lmeval decompress`, each a process of its own.",
        ("lmeval", "bytes", "runs", "compress", "decompress", "archive", "bits/byte"),
        [
            (
                line["of"],
                f"{line['n_bytes']:,}",
                str(len(line["runs"])),
                *(f"{seconds:.1f}" for seconds in line["seconds"]),
                f"{line['n_archive_bytes']:,}",
                f"{8 * line['n_archive_bytes'] / line['n_bytes']:.3f}",
            )
            for line in lines
        ],
    )
    return {"text": texts[0].name, "lines": lines}


def run_commands(prefix: str, data: bytes, folder: Path) -> tuple[float, float, int]:
    """Seconds of compressing and decompressing, and the bytes of the archive."""
    source, archive, back = (folder / name for name in ("text", "text.lmz", "back"))
    for path in (archive, back):
        path.unlink(missing_ok=True)
    source.write_bytes(data)
    compressing = seconds_of(lambda: run_command(prefix, ["compress", source, "-o", archive], folder))
    decompressing = seconds_of(lambda: run_command(prefix, ["decompress", archive, "-o", back], folder))
    if back.read_bytes() != data:
        sys.exit(f"bench_compression: {prefix} does not decode to what it encoded")
    return compressing, decompressing, archive.stat().st_size


def run_command(prefix: str, arguments: Sequence[str | Path], folder: Path) -> None:
    """As a shell reads it: NAME=VALUE in front of the command goes into its environment."""
    words = shlex.split(prefix)
    n_settings = next((i for i, word in enumerate(words) if "=" not in word), len(words))
    environment = os.environ | dict(word.split("=", 1) for word in words[:n_settings])
    done = subprocess.run(
        [*words[n_settings:], *map(str, arguments)], env=environment, cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"bench_compression: {prefix} {arguments[0]} failed: {done.stderr.strip()}")


# C. Whole archives


def whole_archives(texts: list[Text], options: argparse.Namespace, console: Console) -> Found:
    decoder_bytes = model_bytes(load_model("bundled"))
    lines = [line for text in texts for line in archives_of(text, decoder_bytes)]
    show(
        console,
        "C. Whole archives",
        "Bytes of the archives, seconds to write them (without verification) and to read them, whether they came back,\n"
        f"and the archive with what decodes it: the bundled model's files are {decoder_bytes:,} bytes.",
        ("text", "compressor", "bytes", "bits/byte", "in", "out", "decoded", "with the model"),
        [
            (
                line["text"],
                line["compressor"],
                f"{line['n_archive_bytes']:,}",
                f"{8 * line['n_archive_bytes'] / line['n_bytes']:.3f}",
                *(f"{seconds:.2f}" for seconds in line["seconds"]),
                "yes" if line["decoded"] else "NO",
                f"{line['n_archive_bytes'] + line['decoder_bytes']:,}" if line["decoder_bytes"] else "",
            )
            for line in lines
        ],
    )
    if not all(line["decoded"] for line in lines):
        sys.exit("bench_compression: an archive does not decode to what was encoded")
    return {"lines": lines}


def archives_of(text: Text, decoder_bytes: int) -> list[Found]:
    began = time.perf_counter()
    archive = compress(text.data, "bundled", CompressSettings(verify=False), place="cpu")
    written = time.perf_counter()
    decoded = decompress(archive, place="cpu") == text.data
    seconds = written - began, time.perf_counter() - written
    results = [("lmeval", len(archive), seconds, decoded, decoder_bytes)]
    for name in BESIDE:
        found = measure_baseline(BASELINES[name], text.data)
        results.append((name, found.n_bytes_out, (found.encode_seconds, found.decode_seconds), found.verified, 0))
    keys = ("compressor", "n_archive_bytes", "seconds", "decoded", "decoder_bytes")
    return [{"text": text.name, "n_bytes": len(text.data)} | dict(zip(keys, one, strict=True)) for one in results]


# D. Networks of random weights


def llama_like(width: int, n_layers: int) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=width,
        intermediate_size=-(-8 * width // 3 // 64) * 64,
        num_hidden_layers=n_layers,
        num_attention_heads=width // 64,
        max_position_embeddings=512,
    )
    return LlamaForCausalLM(config)


def gpt2_like(width: int, n_layers: int) -> PreTrainedModel:
    config = GPT2Config(vocab_size=257, n_embd=width, n_layer=n_layers, n_head=width // 64, n_positions=512)
    config.bos_token_id = config.eos_token_id = 256
    return GPT2LMHeadModel(config)


NETWORKS: dict[str, tuple[Callable[[int, int], PreTrainedModel], int, int]] = {
    "Llama, 10M": (llama_like, 384, 6),
    "GPT-2, 10M": (gpt2_like, 384, 6),
    "Llama, 100M": (llama_like, 768, 14),
    "GPT-2, 100M": (gpt2_like, 768, 14),
}
LARGE_MEMORY = 4 << 30  # bytes that must be free for the networks of 100 million parameters


def random_networks(texts: list[Text], options: argparse.Namespace, console: Console) -> Found:
    lines: list[Found] = []
    for name, (build, width, n_layers) in NETWORKS.items():
        if "100M" in name and (options.quick or free_memory() < LARGE_MEMORY):
            console.print(f"D: {name} is left out: {'--quick' if options.quick else 'too little memory is free'}")
            continue
        torch.manual_seed(0)
        lines += step_speeds(name, build(width, n_layers), options)
    show(
        console,
        "D. Steps of networks with random weights",
        "Tokens per second of compiled steps and of the library's modules, and their ratio; the bare parallel forward of\n"
        "windows of 256 tokens is the limit that compiled steps are set against in the last column.",
        ("network", "lanes", "parameters", "compiled", "library", "compiled/library", "forward", "compiled/forward"),
        [
            (
                line["network"],
                str(line["n_lanes"]),
                f"{line['n_parameters']:,}",
                *(median_speed(line["speeds"][way]) for way in ("compiled", "library")),
                median_ratio(line["speeds"]["compiled"], line["speeds"]["library"]),
                median_speed(line["speeds"]["forward"]),
                median_ratio(line["speeds"]["compiled"], line["speeds"]["forward"]),
            )
            for line in lines
        ],
    )
    return {"lines": lines}


def free_memory() -> int:
    """Bytes; 0 where the system does not tell."""
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), 0)


def step_speeds(name: str, network: PreTrainedModel, options: argparse.Namespace) -> list[Found]:
    compiled = of_library(from_pair(network, byte_tokenizer(), name=name))
    models = {"compiled": compiled, "library": by_library(compiled, "to be compared")}
    layout = Layout(2 * options.network_steps, 0, 256)
    arrays = compiled.network(layout.window)
    if not isinstance(arrays, Network):
        sys.exit(f"bench_compression: no compiled steps for {name}: {arrays}")
    settings = ModelSettings(name, "", "", "float32", compiled.depth, layout, grid_for_margin(1e-4), 0, 0, Canary((), ()))
    windows = np.random.default_rng(0).integers(0, 256, (4, 256))
    n_rows, found = fastest_batch(network, windows), []
    for n_lanes in (1, 16):
        speeds = defaultdict[str, list[float]](list)
        for _ in range(options.rounds):
            speeds["forward"].append(windows.size / seconds_of(lambda: bare_forward(network, windows, n_rows)))
            for way, model in models.items():
                speeds[way].append(step_speed(model, settings, n_lanes, options.network_steps))
        n_parameters = sum(parameter.numel() for parameter in network.parameters())
        found.append({"network": name, "n_parameters": n_parameters, "n_lanes": n_lanes, "speeds": speeds})
    return found


def step_speed(model: TextModel, settings: ModelSettings, n_lanes: int, n_steps: int) -> float:
    """Tokens per second of the second half of a window; the first half warms up, and lets the library choose its threads."""
    ids = np.random.default_rng(0).integers(0, 256, (2 * n_steps, n_lanes))
    began = 0.0
    with open_windows(model, settings, n_lanes) as windows:
        for step, row in enumerate(ids):
            if step == n_steps:
                began = time.perf_counter()
            windows.logits()
            windows.take(row)
        return n_lanes * n_steps / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
