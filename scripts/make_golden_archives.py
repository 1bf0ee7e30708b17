"""Make the archives of compression/golden, which every later version must decode. Run once for each version of the format.

An archive that exists is never overwritten: it would no longer prove anything.
"""

import hashlib
import io
import json
from pathlib import Path

from lmeval.compression import CompressSettings, compress, decompress, inspect
from lmeval.compression.container import archive
from lmeval.compression.text.online_only import online_block
from lmeval.models import load_model
from lmeval.results.report import leaves

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "compression" / "golden"


def main() -> None:
    model, model64 = load_model(), load_model(dtype="float64")
    lines = (ROOT / "tasks/data/sampler.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    prose = "\n".join(texts).encode()[:3000]
    table = b"".join(b"%d,%d,%d\r\n" % (i, i * i, i % 7) for i in range(400))
    odd = bytes(range(256)) + "naïve <|document|> \u2028 \U0001f642".encode() + b"\xff\xfe\x00 half a character: \xf0\x9f"
    plain = CompressSettings(adapt="none")
    archives = {
        "v1.0-prose": (prose, compress(prose, model, plain._replace(lanes=8))),
        "v1.0-prose-float64": (prose[:700], compress(prose[:700], model64, plain._replace(lanes=7, context=64, overlap=13))),
        "v1.0-table": (table, compress(table, model, plain)),
        "v1.0-odd": (odd, compress(odd, model, plain)),
        "v1.0-tolerant": (prose[:900], compress(prose[:900], model, plain._replace(lanes=3, tolerance=1e-3))),
        "v1.0-empty": (b"", compress(b"", model, plain)),
    }
    joined = [archives[f"v1.0-{name}"] for name in ("prose-float64", "empty", "table")]
    archives["v1.0-joined"] = (b"".join(data for data, _ in joined), b"".join(made for _, made in joined))
    full, light = CompressSettings(), CompressSettings(adapt="light")
    archives |= {
        "v1.2-adapted-prose": (prose, compress(prose, model, full._replace(lanes=9))),
        "v1.2-adapted-light": (prose[:1500], compress(prose[:1500], model, light)),
        "v1.2-adapted-float64": (
            prose[:300],
            compress(prose[:300], model64, full._replace(lanes=7, context=64, overlap=13)),
        ),
        "v1.2-odd": (odd, compress(odd, model, full)),
        "v1.2-empty": (b"", compress(b"", model, full)),
        "v1.2-online-table": online(table, "full"),
        "v1.2-online-light": online(odd, "light"),
    }
    joined = [archives[name] for name in ("v1.2-adapted-light", "v1.0-odd", "v1.2-empty", "v1.2-online-light")]
    archives["v1.2-joined"] = (b"".join(data for data, _ in joined), b"".join(made for _, made in joined))
    GOLDEN.mkdir(exist_ok=True)
    for name, (data, made) in archives.items():
        path = GOLDEN / f"{name}.lmz"
        if path.exists():
            print(f"{path.name} exists already: kept")
            continue
        assert decompress(made) == data
        path.write_bytes(made)
        path.with_suffix(".data").write_bytes(data)
        kinds = [block["kind"] for part in leaves(inspect(memoryview(made))) for block in part.tables["blocks"]]
        print(f"{path.name}: {len(data):,} bytes in {len(made):,}, {', '.join(kinds) or 'no blocks'}")


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


if __name__ == "__main__":
    main()
