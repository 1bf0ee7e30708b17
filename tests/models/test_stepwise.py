import numpy as np
import pytest
import torch
import transformers
from samples import gpt2_config, llama_config, markov_transitions, network, stories_tokenizer

from lmeval.compute.memory import PASS_TOKENS
from lmeval.compute.place import alone
from lmeval.errors import NoCache
from lmeval.models import CausalLM, from_pair
from lmeval.models.stepwise import LaneCache, advance, cache_bytes_per_token, open_lanes, restart, stepping
from lmeval.models.toys import byte_tokenizer, markov_model

CAPACITY = 32


def mistral_config(sliding_window: int) -> transformers.MistralConfig:
    return transformers.MistralConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, sliding_window=sliding_window, bos_token_id=256, eos_token_id=256,
    )  # fmt: skip


def gemma_config() -> transformers.Gemma3TextConfig:
    """One layer slides, one does not."""
    return transformers.Gemma3TextConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=8,
        num_key_value_heads=2, max_position_embeddings=64, sliding_window=16, bos_token_id=256, eos_token_id=256,
        layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip


CONFIGS = {
    "llama": lambda: llama_config(num_key_value_heads=4),
    "grouped heads": lambda: llama_config(num_key_value_heads=2),
    "one key-value head": lambda: llama_config(num_key_value_heads=1),
    "gpt2": gpt2_config,
    "sliding, shorter": lambda: mistral_config(16),
    "sliding, as long": lambda: mistral_config(CAPACITY),
    "sliding, longer": lambda: mistral_config(48),
    "half sliding": gemma_config,
    "neox": lambda: transformers.GPTNeoXConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, bos_token_id=256, eos_token_id=256,
    ),
}  # fmt: skip
ATTENTION = ("sdpa", "eager")
MODELS: dict[tuple[str, str, str], CausalLM] = {}
TOLERANCE = {"float32": 3e-5, "float64": 1e-11}


def model_of(name: str, attention: str = "sdpa", dtype: str = "float32") -> CausalLM:
    key = name, attention, dtype
    if key not in MODELS:
        made = network(CONFIGS[name](), dtype=getattr(torch, dtype))
        made.set_attn_implementation(attention)
        MODELS[key] = from_pair(made, byte_tokenizer(), name=name)
    return MODELS[key]


def some_ids(lanes: int, time: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 257, (lanes, time)))


def parallel(model: CausalLM, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.network(input_ids=ids).logits


def by_steps(model: CausalLM, lanes: LaneCache, ids: torch.Tensor, first: int) -> torch.Tensor:
    """Logits behind token first - 1 and all later ones."""
    with stepping(model):
        found = [restart(model, lanes, ids[:, :first])]
        for t in range(first, ids.shape[1]):
            assert lanes.length == t
            found.append(advance(model, lanes, ids[:, t]))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("name", CONFIGS)
def test_steps_are_the_parallel_pass(name: str, attention: str, dtype: str):
    model = model_of(name, attention, dtype)
    for first in (1, 2, 9, CAPACITY - 1, CAPACITY):
        ids = some_ids(5, CAPACITY, first)
        found = by_steps(model, open_lanes(model, 5, CAPACITY), ids, first)
        expected = parallel(model, ids)[:, first - 1 :]
        assert found.shape == expected.shape
        # transformers takes the softmax of eager attention in float32, whatever the network's type.
        assert (found - expected).abs().max() < TOLERANCE["float32" if attention == "eager" else dtype]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_cache_is_preallocated_where_all_positions_are_kept(name: str):
    lanes = open_lanes(model_of(name), 3, CAPACITY)
    assert (lanes.own is None) == (name in ("sliding, shorter", "half sliding"))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_restart_forgets_everything(name: str):
    model = model_of(name)
    lanes = open_lanes(model, 4, CAPACITY)
    by_steps(model, lanes, some_ids(4, CAPACITY, 1), 3)
    ids = some_ids(4, 20, 2)
    found = by_steps(model, lanes, ids, 5)
    assert lanes.length == 20
    assert (found - parallel(model, ids)[:, 4:]).abs().max() < TOLERANCE["float32"]


@pytest.mark.parametrize("at_once", [1, 2, 3, 6, 7, 100])
@pytest.mark.parametrize("name", ["llama", "grouped heads", "gpt2", "sliding, shorter"])
def test_passes_of_fewer_lanes_are_the_same(name: str, at_once: int):
    model, ids = model_of(name), some_ids(7, CAPACITY)
    expected = by_steps(model, open_lanes(model, 7, CAPACITY), ids, 4)
    seen = []
    handle = model.network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = by_steps(model, open_lanes(model, 7, CAPACITY, at_once), ids, 4)
    handle.remove()
    assert (found - expected).abs().max() < TOLERANCE["float32"]
    passes = -(-7 // at_once)
    assert len(seen) == passes * (1 + CAPACITY - 4)
    assert max(rows for rows, _ in seen) == min(at_once, 7)
    assert [time for _, time in seen] == [4] * passes + [1] * passes * (CAPACITY - 4)


@pytest.mark.parametrize("name", ["llama", "sliding, shorter"])
def test_a_long_restart_goes_in_passes_of_a_bounded_number_of_tokens(name: str):
    """And the steps that follow may be wider."""
    model, ids = model_of(name), some_ids(7, 20)
    expected = by_steps(model, open_lanes(model, 7, CAPACITY), ids, 10)
    place = alone()._replace(memory=int(35.5 * model.activation_bytes / PASS_TOKENS.share))
    seen = []
    handle = model.network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    found = by_steps(model, open_lanes(model, 7, CAPACITY, place=place), ids, 10)
    handle.remove()
    assert (found - expected).abs().max() < TOLERANCE["float32"]
    assert max(seen) <= 35
    assert seen[:3] == [30, 30, 10]
    assert set(seen[3:]) == ({7} if name == "llama" else {3, 1})


def test_lanes_do_not_matter_to_each_other():
    model, ids = model_of("grouped heads"), some_ids(6, CAPACITY)
    expected = by_steps(model, open_lanes(model, 6, CAPACITY), ids, 3)
    other = ids.clone()
    other[2] = (other[2] + 1) % 257
    found = by_steps(model, open_lanes(model, 6, CAPACITY), other, 3)
    assert (found - expected).abs().amax(dim=(1, 2)).gt(1e-3).tolist() == [False, False, True, False, False, False]


def test_bytes_of_the_cache():
    assert cache_bytes_per_token(model_of("llama")) == 2 * 2 * 4 * 8 * 4  # keys and values, layers, heads, width, float32
    assert cache_bytes_per_token(model_of("grouped heads")) == 2 * 2 * 2 * 8 * 4
    assert cache_bytes_per_token(model_of("gpt2")) == 2 * 2 * 4 * 8 * 4
    assert cache_bytes_per_token(model_of("gpt2", dtype="float64")) == 2 * 2 * 4 * 8 * 8
    model = model_of("grouped heads")
    lanes = open_lanes(model, 6, CAPACITY)
    restart(model, lanes, some_ids(6, 2))
    assert lanes.own is not None
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in lanes.own.layers)  # pyright: ignore
    assert held == 6 * CAPACITY * cache_bytes_per_token(model)


def test_nothing_is_allocated_anew_while_stepping():
    model, ids = model_of("llama"), some_ids(3, CAPACITY)
    lanes = open_lanes(model, 3, CAPACITY)
    restart(model, lanes, ids[:, :2])
    assert lanes.own is not None
    places = [layer.keys.data_ptr() for layer in lanes.own.layers]  # pyright: ignore
    for t in range(2, CAPACITY):
        advance(model, lanes, ids[:, t])
    restart(model, lanes, ids[:, :2])
    assert [layer.keys.data_ptr() for layer in lanes.own.layers] == places  # pyright: ignore


def test_a_network_that_knows_of_no_cache_is_refused():
    model = from_pair(markov_model(markov_transitions()), byte_tokenizer(), name="chain")
    with pytest.raises(NoCache, match="chain"), stepping(model):
        restart(model, open_lanes(model, 2, 8), some_ids(2, 3))


def test_a_network_that_returns_no_cache_is_refused():
    model = from_pair(network(mistral_config(4)), byte_tokenizer(), name="forgetful")
    model.network.register_forward_hook(lambda module, inputs, output: setattr(output, "past_key_values", None))
    with pytest.raises(NoCache, match="forgetful returns no key-value cache"):
        restart(model, open_lanes(model, 2, 8), some_ids(2, 3))


@pytest.mark.parametrize("error", [TypeError, ValueError, AttributeError])
def test_a_network_of_another_interface_is_refused(error: type[Exception]):
    model = from_pair(network(llama_config()), byte_tokenizer(), name="odd")

    def fail(*_):
        raise error("what it cannot take\nand more")

    model.network.register_forward_pre_hook(fail)
    with pytest.raises(NoCache, match=r"odd cannot be read token by token with a cache: what it cannot take$"):
        restart(model, open_lanes(model, 2, 8), some_ids(2, 3))


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("failing", [False, True])
def test_stepping_leaves_the_attention_as_it_was(attention: str, failing: bool):
    model = model_of("llama", attention)
    with pytest.raises(KeyError) if failing else torch.inference_mode(), stepping(model):
        inside = model.network.config._attn_implementation
        if failing:
            raise KeyError("anything")
    assert inside == ("lmeval_lanes" if attention == "sdpa" else "eager")
    assert model.network.config._attn_implementation == attention
    ids = some_ids(2, 9)
    assert torch.equal(parallel(model, ids), parallel(model, ids))


def test_the_form_of_attention_for_steps_is_used(monkeypatch: pytest.MonkeyPatch):
    """Heads of a group are folded into query tokens, where there is one token to read."""
    model, folded = model_of("grouped heads"), []
    attend = torch.nn.functional.scaled_dot_product_attention

    def spy(query: torch.Tensor, *args, **options):
        folded.append(tuple(query.shape[1:3]))
        return attend(query, *args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    by_steps(model, open_lanes(model, 2, 8), some_ids(2, 8), 3)
    assert folded[:2] == [(4, 3)] * 2  # two layers, four heads, three tokens
    assert set(folded[2:]) == {(2, 2)}  # two groups of two heads


def test_stories260k_by_steps(stories: CausalLM):
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside."
    ids = torch.tensor(stories_tokenizer()(text * 4, add_special_tokens=False)["input_ids"])[:60].reshape(3, 20)
    found = by_steps(stories, open_lanes(stories, 3, 20), ids, 1)
    assert (found - parallel(stories, ids)).abs().max() < 1e-4
    assert stories.network.config._attn_implementation == "sdpa"
