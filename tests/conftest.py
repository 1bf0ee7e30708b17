import os
from collections.abc import Iterator

# Before anything imports the libraries that read them: no test may ask the network for anything.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import hypothesis
import pytest
from samples import stories_folder, tiny_gpt2, tiny_llama
from torch.distributions import Distribution

from lmeval.models import CausalLM, load_model

# Equal runs for equal code; the first example compiles and loads, which says nothing about the code's speed.
hypothesis.settings.register_profile("lmeval", derandomize=True, deadline=None, max_examples=60)
hypothesis.settings.load_profile("lmeval")


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
