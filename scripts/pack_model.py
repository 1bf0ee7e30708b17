#!/usr/bin/env python
"""Pack the weights of a model folder into model.packed, the form in which the bundled byte model ships.

    scripts/pack_model.py runs/reference/model lmeval/reference/lmeval-bytes-4m-v2

Every matrix must lie on a grid (lmeval.models.packed says what that is), as a training with the grid in its loop leaves it;
`--bits` rounds it first. Configuration, tokenizer, card and loss curve are copied. Beside a fingerprints.json the new model
is added to it, so that archives find the model that made them.
"""

import argparse
import json
import sys
from pathlib import Path

from lmeval.errors import LmevalError
from lmeval.models.packed import PACKED_NAME
from lmeval.models.packed_folders import pack_folder
from lmeval.results.files import write_text

FINGERPRINTS = "fingerprints.json"


def add_fingerprint(out: Path, weights_sha256: str) -> None:
    """Enter the model into the list beside its folder, where there is one: in the place of what had its name."""
    path = out.resolve().parent / FINGERPRINTS
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        others = {sha256: name for sha256, name in known.items() if name != out.resolve().name}
        write_text(json.dumps({weights_sha256: out.resolve().name} | others, indent=2) + "\n", path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="model in Hugging Face format")
    parser.add_argument("out", type=Path, help="folder for the packed model")
    parser.add_argument("--bits", type=int, help="round every matrix to a grid of so many bits (2 to 8) first")
    args = parser.parse_args()
    try:
        weights_sha256 = pack_folder(args.folder, args.out, args.bits)
    except (LmevalError, OSError) as error:
        sys.exit(f"pack_model: {error}")
    add_fingerprint(args.out, weights_sha256)
    print(f"{args.out / PACKED_NAME}: {(args.out / PACKED_NAME).stat().st_size:,} bytes, weights {weights_sha256}")


if __name__ == "__main__":
    main()
