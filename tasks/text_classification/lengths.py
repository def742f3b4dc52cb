"""Texts that are longer than a model reads, counted without torch where the model brings a ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hfft.findings import MOST_OFFENDERS, NOTE, WARNING, Finding, Offender, reference_text
from hfft.paths import model_file, model_settings
from hfft.storage.arrays import sampled

if TYPE_CHECKING:
    from datasets import Dataset

    from hfft.arguments import ModelArguments

LONGEST_BY_DEFAULT = 512
"""Tokens; attention costs grow with the square."""

_SAMPLE = 2000  # texts of a split
_LONGEST = 100_000  # letters that are tokenized of one text

# They count positions from the padding index on.
_POSITIONS_BEHIND_PADDING = frozenset(
    {
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "camembert", "data2vec-text", "xmod"),
        *("esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet"),
    }
)

Counter = Callable[[list[str], list[str] | None], list[int]]


def find_cut_texts(arguments: ModelArguments, splits: Mapping[str, Dataset], processor: Any) -> list[Finding]:
    """Return a finding for each split with texts that the model reads only the beginning of."""
    count, longest = _from_processor(processor) if processor is not None else _from_files(arguments)
    if count is None:
        message = f"'{arguments.model}' has no tokenizer.json here: the lengths of the texts are counted in a run."
        return [Finding("text length", NOTE, message)]
    findings = []
    for name, split in splits.items():
        sample = sampled(split, _SAMPLE)
        texts = [text[:_LONGEST] for text in sample["text"]]
        pairs = [text[:_LONGEST] for text in sample["text_pair"]] if "text_pair" in split.column_names else None
        lengths = np.array(count(texts, pairs))
        cut = np.flatnonzero(lengths > longest)
        if len(cut):
            seen = f"the {len(sample)} {name} texts"
            if len(sample) < len(split):
                seen = f"a sample of {len(sample):,} {name} texts"
            message = (
                f"{len(cut)} of {seen} ({len(cut) / len(sample):.1%}) are longer than the {longest} tokens that the "
                f"model reads here and are cut; the longest has {lengths.max():,}. See --max_length."
            )
            references = [reference_text(sample[int(row)]["reference"]) for row in cut[:MOST_OFFENDERS]]
            offenders = [Offender(ref, f"{lengths[row]} tokens") for ref, row in zip(references, cut, strict=False)]
            findings.append(Finding("text length", WARNING, message, name, len(cut), tuple(offenders)))
    return findings


def _from_processor(tokenizer: Any) -> tuple[Counter, int]:
    def count(texts: list[str], pairs: list[str] | None) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, pairs, truncation=False, verbose=False)["input_ids"]]

    return count, int(tokenizer.model_max_length)


def _from_files(arguments: ModelArguments) -> tuple[Counter | None, int]:
    """Return how tokens are counted, and how many the model reads, from the files of a checkpoint."""
    from tokenizers import Tokenizer

    file = model_file(arguments, "tokenizer.json")
    if file is None:
        return None, 0
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: list[str], pairs: list[str] | None) -> list[int]:
        batch = texts if pairs is None else list(zip(texts, pairs, strict=True))
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(batch)]

    return count, arguments.max_length or _longest_by_files(arguments)


def _longest_by_files(arguments: ModelArguments) -> int:
    config = model_settings(arguments, "config.json")
    asked = ("model_type", "max_position_embeddings", "pad_token_id")
    readable = readable_tokens(*(config.get(name) for name in asked))
    told = model_settings(arguments, "tokenizer_config.json").get("model_max_length")
    limits = [limit for limit in (told, readable) if isinstance(limit, int | float) and limit > 0]
    return int(min(LONGEST_BY_DEFAULT, *limits)) if limits else LONGEST_BY_DEFAULT


def readable_tokens(model_type: Any, positions: Any, padding: Any) -> int | None:
    """Return how many tokens a model has positions for, or ``None`` where it does not say.

    Args:
        model_type: of the configuration.
        positions: its ``max_position_embeddings``.
        padding: its ``pad_token_id``.
    """
    if not isinstance(positions, int) or positions <= 0:
        return None
    if model_type not in _POSITIONS_BEHIND_PADDING:
        return positions
    return positions - 1 - (padding if isinstance(padding, int) else 1)
