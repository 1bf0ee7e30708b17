#!/usr/bin/env python
"""Train the bundled byte-level language model on a mixture of texts, with its weights on a grid of few bits in the end.

    scripts/train_reference_lm.py --mixture text/mixture.json --out runs/reference

A run is a function of its arguments: its sequences are drawn by (seed, step) alone, so a run that was stopped and is started
again with the same command sees the same bytes. Every `--checkpoint-every` steps it writes `checkpoint.pt` (weights,
optimiser states, loss curve) under a temporary name and renames it; started again, it goes on from there. At its end, or at
any time with `--export`, the weights go to `OUT/model`, which `AutoModelForCausalLM` and `AutoTokenizer` load without custom
code, and which `scripts/pack_model.py` packs for the package.

The learning rate is a trapezoid: up over `--warmup` steps, constant, then linearly down to zero over the last
`--decay-fraction` of `--steps`. Until the decay begins, `--steps`, `--context`, `--batch` and the mixture may be changed on
a resumed run: the model card tells in what parts a model was trained.

The matrices of the blocks are trained with Muon (Jordan et al. 2024; torch.optim.Muon), everything else with AdamW. The
architecture is Qwen3's (normalised queries and keys), with one key-value head, so that decoding reads little cache. From
`--grid-from` on every step computes with the matrices as they will be kept, on grids of `--bits` bits with one step a row,
and applies the gradient there to the exact weights (a straight-through estimator; Bengio, Léonard and Courville 2013).
"""

import argparse
import copy
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

if sys.platform == "linux" and "MALLOC_MMAP_MAX_" not in os.environ and "cuda" not in sys.argv:
    # glibc maps fresh zeroed pages for every tensor over 32 MiB; keeping the heap instead doubled the speed on 4 cores.
    tuned = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **tuned})

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from lmeval.models.toys import BOS_ID, byte_tokenizer

VALIDATION_BYTES = 65_536  # the end of each source, never trained on
GOLDEN_RATIO = 0.6180339887498949
QUERY_BLOCK = 128
CLIPS = (1.0, 0.93, 0.86, 0.79, 0.72, 0.65, 0.58, 0.51)
RESCALE_EVERY = 10


class Source(NamedTuple):
    """One part of the mixture: uint8 bytes to train on, the held-out bytes behind them, and its share of what is read."""

    train: np.ndarray
    valid: np.ndarray
    share: float


def read_sources(mixture: Path) -> dict[str, Source]:
    """Read each part of the mixture: files joined in path order, the last VALIDATION_BYTES held out.

    `mixture` is a JSON file {name: {"share": number, "files": [patterns]}}; patterns stand for files below its folder.
    """
    sources = {}
    for name, part in json.loads(mixture.read_text()).items():
        paths = sorted({p for pattern in part["files"] for p in mixture.parent.glob(pattern) if p.is_file()})
        data = b"\n".join(p.read_bytes() for p in paths)
        if len(data) < 4 * VALIDATION_BYTES:
            raise SystemExit(f"{mixture}: {name} has {len(data):,} bytes, fewer than {4 * VALIDATION_BYTES:,}")
        array = np.frombuffer(data, dtype=np.uint8)
        sources[name] = Source(array[:-VALIDATION_BYTES], array[-VALIDATION_BYTES:], float(part["share"]))
        print(f"{name:16s} {len(paths):5d} files {len(data):12,d} bytes  share {part['share']:.3f}", flush=True)
    return sources


class Sampler:
    """Training sequences, drawn by (seed, number of the sequence in the run) alone.

    Sequence n comes from the source whose share holds the n-th point of the golden-ratio sequence, so that every stretch of
    the run has the mixture's shares. Inside a source, sequences walk through its chunks in an order that is shuffled anew,
    and cut at a new offset, each epoch: no chunk comes twice before all have come. Half of the sequences begin with BOS,
    half with the byte before: windows of a text begin in both ways when they are scored.
    """

    def __init__(self, sources: dict[str, Source], seed: int, length: int) -> None:
        self.data = [source.train for source in sources.values()]
        shares = np.array([source.share for source in sources.values()])
        self.edges = np.concatenate([[0.0], np.cumsum(shares / shares.sum())])
        self.seed, self.length = seed, length
        self._epochs: dict[tuple[int, int], tuple[np.ndarray, int]] = {}

    def batch(self, step: int, rows: int) -> np.ndarray:
        """Token ids [rows, length + 1] of one step."""
        return np.stack([self._sequence(step * rows + row) for row in range(rows)])

    def _sequence(self, n: int) -> np.ndarray:
        j = int(np.searchsorted(self.edges[:-1], ((n + 0.5) * GOLDEN_RATIO) % 1.0, side="right")) - 1
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


def _masks(time: int, heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """For each block of queries: what is added to its scores, so that none looks ahead. Rows are (query, head)."""
    masks = []
    for first in range(0, time, QUERY_BLOCK):
        stop = min(first + QUERY_BLOCK, time)
        ahead = torch.arange(stop) > torch.arange(first, stop)[:, None]
        mask = torch.zeros(ahead.shape).masked_fill(ahead, -torch.inf).repeat_interleave(heads, dim=0)
        masks.append(mask[None].to(dtype))
    return masks


def block_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """Causal attention of heads that share one key-value head, by dense products of blocks of queries with the keys up to
    them: on a CPU with bfloat16 arithmetic twice as fast as PyTorch's own, forward and backward together."""
    batch, heads, time, width = query.shape
    rows = (query * options["scaling"]).transpose(1, 2).reshape(batch, time * heads, width)
    keys, values = key[:, 0], value[:, 0]
    if options.get("lower", torch.is_autocast_enabled("cpu")):
        rows, keys, values = rows.bfloat16(), keys.bfloat16(), values.bfloat16()
    parts = []
    for i, mask in enumerate(_masks(time, heads, rows.dtype)):
        first, stop = i * QUERY_BLOCK, min((i + 1) * QUERY_BLOCK, time)
        scores = torch.baddbmm(mask, rows[:, first * heads : stop * heads], keys[:, :stop].transpose(1, 2))
        parts.append(torch.bmm(torch.softmax(scores, dim=-1), values[:, :stop]))
    return torch.cat(parts, dim=1).reshape(batch, time, heads, width), None


AttentionInterface.register("blocks", block_attention)
AttentionMaskInterface.register("blocks", lambda *_, **__: None)


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
        attn_implementation="blocks" if args.device == "cpu" else "sdpa",  # pyright: ignore[reportCallIssue]
    )
    torch.manual_seed(args.seed)
    model = Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            torch.nn.init.zeros_(parameter)
    if args.start_from:
        first = load_file(args.start_from / "model.safetensors")
        model.load_state_dict({name: tensor.float() for name, tensor in first.items()})
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


def scales_of(weights: torch.Tensor, levels: int) -> torch.Tensor:
    """The step of each row's grid of 2 levels + 1 numbers, of CLIPS the one of least squared error."""
    most = weights.abs().amax(dim=1, keepdim=True).clamp(min=1e-8)
    best, error = most / levels, torch.full_like(most, torch.inf)
    for clip in CLIPS:
        step = most * clip / levels
        off = (on_grid(weights, step, levels) - weights).square().sum(dim=1, keepdim=True)
        best, error = torch.where(off < error, step, best), torch.minimum(off, error)
    return best.half().float()


def on_grid(weights: torch.Tensor, step: torch.Tensor, levels: int) -> torch.Tensor:
    return (weights / step).round().clamp(-levels, levels) * step


class Grid:
    """Weights in the loop as they will be kept: each matrix on the grid of its rows. The gradient at the weights on the grid
    is applied to the weights themselves (a straight-through estimator)."""

    def __init__(self, model: torch.nn.Module, bits: int) -> None:
        self.levels = 2 ** (bits - 1) - 1
        self.matrices = [p for p in model.parameters() if p.ndim == 2]
        self.uses = 0

    @torch.no_grad()
    def enter(self) -> None:
        """Put the matrices onto their grids."""
        if self.uses % RESCALE_EVERY == 0:
            self.steps = [scales_of(p, self.levels) for p in self.matrices]
        self.uses += 1
        self.exact = [p.clone() for p in self.matrices]
        for p, step in zip(self.matrices, self.steps, strict=True):
            p.copy_(on_grid(p, step, self.levels))

    @torch.no_grad()
    def leave(self) -> None:
        """Put the exact weights back."""
        for p, exact in zip(self.matrices, self.exact, strict=True):
            p.copy_(exact)


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
    own = {k: v for k, v in vars(args).items() if k not in ("mixture", "start_from", "out", "export", "threads")}
    return json.dumps({"settings": own, "curve": run.curve}, indent=1) + "\n"


def export(run: Run, args: argparse.Namespace) -> None:
    """Write config, weights, tokenizer and loss curve in Hugging Face format: matrices on their grids, in float32, and the
    weights of norms rounded to bfloat16. `scripts/pack_model.py` makes a small file of the weights."""
    folder = args.out / "model"
    model = copy.deepcopy(run.model).cpu()
    Grid(model, args.bits).enter()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data = parameter.data.bfloat16().float()
    model.config._attn_implementation = "sdpa"
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (folder / "curve.json").write_text(curve_json(run, args))


def train(run: Run, sources: dict[str, Source], args: argparse.Namespace) -> Run:
    model, sampler = run.model, Sampler(sources, args.seed, args.context)

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.bfloat16):
            logits = model.lm_head(model.model(input_ids=ids[:, :-1]).last_hidden_state)
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    compiled = torch.compile(loss_of) if args.compile else loss_of
    grid = Grid(model, args.bits)
    recent, began, first = [], time.time(), run.step
    for step in range(first, args.steps):
        set_learning_rates(run.optimisers, step, args)
        if weight_grid := grid if step >= args.grid_from else None:
            weight_grid.enter()
        loss = compiled(torch.from_numpy(sampler.batch(step, args.batch)).to(args.device))
        loss.backward()
        if weight_grid:
            weight_grid.leave()
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
                if step >= args.grid_from:
                    grid.enter()
                    row["valid_bits_per_byte_on_grid"] = validation_bits(model, sources, args)
                    grid.leave()
            run.curve.append(row)
            recent = []
            print(f"{json.dumps(row)}  {(time.time() - began) / (run.step - first):.3f} s/step", flush=True)
        if run.step % args.checkpoint_every == 0 or done:
            save(run, args)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mixture", type=Path, required=True, help="JSON file: parts of the training text, their shares")
    parser.add_argument("--start-from", type=Path, help="folder of a model of the same shape whose weights are the first")
    parser.add_argument("--bits", type=int, default=5, help="of a weight of the grid")
    parser.add_argument("--grid-from", type=int, default=10**9, help="first step with weights on the grid")
    parser.add_argument(
        "--bfloat16", action=argparse.BooleanOptionalAction, default=True, help="matrix products in bfloat16"
    )
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
    export(run if args.export else train(run, read_sources(args.mixture), args), args)


if __name__ == "__main__":
    main()
