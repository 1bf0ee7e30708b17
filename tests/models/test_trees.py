from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from samples import gpt2_config, llama_config, network, tiny_gpt2, tiny_llama

from lmeval.models import CausalLM, from_pair, trees
from lmeval.models.toys import byte_tokenizer, uniform_model
from lmeval.models.trees import read_prefix, supports_tree, tree_inputs


def fresh(config: transformers.PretrainedConfig | None = None, dtype: torch.dtype = torch.float32) -> CausalLM:
    return from_pair(network(config or llama_config(), dtype=dtype), byte_tokenizer(), name="fresh")


def hidden(model: CausalLM, ids: torch.Tensor, inputs: dict[str, Any] | None = None) -> torch.Tensor:
    with torch.inference_mode():
        return model.network.base_model(**({"input_ids": ids, "use_cache": False} | (inputs or {}))).last_hidden_state


def gpt_neo(window: int) -> CausalLM:
    kinds = [[["global", "local"], 1]]
    return fresh(
        transformers.GPTNeoConfig(
            vocab_size=257, hidden_size=32, num_layers=2, num_heads=4, attention_types=kinds, window_size=window
        )
    )


@pytest.mark.parametrize("model", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("steps", [[12], [5, 7], [1, 1, 10]])
def test_tokens_of_a_tree_get_what_they_get_alone(model: Callable[..., CausalLM], steps: list[int]):
    """     0 1 2 - 3 4 5       (the tree below a prefix of 12 tokens)
                  \\ 6 7
    """  # fmt: skip
    made, ids = model(dtype=torch.float64), torch.arange(40, 40 + 20)
    before, prefix = ids[:12], None
    for stop in [sum(steps[: i + 1]) for i in range(len(steps))]:
        prefix = read_prefix(made, prefix, before[prefix.length if prefix else 0 : stop])
    assert prefix is not None and prefix.length == 12
    depth = torch.tensor([[0, 1, 2, 3, 4, 5, 3, 4]]) + 12
    end = torch.tensor([[8, 8, 8, 6, 6, 6, 8, 8]])
    row = ids[12:].unsqueeze(0)
    rows = row.repeat(3, 1)  # the same in every row
    found = hidden(made, rows, tree_inputs(made, prefix, depth.expand(3, -1), end.expand(3, -1)))
    for path in ([0, 1, 2, 3, 4, 5], [0, 1, 2, 6, 7]):
        alone = hidden(made, torch.cat([before, row[0, path]]).unsqueeze(0))[0, 12:]
        for i in range(3):
            torch.testing.assert_close(found[i, path], alone, rtol=0, atol=1e-12)


def test_chains_below_a_prefix_and_padding():
    model, ids = tiny_llama(dtype=torch.float64), torch.arange(30)
    prefix = read_prefix(model, None, ids[:9])
    rows = torch.stack([ids[9:15], torch.cat([ids[9:12], torch.zeros(3, dtype=torch.int64)])])
    depth = (torch.arange(6) + 9).expand(2, -1)
    found = hidden(model, rows, tree_inputs(model, prefix, depth, None))
    alone = hidden(model, ids[:15].unsqueeze(0))[0, 9:]
    torch.testing.assert_close(found[0], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1, :3], alone[:3], rtol=0, atol=1e-12)


def test_chains_without_a_prefix_take_no_mask():
    assert tree_inputs(tiny_llama(), None, torch.arange(5).expand(2, -1), None) == {}


def test_a_prefix_exists_once_for_all_rows_and_does_not_grow():
    model = tiny_llama()
    prefix = read_prefix(model, None, torch.arange(9))
    sizes = [keys.shape for keys, _ in prefix.layers]
    assert sizes == [(1, 2, 9, 8)] * 2
    for _ in range(2):
        depth = (torch.arange(4) + 9).expand(7, -1)
        inputs = tree_inputs(model, prefix, depth, None)
        hidden(model, torch.zeros(7, 4, dtype=torch.int64), inputs)
        assert all(layer.keys is None for layer in inputs["past_key_values"].layers)  # nothing of a batch outlives its layer
    assert [keys.shape for keys, _ in prefix.layers] == sizes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("config", [llama_config, gpt2_config])
def test_trees_are_supported_in_every_precision(config: Callable[[], transformers.PretrainedConfig], dtype: torch.dtype):
    assert supports_tree(fresh(config(), dtype), 64, 512)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("argument", ["position_ids", "attention_mask", "past_key_values"])
@pytest.mark.parametrize("config", [llama_config, gpt2_config])
def test_a_network_that_does_not_heed_an_argument_is_found_out(
    config: Callable[[], transformers.PretrainedConfig], argument: str, dtype: torch.dtype
):
    model = fresh(config(), dtype)

    def drop(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {key: value for key, value in kwargs.items() if key != argument}

    model.network.base_model.register_forward_pre_hook(drop, with_kwargs=True)
    assert not supports_tree(model)


def test_in_half_precision_a_network_must_know_the_arguments():
    """The rounding of bfloat16 could hide that a network swallows positions which matter little to it."""
    for dtype, expected in ((torch.float32, True), (torch.bfloat16, False)):
        net = uniform_model(context_length=64)
        net.lm_head.to(dtype)
        net.model.to(dtype)
        net.config.num_hidden_layers = 1
        assert supports_tree(from_pair(net, byte_tokenizer())) == expected


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
    ids=["torch's", "the allocator's", "Python's"],
)
def test_memory_that_runs_out_in_a_probe_says_nothing_of_the_network(error: Exception, monkeypatch: pytest.MonkeyPatch):
    model = fresh()

    def fail(*_: object) -> bool:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(trees, "_probe", fail)
        assert not supports_tree(model)
    assert supports_tree(model)


def test_a_network_that_refuses_an_argument_is_found_out():
    model = fresh()

    def refuse(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        if "position_ids" in kwargs:
            raise TypeError("unexpected keyword argument 'position_ids'")

    model.network.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    assert not supports_tree(model)


@pytest.mark.parametrize(
    "config",
    [
        transformers.BloomConfig(vocab_size=257, hidden_size=32, n_layer=2, n_head=4),
        transformers.MptConfig(vocab_size=257, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
        transformers.MambaConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2, state_size=4),
    ],
    ids=["bloom", "mpt", "mamba"],
)
def test_architectures_without_positions_or_caches_of_this_kind(config: transformers.PretrainedConfig):
    assert not supports_tree(fresh(config))


def test_a_window_counts_from_the_sizes_that_are_used():
    config = transformers.MistralConfig(**llama_config().to_dict() | {"sliding_window": 30, "model_type": "mistral"})
    assert supports_tree(fresh(config), 30, 512)
    assert not supports_tree(fresh(config), 31, 512)


def test_a_window_over_places_in_the_row_is_found_by_a_probe_of_the_real_size():
    assert supports_tree(gpt_neo(40), 16, 30)
    assert not supports_tree(gpt_neo(40), 16, 200)


def test_a_network_is_tried_once_for_a_size(monkeypatch: pytest.MonkeyPatch):
    tried: list[tuple[int, int]] = []
    inner = trees._probe
    monkeypatch.setattr(trees, "_probe", lambda model, *sizes: (tried.append(sizes), inner(model, *sizes))[1])
    model = fresh()
    for sizes in ((20, 60), (20, 60), (10, 30), (40, 50), (40, 60)):
        assert supports_tree(model, *sizes)
    assert tried == [(20, 60), (40, 60)]
    model.network.set_attn_implementation("eager")  # other kernels, another answer
    assert supports_tree(model, 20, 60)
    assert tried == [(20, 60), (40, 60), (20, 60)]
    other = gpt_neo(4)
    assert not supports_tree(other)
    assert not supports_tree(other)
    assert len(tried) == 4


def test_a_probe_is_no_longer_than_the_model_takes():
    assert supports_tree(fresh(gpt2_config(context=24)), 24, 512)
