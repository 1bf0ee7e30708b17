"""Bits per byte of a causal language model on texts, as an `evaluate` metric that loads from a local path."""

import datasets
import evaluate

import lmeval

_DESCRIPTION = """
Bits that a causal language model needs for each UTF-8 byte of the texts, over the corpus: bits_per_byte =
-sum_t log2 p(x_t | context) / bytes, the sums running over all tokens and bytes of all texts. It is the code length that an
arithmetic coder driven by the model reaches, and does not depend on how the tokenizer cuts the text.

How it differs from the metric `perplexity` of the evaluate library: that one returns exp(mean nats per token) of each text
and their arithmetic mean, so short texts count as much as long ones and models with different tokenizers cannot be compared;
it scores nothing after the first max_length tokens, and puts BOS in front of the padding. This one scores every token once,
in windows, whatever the lengths; tokens and bytes are counted on the very text that was scored.
"""

_INPUTS = """
Args:
    predictions (list of str): the texts, each a document.
    model: "bundled", a folder in Hugging Face format, a hub id, or a (network, tokenizer) pair.
    context (int): input tokens of a window; default: all that the model takes.
    stride (int): tokens scored by each window; default: the context.
    device (str): "auto", "cpu", "cuda" or "cuda:N".
    dtype (str): "float32", "bfloat16" or "float64".
Returns:
    bits_per_byte (float), its standard error `stderr` and 95% interval `ci95` (None where one piece of text says nothing
    about spread), `n_bytes` and `n_tokens` that were scored. Equal to `lmeval perplexity` on the same texts.
"""


class BitsPerByte(evaluate.Metric):
    """See the module's description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]  (the library passes its inputs by name)
        self,
        predictions: list[str],
        model: lmeval.ModelLike = "bundled",
        context: int | None = None,
        stride: int | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> dict:
        settings = lmeval.PerplexitySettings(context=context, stride=stride)
        report = lmeval.perplexity(model, predictions, settings, place=device, dtype=dtype)
        bits = lmeval.find(report, "bits_per_byte")
        return {
            "bits_per_byte": bits.value,
            "stderr": bits.stderr,
            "ci95": bits.ci95,
            "n_bytes": report.ledger["n_bytes_scored"],
            "n_tokens": report.ledger["n_tokens_scored"],
        }
