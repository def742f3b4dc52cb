"""The text classification task: single texts and sentence pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hfft.arguments import OF_TEXTS
from hfft.errors import UserError
from hfft.loading import build_without_weights, load_classifier, reading
from hfft.task import Collator, Encoder, Example, InputColumn, Inspection, Task

from .inspection import inspect_texts
from .lengths import LONGEST_BY_DEFAULT, find_cut_texts, readable_tokens

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from hfft.arguments import ModelArguments
    from hfft.findings import Finding
    from hfft.targets import Target


class TextClassification(Task):
    """Classes or a number for each text or pair of texts. Batches are padded to their own longest text."""

    name = "text-classification"
    summary = "classes or a number for each text or pair of texts; every AutoModelForSequenceClassification"
    problem_types = ("single_label_classification", "multi_label_classification", "regression")
    inputs = (
        InputColumn("text", ("text", "sentence", "sentence1", "premise", "question", "question1", "review", "content")),
        InputColumn(
            "text_pair",
            ("text_pair", "sentence2", "hypothesis", "question2", "answer", "context"),
            required=False,
        ),
    )
    model_arguments = OF_TEXTS
    usage = 'classify("a text", truncation=True)'
    defaults: ClassVar[Mapping[str, Any]] = {"learning_rate": 2e-4, "train_sampling_strategy": "group_by_length"}

    def accepts(self, value: Any) -> bool:
        """Any string."""
        return isinstance(value, str)

    def check(self, example: Example) -> str | None:
        """Every text must be there."""
        return self.inspect(example).problem

    def inspect(self, example: Example) -> Inspection:
        """Copies are texts that are equal but for case, blanks and punctuation, or that hardly differ."""
        return inspect_texts(example)

    def check_model(
        self, arguments: ModelArguments, splits: Mapping[str, Dataset], processor: Any = None
    ) -> list[Finding]:
        """Count the texts that are longer than the model reads."""
        return find_cut_texts(arguments, splits, processor)

    def supports(self, config: PretrainedConfig) -> bool:
        """Every configuration that transformers maps to a sequence classifier."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

        is_mapped = config.model_type in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
        return is_mapped or "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})

    def load(
        self, arguments: ModelArguments, config: PretrainedConfig, target: Target | None
    ) -> tuple[PreTrainedModel, Any]:
        """Load model and tokenizer; ``max_length`` becomes the tokenizer's own, so that it is saved with it."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        with reading(f"'{arguments.model}' has no usable tokenizer"):
            tokenizer = AutoTokenizer.from_pretrained(
                arguments.model, revision=arguments.revision, trust_remote_code=arguments.trust_remote_code
            )
        if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
            # transformers makes one up from the configuration where the files are missing: every word is unknown to it
            raise UserError(f"--model: '{arguments.model}' has no usable tokenizer: its vocabulary is missing.")
        tokenizer.model_max_length = _max_length(arguments.max_length, tokenizer, config)
        model = load_classifier(AutoModelForSequenceClassification, arguments, config, target)
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise UserError(f"--model: the tokenizer of '{arguments.model}' has no token to pad batches with.")
            tokenizer.pad_token = tokenizer.eos_token
        if model.config.pad_token_id is None:
            model.config.pad_token_id = tokenizer.pad_token_id
        return model, tokenizer

    def architecture(self, arguments: ModelArguments, config: PretrainedConfig) -> PreTrainedModel:
        """Build the model of the configuration."""
        from transformers import AutoModelForSequenceClassification

        return build_without_weights(AutoModelForSequenceClassification, arguments, config)

    def encoder(self, processor: Any, *, training: bool, augment: str = "none") -> Encoder:
        """Texts become token ids, cut to the tokenizer's ``model_max_length``."""

        from .encoding import TextEncoder

        return TextEncoder(processor)

    def collator(self, processor: Any) -> Collator:
        """Pad to the longest text of the batch: (batch, tokens)."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(processor)

    def poolings(self, model: PreTrainedModel) -> tuple[str, ...]:
        """The mean of the tokens, where the architecture can be made to read it."""
        from .pooling import can_pool_tokens

        return ("model", "mean") if can_pool_tokens(model) else ("model",)

    def pool(self, model: PreTrainedModel, pooling: str) -> Callable[[], None]:
        """Read the mean of the tokens."""
        from .pooling import pool_tokens

        return pool_tokens(model)

    def finished(self, model: PreTrainedModel) -> PreTrainedModel:
        """Fold the mean of the tokens into the weights."""
        from .pooling import folded

        return folded(model)

    def unfinished(self, model: PreTrainedModel, keep_head: bool) -> bool:
        """Take the mean of the tokens out of the weights again, whose size there suits no training."""
        from .pooling import unfolded

        return unfolded(model, keep_head)

    def class_inputs(self, names: Sequence[str]) -> list[Mapping[str, Any]]:
        """The names as texts, if each says something."""
        from .naming import as_texts

        return [{"text": text} for text in as_texts(names)]

    def specimens(self) -> list[Mapping[str, Any]]:
        """Texts of different lengths."""
        return [{"text": "one text"}, {"text": "another"}, {"text": "a text of a few more words than the others have"}]

    def describe(self, example: Example) -> str:
        """The text, or both texts of a pair."""
        texts = [str(example[role]) for role in ("text", "text_pair") if role in example]
        return " | ".join(texts)


def _max_length(wanted: int | None, tokenizer: Any, config: PretrainedConfig) -> int:
    """Return the number of tokens to keep; raises :class:`UserError` where the model cannot read that many."""
    readable = readable_tokens(config.model_type, getattr(config, "max_position_embeddings", None), config.pad_token_id)
    if wanted is None:
        return min(limit for limit in (tokenizer.model_max_length, readable, LONGEST_BY_DEFAULT) if limit)
    if readable is not None and wanted > readable:
        raise UserError(f"--max_length: the model reads at most {readable} tokens, got {wanted}.")
    return wanted
