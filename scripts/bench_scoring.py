#!/usr/bin/env python
"""Time scoring: how near `lmeval` comes to the bare model, beside lm_eval and evaluate's perplexity, in one run.

    scripts/bench_scoring --bytes 100000 --rounds 5 --json out.json

On the same network object, documents and windows (the model's context, stride = context) these take turns, a b b' c c1 d,
a b b' c c1 d, ..., after one round that is not counted:

    a   bare forward     the limit: `network(input_ids=ids, use_cache=False)` on the very padded batches that lmeval forms
                         (recorded from its engine); logits and nothing else; ids are ready, nothing is tokenised
    b   lmeval           end to end: `perplexity(model, documents)` from text to all metrics and intervals
    b'  lmeval, engine   `scoring.score` over ready requests: no tokenisation, no metrics
    c   lm_eval          HFLM.loglikelihood_rolling with as many rows a batch as lmeval has in the mean
    c1  lm_eval          the same with its default of one row a batch: no padding
    d   evaluate         the perplexity metric with its default of 16 rows a batch

d is a re-implementation of the published algorithm (huggingface/evaluate, metrics/perplexity): that module lives on the hub
and not in the installed package, so `evaluate.load("perplexity")` fails without a network; and it takes a model by name
only, which it loads at every call. Here it gets the object and no loading is timed. It scores the first window of each
document and drops the rest: compare it by tokens per second.

How to read the table: "ratio" is tokens per second over those of (a), taken round by round: its median, and its least and
greatest. Above 1 is possible, for (a) writes the logits of all positions to memory, padding included, and lmeval only passes
slices through the cache. Nothing that is done once for a model is counted: loading, its fingerprint, tokenizer tables.
Bits per byte check that b, b' and c did the same work: unless they agree to 1e-4 (relative) the run ends with status 1.

Models: stories260K (260 thousand parameters, from the shared data), bundled (4 million, bytes), gpt2-30M (30 million, random
weights, GPT-2's vocabulary of 50,257), or any folder in Hugging Face format. Documents: half the bytes are short stories,
half are encyclopedia articles of several windows; where the shared data are missing, Python's own manual. The shared data
are looked for in $LMEVAL_SHARED, else in the folder `shared` beside the repository.
"""

import argparse
import copy
import gc
import json
import logging
import math
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from lmeval.data.documents import python_manual
from lmeval.errors import ModelError, ModelNotFound
from lmeval.models import CausalLM, encode, from_pair, load_model
from lmeval.perplexity import PerplexitySettings, perplexity, resolve
from lmeval.results import find
from lmeval.scoring import Request, rolling_requests, score

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_BYTES = {"stories260K": 600_000, "bundled": 150_000, "gpt2-30M": 60_000}
OTHER_BYTES = 100_000  # for folders
AGREEMENT = 1e-4
EVALUATE_BATCH = 16
TABLE_WIDTH = 160  # where no terminal says how wide it is

Batches = list[torch.Tensor]
Outcome = tuple[int, float | None]  # tokens scored, and their sum of nats where there is one


class Contestant(NamedTuple):
    """One way of scoring the documents; `run` does all of the work that is timed."""

    key: str
    label: str
    run: Callable[[], Outcome]


class Line(NamedTuple):
    """What one contestant did: seconds of every round, and its tokens per second over those of the bare forward."""

    key: str
    label: str
    n_tokens: int
    bits_per_byte: float | None
    seconds: tuple[float, ...]
    ratios: tuple[float, ...]


class Bench(NamedTuple):
    """One model's lines and what they were measured on."""

    model: str
    n_parameters: int
    context: int
    n_documents: int
    n_bytes: int
    n_windows: int
    n_batches: int
    padding: float
    lines: tuple[Line, ...]


def main() -> None:
    options = parse(sys.argv[1:])
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    machine = describe_machine(options.device)
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False, soft_wrap=True)
    benches = []
    for name in options.models:
        try:
            model = find_model(name, options.device)
        except ModelError as error:
            console.print(f"\n{name}: skipped: {error}", highlight=False, soft_wrap=True)
            continue
        texts, source = documents(options.bytes or DEFAULT_BYTES.get(name, OTHER_BYTES))
        bench = measure(model, texts, options.rounds)
        console.print("", *heading(bench, source), highlight=False, soft_wrap=True, sep="\n")
        console.print(table(bench), highlight=False)
        console.print(*verdict(bench), highlight=False, soft_wrap=True, sep="\n")
        benches.append(bench)
    if options.json:
        found = {"machine": machine, "rounds": options.rounds, "models": [as_json(bench) for bench in benches]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if not all(disagreement(bench) <= AGREEMENT for bench in benches):
        sys.exit("bench_scoring: lmeval and lm_eval disagree: the times above are of different work")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(DEFAULT_BYTES), metavar="NAME", help="names above, or folders")
    parser.add_argument("--bytes", type=int, help=f"text for each model (default: {DEFAULT_BYTES})")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: 5)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all times here")
    return parser.parse_args(arguments)


# What is measured on


def shared_folder() -> Path:
    return Path(os.environ.get("LMEVAL_SHARED") or ROOT.parent / "shared")


def find_model(name: str, device: str) -> CausalLM:
    """The model of that name. Raises ModelError where its files are missing."""
    if name == "gpt2-30M":
        return random_gpt2(device)
    if name == "stories260K":
        folder = shared_folder() / "data/models/stories260K"
        if not folder.is_dir():
            raise ModelNotFound("the shared data are not here (LMEVAL_SHARED names their folder)")
        return load_model(str(folder), device=device)
    return load_model(name, device=device)


def random_gpt2(device: str, context: int = 512) -> CausalLM:
    """30 million random parameters, two thirds of them in the embedding that is also the head. A context of 512, as the
    other models have, keeps evaluate's metric below 8 GB of logits."""
    folder = shared_folder() / "data/models/tokenizers/gpt2"
    if not (folder / "vocab.json").is_file():
        raise ModelNotFound("its tokenizer is in the shared data, which are not here (LMEVAL_SHARED names their folder)")
    tokenizer = GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))
    torch.manual_seed(0)
    network = GPT2LMHeadModel(GPT2Config(vocab_size=50257, n_embd=384, n_layer=6, n_head=6, n_positions=context))
    torch.nn.Module.to(network, device)
    return from_pair(network, tokenizer, name="gpt2-30M")


def documents(n_bytes: int) -> tuple[list[str], str]:
    """Real texts of about `n_bytes` in all, and where they are from."""
    folder = shared_folder() / "data/text/test"
    if not folder.is_dir():
        manual = ["".join(document.pieces) for document in python_manual().documents]
        return take(manual, n_bytes), "pydoc_data.topics"
    stories = (folder / "tinystories.valid.txt").read_text(encoding="utf-8").split("<|endoftext|>")
    articles = re.split(r"(?m)^(?= = [^=\n]+ = $)", (folder / "wikitext2.test.raw").read_text(encoding="utf-8"))
    first = take(stories, n_bytes // 2)
    second = take(articles, n_bytes - n_bytes // 2)
    return first + second, f"{len(first)} stories (tinystories.valid), {len(second)} articles (wikitext2.test)"


def take(texts: list[str], n_bytes: int) -> list[str]:
    """The first texts, the last of them cut, up to `n_bytes`; white space alone is no text."""
    taken, left = [], n_bytes
    for text in filter(str.strip, texts):
        if left <= 0:
            break
        data = text.encode()[:left]
        taken.append(data.decode(errors="ignore"))
        left -= len(data)
    return taken


def describe_machine(device: str) -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {
        "cpu": names[0] if names else platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


# The contestants


def contestants(model: CausalLM, texts: list[str], requests: list[Request], batches: Batches) -> list[Contestant]:
    rows = max(1, round(len(requests) / len(batches)))
    n_tokens = sum(len(request.target) for request in requests)
    tokenizer = model.encoder.tokenizer
    context = resolve(model, PerplexitySettings()).context

    def bare() -> Outcome:
        bare_forward(model.network, batches)
        return n_tokens, None

    def ours() -> Outcome:
        report = perplexity(model, texts, place=str(model.device))
        return report.ledger["n_tokens_scored"], find(report, "nll_nats").value

    def engine() -> Outcome:
        return n_tokens, -sum(float(log_probs.sum(dtype=np.float64)) for log_probs in score(model, requests))

    def metric() -> Outcome:
        return evaluate_perplexity(model.network, copy.deepcopy(tokenizer), texts, context, EVALUATE_BATCH)[1], None

    return [
        Contestant("a", "bare forward", bare),
        Contestant("b", "lmeval", ours),
        Contestant("b'", "lmeval, engine alone", engine),
        Contestant("c", f"lm_eval, batches of {rows}", harness(model, texts, n_tokens, context, rows)),
        Contestant("c1", "lm_eval, batches of 1", harness(model, texts, n_tokens, context, 1)),
        Contestant("d", f"evaluate, batches of {EVALUATE_BATCH}", metric),
    ]


def window_requests(model: CausalLM, texts: list[str]) -> list[Request]:
    windowing = resolve(model, PerplexitySettings())
    windows = (window for text in texts for window in rolling_requests(encode(model.encoder, [text]), windowing))
    return [window.request for window in windows]


def engine_batches(model: CausalLM, requests: list[Request]) -> Batches:
    """The padded ids of every batch that the engine sends through the trunk, as it does it."""
    batches: Batches = []

    def record(_: object, arguments: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        batches.append(arguments[0] if arguments else named["input_ids"])

    handle = model.network.base_model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        for _ in score(model, requests):
            pass
    finally:
        handle.remove()
    return batches


def bare_forward(network: PreTrainedModel, batches: Batches) -> None:
    with torch.inference_mode():
        for ids in batches:
            network(input_ids=ids, use_cache=False)


def harness(model: CausalLM, texts: list[str], n_tokens: int, context: int, rows: int) -> Callable[[], Outcome]:
    """lm_eval on the same network. BOS is left to its windows (its default would put it into the text as well where the
    tokenizer adds it); its cache of logits is for one-token answers and is off, as it advises for rolling windows. Its bars,
    one a batch whatever it is asked, are silenced."""
    from lm_eval.api.instance import Instance
    from lm_eval.models import huggingface

    huggingface.tqdm = lambda *values, **named: tqdm(*values, **{**named, "disable": True})
    instances = [Instance("loglikelihood_rolling", doc={}, arguments=(text,), idx=i) for i, text in enumerate(texts)]
    adapter = huggingface.HFLM(
        pretrained=model.network,
        tokenizer=copy.deepcopy(model.encoder.tokenizer),
        device=str(model.device),
        batch_size=rows,
        max_length=context,
        add_bos_token=False,
        logits_cache=False,
    )

    def run() -> Outcome:
        return n_tokens, -sum(adapter.loglikelihood_rolling(instances, disable_tqdm=True))

    return run


def evaluate_perplexity(
    network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], context: int, batch_size: int
) -> tuple[list[float], int]:
    """What evaluate's perplexity metric computes with `max_length=context`: the perplexity of every text's first window, and
    how many tokens that took. All texts are tokenised at once and padded to the longest, BOS goes in front, the logits of
    all positions are kept, and padding is masked out of the mean only."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = next(iter(tokenizer.special_tokens_map.values()))
    encoded = tokenizer(
        texts, add_special_tokens=False, padding=True, truncation=True, max_length=context - 1, return_tensors="pt"
    ).to(network.device)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    perplexities: list[float] = []
    for first in range(0, len(texts), batch_size):
        ids = encoded["input_ids"][first : first + batch_size]
        mask = encoded["attention_mask"][first : first + batch_size]
        bos = torch.full_like(ids[:, :1], tokenizer.bos_token_id)
        ids, mask = torch.cat([bos, ids], dim=1), torch.cat([torch.ones_like(bos), mask], dim=1)
        with torch.no_grad():
            logits = network(ids, attention_mask=mask).logits
        predicted, seen = logits[:, :-1].contiguous(), mask[:, 1:].contiguous()
        nats = loss(predicted.transpose(1, 2), ids[:, 1:].contiguous()) * seen
        perplexities += torch.exp(nats.sum(1) / seen.sum(1)).tolist()
    return perplexities, int(encoded["attention_mask"].sum())


# Timing


def measure(model: CausalLM, texts: list[str], rounds: int) -> Bench:
    requests = window_requests(model, texts)
    batches = engine_batches(model, requests)
    runners = contestants(model, texts, requests, batches)
    n_bytes = sum(len(text.encode()) for text in texts)
    seconds: dict[str, list[float]] = {runner.key: [] for runner in runners}
    outcomes: dict[str, Outcome] = {}
    with Console(stderr=True).status("") as status:
        for i in range(rounds + 1):
            for runner in runners:
                status.update(f"{model.name}: round {i} of {rounds}: {runner.label}")
                taken, outcomes[runner.key] = timed(runner.run, model.device)
                if i:
                    seconds[runner.key].append(taken)
    return Bench(
        model=Path(model.name).name,
        n_parameters=model.n_parameters,
        context=resolve(model, PerplexitySettings()).context,
        n_documents=len(texts),
        n_bytes=n_bytes,
        n_windows=len(requests),
        n_batches=len(batches),
        padding=1 - sum(request.n_inputs for request in requests) / sum(ids.numel() for ids in batches),
        lines=tuple(line(runner, outcomes[runner.key], outcomes["a"], seconds, n_bytes) for runner in runners),
    )


def timed(run: Callable[[], Outcome], device: torch.device) -> tuple[float, Outcome]:
    gc.collect()  # what the one before left behind is not counted against this one
    synchronize(device)
    began = time.perf_counter()
    outcome = run()
    synchronize(device)
    return time.perf_counter() - began, outcome


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def line(runner: Contestant, outcome: Outcome, bare: Outcome, seconds: dict[str, list[float]], n_bytes: int) -> Line:
    (n_tokens, nats), mine = outcome, seconds[runner.key]
    ratios = (n_tokens / x / (bare[0] / limit) for x, limit in zip(mine, seconds["a"], strict=True))
    bits = None if nats is None else nats / n_bytes / math.log(2)
    return Line(runner.key, runner.label, n_tokens, bits, tuple(mine), tuple(ratios))


# What is shown


def heading(bench: Bench, source: str) -> list[str]:
    return [
        f"[bold]{bench.model}[/bold], {bench.n_parameters:,} parameters, context {bench.context:,}",
        f"{bench.n_bytes:,} bytes of text: {source}",
        f"{bench.n_windows:,} windows in {bench.n_batches:,} batches with {100 * bench.padding:.1f}% padding",
    ]


def table(bench: Bench) -> Table:
    found = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    found.add_column("")
    found.add_column("")
    for name in ("tokens scored", "seconds", "(min-max)", "tokens/s", "ratio", "(min-max)", "bits per byte"):
        found.add_column(name, justify="right", no_wrap=True)
    for row in bench.lines:
        median, bits = statistics.median(row.seconds), row.bits_per_byte
        found.add_row(
            row.key,
            row.label,
            f"{row.n_tokens:,}",
            f"{median:.3f}",
            f"({min(row.seconds):.3f}-{max(row.seconds):.3f})",
            f"{row.n_tokens / median:,.0f}",
            f"{statistics.median(row.ratios):.3f}",
            f"({min(row.ratios):.3f}-{max(row.ratios):.3f})",
            "" if bits is None else f"{bits:.6f}",
        )
    return found


def verdict(bench: Bench) -> list[str]:
    lines = {row.key: row for row in bench.lines}
    ours = lines["b"].ratios
    against = {key: statistics.median(a / b for a, b in zip(ours, lines[key].ratios, strict=True)) for key in lines}
    named = ", ".join(f"{against[key]:.2f} times {lines[key].label}" for key in ("c", "c1", "d"))
    apart = disagreement(bench)
    agree = "agree" if apart <= AGREEMENT else "DISAGREE"
    return [
        f"lmeval, text to metrics: {against['a']:.3f} of the bare forward, {named} (tokens per second)",
        f"bits per byte of lmeval and lm_eval {agree}: they differ by {apart:.1e} (relative, at most {AGREEMENT:.0e})",
    ]


def disagreement(bench: Bench) -> float:
    bits = [row.bits_per_byte for row in bench.lines if row.bits_per_byte is not None]
    return max(bits) / min(bits) - 1


def as_json(bench: Bench) -> dict[str, Any]:
    lines = [{**row._asdict(), "median_seconds": statistics.median(row.seconds)} for row in bench.lines]
    return {**bench._asdict(), "lines": lines, "relative_disagreement": disagreement(bench)}


if __name__ == "__main__":
    main()
