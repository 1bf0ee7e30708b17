#!/usr/bin/env python
"""Time the scoring of prompted tasks: lmeval's shared prefixes beside lm_eval, in one run, on the same model and prompts.

    scripts/bench_tasks --rounds 3 --json out.json

For each workload these take turns, after one round that is not counted:

    lmeval tree    tokenisation and scoring with shared prefixes: what `lmeval run` does
    lmeval plain   the same, each distinct prompt by itself
    lm_eval 1      HFLM.loglikelihood (tokenisation and scoring) with its default of one row a batch
    lm_eval N      the same with --harness-batch rows
    bare           the limit: the network's trunk alone over the distinct tokens that the tree path runs, in rows of 512
                   without any prefix to attend to, and its head at the scored positions

Timed is what turns prompts into log-likelihoods: texts are ready, the model is loaded, nothing is reported. "tokens" counts
the input tokens that went through the network, padding included; lm_eval's are counted by a hook on its forward calls.
"times" is the faster of lm_eval's two over the contestant's, round by round: its median, least and greatest. Log-likelihoods
of all contestants must agree to 1e-3 nats, or the run ends with status 1.

Workloads (tasks of $LMEVAL_SHARED, else of the folder `shared` beside the repository): arc_easy with 5 fixed examples, boolq
with 5, arc_easy and boolq without any. The model is GPT-2 with 30 million random parameters and its vocabulary of 50,257, or
any folder.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from bench_scoring import describe_machine, find_model, random_gpt2, shared_folder
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from lmeval.errors import LmevalError
from lmeval.models import CausalLM
from lmeval.prompting.encoding import encode_prompts
from lmeval.prompting.instances import RunSettings, build_instances
from lmeval.prompting.prompts import Prompt
from lmeval.prompting.task import read_task
from lmeval.scoring import Cost, Request, score_shared

AGREEMENT = 1e-3


class Workload(NamedTuple):
    """A task of the shared data with so many examples before each of so many items."""

    name: str
    task: str
    n_shots: int
    n_items: int


WORKLOADS = (
    Workload("arc_easy, 5 shots", "arc_easy", 5, 200),
    Workload("boolq, 5 shots", "boolq", 5, 30),
    Workload("arc_easy, 0 shots", "arc_easy", 0, 200),
    Workload("boolq, 0 shots", "boolq", 0, 100),
)
TEMPLATES = {
    "arc_easy": {"doc_to_text": "{{query}}\nAnswer:", "doc_to_choice": "choices", "doc_to_target": "gold"},
    "boolq": {"doc_to_text": "{{query}}\nAnswer:", "doc_to_choice": ["no", "yes"], "doc_to_target": "{{choices[gold]}}"},
}


class Outcome(NamedTuple):
    """Log p of every continuation, and the tokens that went through the network, with padding."""

    nats: np.ndarray
    n_tokens: int


class Contestant(NamedTuple):
    """One way of scoring the prompts; `run` does all that is timed."""

    name: str
    run: Callable[[], Outcome]


def main() -> None:
    args = parse()
    model = random_gpt2(args.device, 2048) if args.model == "gpt2-30M" else find_model(args.model, args.device)
    machine = describe_machine(args.device)
    console = Console(width=150, highlight=False)
    console.print(f"{model.name}, {model.n_parameters:,} parameters, {args.rounds} rounds; {machine}")
    rows, bad = [], 0.0
    for workload in WORKLOADS:
        if args.only and workload.task not in args.only:
            continue
        workload = workload._replace(n_items=max(2, round(workload.n_items * args.scale)))
        found, difference = measure(model, workload, args)
        rows += found
        bad = max(bad, difference)
        console.print(table(workload, found))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "model": model.name, "rows": rows}, indent=2) + "\n")
    if bad > AGREEMENT:
        sys.exit(f"log-likelihoods differ by {bad:.2g} nats: the contestants did not do the same work")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gpt2-30M", help="gpt2-30M, stories260K, bundled or a folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of items")
    parser.add_argument("--only", nargs="*", choices=sorted(TEMPLATES))
    parser.add_argument("--harness-batch", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def prompts_of(workload: Workload) -> list[Prompt]:
    """The prompts of both contestants: their texts are the same, as tests/prompting/test_lm_eval_parity.py shows."""
    rows = shared_folder() / f"data/tasks/{workload.task}.jsonl"
    if not rows.is_file():
        raise LmevalError(f"no {rows}: the shared data are not here (LMEVAL_SHARED names their folder)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.yaml"
        config: dict[str, Any] = {"task": workload.task, "dataset_path": "json", "output_type": "multiple_choice"}
        config |= {"dataset_kwargs": {"data_files": {"test": str(rows)}}, "test_split": "test", "fewshot_split": "test"}
        config |= {"fewshot_config": {"sampler": "first_n"}, **TEMPLATES[workload.task]}
        path.write_text(yaml.safe_dump(config))
        instances = build_instances(
            read_task(path), RunSettings(num_fewshot=workload.n_shots, limit=workload.n_items + workload.n_shots)
        )
    # The examples themselves would each have a prompt of their own.
    return [instances.prompts[item.main] for item in instances.items[workload.n_shots :]]


def measure(model: CausalLM, workload: Workload, args: argparse.Namespace) -> tuple[list[dict[str, Any]], float]:
    prompts = prompts_of(workload)
    runners = contestants(model, prompts, args.harness_batch)
    seconds: dict[str, list[float]] = {runner.name: [] for runner in runners}
    outcomes: dict[str, Outcome] = {}
    for round_ in range(args.rounds + 1):
        for runner in runners:
            began = time.perf_counter()
            outcomes[runner.name] = runner.run()
            if round_:
                seconds[runner.name].append(time.perf_counter() - began)
    reference = outcomes["lm_eval 1"].nats
    scored = [outcome.nats for name, outcome in outcomes.items() if name != "bare"]
    difference = max(float(np.abs(nats - reference).max()) for nats in scored)
    peers = [name for name in seconds if name.startswith("lm_eval")]
    best = [min(seconds[name][r] for name in peers) for r in range(args.rounds)]
    rows = []
    for name, times in seconds.items():
        ratios = sorted(b / t for b, t in zip(best, times, strict=True))
        rows.append(
            {
                "workload": workload.name,
                "n_items": len(prompts),
                "contestant": name,
                "n_tokens": outcomes[name].n_tokens,
                "seconds": statistics.median(times),
                "times": statistics.median(ratios),
                "times_least": ratios[0],
                "times_greatest": ratios[-1],
            }
        )
    return rows, difference


def contestants(model: CausalLM, prompts: list[Prompt], rows: int) -> list[Contestant]:
    def ours(path: str) -> Callable[[], Outcome]:
        def run() -> Outcome:
            requests = [request for encoded in encode_prompts(model, prompts) for request in encoded.requests]
            scored = score_shared(model, requests, path=path)
            return Outcome(np.array([s.log_probs.sum(dtype=np.float64) for s in scored.scores]), scored.cost.n_padded)

        return run

    requests = [request for encoded in encode_prompts(model, prompts) for request in encoded.requests]
    cost = score_shared(model, requests, path="tree").cost
    return [
        Contestant("lmeval tree", ours("tree")),
        Contestant("lmeval plain", ours("plain")),
        Contestant("lm_eval 1", harness(model, prompts, 1)),
        Contestant(f"lm_eval {rows}", harness(model, prompts, rows)),
        Contestant("bare", bare(model, cost, requests)),
    ]


def harness(model: CausalLM, prompts: list[Prompt], rows: int) -> Callable[[], Outcome]:
    """lm_eval on the same network, its progress bars silenced, with its own trick for one-token answers."""
    from lm_eval.api.instance import Instance
    from lm_eval.models import huggingface

    huggingface.tqdm = lambda *values, **named: tqdm(*values, **{**named, "disable": True})
    backend: Any = huggingface.HFLM  # its decorators hide its signature
    adapter = backend(pretrained=model.network, tokenizer=model.encoder.tokenizer, device=str(model.device), batch_size=rows)
    pairs = [pair for prompt in prompts for pair in zip(prompt.contexts, prompt.continuations, strict=True)]
    instances = [Instance("loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
    n_tokens = 0

    def count(_: object, arguments: tuple[torch.Tensor, ...], named: dict[str, torch.Tensor]) -> None:
        nonlocal n_tokens
        n_tokens += (arguments[0] if arguments else named["input_ids"]).numel()

    def run() -> Outcome:
        nonlocal n_tokens
        n_tokens = 0
        handle = model.network.register_forward_pre_hook(count, with_kwargs=True)
        try:
            found = adapter.loglikelihood(instances, disable_tqdm=True)
        finally:
            handle.remove()
        return Outcome(np.array([nats for nats, _ in found]), n_tokens)

    return run


def bare(model: CausalLM, cost: Cost, requests: list[Request]) -> Callable[[], Outcome]:
    """As many tokens as the tree path runs, through the trunk; as many positions through the head."""
    length = 512
    text = np.resize(np.concatenate([request.context for request in requests[:64]]), -(-cost.n_tokens // length) * length)
    ids = torch.from_numpy(text.reshape(-1, length)).to(model.device)
    head: Any = model.network.get_output_embeddings()

    def run() -> Outcome:
        left = cost.n_positions
        with torch.inference_mode():
            for part in ids.split(4):
                hidden = model.network.base_model(input_ids=part, use_cache=False).last_hidden_state.flatten(0, 1)
                head(hidden[: min(left, 512)])
                left = max(0, left - 512)
        return Outcome(np.zeros(0), ids.numel())

    return run


def table(workload: Workload, rows: list[dict[str, Any]]) -> Table:
    made = Table(title=f"{workload.name}: {rows[0]['n_items']} items", title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(("contestant", "tokens", "seconds", "items/s", "times lm_eval", "least", "greatest")):
        made.add_column(column, justify="right" if i else "left", no_wrap=True)
    for row in rows:
        times = [f"{row[key]:.2f}" for key in ("times", "times_least", "times_greatest")]
        rate = row["n_items"] / row["seconds"]
        made.add_row(row["contestant"], f"{row['n_tokens']:,}", f"{row['seconds']:.2f}", f"{rate:.1f}", *times)
    made.add_row()
    return made


if __name__ == "__main__":
    main()
