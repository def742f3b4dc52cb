"""A folder that ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from hfft.errors import UserError
from hfft.results.formats.format import Answer, Batch
from hfft.results.inference import Classifier
from hfft.targets.target import THRESHOLDS


def require(output: Path) -> None:
    """Raise :class:`UserError` where this output cannot be written."""
    if not output.absolute().parent.is_dir():
        raise UserError(f"--output: there is no folder '{output.parent}'.")
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"--output: '{output}' is there already. Name a folder that is not.")


def write(classifier: Classifier, folder: Path, batches: list[Batch]) -> Answer:
    """Write a model to a folder, and return what answers from there."""
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
