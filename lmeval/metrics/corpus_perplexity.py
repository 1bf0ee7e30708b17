"""Corpus perplexities of a causal language model on texts, as an `evaluate` metric that loads from a local path."""

import datasets
import evaluate

import lmeval

_DESCRIPTION = """
Perplexity of a causal language model over a corpus: exp(-sum_t ln p(x_t | context) / units), the sum running over all tokens
of all texts, the units being tokens (`token_perplexity`), words (`word_perplexity`, counted as lm-evaluation-harness does:
one more than the runs of white space of each text) or UTF-8 bytes (`byte_perplexity`).

How it differs from the metric `perplexity` of the evaluate library: that one returns the perplexity of each text and as
`mean_perplexity` their arithmetic mean, which short texts dominate and which is at least the corpus figure of equally long
texts (Jensen); on the first lines of WikiText it gives several hundred for a model whose corpus perplexity is below 40. It
scores nothing after the first max_length tokens, and puts BOS in front of the padding. This one scores every token once, in
windows, and does not depend on the batch size.
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
    token_perplexity, word_perplexity and byte_perplexity (the last two only where the tokenizer gives the texts back), and
    `n_tokens` that were scored. Equal to `lmeval perplexity` on the same texts.
"""


class CorpusPerplexity(evaluate.Metric):
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
        figures = {m.name: m.value for m in report.results if m.name.endswith("_perplexity")}
        return {**figures, "n_tokens": report.ledger["n_tokens_scored"]}
