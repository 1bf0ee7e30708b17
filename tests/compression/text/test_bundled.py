"""The bundled byte model by both roads: compiled steps without PyTorch, and the library's modules."""

import os
import subprocess
import sys
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from inspected import inspected
from samples import PROSE, ROOT

from lmeval.compression import CompressSettings, compress, decompress
from lmeval.compression.text import windows
from lmeval.compression.text.bundled import bundled_text_model
from lmeval.compression.text.text_model import TextModel, by_library, of_library
from lmeval.models import CausalLM, load_model
from lmeval.models.compiled.network import Network

INPUTS = {
    "prose": PROSE.encode(),
    "json": b"".join(b'{"id": %d, "square": %d, "odd": %s}\n' % (i, i * i, (b"false", b"true")[i % 2]) for i in range(4)),
    "binary": np.random.default_rng(1).integers(0, 9, 60).astype("<u2").tobytes(),
    "not utf-8": b"caf\xe9 au lait, na\xefve \xff\xfe half \xf0\x9f\x99 " * 3,
    "one byte": b"x",
    "empty": b"",
}
SETTINGS = {
    "alone": CompressSettings(adapt="none", lanes=5, context=32, verify=False),
    "light": CompressSettings(adapt="light", verify=False),
    "full": CompressSettings(verify=False),
}


@pytest.fixture(scope="module")
def loaded() -> CausalLM:
    return load_model("bundled")


def compiled(data: bytes, settings: CompressSettings) -> bytes:
    return compress(data, "bundled", settings, place="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("how", SETTINGS)
def test_archives_of_either_road_decode_by_the_other(how: str, monkeypatch: pytest.MonkeyPatch):
    archives = {name: compiled(data, SETTINGS[how]) for name, data in INPUTS.items()}
    monkeypatch.setenv("LMEVAL_COMPILED", "0")
    for name, made in archives.items():
        assert decompress(made, place="cpu") == INPUTS[name], name
    archives = {name: compiled(data, SETTINGS[how]) for name, data in INPUTS.items()}
    monkeypatch.delenv("LMEVAL_COMPILED")
    for name, made in archives.items():
        assert decompress(made, place="cpu") == INPUTS[name], name
    kinds = {block["kind"] for made in archives.values() for part in inspected(memoryview(made)) for block in part["blocks"]}
    assert ("model" if how == "alone" else "adapted") in kinds


def test_small_files_need_neither_pytorch_nor_transformers():
    code = (
        "import sys, lmeval\n"
        f"data = {INPUTS['prose']!r}\n"
        "made = lmeval.compress(data, 'bundled')\n"
        "assert lmeval.decompress(made) == data\n"
        "from lmeval.compression import inspect\n"
        "inspect(memoryview(made))\n"
        "print(*{'torch', 'transformers', 'accelerate', 'pandas'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("LMEVAL_COMPILED", None)
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert (ran.stdout.strip(), ran.returncode) == ("", 0), ran.stderr


def test_both_roads_describe_the_same_model(loaded: CausalLM):
    light, library = bundled_text_model(), of_library(loaded)
    functions = {"spell", "unspell", "network", "library", "describe", "known_drift"}
    for field in fields(TextModel):
        if field.name not in functions:
            assert getattr(light, field.name) == getattr(library, field.name), field.name
    assert light.describe() == library.describe()
    for data in INPUTS.values():
        a, b = light.spell(data), library.spell(data)
        assert a is not None and b is not None
        assert (a.ids.tolist(), a.extra_space) == (b.ids.tolist(), b.extra_space)
        assert light.unspell(a.ids) == library.unspell(a.ids) == data


def test_both_roads_have_the_same_arrays(loaded: CausalLM):
    a, b = (model.network(96) for model in (bundled_text_model(), of_library(loaded)))
    assert isinstance(a, Network) and isinstance(b, Network)
    for field, mine, other in zip(Network._fields, a, b, strict=True):
        if field in ("cosines", "sines"):
            assert np.abs(mine - other).max() < 96 * 2.0**-23  # an angle grows with its position
        else:
            assert np.array_equal(mine, other), field


def test_compiled_arrays_are_of_one_kind(loaded: CausalLM):
    """Others would be compiled for again, which takes a minute."""
    kinds = []
    for model in (bundled_text_model(), of_library(loaded)):
        arrays = [part for part in model.network(96) if isinstance(part, np.ndarray)]
        kinds.append([(a.dtype, a.ndim, a.flags.c_contiguous, a.flags.writeable) for a in arrays])
    assert kinds[0] == kinds[1]


def test_the_model_by_name_and_the_loaded_one_decode_each_others_archives(loaded: CausalLM):
    data, settings = INPUTS["prose"], SETTINGS["light"]._replace(lanes=20, context=32)
    assert decompress(compiled(data, settings), loaded) == data
    assert decompress(compress(data, loaded, settings)) == data


def test_threads_and_lanes_per_pass_change_no_byte(monkeypatch: pytest.MonkeyPatch):
    data, settings = (PROSE * 4).encode(), CompressSettings(adapt="light", lanes=40, context=32, verify=False)
    made = []
    for n_threads in (1, 2):
        monkeypatch.setattr("lmeval.models.compiled.lanes.n_processors", lambda n=n_threads: n)
        made.append(compiled(data, settings._replace(lanes_per_pass=7 * n_threads)))
    assert made[0] == made[1]
    assert decompress(made[0]) == data


@pytest.mark.parametrize("share", [0.2, 0.99])
def test_noise_within_the_tolerance_is_decoded(share: float, monkeypatch: pytest.MonkeyPatch):
    """Every logit off by half of epsilon at most, so every log-odds by epsilon (`tree.py`)."""
    data, settings = PROSE.encode(), CompressSettings(adapt="light", tolerance=1e-3, verify=False)
    made = compiled(data, settings)
    epsilon = inspected(memoryview(made))[0]["model"]["epsilon_nats"]
    rng, advance, n_noisy = np.random.default_rng(0), windows.advance_compiled, 0

    def noisy(lanes: Any, ids: np.ndarray) -> np.ndarray:
        nonlocal n_noisy
        n_noisy += 1
        logits = advance(lanes, ids)
        return logits + (share * epsilon / 2 * rng.choice([-1.0, 1.0], logits.shape)).astype(np.float32)

    monkeypatch.setattr(windows, "advance_compiled", noisy)
    assert decompress(made) == data
    assert n_noisy > 10


@pytest.mark.slow
def test_a_canary_that_compiled_steps_miss_makes_the_library_decode(monkeypatch: pytest.MonkeyPatch):
    data = INPUTS["prose"]
    made = compiled(data, SETTINGS["light"])
    restart = windows.restart_compiled
    asked: list[str] = []

    def astray(lanes: Any, ids: np.ndarray) -> np.ndarray:
        asked.append("compiled")
        logits = restart(lanes, ids).copy()
        logits[:, :128] += 0.7
        return logits

    monkeypatch.setattr(windows, "restart_compiled", astray)
    module = sys.modules["lmeval.compression.text.reader"]
    seen: list[TextModel] = []
    decode_blocks = module.decode_blocks
    monkeypatch.setattr(module, "decode_blocks", lambda model, *rest: (seen.append(model), decode_blocks(model, *rest))[1])
    assert decompress(made) == data
    assert asked and len(seen) == 1
    reason = seen[0].network(512)
    assert isinstance(reason, str) and "differ from the encoder's by 0." in reason


@pytest.mark.slow
def test_what_is_known_of_the_drift_covers_text(loaded: CausalLM):
    """`KNOWN_DRIFT`, on text that is no corpus of the benchmark."""
    from lmeval.compression.coding.grid import LOG_ODDS_LIMIT
    from lmeval.compression.text.library import parallel_log_odds
    from lmeval.compression.text.log_odds import stepwise_log_odds
    from lmeval.compression.text.survey import DRIFT_QUANTILE, survey

    model, data = bundled_text_model(), ((ROOT / "README.md").read_bytes() + INPUTS["json"] + INPUTS["binary"])[:3000]
    surveyed, tokens = survey(model, memoryview(data)), model.spell(data)
    assert surveyed is not None and tokens is not None and model.known_drift is not None
    a = stepwise_log_odds(model, surveyed.settings, tokens.ids, 12)
    b = parallel_log_odds(loaded, surveyed.settings, tokens.ids, 12)
    off = np.abs(np.clip(a, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT) - np.clip(b, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT))
    assert np.quantile(off, DRIFT_QUANTILE) <= model.known_drift


def test_a_model_may_be_read_by_the_library_alone():
    model = by_library(bundled_text_model(), "as an example")
    assert model.network(10) == "as an example"
    assert model.describe() == bundled_text_model().describe()
