import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from samples import gpt2_config, llama_config, network, save_pair, tiny_llama, unigram_tokenizer

from lmeval.data.resources import BUNDLED_MODEL
from lmeval.errors import ModelError, ModelNotFound, NonFiniteScore, NotCausal, VocabularyMismatch
from lmeval.models import as_model, from_pair, load_model
from lmeval.models.toys import byte_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pair(tmp_path / "model")


def change_weights(folder: Path, change) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_is_loaded_as_it_was_saved(folder: Path):
    model = load_model(str(folder))
    assert (model.context_length, model.vocab_size, model.bos_id) == (64, 257, 256)
    assert (model.dtype, model.device, model.name) == (torch.float32, torch.device("cpu"), str(folder))
    expected = network(llama_config()).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.network.state_dict().items())
    assert not model.network.training
    assert model.n_parameters == sum(p.numel() for p in network(llama_config()).parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_are_held_in_the_dtype_that_is_asked_for(folder: Path, dtype: str):
    model = load_model(str(folder), dtype=dtype)
    assert {parameter.dtype for parameter in model.network.parameters()} == {getattr(torch, dtype)}
    assert model.dtype == getattr(torch, dtype)


def test_an_unknown_dtype_is_named(folder: Path):
    with pytest.raises(ModelError, match="unknown dtype 'int8': use float32, bfloat16, float64"):
        load_model(str(folder), dtype="int8")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("config.json", "no config.json"), ("*.safetensors", "no weights"), ("tokenizer*", "no tokenizer")],
)
def test_a_folder_without_the_right_files_says_which(folder: Path, pattern: str, message: str):
    for path in folder.glob(pattern):
        path.unlink()
    with pytest.raises(ModelNotFound, match=message):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(name: str):
    with pytest.raises(ModelNotFound, match=f"no model folder {name}"):
        load_model(name)


def test_a_file_is_no_model_folder(folder: Path):
    with pytest.raises(ModelNotFound, match="no model folder"):
        load_model(str(folder / "config.json"))


def test_a_hub_id_that_cannot_be_had_is_named():
    with pytest.raises(ModelNotFound, match="cannot load model nobody/nothing") as caught:
        load_model("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_an_error_of_ours(folder: Path):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelNotFound, match="cannot load model"):
        load_model(str(folder))


def test_a_missing_weight_is_an_error_and_never_a_random_number(folder: Path):
    change_weights(folder, lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelNotFound, match=r"incomplete: no weights for model\.layers\.1\.mlp\.up_proj\.weight"):
        load_model(str(folder))


def test_a_weight_of_another_shape_is_an_error(folder: Path):
    change_weights(folder, lambda weights: weights.update({"model.norm.weight": torch.ones(31)}))
    with pytest.raises(ModelNotFound, match=r"model\.norm\.weight|size mismatch|mismatched"):
        load_model(str(folder))


def test_a_broken_configuration_is_an_error_of_ours(folder: Path):
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelNotFound, match="cannot load model"):
        load_model(str(folder))


def test_an_architecture_that_is_no_causal_model_is_an_error_of_ours(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(ModelNotFound, match="cannot load model"):
        load_model(str(folder))


def test_weights_that_are_nan_are_refused(folder: Path):
    change_weights(folder, lambda weights: weights["model.layers.0.mlp.up_proj.weight"].fill_(torch.nan))
    with pytest.raises(NonFiniteScore, match="gives NaN for a probe of 6 tokens"):
        load_model(str(folder))


@pytest.mark.parametrize("config", [transformers.BertConfig, transformers.RobertaConfig, transformers.ElectraConfig])
def test_a_network_that_sees_later_tokens_is_refused(config):
    made = config(vocab_size=257, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
    with pytest.raises(NotCausal, match="sees later tokens"):
        from_pair(network(made), byte_tokenizer())


def test_its_decoder_twin_is_taken():
    made = transformers.BertConfig(
        vocab_size=257, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, is_decoder=True
    )
    assert from_pair(network(made), byte_tokenizer()).context_length == 512


def test_a_tokenizer_of_another_model_is_refused():
    with pytest.raises(VocabularyMismatch, match="knows 100 token ids but its tokenizer goes up to 256"):
        from_pair(network(llama_config(vocab_size=100, bos_token_id=1, eos_token_id=1)), byte_tokenizer())


def test_rows_of_the_embedding_that_no_token_uses_do_no_harm():
    assert from_pair(network(llama_config(vocab_size=300)), byte_tokenizer()).vocab_size == 300


def test_bos_is_the_tokenizers_else_its_eos_else_none():
    net = network(llama_config())
    tokenizer = unigram_tokenizer()
    assert from_pair(net, tokenizer).bos_id == tokenizer.bos_token_id
    for bos, eos, expected in ((None, "</s>", "</s>"), ("<s>", "</s>", "<s>"), (None, None, None)):
        core = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, bos_token=bos, eos_token=eos, unk_token="<unk>"
        )
        assert from_pair(net, core).bos_id == (None if expected is None else core.convert_tokens_to_ids(expected))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (gpt2_config(context=48), 48),
        (llama_config(context=96), 96),
        (transformers.BloomConfig(vocab_size=257, hidden_size=16, n_layer=1, n_head=2), None),
        (transformers.MambaConfig(vocab_size=257, hidden_size=16, num_hidden_layers=1, state_size=4), None),
    ],
)
def test_the_context_length_is_the_architectures(config: transformers.PretrainedConfig, expected: int | None):
    assert from_pair(network(config), byte_tokenizer()).context_length == expected


def test_what_a_model_may_be(folder: Path):
    loaded = tiny_llama()
    assert as_model(loaded) is loaded
    assert as_model(str(folder)).name == as_model(folder).name == str(folder)
    pair = as_model((loaded.network, byte_tokenizer()))
    assert pair.network is loaded.network


def test_fingerprints_depend_on_the_weights_values_alone(folder: Path):
    reference = load_model(str(folder)).weights_sha256
    assert load_model(str(folder), dtype="float64").weights_sha256 == reference  # the same numbers, held wider
    assert from_pair(network(llama_config()), byte_tokenizer()).weights_sha256 == reference
    assert load_model(str(folder), dtype="bfloat16").weights_sha256 != reference  # rounded: other numbers
    assert from_pair(network(llama_config(), seed=1), byte_tokenizer()).weights_sha256 != reference
    change_weights(folder, lambda weights: weights["model.norm.weight"][3].add_(1e-6))
    assert load_model(str(folder)).weights_sha256 != reference


def test_fingerprints_of_weights_that_only_float64_holds_are_taken_in_float64():
    wide = network(llama_config()).double()
    before = from_pair(wide, byte_tokenizer()).weights_sha256
    wide.model.norm.weight.data[0] += 1e-12
    assert from_pair(wide, byte_tokenizer()).weights_sha256 != before


def test_the_bundled_model_is_loaded_by_default():
    model = load_model()
    assert model.name == BUNDLED_MODEL
    assert model.n_parameters <= 4_200_000
    assert model.context_length is not None
    assert model.context_length >= 512
    assert model.vocab_size >= 256
