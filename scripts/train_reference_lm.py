#!/usr/bin/env python
"""Train the bundled byte-level language model, on a folder of plain text and on Python's standard library.

    scripts/train_reference_lm.py --text TRAIN_FOLDER --out runs/reference

A run is a function of its arguments: its sequences are drawn by (seed, step) alone, so a run that was stopped and is started
again with the same command sees the same bytes. Every `--checkpoint-every` steps it writes `checkpoint.pt` (weights,
optimiser states, loss curve) under a temporary name and renames it; started again, it goes on from there. At its end, or at
any time with `--export`, the weights go as bfloat16 safetensors, with configuration, tokenizer and loss curve, to
`OUT/model`, which `AutoModelForCausalLM` and `AutoTokenizer` load without custom code.

The learning rate is a trapezoid: up over `--warmup` steps, constant, then linearly down to zero over the last
`--decay-fraction` of `--steps`. Until the decay begins, `--steps` may be changed on a resumed run.

The matrices of the blocks are trained with Muon (Jordan et al. 2024; torch.optim.Muon), everything else with AdamW. The
architecture is Qwen3's (normalised queries and keys), with one key-value head, so that decoding reads little cache.
"""

import argparse
import copy
import json
import math
import os
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any, NamedTuple

if sys.platform == "linux" and "MALLOC_MMAP_MAX_" not in os.environ and "cuda" not in sys.argv:
    # glibc maps fresh zeroed pages for every tensor over 32 MiB; keeping the heap instead doubled the speed on 4 cores.
    tuned = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **tuned})

import numpy as np
import torch
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from lmeval.models.toys import BOS_ID, byte_tokenizer

# Shares of the training bytes. The encyclopedia is small and far from all the rest, so it is read several times.
MIXTURE = {"enwik8": 0.27, "books": 0.29, "movie_reviews": 0.12, "docs": 0.15, "tinyshakespeare": 0.04, "stdlib": 0.13}
VALIDATION_BYTES = 65_536  # the end of each source, never trained on
GOLDEN_RATIO = 0.6180339887498949


class Source(NamedTuple):
    """One part of the mixture: uint8 bytes to train on, and the held-out bytes behind them."""

    train: np.ndarray
    valid: np.ndarray


def standard_library() -> list[Path]:
    """Python source files of the interpreter's standard library, without pydoc_data (the demo's text) and packages."""
    root = Path(sysconfig.get_path("stdlib"))
    skip = {"site-packages", "pydoc_data", "lib2to3", "__pycache__", "idlelib", "turtledemo"}
    return sorted(p for p in root.rglob("*.py") if not skip & set(p.relative_to(root).parts))


def read_sources(text: Path) -> dict[str, Source]:
    """Read each part of the mixture: files joined in path order, the last VALIDATION_BYTES held out."""
    files = {
        "enwik8": [text / "enwik8.train3M"],
        "books": sorted((text / "books").glob("*.txt")),
        "movie_reviews": [text / "movie_reviews.txt"],
        "docs": sorted((text / "docs").glob("*.txt")),
        "tinyshakespeare": [text / "tinyshakespeare.train"],
        "stdlib": standard_library(),
    }
    sources = {}
    for name, paths in files.items():
        data = b"\n".join(p.read_bytes() for p in paths)
        array = np.frombuffer(data, dtype=np.uint8)
        sources[name] = Source(array[:-VALIDATION_BYTES], array[-VALIDATION_BYTES:])
        print(f"{name:16s} {len(paths):5d} files {len(data):12,d} bytes  share {MIXTURE[name]:.2f}", flush=True)
    return sources


class Sampler:
    """Training sequences, drawn by (seed, number of the sequence in the run) alone.

    Sequence n comes from the source whose share holds the n-th point of the golden-ratio sequence, so that every stretch of
    the run has the mixture's shares. Inside a source, sequences walk through its chunks in an order that is shuffled anew,
    and cut at a new offset, each epoch: no chunk comes twice before all have come. Half of the sequences begin with BOS,
    half with the byte before: windows of a text begin in both ways when they are scored.
    """

    def __init__(self, sources: dict[str, Source], seed: int, length: int) -> None:
        self.data = [sources[name].train for name in MIXTURE]
        self.edges = np.concatenate([[0.0], np.cumsum(np.array(list(MIXTURE.values())) / sum(MIXTURE.values()))])
        self.seed, self.length = seed, length
        self._epochs: dict[tuple[int, int], tuple[np.ndarray, int]] = {}

    def batch(self, step: int, rows: int) -> np.ndarray:
        """Token ids [rows, length + 1] of one step."""
        return np.stack([self._sequence(step * rows + row) for row in range(rows)])

    def _sequence(self, n: int) -> np.ndarray:
        j = int(np.searchsorted(self.edges, ((n + 0.5) * GOLDEN_RATIO) % 1.0, side="right")) - 1
        data = self.data[j]
        chunks = (len(data) - 1) // self.length - 1
        epoch, position = divmod(int(n * (self.edges[j + 1] - self.edges[j])), chunks)
        order, offset = self._epoch(j, epoch, chunks)
        start = offset + int(order[position]) * self.length
        ids = data[start : start + self.length + 1].astype(np.int64)
        if np.random.default_rng((self.seed, 7, n)).random() < 0.5:
            ids[0] = BOS_ID
        return ids

    def _epoch(self, j: int, epoch: int, chunks: int) -> tuple[np.ndarray, int]:
        if (j, epoch) not in self._epochs:
            rng = np.random.default_rng((self.seed, j, epoch))
            self._epochs[j, epoch] = rng.permutation(chunks), int(rng.integers(self.length))
        return self._epochs[j, epoch]


def build_model(args: argparse.Namespace) -> PreTrainedModel:
    """A fresh network; the blocks' outputs and the head start at zero, so that it starts as the uniform distribution."""
    config = Qwen3Config(
        vocab_size=BOS_ID + 1,
        hidden_size=args.width,
        intermediate_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=1,
        head_dim=args.head_dim,
        max_position_embeddings=args.context,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
        pad_token_id=None,
        attn_implementation="sdpa",
    )
    torch.manual_seed(args.seed)
    model = Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            torch.nn.init.zeros_(parameter)
    return model


def build_optimisers(model: torch.nn.Module, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """AdamW for embeddings, head and norms; Muon for the matrices of the blocks."""
    matrices = {n: p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n}
    rest = [p for n, p in model.named_parameters() if n not in matrices]
    adam = torch.optim.AdamW(rest, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    muon = torch.optim.Muon(
        list(matrices.values()),
        lr=args.muon_lr,
        momentum=0.95,
        weight_decay=args.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adam, muon]


def learning_rate_scale(step: int, args: argparse.Namespace) -> float:
    """The trapezoid, in [0, 1]."""
    up = (step + 1) / args.warmup
    down = (args.steps - step) / max(1, args.decay_fraction * args.steps)
    return min(1.0, up, down)


def set_learning_rates(optimisers: list[torch.optim.Optimizer], step: int, args: argparse.Namespace) -> None:
    for optimiser, rate in zip(optimisers, (args.adam_lr, args.muon_lr), strict=True):
        for group in optimiser.param_groups:
            group["lr"] = rate * learning_rate_scale(step, args)


def validation_bits(model: PreTrainedModel, sources: dict[str, Source], args: argparse.Namespace) -> dict[str, float]:
    """Bits per byte on the held-out end of each source: disjoint windows behind BOS."""
    found = {}
    model.eval()
    for name, source in sources.items():
        rows = source.valid[: len(source.valid) // args.context * args.context].reshape(-1, args.context)
        ids = torch.from_numpy(np.insert(rows.astype(np.int64), 0, BOS_ID, axis=1)).to(args.device)
        nats = 0.0
        with torch.no_grad():
            for part in ids.split(16):
                logits = model(input_ids=part[:, :-1]).logits.float().flatten(0, 1)
                nats += torch.nn.functional.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum").item()
        found[name] = round(nats / rows.size / math.log(2), 4)
    model.train()
    return found


class Run(NamedTuple):
    """Everything that a checkpoint holds; `step` steps are done."""

    model: PreTrainedModel
    optimisers: list[torch.optim.Optimizer]
    step: int
    curve: list[dict[str, Any]]


def start(args: argparse.Namespace) -> Run:
    """The run as its checkpoint left it, or a fresh one."""
    model = build_model(args).to(args.device)
    optimisers = build_optimisers(model, args)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    path = args.out / "checkpoint.pt"
    if not path.exists():
        return Run(model, optimisers, 0, [])
    state = torch.load(path, map_location=args.device, weights_only=True)
    model.load_state_dict(state["model"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    print(f"resumed at step {state['step']}", flush=True)
    return Run(model, optimisers, state["step"], state["curve"])


def save(run: Run, args: argparse.Namespace) -> None:
    """Write checkpoint and loss curve, whole or not at all."""
    path = args.out / "checkpoint.pt"
    state = {"model": run.model.state_dict(), "optimisers": [o.state_dict() for o in run.optimisers]}
    torch.save({**state, "step": run.step, "curve": run.curve}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    (args.out / "curve.json").write_text(curve_json(run, args))


def curve_json(run: Run, args: argparse.Namespace) -> str:
    own = {k: v for k, v in vars(args).items() if k not in ("text", "out", "export", "threads")}
    return json.dumps({"settings": own, "mixture": MIXTURE, "curve": run.curve}, indent=1) + "\n"


def export(run: Run, args: argparse.Namespace) -> None:
    """Write config, bfloat16 weights, tokenizer and loss curve in Hugging Face format."""
    folder = args.out / "model"
    copy.deepcopy(run.model).to("cpu", torch.bfloat16).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "curve.json").write_text(curve_json(run, args))


def train(run: Run, sources: dict[str, Source], args: argparse.Namespace) -> Run:
    model, sampler = run.model, Sampler(sources, args.seed, args.context)

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            logits = model.lm_head(model.model(input_ids=ids[:, :-1]).last_hidden_state)
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    compiled = torch.compile(loss_of) if args.compile else loss_of
    recent, began, first = [], time.time(), run.step
    for step in range(first, args.steps):
        set_learning_rates(run.optimisers, step, args)
        loss = compiled(torch.from_numpy(sampler.batch(step, args.batch)).to(args.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in run.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        recent.append(loss.item() / math.log(2))
        run, done = run._replace(step=step + 1), step + 1 == args.steps
        if run.step % args.log_every == 0 or done:
            row = {"step": run.step, "bytes": run.step * args.batch * args.context}
            row["train_bits_per_byte"] = round(float(np.mean(recent)), 4)
            if run.step % args.validate_every == 0 or done:
                row["valid_bits_per_byte"] = validation_bits(model, sources, args)
            run.curve.append(row)
            recent = []
            print(f"{json.dumps(row)}  {(time.time() - began) / (run.step - first):.3f} s/step", flush=True)
        if run.step % args.checkpoint_every == 0 or done:
            save(run, args)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="folder with the training text")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, curve and exported model")
    parser.add_argument("--steps", type=int, default=5200)
    parser.add_argument("--batch", type=int, default=16, help="sequences a step")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--width", type=int, default=288)
    parser.add_argument("--hidden", type=int, default=672)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--muon-lr", type=float, default=0.008)
    parser.add_argument("--adam-lr", type=float, default=0.006)
    parser.add_argument("--weight-decay", type=float, default=0.05, help="of the matrices")
    parser.add_argument("--warmup", type=int, default=60)
    parser.add_argument("--decay-fraction", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--checkpoint-every", type=int, default=100)
    parser.add_argument("--export", action="store_true", help="write the checkpoint's model and stop")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    run = start(args)
    export(run if args.export else train(run, read_sources(args.text), args), args)


if __name__ == "__main__":
    main()
