"""Print the model card's table as Markdown: bits per byte of whole files, beside the general-purpose compressors."""

import argparse
from pathlib import Path

from lmeval import PerplexitySettings, find, load_model, perplexity
from lmeval.compression import STANDARD_LIBRARY, compressed_sizes

CONTEXT = 1024
STRIDES = (1024, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--model", default="bundled")
    args = parser.parse_args()
    model = load_model(args.model)
    strides = " | ".join(f"stride {stride}" for stride in STRIDES)
    print(f"| file | bytes | {strides} | gzip -9 | bzip2 -9 | xz -9e |")
    print("| --- " + "| ---: " * (len(STRIDES) + 4) + "|", flush=True)
    for file in args.files:
        cells = [f"{file.stat().st_size:,}"]
        for stride in STRIDES:
            found = find(perplexity(model, file, PerplexitySettings(context=CONTEXT, stride=stride)), "bits_per_byte")
            half = "" if found.ci95 is None else f" ± {(found.ci95[1] - found.ci95[0]) / 2:.3f}"
            cells.append(f"{found.value:.4f}{half}")
        cells += [f"{size.bits_per_byte:.3f}" for size in compressed_sizes([file.read_bytes()], STANDARD_LIBRARY)]
        print(f"| {file.name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
