"""An ONNX file with free axes for examples and tokens."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path

import torch
from torch import nn

from hfft.errors import UserError, listed
from hfft.paths import require_writable
from hfft.results.formats.format import Answer, Batch
from hfft.results.inference import Classifier
from hfft.targets.target import THRESHOLDS


class _Logits(nn.Module):
    """A model that takes its inputs by name and gives logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**inputs).logits


_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST_FILE = 2**31 - 2**24  # bytes: protobuf's limit, less the graph


def require(output: Path) -> None:
    """Raise :class:`UserError` where this output cannot be written."""
    require_writable(output, (".onnx",))
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'--format onnx needs {listed(missing)}: pip install "hfft[onnx]".')


def write(classifier: Classifier, file: Path, batches: list[Batch]) -> Answer:
    """Write a model to a file, and return what answers from there; the first two batches differ in all free axes."""
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
