"""The golden archives, and a decoder written from compression/FORMAT.md that shares nothing with the package."""

import bisect
import decimal
import functools
import hashlib
import io
import itertools
import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import yaml
from inspected import inspected
from page_online import Online
from samples import ROOT
from transformers import AutoModelForCausalLM

from lmeval.compression import CompressSettings, compress_to, decompress
from lmeval.models import load_model
from lmeval.models.packed_folders import transformers_folder
from lmeval.perplexity import PerplexitySettings, perplexity

GOLDEN = sorted((ROOT / "compression" / "golden").glob("*.lmz"))
REFERENCE = ROOT / "lmeval" / "reference"


@pytest.mark.slow
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_archives_decode(path: Path):
    assert decompress(path.read_bytes()) == path.with_suffix(".data").read_bytes()


def test_there_are_golden_archives_of_every_kind():
    kinds = {
        block["kind"] for path in GOLDEN for part in inspected(memoryview(path.read_bytes())) for block in part["blocks"]
    }
    assert {"model", "xz", "bits-back"} <= kinds
    assert any(len(inspected(memoryview(path.read_bytes()))) > 1 for path in GOLDEN)


def test_every_golden_model_is_bundled():
    known = json.loads((REFERENCE / "fingerprints.json").read_text())
    for path in GOLDEN:
        for part in inspected(memoryview(path.read_bytes())):
            for key in {"model", "density"} & part.keys():
                assert part[key]["weights_sha256"] in known


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v1.0-prose-float64", "v1.2-adapted-float64", "v1.2-online-light", "v1.2-odd"])
def test_a_decoder_written_from_the_page(name: str):
    raw = (ROOT / "compression" / "golden" / f"{name}.lmz").read_bytes()
    assert _decode_by_the_page(raw) == (ROOT / "compression" / "golden" / f"{name}.data").read_bytes()


def _header(raw: bytes) -> tuple[dict, int]:
    """The metadata of an archive, and where its first block begins."""
    page = (ROOT / "compression/FORMAT.md").read_text().splitlines()
    signature, major, minor, _, size = struct.unpack_from("<8sBBHI", raw)
    assert (signature, major) == (b"\x89LMZ\r\n\x1a\n", 1)
    assert struct.unpack_from("<I", raw, 16 + size)[0] == zlib.crc32(raw[: 16 + size])
    dictionary = next(line.strip() for line in page if line.startswith('    bfloat16"' if minor >= 2 else '    "lmeval'))
    if minor < 2:
        return json.loads(zlib.decompressobj(zdict=dictionary.encode()).decompress(raw[16 : 16 + size])), 20 + size
    meta = json.loads(zlib.decompressobj(-15, zdict=dictionary.encode()).decompress(raw[48 : 16 + size]))
    return {"sha256": raw[16:48].hex(), **meta}, 20 + size


def _decode_by_the_page(raw: bytes) -> bytes:
    meta, position = _header(raw)
    seed = zlib.crc32(raw[: position - 4])
    data = b""
    while raw[position : position + 4] == b"LMZB":
        fields = struct.unpack_from("<4sIIQBBHII8sII", raw, position)
        _, stored, n_bytes, offset, kind, flags, n_lanes, n_tokens, group, digest, _, check = fields
        assert zlib.crc32(raw[position : position + 44], seed) == check
        assert kind in (3, 5, 6) and offset == len(data)
        payload = raw[position + 48 : position + 48 + stored]
        if kind == 6:
            assert (flags, n_lanes, n_tokens, group) == (0, 1, n_bytes, 0)
            piece = _online_bytes(payload, n_tokens)
        else:  # the bundled model's tokens are bytes
            level = meta["adapt"] if kind == 5 else None
            piece = bytes(_tokens(meta["model"], payload, n_lanes, n_tokens, group, level))[flags & 1 :]
        assert len(piece) == n_bytes and hashlib.blake2b(piece, digest_size=8).digest() == digest
        data += piece
        position += 48 + stored
    assert raw[position : position + 4] == b"LMZI" and raw[-8:] == raw[7::-1]
    assert hashlib.sha256(data).hexdigest() == meta["sha256"]
    return data


def _online_bytes(payload: bytes, n: int) -> bytes:
    stack = _Stack(list(struct.unpack(f"<{len(payload) // 4}I", payload[1:])))
    state = Online({1: "light", 2: "full"}[payload[0]], 8, n, 1, kind=6)
    lanes = state.code(lambda t, d: [], lambda t, d, found: [stack.pop(_bit_parts(f)) for f in found])
    assert stack.state == 0 and not stack.words
    return bytes(lanes[0])


def _bit_parts(f: int) -> list[int]:
    part = (2**22 - f) * (2**24 - 2) // 2**22 + 1
    return [part, 2**24 - part]


def _tokens(meta: dict, payload: bytes, n_lanes: int, n_tokens: int, group: int, level: str | None) -> list[int]:
    bits = "".join(f"{byte:08b}" for byte in payload[1:])
    ranks, place = [], 0
    for _ in range(-(-n_tokens // group)):
        ones = bits.index("0", place) - place
        place += ones + 1 + payload[0]
        ranks.append(ones << payload[0] | int("0" + bits[place - payload[0] : place], 2))
    used = 1 + -(-place // 8)
    stack = _Stack(list(struct.unpack(f"<{(len(payload) - used) // 4}I", payload[used:])))
    lengths = [n_tokens // n_lanes + (lane < n_tokens % n_lanes) for lane in range(n_lanes)]
    model = _LanguageModel(meta, lengths, [2531 * ranks[number // group] % 4096 for number in range(n_tokens)])

    def decide(t: int, d: int, found: list[int]) -> list[int]:
        found_bits = [stack.pop(_bit_parts(f)) for f in found]
        model.learn(found_bits)
        return found_bits

    if level:
        lanes = Online(level, meta["tree_depth"], n_tokens, n_lanes).code(model.frequencies, decide)
        assert lanes == model.lanes
    else:
        for t, d in itertools.product(range(max(lengths)), range(meta["tree_depth"])):
            decide(t, d, model.frequencies(t, d))
    assert stack.state == 0 and not stack.words
    return [token for lane in model.lanes for token in lane]


class _LanguageModel:
    """The frequencies of section 4."""

    def __init__(self, meta: dict, lengths: list[int], phases: list[int]) -> None:
        self.network = AutoModelForCausalLM.from_pretrained(
            transformers_folder(REFERENCE / meta["name"]), dtype=getattr(torch, meta["dtype"])
        ).eval()
        self.meta, self.lengths, self.phases = meta, lengths, phases
        self.lanes: list[list[int]] = [[] for _ in lengths]
        self.begin, self.stop = 0, meta["window"]

    def frequencies(self, t: int, d: int) -> list[int]:
        if d == 0:
            self._begin_step(t)
        numbers = (t * len(self.lanes) + lane for lane in self.active)
        return [self._frequency(i, self.phases[number]) for i, number in enumerate(numbers)]

    def _begin_step(self, t: int) -> None:
        meta, ids = self.meta, 1 << self.meta["tree_depth"]
        if t == self.stop:
            self.begin = max(0, t - meta["overlap"])
            self.stop = self.begin + meta["window"]
        self.active = [lane for lane, length in enumerate(self.lengths) if t < length]
        inputs = torch.tensor([[meta["start_id"], *self.lanes[lane][self.begin :]] for lane in self.active])
        with torch.inference_mode():
            logits = self.network(input_ids=inputs, use_cache=False).logits[:, -1, :ids].double()
        self.masses = (logits - logits.amax(dim=1, keepdim=True)).clamp(min=-80).exp().tolist()
        self.low, self.high = [0] * len(self.active), [ids] * len(self.active)

    def _frequency(self, i: int, phase: int) -> int:
        grid, masses, middle = self.meta["grid_cells"] * 4096, self.masses[i], (self.low[i] + self.high[i]) // 2
        odds = math.log(sum(masses[middle : self.high[i]]) / sum(masses[self.low[i] : middle]))
        edge = math.floor(grid / (1 + math.exp(-max(-15.0, min(15.0, odds)) / 3)))
        cell = edge - (edge - phase) % 4096
        j = (max(0, cell) + min(grid, cell + 4096)) * 2**15 // grid
        a, b = (2 * j + 1) ** 3, (2**17 - 2 * j - 1) ** 3
        return min(2**22 - 1, max(1, (2**23 * a + a + b) // (2 * (a + b))))

    def learn(self, bits: list[int]) -> None:
        for i, bit in enumerate(bits):
            (self.low if bit else self.high)[i] = (self.low[i] + self.high[i]) // 2
        if self.low[0] + 1 == self.high[0]:
            for lane, token in zip(self.active, self.low, strict=True):
                self.lanes[lane].append(token)


# Images, by section 7 of the page.

ONE = 1 << 16


@pytest.mark.parametrize("name", ["v1.1-digits-npy", "v1.1-mnist-idx"])
def test_a_decoder_of_images_written_from_the_page(name: str):
    raw = (ROOT / "compression" / "golden" / f"{name}.lmz").read_bytes()
    size = struct.unpack_from("<I", raw, 12)[0]
    dictionary = next(
        line.strip() for line in (ROOT / "compression/FORMAT.md").read_text().splitlines() if line.startswith('    "lmeval')
    )
    meta = json.loads(zlib.decompressobj(zdict=dictionary.encode()).decompress(raw[16 : 16 + size]))
    position, expected = 20 + size, (ROOT / "compression" / "golden" / f"{name}.data").read_bytes()
    n_images = 0
    while raw[position : position + 4] == b"LMZB":
        _, stored, n_bytes, offset, kind, _, _, n, n_initial = struct.unpack_from("<4sIIQBBHII", raw, position)
        payload = raw[position + 48 : position + 48 + stored]
        if kind == 4:
            images = _Page(meta["density"]).images(payload, n, n_initial)
            assert images.astype(meta["density"]["dtype"]).tobytes() == expected[offset : offset + n_bytes]
            n_images += n
        position += 48 + stored
    assert raw[9] == 1 and n_images > 5


@functools.cache
def _rounded(function: str, i: int, scale: int) -> int:
    with decimal.localcontext() as context:
        context.prec = 50
        x = decimal.Decimal(i)
        value = {
            "exp": lambda: (-x / 64).exp(),
            "logistic": lambda: 1 / (1 + (-x / 64).exp()),
            "log": lambda: (1 + x / 1024).ln(),
            "power": lambda: decimal.Decimal(2) ** (37 - x / 8),
        }[function]()
        return int((value * scale).to_integral_value(decimal.ROUND_HALF_EVEN))


def _t(function: str, x: int) -> int:
    i, r = min(x, 27 * ONE) >> 10, min(x, 27 * ONE) % 1024
    entries = (_rounded(function, min(j, 1728), 1 << 38) for j in (i, i + 1))
    return sum(f * part for f, part in zip(entries, (1024 - r, r), strict=True)) >> 10


def _s(x: int) -> int:
    return _t("logistic", x) if x >= 0 else (1 << 38) - _t("logistic", -x)


def _log(p: int) -> int:
    e = p.bit_length() - 1
    y = (p << (24 - e)) - (1 << 24)
    i, r = y >> 14, y % (1 << 14)
    at = [_rounded("log", j, 1 << 20) for j in (i, i + 1)]
    return e * _rounded("log", 1024, 1 << 20) + ((at[0] * ((1 << 14) - r) + at[1] * r) >> 14)


def _d(rung: int, t: int) -> int:
    return (t * t * _rounded("power", rung, 1) + (1 << 23)) >> 24


def _sums(distances: list[int]) -> list[int]:
    return [0, *itertools.accumulate(_t("exp", d) >> 12 for d in distances)]


def _prior_parts(distances: list[int]) -> list[int]:
    m = _sums(distances)
    left = (1 << 24) - len(distances)
    return [b * left // m[-1] - a * left // m[-1] + 1 for a, b in itertools.pairwise(m)]


def _w(label: bytes, i: int, n: int) -> list[int]:
    found = b""
    for counter in range(-(-n // 16)):
        found += hashlib.blake2b(label + struct.pack("<II", i, counter)).digest()
    return list(struct.unpack_from(f"<{n}I", found))


class _Stack:
    def __init__(self, words: list[int]) -> None:
        self.words, self.state = words, 0
        self.fill()

    def fill(self) -> None:
        while self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()

    def pop(self, parts: list[int]) -> int:
        q, first = self.state % (1 << 24), 0
        for symbol, part in enumerate(parts):
            if q < first + part:
                self.state = (self.state >> 24) * part + q - first
                self.fill()
                return symbol
            first += part
        raise AssertionError

    def push(self, parts: list[int], symbol: int) -> None:
        first, part = sum(parts[:symbol]), parts[symbol]
        if self.state >= part << 40:
            self.words.append(self.state % (1 << 32))
            self.state >>= 32
        self.state = (self.state // part << 24) + first + self.state % part


def _uniform(n: int) -> list[int]:
    return [(1 << 24) // n] * (n - 1) + [(1 << 24) - (1 << 24) // n * (n - 1)]


class _Page:
    def __init__(self, density: dict) -> None:
        folder = REFERENCE / density["name"]
        self.layers = yaml.safe_load((folder / "density.yaml").read_text())
        self.weights = safetensors.numpy.load_file(folder / "model.safetensors")
        self.s, self.dims, self.latents = density["step_bits"], density["n_dims"], density["n_latent"]
        self.levels, self.observation = density["levels"], density["observation"]
        self.particles = 1 << density["particle_bits"]
        self.points = range(-16 << self.s, (16 << self.s) + 1)
        self.prior = _prior_parts([_d(16 * (self.s + 2), 8 * k) for k in self.points])
        odd = [g | 1 for g in _w(b"shift", 0, self.latents)]
        self.shifts = [[j * g % self.particles * 16384 // self.particles for g in odd] for j in range(self.particles)]

    def run(self, names: list[str], h: np.ndarray) -> np.ndarray:
        for name in names:
            if name == "relu":
                h = np.maximum(h, 0)
                continue
            weight, bias = (self.weights[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
            sums = np.rint(weight * 2**16).astype(np.int64) @ h + np.rint(bias * 2.0**32).astype(np.int64)
            h = np.clip((sums + 2**15) >> 16, -(1 << 26), 1 << 26)
        return h

    def images(self, payload: bytes, n: int, n_initial: int) -> np.ndarray:
        stack = _Stack(list(struct.unpack(f"<{len(payload) // 4}I", payload)))
        found = np.array([self.image(stack, i) for i in range(n)])
        begun = _w(b"initial", 0, n_initial)[::-1]
        begun[-1] |= 1 << 31
        assert (stack.state, stack.words) == (lambda s: (s.state, s.words))(_Stack(begun))
        return found

    def image(self, stack: _Stack, i: int) -> list[int]:
        c = stack.pop(_uniform(self.particles)) if self.particles > 1 else 0
        z = [self.points[stack.pop(self.prior)] for _ in range(self.latents)]
        x = [0] * self.dims
        below = self.below(z)
        for b in reversed(range((self.levels - 1).bit_length())):
            for pixel in range(self.dims):
                one = self.part(below, pixel, x[pixel], b)
                x[pixel] = 2 * x[pixel] + stack.pop([(1 << 24) - one, one])
        q = self.posteriors(x)
        u = []
        for latent, (points, a) in enumerate(q):
            at = points.index(z[latent])
            size = a[at + 1] - a[at]
            r = stack.pop(_uniform(size)) if size > 1 else 0
            u.append((a[at] + r - self.shifts[c][latent]) % 16384)
        if self.particles > 1:
            weights = [self.weight(x, q, u, shifts) for shifts in self.shifts]
            stack.push(_prior_parts([(max(weights) - w) >> 4 for w in weights]), c)
        pad = _w(b"pad", i, self.latents)
        for latent in reversed(range(self.latents)):
            stack.push(_uniform(1 << 14), u[latent] ^ (pad[latent] >> 18))
        return x

    def weight(self, x: list[int], q: list, u: list[int], shifts: list[int]) -> int:
        z, found = [], 0
        for (points, a), number, shift in zip(q, u, shifts, strict=True):
            at = bisect.bisect_right(a, (number + shift) % 16384) - 1
            z.append(points[at])
            found += _log(self.prior[points[at] - self.points[0]]) - _log(a[at + 1] - a[at])
        below = self.below(z)
        for b in range((self.levels - 1).bit_length()):
            for pixel in range(self.dims):
                one = self.part(below, pixel, x[pixel] >> (b + 1), b)
                found += _log(one if x[pixel] >> b & 1 else (1 << 24) - one)
        return found

    def posteriors(self, x: list[int]) -> list[tuple[list[int], list[int]]]:
        levels, s, found = np.array(x), self.s, []
        inputs = ONE * levels if self.levels == 2 else ONE * (2 * levels - (self.levels - 1)) // (self.levels - 1)
        h = self.run(self.layers["encoder"], inputs)
        means, logs = (self.run([self.layers[name]], h).tolist() for name in ("mean", "log_std"))
        for m, v in zip(means, logs, strict=True):
            g = min(16 * s + 40, max(0, 16 * s + 32 + ((387270501 * v + (1 << 39)) >> 40)))
            e = min(64 << s, max(-64 << s, (m + (1 << (12 - s))) >> (13 - s)))
            c = (e + 4) >> 3
            near = [o for o in range(-8 << s, 8 << s) if _d(g, 8 * o - (e - 8 * c)) <= 1 << 20]
            sums = _sums([_d(g, 8 * o - (e - 8 * c)) for o in near])
            found.append(([c + o for o in near], [((m << 14) + (sums[-1] >> 1)) // sums[-1] for m in sums]))
        return found

    def below(self, z: list[int]) -> Callable[[int, int], int]:
        out = self.run(self.layers["decoder"], np.array(z) << (16 - self.s)).tolist()
        if self.observation == "bernoulli":
            return lambda pixel, j: (0, (1 << 38) - _s(out[pixel]), 1 << 38)[min(j, 2)]

        def logistic(pixel: int, j: int) -> int:
            if j <= 0 or j >= self.levels:
                return 0 if j <= 0 else 1 << 38
            m, v = out[pixel], out[self.dims + pixel]
            u = min(2 * self.levels * ONE, max(-self.levels * ONE, (m + ONE) * (self.levels - 1) >> 1))
            scale = (_t("exp", max(0, v + 7 * ONE)) >> 8) * 1149903211 >> 30
            return _s(min(27 * ONE, max(-27 * ONE, (ONE * j - ONE // 2 - u) * scale >> 20)))

        return logistic

    def part(self, below: Callable[[int, int], int], pixel: int, higher: int, b: int) -> int:
        low, middle, high = (below(pixel, (2 * higher + i) << b) for i in range(3))
        found = (((high - middle) << 24) + (high - low >> 1)) // (high - low) if high > low else 1 << 23
        return min((1 << 24) - 1, max(1, found))


def test_the_score_and_the_file_agree():
    # One lane, and windows that fit: the perplexity that a user reads is the code length that the file comes near to.
    texts = (ROOT / "tasks" / "data" / "sampler.jsonl").read_text(encoding="utf-8").splitlines()
    text = "\n".join(json.loads(line)["text"] for line in texts)[: 256 + 4 * 192]
    model = load_model()
    out = io.BytesIO()
    settings = CompressSettings(lanes=1, context=256, overlap=64, verify=False, adapt="none")
    coded = compress_to(out, memoryview(text.encode()), model, settings).ledger
    scored = perplexity(model, [text], PerplexitySettings(context=256, stride=192, bos="window"))["nll_nats"] / math.log(2)
    assert coded["length_bits"]["ideal"] == pytest.approx(scored, rel=1e-5)
    payload = 8 * (len(out.getvalue()) - coded["n_header_bytes"] - coded["n_framing_bytes"])
    assert scored < payload < 1.01 * scored + 64
