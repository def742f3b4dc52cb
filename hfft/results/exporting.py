"""export(): a fine-tuned model in another library's format, written only if it answers as before."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hfft.arguments import ModelArguments
from hfft.errors import UserError, listed, nearest
from hfft.failures import writing_output
from hfft.paths import require_writable
from hfft.results.inference import Classifier
from hfft.targets.target import THRESHOLDS

Batch = dict[str, torch.Tensor]
Answer = Callable[[Batch], np.ndarray]
"""Gives the logits, (batch, outputs), of the exported model."""

MOST_DIFFERENCE = 1e-4
"""By which logits of an exported model may differ."""

_OF_LARGEST = 1e-6  # or by so much of the largest: numbers are in the user's unit, and float32 has seven digits


@dataclass(frozen=True)
class Format:
    """A format that models are exported to.

    Attributes:
        require: raises :class:`UserError` where this output cannot be written.
        write: the model to a path of the output's name; returns what answers from there.
    """

    require: Callable[[Path], None]
    write: Callable[[Classifier, Path, list[Batch]], Answer]


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


# timm


def _require_timm(output: Path) -> None:
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output: there is no folder '{output.parent}'.")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"--output: '{output}' is there already. Name a folder that is not.")


def _write_timm(classifier: Classifier, folder: Path, batches: list[Batch]) -> Answer:
    import timm
    from timm.models import save_for_hf

    model, config = classifier.model, classifier.model.config
    if config.model_type != "timm_wrapper":
        raise UserError(f"--format timm is for timm's architectures; the model is a {config.model_type}. Use onnx.")
    own = {name: value for name in ("problem_type", THRESHOLDS) if (value := getattr(config, name, None)) is not None}
    labels = [config.id2label[index] for index in range(config.num_labels)]
    save_for_hf(
        model.timm_model,
        str(folder),
        model_config={"label_names": labels, "pretrained_cfg": dict(config.pretrained_cfg), **own},
        model_args=config.model_args,
        safe_serialization=True,
    )
    file = folder / "config.json"
    settings = json.loads(file.read_text("utf-8"))
    settings.get("model_args", {}).pop("num_classes", None)  # it stands above, and transformers takes no second one
    file.write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    exported = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    def answer(batch: Batch) -> np.ndarray:
        with torch.inference_mode():
            return exported(batch["pixel_values"]).numpy()

    return answer


# ONNX


class _Logits(nn.Module):
    """A model that takes its inputs by name and gives logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**inputs).logits


_ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST_FILE = 2**31 - 2**24  # bytes: protobuf's limit, less the graph


def _require_onnx(output: Path) -> None:
    require_writable(output, (".onnx",))
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'--format onnx needs {listed(missing)}: pip install "hfft[onnx]".')


def _write_onnx(classifier: Classifier, file: Path, batches: list[Batch]) -> Answer:
    import onnxruntime

    model, (small, large, _) = classifier.model, batches
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about its own parts
        try:
            program = torch.onnx.export(
                _Logits(model),
                (),
                kwargs=small,
                input_names=list(small),
                output_names=["logits"],
                dynamic_shapes={"inputs": {name: _axes(small[name], large[name]) for name in small}},
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # of several libraries: whatever the model's code makes them trip over
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            raise UserError(f"--format onnx: the model cannot be exported: {reason}") from error
    assert program is not None
    told = {"id2label": model.config.id2label, THRESHOLDS: getattr(model.config, THRESHOLDS, None)}
    program.model.metadata_props.update({name: json.dumps(value) for name, value in told.items() if value is not None})
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    program.save(file, external_data=size > _LARGEST_FILE)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["logits"], {name: value.numpy() for name, value in batch.items()})[0]


def _axes(small: torch.Tensor, large: torch.Tensor) -> dict[int, str]:
    """Return the axes whose length is free: those in which the inputs of two batches differ."""
    differ = [axis for axis, (first, other) in enumerate(zip(small.shape, large.shape, strict=True)) if first != other]
    return {axis: "batch" if axis == 0 else "tokens" for axis in differ}


FORMATS = {"timm": Format(_require_timm, _write_timm), "onnx": Format(_require_onnx, _write_onnx)}
