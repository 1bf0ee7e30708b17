"""The golden archives, and a decoder written from compression/FORMAT.md that shares nothing with the package."""

import hashlib
import io
import json
import math
import struct
import zlib
from pathlib import Path

import pytest
import torch
from samples import ROOT
from transformers import AutoModelForCausalLM

from lmeval.compression import CompressSettings, compress_to, decompress, inspect
from lmeval.models import load_model
from lmeval.perplexity import Settings, perplexity

GOLDEN = sorted((ROOT / "compression" / "golden").glob("*.lmz"))
REFERENCE = ROOT / "lmeval" / "reference"


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_archives_decode(path: Path):
    assert decompress(path.read_bytes()) == path.with_suffix(".data").read_bytes()


def test_there_are_golden_archives_of_every_kind():
    kinds = {block["kind"] for path in GOLDEN for part in inspect(memoryview(path.read_bytes())) for block in part["blocks"]}
    assert {"model", "xz"} <= kinds
    assert any(len(inspect(memoryview(path.read_bytes()))) > 1 for path in GOLDEN)


def test_every_golden_model_is_bundled():
    known = json.loads((REFERENCE / "fingerprints.json").read_text())
    for path in GOLDEN:
        for part in inspect(memoryview(path.read_bytes())):
            assert "model" not in part or part["model"]["weights_sha256"] in known


@pytest.mark.parametrize("name", ["v1.0-prose-float64"])
def test_a_decoder_written_from_the_page(name: str):
    raw = (ROOT / "compression" / "golden" / f"{name}.lmz").read_bytes()
    assert _decode_by_the_page(raw) == (ROOT / "compression" / "golden" / f"{name}.data").read_bytes()


def _decode_by_the_page(raw: bytes) -> bytes:
    dictionary = next(
        line.strip() for line in (ROOT / "compression/FORMAT.md").read_text().splitlines() if line.startswith('    "lmeval')
    )
    signature, major, _, _, size = struct.unpack_from("<8sBBHI", raw)
    assert (signature, major) == (b"\x89LMZ\r\n\x1a\n", 1)
    meta = json.loads(zlib.decompressobj(zdict=dictionary.encode()).decompress(raw[16 : 16 + size]))
    seed = zlib.crc32(raw[: 16 + size])
    position = 16 + size
    assert struct.unpack_from("<I", raw, position)[0] == seed
    position += 4
    data = b""
    while raw[position : position + 4] == b"LMZB":
        fields = struct.unpack_from("<4sIIQBBHII8sII", raw, position)
        _, stored, n_bytes, offset, kind, flags, n_lanes, n_tokens, group, digest, _, check = fields
        assert zlib.crc32(raw[position : position + 44], seed) == check
        assert kind == 3 and offset == len(data)
        payload = raw[position + 48 : position + 48 + stored]
        # The bundled model's tokens are bytes.
        piece = bytes(_tokens(meta["model"], payload, n_lanes, n_tokens, group))[flags & 1 :]
        assert len(piece) == n_bytes and hashlib.blake2b(piece, digest_size=8).digest() == digest
        data += piece
        position += 48 + stored
    assert raw[position : position + 4] == b"LMZI" and raw[-8:] == signature[::-1]
    assert hashlib.sha256(data).hexdigest() == meta["sha256"]
    return data


def _tokens(meta: dict, payload: bytes, n_lanes: int, n_tokens: int, group: int) -> list[int]:
    network = AutoModelForCausalLM.from_pretrained(REFERENCE / meta["name"], dtype=getattr(torch, meta["dtype"])).eval()
    bits = "".join(f"{byte:08b}" for byte in payload[1:])
    ranks, place = [], 0
    for _ in range(-(-n_tokens // group)):
        ones = bits.index("0", place) - place
        place += ones + 1 + payload[0]
        ranks.append(ones << payload[0] | int("0" + bits[place - payload[0] : place], 2))
    used = 1 + -(-place // 8)
    words = list(struct.unpack(f"<{(len(payload) - used) // 4}I", payload[used:]))
    state = 0
    while state < 1 << 32 and words:
        state = state << 32 | words.pop()
    lengths = [n_tokens // n_lanes + (lane < n_tokens % n_lanes) for lane in range(n_lanes)]
    lanes: list[list[int]] = [[] for _ in lengths]
    window, overlap, grid = meta["window"], meta["overlap"], meta["grid_cells"] * 4096
    begin, stop = 0, window
    for t in range(max(lengths)):
        if t == stop:
            begin = max(0, t - overlap)
            stop = begin + window
        active = [lane for lane in range(n_lanes) if t < lengths[lane]]
        inputs = torch.tensor([[meta["start_id"], *lanes[lane][begin:]] for lane in active])
        with torch.inference_mode():
            logits = network(input_ids=inputs, use_cache=False).logits[:, -1, : 1 << meta["tree_depth"]].double()
        masses = (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-80).exp().tolist()
        low, high = [0] * len(active), [1 << meta["tree_depth"]] * len(active)
        for _ in range(meta["tree_depth"]):
            for i, lane in enumerate(active):
                middle = (low[i] + high[i]) // 2
                odds = math.log(sum(masses[i][middle : high[i]]) / sum(masses[i][low[i] : middle]))
                edge = math.floor(grid / (1 + math.exp(-max(-15.0, min(15.0, odds)) / 3)))
                phase = 2531 * ranks[(t * n_lanes + lane) // group] % 4096
                cell = edge - (edge - phase) % 4096
                j = (max(0, cell) + min(grid, cell + 4096)) * 2**15 // grid
                a, b = (2 * j + 1) ** 3, (2**17 - 2 * j - 1) ** 3
                f = min(2**22 - 1, max(1, (2**23 * a + a + b) // (2 * (a + b))))
                part = (2**22 - f) * (2**24 - 2) // 2**22 + 1
                q = state % 2**24
                if q < part:
                    high[i] = middle
                    state = (state >> 24) * part + q
                else:
                    low[i] = middle
                    state = (state >> 24) * (2**24 - part) + q - part
                if state < 1 << 32 and words:
                    state = state << 32 | words.pop()
        for i, lane in enumerate(active):
            lanes[lane].append(low[i])
    assert state == 0 and not words
    return [token for lane in lanes for token in lane]


def test_the_score_and_the_file_agree():
    # One lane, and windows that fit: the perplexity that a user reads is the code length that the file comes near to.
    texts = (ROOT / "tasks" / "data" / "sampler.jsonl").read_text(encoding="utf-8").splitlines()
    text = "\n".join(json.loads(line)["text"] for line in texts)[: 256 + 4 * 192]
    model = load_model()
    out = io.BytesIO()
    coded = compress_to(
        out, memoryview(text.encode()), model, CompressSettings(lanes=1, context=256, overlap=64, verify=False)
    )
    scored = perplexity(model, [text], Settings(context=256, stride=192, bos="window"))["nll_nats"] / math.log(2)
    assert coded.length.ideal == pytest.approx(scored, rel=1e-5)
    payload = 8 * (len(out.getvalue()) - coded.n_header_bytes - coded.n_framing_bytes)
    assert scored < payload < 1.01 * scored + 64
