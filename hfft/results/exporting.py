"""export(): a fine-tuned model in another library's format, written only if it answers as before."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hfft.arguments import ModelArguments
from hfft.errors import UserError, listed, nearest
from hfft.failures import writing_output
from hfft.results.formats import FORMATS
from hfft.results.formats.format import Answer, Batch
from hfft.results.inference import Classifier

MOST_DIFFERENCE = 1e-4
"""By which logits of an exported model may differ."""

_OF_LARGEST = 1e-6  # or by so much of the largest: numbers are in the user's unit, and float32 has seven digits


def export(
    model: str, format: str, output: str | Path, *, revision: str | None = None, trust_remote_code: bool = False
) -> float:
    """Write a fine-tuned model for another library.

    Args:
        model: folder or Hub id of the model.
        format: ``timm`` (a folder for ``timm.create_model("local-dir:FOLDER", pretrained=True)``; timm models alone) or
            ``onnx`` (a file; any number of examples, and of tokens, at a time).
        output: the folder or file.
        revision: branch, tag or commit of a model on the Hub.
        trust_remote_code: run the code that a repository brings along.

    Returns:
        the largest difference between logits of the exported model and of this one.

    Raises:
        UserError: for an unknown format, a model that it does not hold, packages that are missing, an output that
            cannot be written, and logits that differ by more than 1e-4: nothing is written then.
    """
    if format not in FORMATS:
        raise UserError(f"--format must be one of {listed(FORMATS)}, got '{format}'.{nearest(format, FORMATS)}")
    chosen, output = FORMATS[format], Path(output)
    chosen.require(output)
    arguments = ModelArguments(model=str(model), revision=revision, trust_remote_code=trust_remote_code)
    classifier = Classifier.load(arguments)
    classifier.model.cpu()
    batches = _batches(classifier)
    place = output.absolute().parent
    with writing_output(output), tempfile.TemporaryDirectory(dir=place, prefix=".hfft-export-") as beside:
        answer = chosen.write(classifier, Path(beside) / output.name, batches)
        difference = _difference(classifier, answer, batches)
        if output.is_dir():
            output.rmdir()  # an empty one
        for path in Path(beside).iterdir():
            path.replace(output.parent / path.name)
    return difference


def _batches(classifier: Classifier) -> list[Batch]:
    """Return inputs to try a model on: two examples, three with a longer one among them, and one alone."""
    task, processor = classifier.task, classifier.processor
    specimens = task.specimens()
    if len(specimens) < 3:
        raise UserError(f"Models of the task {task.name} cannot be exported: it has no examples to try them on.")
    encode, collate = task.encoder(processor, training=False), task.collator(processor)

    def batch(examples: list[Mapping[str, Any]]) -> Batch:
        encoded = encode({name: [example[name] for example in examples] for name in examples[0]})
        rows = [{name: values[row] for name, values in encoded.items()} for row in range(len(examples))]
        return dict(collate(rows))

    return [batch(specimens[:2]), batch(specimens), batch(specimens[:1])]


def _difference(classifier: Classifier, answer: Answer, batches: list[Batch]) -> float:
    """Return by how much the exported model's logits differ at most; raises :class:`UserError` where it is too much."""
    difference = largest = 0.0
    for batch in batches:
        with torch.inference_mode():
            expected = classifier.model(**batch).logits.numpy()
        difference = max(difference, float(np.abs(answer(batch) - expected).max()))
        largest = max(largest, float(np.abs(expected).max()))
    if not difference <= max(MOST_DIFFERENCE, _OF_LARGEST * largest):
        raise UserError(
            f"The exported model does not answer as before: logits differ by up to {difference:.1e}, more than "
            f"{MOST_DIFFERENCE:.0e}. Nothing was written."
        )
    return difference
