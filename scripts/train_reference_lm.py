#!/usr/bin/env python
"""Train the bundled byte-level language model, from a folder of plain text and Python's standard library.

    scripts/train_reference_lm.py --text TRAIN_FOLDER --out runs/reference --steps 6000

A run is a function of its arguments: sequences are drawn by (seed, step) alone, so a run that was stopped and started again
with the same command sees the same bytes. Every `--checkpoint-every` steps it writes `checkpoint.pt` (weights, optimiser
states, curve) under a temporary name and renames it; started again, it goes on from there. At the end, or at any time with
`--export`, the weights go as bfloat16 safetensors with configuration and tokenizer to `OUT/model`, which
`AutoModelForCausalLM` and `AutoTokenizer` load without custom code.

The schedule is trapezoidal: warm-up, constant, then linear decay to zero over the last `--decay-fraction` of the steps.
Until the decay begins, `--steps` may be changed on a resumed run; what was used is in `curve.json`.

Matrices inside the blocks are trained with Muon (Jordan et al. 2024, torch.optim.Muon), everything else with AdamW.
"""

import argparse
import json
import math
import os
import sys
import sysconfig
import time
from pathlib import Path
from typing import NamedTuple

if sys.platform == "linux" and "MALLOC_MMAP_MAX_" not in os.environ and "cuda" not in sys.argv:
    # glibc gives every tensor over 32 MiB fresh zeroed pages; keeping the heap instead doubled the speed on 4 cores.
    tuned = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **tuned})

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

BOS = 256
BOS_TEXT = "<|document|>"
VOCAB = 257

# Shares of the training bytes. The encyclopedia is small and the farthest from the rest, so it is read several times.
MIXTURE = {"enwik8": 0.27, "books": 0.29, "movie_reviews": 0.12, "docs": 0.15, "tinyshakespeare": 0.04, "stdlib": 0.13}
VALIDATION_BYTES = 65_536  # the end of each source, never trained on


class Source(NamedTuple):
    """One group of the mixture: uint8 bytes to train on, and the held-out bytes behind them."""

    train: np.ndarray
    valid: np.ndarray


def standard_library() -> list[Path]:
    """Python source files of the running interpreter's standard library, without pydoc_data and installed packages."""
    root = Path(sysconfig.get_path("stdlib"))
    skip = {"site-packages", "pydoc_data", "lib2to3", "__pycache__", "idlelib", "turtledemo"}
    return sorted(p for p in root.rglob("*.py") if not skip & set(p.relative_to(root).parts))


def read_sources(text: Path) -> dict[str, Source]:
    """Read each group of the mixture; files are joined in path order, the last VALIDATION_BYTES are held out."""
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


def draw_batch(sources: dict[str, Source], seed: int, step: int, batch: int, length: int) -> np.ndarray:
    """Token ids [batch, length + 1] of one step, drawn by (seed, step) alone.

    The i-th sequence of a source in the whole run is the i-th chunk of a walk through that source in an order shuffled anew
    (and cut at a new offset) each epoch, so no chunk comes twice before all have come. The first token of every other
    sequence is BOS, else it is the byte before: scoring windows start in both ways.
    """
    names, shares = list(MIXTURE), np.array(list(MIXTURE.values()))
    ids = np.empty((batch, length + 1), dtype=np.int64)
    # Low-discrepancy counts: after n sequences source j has been drawn floor-close to n * share_j times.
    edges = np.concatenate([[0.0], np.cumsum(shares / shares.sum())])
    for row in range(batch):
        n = step * batch + row
        u = ((n + 0.5) * 0.6180339887498949) % 1.0
        j = int(np.searchsorted(edges, u, side="right")) - 1
        data = sources[names[j]].train
        chunks = (len(data) - 1) // length - 1
        i = int(n * (edges[j + 1] - edges[j]))
        epoch, position = divmod(i, chunks)
        order, offset = _epoch_order(seed, j, epoch, chunks, length)
        start = offset + int(order[position]) * length
        ids[row] = data[start : start + length + 1]
        if np.random.default_rng((seed, 7, n)).random() < 0.5:
            ids[row, 0] = BOS
    return ids


_orders: dict[tuple[int, int], tuple[np.ndarray, int]] = {}


def _epoch_order(seed: int, j: int, epoch: int, chunks: int, length: int) -> tuple[np.ndarray, int]:
    if (j, epoch) not in _orders:
        rng = np.random.default_rng((seed, j, epoch))
        _orders[j, epoch] = rng.permutation(chunks), int(rng.integers(length))
    return _orders[j, epoch]


def build_model(args: argparse.Namespace) -> PreTrainedModel:
    common = dict(
        vocab_size=VOCAB,
        hidden_size=args.width,
        intermediate_size=args.hidden,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=1,
        head_dim=args.head_dim,
        max_position_embeddings=args.context,
        tie_word_embeddings=False,
        bos_token_id=BOS,
        eos_token_id=BOS,
        pad_token_id=None,
        rope_parameters={"rope_theta": 10000.0, "rope_type": "default"},
        rms_norm_eps=1e-5,
    )
    torch.manual_seed(args.seed)
    if args.arch == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**common, attn_implementation="sdpa"))
    else:
        model = LlamaForCausalLM(LlamaConfig(**common, attn_implementation="sdpa"))
    for name, p in model.named_parameters():  # residual outputs start at zero: the network starts as the identity
        if name.endswith(("o_proj.weight", "down_proj.weight", "lm_head.weight")):
            torch.nn.init.zeros_(p)
    return model


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The byte tokenizer: token id = byte value, 256 = document start. A byte-level BPE with no merges."""
    table = bytes_to_characters()
    core = Tokenizer(models.BPE(vocab={table[b]: b for b in range(256)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS_TEXT,
        eos_token=BOS_TEXT,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


def bytes_to_characters() -> dict[int, str]:
    """GPT-2's reversible map from bytes to printable characters, as the ByteLevel pre-tokenizer applies it."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in printable}
    for b in range(256):
        table.setdefault(b, chr(256 + len(table) - len(printable)))
    return table


def build_optimisers(model: torch.nn.Module, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    blocks = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    rest = [p for n, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in n)]
    adam = torch.optim.AdamW(rest, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    if args.muon_lr <= 0:
        return [adam, torch.optim.AdamW(blocks, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)]
    muon = torch.optim.Muon(
        blocks, lr=args.muon_lr, momentum=0.95, weight_decay=args.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [adam, muon]


def learning_rate_scale(step: int, args: argparse.Namespace) -> float:
    """Trapezoid in [0, 1]: linear up over `warmup` steps, 1, linear down over the last `decay_fraction` of `steps`."""
    up = (step + 1) / args.warmup
    down = (args.steps - step) / max(1, args.decay_fraction * args.steps)
    return min(1.0, up, down)


def validation_bits(model: PreTrainedModel, sources: dict[str, Source], length: int, device: str) -> dict[str, float]:
    """Bits per byte on the held-out end of each source, disjoint windows behind BOS."""
    out = {}
    model.eval()
    for name, source in sources.items():
        rows = source.valid[: len(source.valid) // length * length].reshape(-1, length).astype(np.int64)
        ids = torch.from_numpy(np.concatenate([np.full((len(rows), 1), BOS), rows], axis=1)).to(device)
        nats = 0.0
        with torch.no_grad():
            for part in ids.split(16):
                logits = model(input_ids=part[:, :-1]).logits.float()
                nats += (
                    torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum")
                    .double()
                    .item()
                )
        out[name] = nats / rows.size / math.log(2)
    model.train()
    return out


def export(model: PreTrainedModel, folder: Path) -> None:
    """Write config, bfloat16 weights and tokenizer in Hugging Face format."""
    import copy

    copy.deepcopy(model).to("cpu", torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def save_checkpoint(path: Path, state: dict) -> None:
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)


def train(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    sources = read_sources(args.text)
    model = build_model(args).to(args.device)
    optimisers = build_optimisers(model, args)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    first, curve, checkpoint = 0, [], args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=args.device, weights_only=True)
        model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        first, curve = state["step"], state["curve"]
        print(f"resumed at step {first}", flush=True)
    if args.export:
        return export(model, args.out / "model")

    def loss_of(ids: torch.Tensor) -> torch.Tensor:
        with torch.autocast(args.device, torch.bfloat16, enabled=args.device == "cuda"):
            hidden = model.model(input_ids=ids[:, :-1]).last_hidden_state
            logits = model.lm_head(hidden)
        return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    compiled = torch.compile(loss_of) if args.compile else loss_of
    base = [[g["lr"] for g in o.param_groups] for o in optimisers]
    if first:  # the checkpoint holds decayed rates; the schedule starts from the arguments
        base = [[args.adam_lr], [args.muon_lr if args.muon_lr > 0 else args.adam_lr]]
    recent, began = [], time.time()
    for step in range(first, args.steps):
        for optimiser, rates in zip(optimisers, base, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * learning_rate_scale(step, args)
        ids = torch.from_numpy(draw_batch(sources, args.seed, step, args.batch, args.context)).to(args.device)
        loss = compiled(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        recent.append(loss.item() / math.log(2))
        if (step + 1) % args.log_every == 0 or step + 1 == args.steps:
            row = {
                "step": step + 1,
                "bytes": (step + 1) * args.batch * args.context,
                "train_bits_per_byte": round(float(np.mean(recent)), 4),
            }
            if (step + 1) % args.validate_every == 0 or step + 1 == args.steps:
                row["valid_bits_per_byte"] = {
                    k: round(v, 4) for k, v in validation_bits(model, sources, args.context, args.device).items()
                }
            curve.append(row)
            seconds = (time.time() - began) / (step + 1 - first)
            print(f"{json.dumps(row)}  {seconds:.3f} s/step", flush=True)
            recent = []
        if (step + 1) % args.checkpoint_every == 0 or step + 1 == args.steps:
            save_checkpoint(
                checkpoint,
                {
                    "model": model.state_dict(),
                    "optimisers": [o.state_dict() for o in optimisers],
                    "step": step + 1,
                    "curve": curve,
                },
            )
            settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
            (args.out / "curve.json").write_text(
                json.dumps({"settings": settings, "mixture": MIXTURE, "curve": curve}, indent=1)
            )
    export(model, args.out / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="folder with the training text")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, curve and exported model")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=16, help="sequences a step")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--arch", choices=["llama", "qwen3"], default="llama")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--width", type=int, default=288)
    parser.add_argument("--hidden", type=int, default=672)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--muon-lr", type=float, default=0.004, help="0 trains everything with AdamW")
    parser.add_argument("--adam-lr", type=float, default=0.003)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--decay-fraction", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--validate-every", type=int, default=500)
    parser.add_argument("--checkpoint-every", type=int, default=200)
    parser.add_argument("--export", action="store_true", help="write the checkpoint's model and stop")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
