"""Make the archives of compression/golden, which every later version must decode.

    scripts/make_golden_archives.py     takes about a minute

Run once for each version of the format. To make the archives of a version anew before it is released, delete them first: one
that exists is never overwritten, as it would no longer prove anything.
"""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from sklearn.datasets import load_digits

from lmeval.compression import CompressSettings, compress, decompress, inspect
from lmeval.compression.container import archive
from lmeval.compression.text.online_only import online_block
from lmeval.densities import load_density
from lmeval.densities.checks import draw
from lmeval.models import load_model
from lmeval.results.report import leaves

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "compression" / "golden"
VERSION = "v{}.{}".format(*archive.VERSION)

PLAIN, LIGHT, FULL = (CompressSettings(adapt=level) for level in ("none", "light", "full"))


def main() -> None:
    archives = of_images() | of_text()
    for name, parts in {
        "joined": ("prose-float64", "empty", "table"),
        "adapted-joined": ("adapted-light", "odd", "adapted-empty", "online-light"),
    }.items():
        data, made = zip(*(archives[part] for part in parts), strict=True)
        archives[name] = (b"".join(data), b"".join(made))
    GOLDEN.mkdir(exist_ok=True)
    for name, (data, made) in archives.items():
        path = GOLDEN / f"{VERSION}-{name}.lmz"
        if path.exists():
            print(f"{path.name} exists already: kept")
            continue
        assert decompress(made) == data
        path.write_bytes(made)
        path.with_suffix(".data").write_bytes(data)
        kinds = [block["kind"] for part in leaves(inspect(memoryview(made))) for block in part.tables["blocks"]]
        print(f"{path.name}: {len(data):,} bytes in {len(made):,}, {', '.join(kinds) or 'no blocks'}")


def of_text() -> dict[str, tuple[bytes, bytes]]:
    """Data and archive of every sort that the bundled model or online models code, by name."""
    lines = (ROOT / "tasks/data/sampler.jsonl").read_text(encoding="utf-8").splitlines()
    prose = "\n".join(json.loads(line)["text"] for line in lines).encode()[:3000]
    table = b"".join(b"%d,%d,%d\r\n" % (i, i * i, i % 7) for i in range(400))
    odd = bytes(range(256)) + "naïve <|document|> \u2028 \U0001f642".encode() + b"\xff\xfe\x00 half a character: \xf0\x9f"
    records = "\n".join(lines).encode()[:300]
    model64, narrow = load_model(dtype="float64"), {"lanes": 7, "context": 64, "overlap": 13}
    with patch.dict(os.environ, LMEVAL_COMPILED="0"):
        by_library = compress(prose[:1500], "bundled", PLAIN._replace(lanes=8))
    return {
        "prose": coded(prose, "bundled", PLAIN._replace(lanes=8)),
        "prose-windows": coded(prose, "bundled", PLAIN._replace(**narrow)),
        "prose-library": (prose[:1500], by_library),
        "prose-float64": coded(prose[:700], model64, PLAIN._replace(**narrow)),
        "table": coded(table, "bundled", PLAIN),
        "odd": coded(odd, "bundled", PLAIN),
        "tolerant": coded(prose[:900], "bundled", PLAIN._replace(lanes=3, tolerance=1e-3)),
        "empty": coded(b"", "bundled", PLAIN),
        "adapted-prose": coded(prose, "bundled", FULL._replace(lanes=9)),
        "adapted-light": coded(prose[:1500], "bundled", LIGHT),
        "adapted-float64": coded(prose[:300], model64, FULL._replace(**narrow)),
        "adapted-odd": coded(odd, "bundled", FULL),
        "adapted-json": coded(records, "bundled", FULL),
        "adapted-empty": coded(b"", "bundled", FULL),
        "online-table": online(table, "full"),
        "online-light": online(odd, "light"),
    }


def coded(data: bytes, model: Any, settings: CompressSettings) -> tuple[bytes, bytes]:
    """Data and their archive."""
    return data, compress(data, model, settings, place="cpu")


def online(data: bytes, level: str) -> tuple[bytes, bytes]:
    """Data and an archive of one online block, whatever else would be shorter."""
    out = io.BytesIO()
    header = archive.write_header(
        out, {"adapt": level, "n_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "versions": {}}
    )
    size = out.tell()
    line = archive.write_block(out, online_block(data, 0, level), header.seed)
    archive.write_end(out, [line], size, header.seed)
    return data, out.getvalue()


def of_images() -> dict[str, tuple[bytes, bytes]]:
    """Data and archive of files of images, by name: scikit-learn's digits, and images that a density of MNIST draws."""
    digits = io.BytesIO()
    np.save(digits, np.asarray(load_digits(return_X_y=True)[0])[1437:1457].reshape(20, 8, 8).astype(">i2"))
    drawn = np.asarray(draw(load_density("lmeval-mnist-made-v1").model, 7, seed=0)).astype(np.uint8)
    shape = b"".join(n.to_bytes(4, "big") for n in (7, 28, 28))
    files = {
        "digits-npy": ("lmeval-digits-vae-v1", digits.getvalue()),
        "mnist-idx": ("lmeval-mnist-vae-v1", b"\x00\x00\x08\x03" + shape + drawn.tobytes()),
    }
    return {name: (data, compress(data, density)) for name, (density, data) in files.items()}


if __name__ == "__main__":
    main()
