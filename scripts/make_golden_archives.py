"""Make the archives of compression/golden, which every later version must decode. Run once for each version of the format.

An archive that exists is never overwritten: it would no longer prove anything.
"""

import json
from pathlib import Path

from lmeval.compression import CompressSettings, compress
from lmeval.models import load_model

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "compression" / "golden"


def main() -> None:
    model, model64 = load_model(), load_model(dtype="float64")
    lines = (ROOT / "tasks/data/sampler.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    prose = "\n".join(texts).encode()[:3000]
    table = b"".join(b"%d,%d,%d\r\n" % (i, i * i, i % 7) for i in range(400))
    odd = bytes(range(256)) + "naïve <|document|> \u2028 \U0001f642".encode() + b"\xff\xfe\x00 half a character: \xf0\x9f"
    archives = {
        "prose": (prose, compress(prose, model, CompressSettings(lanes=8))),
        "prose-float64": (prose[:700], compress(prose[:700], model64, CompressSettings(lanes=7, context=64, overlap=13))),
        "table": (table, compress(table, model)),
        "odd": (odd, compress(odd, model)),
        "tolerant": (prose[:900], compress(prose[:900], model, CompressSettings(lanes=3, tolerance=1e-3))),
        "empty": (b"", compress(b"", model)),
    }
    joined = [archives[name] for name in ("prose-float64", "empty", "table")]
    archives["joined"] = (b"".join(data for data, _ in joined), b"".join(archive for _, archive in joined))
    GOLDEN.mkdir(exist_ok=True)
    for name, (data, archive) in archives.items():
        path = GOLDEN / f"v1.0-{name}.lmz"
        if path.exists():
            print(f"{path.name} exists already: kept")
            continue
        path.write_bytes(archive)
        path.with_suffix(".data").write_bytes(data)
        print(f"{path.name}: {len(data):,} bytes in {len(archive):,}")


if __name__ == "__main__":
    main()
