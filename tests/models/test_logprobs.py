import pytest
import torch
import transformers
from samples import gpt2_config, llama_config, network, tiny_llama
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmeval.compute.memory import LOGIT_ROWS
from lmeval.errors import NonFiniteScore, NotCausal
from lmeval.models import Head, logprobs, target_log_probs
from lmeval.models.logprobs import Readings, examine, read_targets

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def small(kind: type, **changes: object) -> transformers.PretrainedConfig:
    return kind(**(SMALL | changes))


CONFIGS = {
    "llama": small(transformers.LlamaConfig),
    "llama tied": small(transformers.LlamaConfig, tie_word_embeddings=True),
    "mistral": small(transformers.MistralConfig, sliding_window=4),
    "qwen2": small(transformers.Qwen2Config),
    "qwen3": small(transformers.Qwen3Config),
    "gpt2": gpt2_config(vocab_size=61, bos_token_id=1, eos_token_id=2),
    "gpt-neox": small(transformers.GPTNeoXConfig),
    "gpt-neo": transformers.GPTNeoConfig(
        vocab_size=61,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=4,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gptj": transformers.GPTJConfig(vocab_size=61, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64),
    "opt": transformers.OPTConfig(
        vocab_size=61,
        hidden_size=32,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=16,
    ),
    "bloom": transformers.BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4),
    "falcon": transformers.FalconConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4),
    "phi": small(transformers.PhiConfig),
    "gemma": small(transformers.GemmaConfig),
    "gemma2": small(transformers.Gemma2Config, final_logit_softcapping=3.0, attn_logit_softcapping=5.0),
    "cohere": small(transformers.CohereConfig, logit_scale=0.0625),
    "granite": small(transformers.GraniteConfig, logits_scaling=8.0, embedding_multiplier=2.0),
    "mixtral": small(transformers.MixtralConfig, num_local_experts=4),
    "mamba": transformers.MambaConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, state_size=4),
    "mpt": transformers.MptConfig(vocab_size=61, d_model=32, n_layers=2, n_heads=4, max_seq_len=64),
    "olmo2": small(transformers.Olmo2Config),
    "bert decoder": small(transformers.BertConfig, is_decoder=True),
    "xglm": transformers.XGLMConfig(vocab_size=61, d_model=32, ffn_dim=48, num_layers=2, attention_heads=4),
    "codegen": transformers.CodeGenConfig(vocab_size=61, n_embd=32, n_layer=2, n_head=4, rotary_dim=4, n_positions=64),
    "biogpt": small(transformers.BioGptConfig),
    "stablelm": small(transformers.StableLmConfig),
}
CAPPED = {"gemma2", "cohere", "granite"}  # heads that do more than multiply


def make(kind: str, dtype: torch.dtype = torch.float32):
    return network(CONFIGS[kind], dtype=dtype)


def batch(vocab: int = 61, rows: int = 3, time: int = 17) -> Tensor:
    return torch.randint(3, vocab, (rows, time), generator=torch.Generator().manual_seed(1))


def plain(net, ids: Tensor, positions: Tensor, targets: Tensor) -> Tensor:
    """float64 log-softmax of the network's own forward."""
    with torch.no_grad():
        logits = net(input_ids=ids).logits.flatten(0, 1).double()
    return logits.log_softmax(-1)[positions].gather(1, targets[:, None]).squeeze(1)


def case(net, positions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    ids = batch()
    if positions is None:
        positions = torch.arange(ids.numel() - 1)
    return ids, positions, (ids.flatten()[positions] * 7 + 5) % 61


@pytest.mark.parametrize("kind", CONFIGS)
def test_log_probs_are_those_of_the_whole_forward(kind: str):
    net = make(kind)
    ids, positions, targets = case(net)
    found = target_log_probs(net, examine(net, kind), ids, positions, targets)
    assert found.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(found.double(), plain(net, ids, positions, targets), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_heads_are_told_apart(kind: str):
    head = examine(make(kind), kind)
    if kind == "bert decoder":  # its head is more than the output embedding
        assert head is not Head.LINEAR
    else:
        assert head is (Head.REPLAYED if kind in CAPPED else Head.LINEAR)


@pytest.mark.parametrize("kind", ["llama", "gpt-neox", "gemma2", "cohere"])
@pytest.mark.parametrize("head", list(Head))
def test_all_heads_that_fit_agree(kind: str, head: Head):
    net = make(kind, torch.float64)
    if head is Head.LINEAR and kind in CAPPED:
        pytest.skip("this architecture's head is not linear")
    ids, positions, targets = case(net)
    found = target_log_probs(net, head, ids, positions, targets)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, plain(net, ids, positions, targets), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("head", list(Head))
def test_only_the_positions_that_are_asked_for_come_back_in_their_order(head: Head):
    net = make("llama", torch.float64)
    ids, positions, targets = case(net, torch.tensor([40, 2, 3, 17, 0, 50, 2]))
    found = target_log_probs(net, head, ids, positions, targets)
    torch.testing.assert_close(found, plain(net, ids, positions, targets), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_slices_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch, kind: str, rows: int):
    monkeypatch.setattr(logprobs, "_slice_rows", lambda *_: rows)
    net = make(kind, torch.float64)
    ids, positions, targets = case(net)
    found = target_log_probs(net, examine(net, kind), ids, positions, targets)
    torch.testing.assert_close(found, plain(net, ids, positions, targets), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "cohere", "mamba"])
def test_bfloat16_loses_nothing_behind_the_logits(kind: str):
    net = make(kind, torch.bfloat16)
    ids, positions, targets = case(net)
    found = target_log_probs(net, examine(net, kind), ids, positions, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), plain(net, ids, positions, targets), rtol=0, atol=1e-5)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_logits_of_a_large_vocabulary_are_never_held_at_once(kind: str):
    vocab = 150_000
    net = network(small(type(CONFIGS[kind]), vocab_size=vocab, hidden_size=16, final_logit_softcapping=3.0))
    head, ids = examine(net, kind), batch(vocab, rows=2, time=400)
    positions = torch.cat([torch.arange(100, 390), torch.arange(500, 790)])
    with Largest() as largest:
        found = target_log_probs(net, head, ids, positions, ids.flatten()[positions + 1])
    assert 1_000_000 < largest.elements <= LOGIT_ROWS.least * vocab  # of 580 * vocab that are needed in all
    few = torch.arange(100, 110)
    expected = plain(net, ids[:1, :111], few, ids.flatten()[few + 1])
    torch.testing.assert_close(found[:10].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi", "gptj"])
@pytest.mark.parametrize("columns", [1, 7, 20, 30])
def test_blocks_of_the_vocabulary_do_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch, kind: str, columns: int, dtype: torch.dtype
):
    monkeypatch.setattr(logprobs, "BLOCK_COLUMNS", columns)
    monkeypatch.setattr(logprobs, "BLOCK_ROWS", 5)
    net = make(kind, dtype)
    if (bias := net.get_output_embeddings().bias) is not None:
        bias.data.normal_(generator=torch.Generator().manual_seed(0))
    ids, positions, targets = case(net)
    found = target_log_probs(net, Head.LINEAR, ids, positions, targets)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 1e-5}[dtype]
    torch.testing.assert_close(found.double(), plain(net, ids, positions, targets), rtol=0, atol=tolerance)


@pytest.mark.parametrize("columns", [7, 2048])
def test_a_target_outside_the_vocabulary_is_never_scored_in_silence(monkeypatch: pytest.MonkeyPatch, columns: int):
    monkeypatch.setattr(logprobs, "BLOCK_COLUMNS", columns)
    net = make("llama")
    ids, positions, targets = case(net)
    try:
        found = target_log_probs(net, Head.LINEAR, ids, positions, targets + 61)
    except IndexError:
        return
    assert found.isnan().all()


@pytest.mark.parametrize("columns", [7, 2048])
def test_tokens_that_a_network_rules_out_do_not_disturb_the_others(monkeypatch: pytest.MonkeyPatch, columns: int):
    monkeypatch.setattr(logprobs, "BLOCK_COLUMNS", columns)
    net = make("phi", torch.float64)
    net.get_output_embeddings().bias.data[:20] = -torch.inf  # as some do for ids that pad the vocabulary
    ids, positions, _ = case(net)
    targets = 20 + positions % 41
    found = target_log_probs(net, Head.LINEAR, ids, positions, targets)
    torch.testing.assert_close(found, plain(net, ids, positions, targets), rtol=1e-9, atol=1e-9)


def many_readings() -> tuple[Tensor, Readings]:
    """Three targets at some positions, one or none at others, equal ones among them."""
    ids, positions = batch(), torch.tensor([2, 3, 9, 16, 17, 30, 44, 50])
    which = torch.tensor([0, 0, 0, 1, 3, 3, 4, 5, 6, 6, 6, 6, 7])
    return ids, Readings(positions, which, torch.tensor([5, 9, 9, 60, 0, 1, 2, 33, 8, 7, 6, 8, 12]))


def whole(net, ids: Tensor, readings: Readings) -> tuple[Tensor, Tensor]:
    assert readings.which is not None
    at = readings.positions[readings.which]
    with torch.no_grad():
        best = net(input_ids=ids).logits.flatten(0, 1)[at].argmax(dim=1)
    return plain(net, ids, at, readings.targets), best == readings.targets


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "head"), [("llama", h) for h in Head] + [("gemma2", Head.REPLAYED), ("phi", Head.LINEAR)])
@pytest.mark.parametrize("limits", [(), (7, 3), (20, 512)])
def test_several_targets_are_read_at_one_position(
    monkeypatch: pytest.MonkeyPatch, kind: str, head: Head, dtype: torch.dtype, limits: tuple[int, ...]
):
    if limits:  # columns and rows of a block
        monkeypatch.setattr(logprobs, "BLOCK_COLUMNS", limits[0])
        monkeypatch.setattr(logprobs, "BLOCK_ROWS", limits[1])
        monkeypatch.setattr(logprobs, "_slice_rows", lambda *_: limits[1])
    net, (ids, readings) = make(kind, dtype), many_readings()
    with torch.no_grad():  # some of the targets are the largest
        best = net(input_ids=ids).logits.flatten(0, 1)[readings.positions].argmax(dim=1)
    readings.targets[[1, 3, 8, 12]] = best[[0, 1, 6, 7]]
    found, greedy = read_targets(net, head, ids, readings)
    expected, largest = whole(net, ids, readings)
    assert found.dtype == dtype
    tolerance = 1e-9 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    assert greedy.tolist() == largest.tolist()
    assert 4 <= sum(greedy.tolist()) < len(greedy)


@pytest.mark.parametrize("columns", [7, 2048])
def test_one_target_at_each_position_is_what_it_always_was(monkeypatch: pytest.MonkeyPatch, columns: int):
    monkeypatch.setattr(logprobs, "BLOCK_COLUMNS", columns)
    net = make("phi")
    ids, positions, targets = case(net)
    expected = target_log_probs(net, Head.LINEAR, ids, positions, targets)
    which = torch.arange(len(positions))
    for readings in (Readings(positions, None, targets), Readings(positions, which, targets)):
        found, greedy = read_targets(net, Head.LINEAR, ids, readings)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
        assert greedy.tolist() == whole(net, ids, Readings(positions, which, targets))[1].tolist()


@pytest.mark.parametrize("columns", [7, 2048])
def test_ties_for_the_largest_logit_are_greedy(monkeypatch: pytest.MonkeyPatch, columns: int):
    monkeypatch.setattr(logprobs, "BLOCK_COLUMNS", columns)
    net = make("llama")
    net.lm_head.weight.data[:] = 0.0
    net.lm_head.weight.data[:, 3] = 1.0  # every logit is one number of the state: equal in every order of summation
    ids, readings = many_readings()
    assert read_targets(net, Head.LINEAR, ids, readings)[1].all()


def test_a_cap_that_hides_in_small_logits_is_found():
    net = network(small(transformers.Gemma2Config, final_logit_softcapping=30.0, tie_word_embeddings=False))
    net.lm_head.weight.data *= 0.02  # as networks are initialised: at such logits the cap is below their rounding
    assert examine(net, "gemma2") is Head.REPLAYED


class _NoTrunk(transformers.LlamaForCausalLM):
    """An architecture whose trunk cannot be had by itself."""

    base_model_prefix = ""


def test_a_network_without_a_trunk_is_scored_whole():
    net = _NoTrunk(llama_config(vocab_size=61)).double().eval()
    assert examine(net, "x") is Head.WHOLE
    ids, positions, targets = case(net)
    found = target_log_probs(net, Head.WHOLE, ids, positions, targets)
    torch.testing.assert_close(found, plain(net, ids, positions, targets), rtol=1e-9, atol=1e-9)


def test_padding_on_the_right_changes_nothing_before_it():
    model = tiny_llama(dtype=torch.float64)
    ids = batch(257, rows=2)
    padded = torch.cat([ids, torch.full((2, 9), 5)], dim=1)
    positions, targets = torch.arange(16), ids[0, 1:]
    a = target_log_probs(model.network, model.head, ids, positions, targets)
    b = target_log_probs(model.network, model.head, padded, positions, targets)
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_replaying_the_head_leaves_the_network_as_it_was():
    net = make("gemma2")
    before = net(input_ids=batch()).logits
    examine(net, "x")
    assert "forward" not in net.base_model.__dict__
    assert torch.equal(net(input_ids=batch()).logits, before)


def test_an_error_while_the_head_is_replayed_leaves_the_network_as_it_was(monkeypatch: pytest.MonkeyPatch):
    net = make("gemma2")
    ids, positions, targets = case(net)
    with pytest.raises(IndexError):
        target_log_probs(net, Head.REPLAYED, ids, positions, targets + 1000)
    assert "forward" not in net.base_model.__dict__


def test_gradients_are_not_kept():
    net = make("llama")
    ids, positions, targets = case(net)
    assert not target_log_probs(net, Head.LINEAR, ids, positions, targets).requires_grad


def test_a_bidirectional_network_is_refused():
    with pytest.raises(NotCausal, match="sees later tokens"):
        examine(network(small(transformers.BertConfig)), "bert")


def test_a_mostly_causal_network_is_refused():
    net = make("llama")
    net.model.layers[-1].register_forward_hook(  # the last layer looks a little ahead
        lambda module, args, output: output + 1e-2 * output.mean(dim=1, keepdim=True)
    )
    with pytest.raises(NotCausal):
        examine(net, "leaky")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_refused(value: float):
    net = make("llama")
    net.model.layers[0].mlp.up_proj.weight.data[0, 0] = value
    with pytest.raises(NonFiniteScore, match="gives NaN"):
        examine(net, "damaged")
