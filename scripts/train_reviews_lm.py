#!/usr/bin/env python
"""Train the bundled model for prompted tasks: the bundled byte model, taught further on labelled reviews in task templates.

    scripts/train_reviews_lm.py --text TRAIN_FOLDER --mixture mixture.json --reviews sst2.train.jsonl --dev sst2.dev.jsonl \
        --out runs/reviews

It starts from the weights of the bundled model and reads three kinds of sequence, each `--context` bytes long:
  sst2    the training sentences of SST-2, each with its label, in one of TEMPLATES; a prompt of 1 to 12 of them behind BOS
  movies  one to three sentences of a film review of the training text, labelled as the whole review is (its first thousand
          are negative, the others positive), in the same templates: many, but noisy
  text    the mixture of scripts/train_reference_lm.py
The loss is the mean over all bytes, in prompts with `--prompt-weight`, in their labels with `--label-weight`. To it comes,
with `--pooled-weight`, that of a linear classifier of each sentence from the mean of its states before the last layer, which
is thrown away in the end: it brings the label into states from which the prompt's last byte can then read it.

Every `--validate-every` steps it prints the accuracy on the dev set, without examples and with eight: settings are chosen
by that. Like its sibling, a run is a function of its arguments, and goes on from its checkpoint when it is started again.
"""

import argparse
import copy
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

if sys.platform == "linux" and "MALLOC_MMAP_MAX_" not in os.environ:  # see train_reference_lm.py
    tuned = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **tuned})

import numpy as np
import torch
from train_reference_lm import Sampler as TextSampler
from train_reference_lm import build_optimisers, read_sources, set_learning_rates
from transformers import AutoModelForCausalLM, PreTrainedModel

from lmeval.data.resources import reference_folder
from lmeval.models import transformers_folder
from lmeval.models.toys import BOS_ID, byte_tokenizer

SHARES = {"sst2": 0.65, "movies": 0.25, "text": 0.1}


class Template(NamedTuple):
    """Text before and behind the sentence, and the words for negative and positive; one space joins them."""

    before: str
    behind: str
    labels: tuple[str, str]


TEMPLATES = (
    Template("Review: ", "\nSentiment:", ("negative", "positive")),
    Template("", "\nQuestion: Is this sentence positive or negative?\nAnswer:", ("negative", "positive")),
    Template("", " It was", ("terrible", "great")),
    Template("", "\nIs this review good or bad? It is", ("bad", "good")),
)


class Labelled(NamedTuple):
    """A sentence, negative (0) or positive (1)."""

    text: str
    label: int


class Sequence(NamedTuple):
    """Ids [length + 1], their weights in the loss, and the spans (start, stop, label) of the sentences among them."""

    ids: np.ndarray
    weights: np.ndarray
    spans: list[tuple[int, int, int]]


def read_labelled(path: Path) -> list[Labelled]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Labelled(row["sentence"], int(row["label"])) for row in rows]


def read_movies(text: Path) -> list[tuple[list[str], int]]:
    """Sentences and label of each film review."""
    reviews = (text / "movie_reviews.txt").read_text(encoding="utf-8").split("\n\n")
    return [([s.strip() for s in r.splitlines() if s.strip()], int(i >= len(reviews) // 2)) for i, r in enumerate(reviews)]


class Sampler:
    """Sequences [length + 1] of ids with the weight of each, drawn by (seed, number of the sequence) alone."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.sst2 = read_labelled(args.reviews)
        self.movies = read_movies(args.text)
        self.text = TextSampler(read_sources(args.mixture), args.seed, args.context)

    def batch(self, step: int) -> list[Sequence]:
        """The sequences of one step."""
        return [self.sequence(step * self.args.batch + row) for row in range(self.args.batch)]

    def sequence(self, n: int) -> Sequence:
        """The n-th sequence of the run."""
        rng = np.random.default_rng((self.args.seed, 11, n))
        kind = rng.choice(list(SHARES), p=list(SHARES.values()))
        length = self.args.context + 1
        if kind == "text":
            return Sequence(self.text.batch(n, 1)[0], np.full(length, self.args.text_weight, dtype=np.float32), [])
        ids: list[int] = []
        weights: list[float] = []
        spans = []
        while len(ids) < length:
            template = TEMPLATES[rng.choice(len(TEMPLATES), p=self.args.template_shares)]
            ids.append(BOS_ID)
            weights.append(0.0)
            for i in range(int(rng.choice([1, 1, 2, 3, 5, 9, 12]))):
                item = self.item(str(kind), rng)
                start = len(ids)
                prompt = ("\n\n" if i else "") + template.before + item.text + template.behind
                label = " " + template.labels[item.label]
                ids += [*prompt.encode(), *label.encode()]
                weights += [self.args.prompt_weight] * len(prompt.encode()) + [self.args.label_weight] * len(label.encode())
                if len(ids) <= length:
                    spans.append((start, start + len(prompt.encode()), item.label))
        return Sequence(np.array(ids[:length], dtype=np.int64), np.array(weights[:length], dtype=np.float32), spans)

    def item(self, kind: str, rng: np.random.Generator) -> Labelled:
        """A labelled sentence of one kind."""
        if kind == "sst2":
            found = self.sst2[rng.integers(len(self.sst2))]
            return Labelled(dropped(found.text, self.args.word_dropout, rng), found.label)
        sentences, label = self.movies[rng.integers(len(self.movies))]
        first, count = rng.integers(len(sentences)), rng.integers(1, 4)
        return Labelled(" ".join(sentences[first : first + count])[:400], label)


def dropped(text: str, share: float, rng: np.random.Generator) -> str:
    """The text with each word left out with probability `share`, in half of the cases."""
    if rng.random() < 0.5:
        return text
    words = text.split(" ")
    kept = [word for word, draw in zip(words, rng.random(len(words)), strict=True) if draw >= share]
    return " ".join(kept or words)


def accuracy(model: PreTrainedModel, dev: list[Labelled], shots: list[Labelled], template: Template) -> float:
    """Share of the items whose label has the larger log-probability."""

    def shown(item: Labelled) -> str:
        return template.before + item.text + template.behind

    prefix = "".join(f"{shown(shot)} {template.labels[shot.label]}\n\n" for shot in shots)
    right = 0
    model.eval()
    for first in range(0, len(dev), 16):
        part = dev[first : first + 16]
        sums = torch.stack([label_sums(model, [prefix + shown(i) for i in part], " " + w) for w in template.labels], 1)
        right += int((sums.argmax(1) == torch.tensor([item.label for item in part])).sum())
    model.train()
    return right / len(dev)


def label_sums(model: PreTrainedModel, prompts: list[str], label: str) -> torch.Tensor:
    """log p(label | prompt) of each prompt [prompts]."""
    rows = [[BOS_ID, *(prompt + label).encode()] for prompt in prompts]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = torch.tensor(found)
    with torch.no_grad():
        log_probs = model(input_ids=ids).logits.float().log_softmax(-1)
    n = len(label.encode())
    return torch.stack([log_probs[r, len(f) - n - 1 : len(f) - 1].gather(1, ids[r, len(f) - n : len(f), None]).sum()
                        for r, f in enumerate(rows)])  # fmt: skip


class Run(NamedTuple):
    """Everything that a checkpoint holds; `step` steps are done."""

    model: Any
    classifier: torch.nn.Linear
    optimisers: list[torch.optim.Optimizer]
    step: int
    curve: list[dict[str, Any]]


def start(args: argparse.Namespace) -> Run:
    """The run as its checkpoint left it, or the bundled model."""
    folder = transformers_folder(reference_folder())
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    model.config.max_position_embeddings = args.context
    classifier = torch.nn.Linear(model.config.hidden_size, 2)
    optimisers = build_optimisers(torch.nn.ModuleDict({"model": model, "classifier": classifier}), args)
    path = args.out / "checkpoint.pt"
    if not path.exists():
        return Run(model, classifier, optimisers, 0, [])
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    classifier.load_state_dict(state["classifier"])
    for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    return Run(model, classifier, optimisers, state["step"], state["curve"])


def save(run: Run, args: argparse.Namespace) -> None:
    """Checkpoint, and the weights in Hugging Face format; whole or not at all."""
    path = args.out / "checkpoint.pt"
    state: dict[str, Any] = {"model": run.model.state_dict(), "classifier": run.classifier.state_dict()}
    state["optimisers"] = [o.state_dict() for o in run.optimisers]
    torch.save({**state, "step": run.step, "curve": run.curve}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def export(run: Run, args: argparse.Namespace) -> None:
    folder = args.out / "model"
    copy.deepcopy(run.model).to(torch.bfloat16).save_pretrained(folder)
    byte_tokenizer(adds_bos=True).save_pretrained(folder)
    own = {k: v for k, v in vars(args).items() if k not in ("text", "mixture", "reviews", "dev", "out", "threads")}
    (folder / "curve.json").write_text(json.dumps({"settings": own, "shares": SHARES, "curve": run.curve}, indent=1) + "\n")


def train(run: Run, args: argparse.Namespace) -> Run:
    model, sampler = run.model, Sampler(args)
    dev = read_labelled(args.dev)[:: args.dev_every]
    shots = sampler.sst2[:8]

    def loss_of(
        ids: torch.Tensor, weights: torch.Tensor, starts: torch.Tensor, stops: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        found = model.model(input_ids=ids[:, :-1], output_hidden_states=True)
        logits = model.lm_head(found.last_hidden_state).float().flatten(0, 1)
        nats = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        states = found.hidden_states[-2]
        sums = torch.nn.functional.pad(states.cumsum(1), (0, 0, 1, 0)).flatten(0, 1)  # of the states before each place
        pooled = (sums[stops] - sums[starts]) / (stops - starts).clamp(min=1).unsqueeze(1)
        pooled = torch.nn.functional.layer_norm(pooled, pooled.shape[1:])
        guesses = torch.nn.functional.cross_entropy(run.classifier(pooled).float(), labels, ignore_index=-1)
        weighed = nats * weights[:, 1:].flatten()
        labelled = (weights[:, 1:].flatten() == args.label_weight).float()
        loss = weighed.sum() / nats.numel() + args.pooled_weight * guesses
        n_labels = (labels >= 0).sum()
        return torch.stack([loss, (nats * labelled).sum().detach() / n_labels, guesses.detach()])

    def tensors(batch: list[Sequence]) -> list[torch.Tensor]:
        """The batch, with its spans in one list of fixed length: unused places have the label -1."""
        spans = [
            (i * (args.context + 1) + a, i * (args.context + 1) + b, y) for i, s in enumerate(batch) for a, b, y in s.spans
        ]
        spans = (spans + [(0, 0, -1)] * args.batch * (args.context // 24))[: args.batch * (args.context // 24)]
        parts = [np.stack([s.ids for s in batch]), np.stack([s.weights for s in batch]), *np.array(spans, dtype=np.int64).T]
        return [torch.from_numpy(np.ascontiguousarray(part)) for part in parts]

    compiled = torch.compile(loss_of) if args.compile else loss_of
    recent, began, first = [], time.time(), run.step
    for step in range(first, args.steps):
        set_learning_rates(run.optimisers, step, args)
        losses = compiled(*tensors(sampler.batch(step)))
        losses[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in run.optimisers:
            optimiser.step()
            optimiser.zero_grad()
        recent.append(losses.tolist())
        run, done = run._replace(step=step + 1), step + 1 == args.steps
        if run.step % args.log_every == 0 or done:
            row: dict[str, Any] = {"step": run.step, "bytes": run.step * args.batch * args.context}
            row |= zip(("loss", "label_nats", "classifier_nats"), np.mean(recent, axis=0).round(4).tolist(), strict=True)
            if run.step % args.validate_every == 0 or done:
                row["dev_accuracy_0_shot"] = [round(accuracy(model, dev, [], t), 4) for t in TEMPLATES]
                row["dev_accuracy_8_shot"] = round(accuracy(model, dev[::4], shots, TEMPLATES[0]), 4)
            run.curve.append(row)
            recent = []
            print(f"{json.dumps(row)}  {(time.time() - began) / (run.step - first):.3f} s/step", flush=True)
        if run.step % args.checkpoint_every == 0 or done:
            save(run, args)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="folder with the training text")
    parser.add_argument("--mixture", type=Path, required=True, help="as for train_reference_lm.py")
    parser.add_argument("--reviews", type=Path, required=True, help="labelled training sentences, JSON lines")
    parser.add_argument("--dev", type=Path, required=True, help="labelled sentences to choose settings by, JSON lines")
    parser.add_argument("--dev-every", type=int, default=1, help="use every n-th of them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=1536)
    parser.add_argument("--label-weight", type=float, default=60.0, help="of each byte of a label in the loss")
    parser.add_argument("--prompt-weight", type=float, default=0.2, help="of each other byte of a prompt")
    parser.add_argument("--text-weight", type=float, default=1.0, help="of each byte of the mixture's text")
    parser.add_argument("--pooled-weight", type=float, default=1.0, help="of the classifier of pooled states")
    parser.add_argument("--word-dropout", type=float, default=0.15)
    parser.add_argument("--template-shares", type=float, nargs=len(TEMPLATES), default=[0.4, 0.2, 0.2, 0.2])
    parser.add_argument("--muon-lr", type=float, default=0.003)
    parser.add_argument("--adam-lr", type=float, default=0.002)
    parser.add_argument("--weight-decay", type=float, default=0.1, help="of the matrices")
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--decay-fraction", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: torch's default)")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--log-every", type=int, default=25)
    parser.add_argument("--validate-every", type=int, default=100)
    parser.add_argument("--checkpoint-every", type=int, default=100)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    export(train(start(args), args), args)


if __name__ == "__main__":
    main()
