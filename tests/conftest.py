import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

# Before anything imports the libraries that read them: no test may ask the network for anything.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

# A shell that starts the tests in the background lets them ignore Ctrl-C, and so all processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest
from samples import stories_folder, tiny_gpt2, tiny_llama
from torch.distributions import Distribution

from lmeval.data.resources import user_cache
from lmeval.models import CausalLM, load_model

# Equal runs for equal code; the first example compiles and loads, which says nothing about the code's speed.
for profile, n_examples in {"fast": 20, "thorough": 300}.items():
    hypothesis.settings.register_profile(profile, derandomize=True, deadline=None, max_examples=n_examples)
hypothesis.settings.load_profile(os.environ.get("LMEVAL_HYPOTHESIS", "fast"))

LIMIT = 5.0  # seconds of processor time, of this process and those that it waited for, that an unmarked test may take


def processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def was_compiled_since(moment: float) -> bool:
    folder = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache())
    return any(file.stat().st_mtime >= moment - 1 for file in folder.rglob("*.nb[ic]"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A test that takes long and does not say so fails: then `--quick` stays quick."""
    began, wall = processor_seconds(), time.time()
    result = yield
    took = processor_seconds() - began
    if took > LIMIT and item.get_closest_marker("slow") is None and not os.environ.get("LMEVAL_ANY_SPEED"):
        if was_compiled_since(wall):  # once on each machine, by whichever test comes first
            return result
        pytest.fail(f"took {took:.1f} s of processor time and is not marked slow: the limit is {LIMIT} s", pytrace=False)
    return result


@pytest.fixture(autouse=True)
def checked_distributions() -> Iterator[None]:
    """torch's distributions check their arguments in every test: zuko's import switches that off for the whole process."""
    yield
    Distribution.set_default_validate_args(True)


@pytest.fixture(params=["llama", "gpt2"])
def tiny(request: pytest.FixtureRequest) -> CausalLM:
    """Two tiny random networks: rotary and learned positions."""
    return tiny_llama() if request.param == "llama" else tiny_gpt2()


@pytest.fixture(scope="session")
def stories() -> CausalLM:
    return load_model(str(stories_folder()))


@pytest.fixture(scope="session")
def stories64() -> CausalLM:
    return load_model(str(stories_folder()), dtype="float64")
