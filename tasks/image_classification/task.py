"""The image classification task."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from hfft.arguments import OF_PICTURES
from hfft.findings import reference_text
from hfft.loading import build_without_weights, load_classifier, reading
from hfft.task import Collator, Encoder, Example, InputColumn, Inspection, Task

from .decoding import SUFFIXES, decode_image, inspect_image
from .sizes import find_far_sizes

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from hfft.arguments import ModelArguments
    from hfft.findings import Finding
    from hfft.targets import Target


class ImageClassification(Task):
    """One class or several for each picture. The preprocessing is the checkpoint's own."""

    name = "image-classification"
    summary = "one class or several for each picture; timm and transformers vision models"
    problem_types = ("single_label_classification", "multi_label_classification")
    inputs = (InputColumn("image", ("image", "img", "picture", "image_path", "file_name", "file", "path", "filepath")),)
    file_suffixes = SUFFIXES
    augmentations = ("none", "light", "medium", "strong")
    model_arguments = OF_PICTURES
    defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-5,
        "head_learning_rate": 1e-3,
        "layer_decay": 0.9,
        "per_device_train_batch_size": 16,
    }

    def accepts(self, value: Any) -> bool:
        """A path with the suffix of a picture, bytes, or what the datasets library stores for a picture."""
        if isinstance(value, dict):
            return "bytes" in value and "path" in value
        return isinstance(value, bytes) or (isinstance(value, str) and value.lower().endswith(tuple(SUFFIXES)))

    def check(self, example: Example) -> str | None:
        """Decode the picture."""
        return self.inspect(example).problem

    def inspect(self, example: Example) -> Inspection:
        """Copies have the same pixels, or hardly other ones."""
        return inspect_image(example["image"])

    def check_model(
        self, arguments: ModelArguments, splits: Mapping[str, Dataset], processor: Any = None
    ) -> list[Finding]:
        """Count the pictures that are much smaller or larger than what the model reads."""
        return find_far_sizes(arguments, splits)

    def supports(self, config: PretrainedConfig) -> bool:
        """Every configuration that transformers maps to an image classifier."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

        is_mapped = config.model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
        return is_mapped or "AutoModelForImageClassification" in (getattr(config, "auto_map", None) or {})

    def load(
        self, arguments: ModelArguments, config: PretrainedConfig, target: Target | None
    ) -> tuple[PreTrainedModel, Any]:
        """Load model and image processor, of another size and crop where the arguments say so."""
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        with reading(f"'{arguments.model}' has no image preprocessing"):
            processor = AutoImageProcessor.from_pretrained(
                arguments.model, revision=arguments.revision, trust_remote_code=arguments.trust_remote_code
            )
        model = load_classifier(AutoModelForImageClassification, arguments, config, target)
        if arguments.image_size is not None:
            from .resizing import resized_model, resized_processor

            with reading(f"the image preprocessing of '{arguments.model}' has no other size"):
                processor = resized_processor(processor, arguments.image_size)
            model = resized_model(model, arguments.image_size)
        if arguments.crop_pct is not None or arguments.crop_mode is not None:
            from .cropping import cropped_processor, keep_crop

            with reading(f"the image preprocessing of '{arguments.model}' has no other crop"):
                processor = cropped_processor(processor, arguments.crop_pct, arguments.crop_mode)
            keep_crop(model, processor)
        return model, processor

    def architecture(self, arguments: ModelArguments, config: PretrainedConfig) -> PreTrainedModel:
        """Build the model of the configuration, and for another size with random weights: they are tried out."""
        from transformers import AutoModelForImageClassification

        if arguments.image_size is None:
            return build_without_weights(AutoModelForImageClassification, arguments, config)
        from .resizing import resized_model

        model = build_without_weights(AutoModelForImageClassification, arguments, config, device="cpu")
        return resized_model(model, arguments.image_size)

    def encoder(self, processor: Any, *, training: bool, augment: str = "none") -> Encoder:
        """Pictures become ``pixel_values``, (3, height, width) each."""
        from .encoding import evaluation_encoder, training_encoder

        return training_encoder(processor, augment) if training and augment != "none" else evaluation_encoder(processor)

    def collator(self, processor: Any) -> Collator:
        """Stack pictures to (batch, 3, height, width)."""
        from .preprocessing import stack

        return stack

    def thumbnail(self, example: Example) -> bytes | None:
        """Return the picture, at most 200 pixels wide and high; the pixels of a tiny one as squares."""
        from PIL import Image

        picture, stream = decode_image(example["image"], shorter_side=200), io.BytesIO()
        picture.thumbnail((200, 200))
        enlarged = max(100 // max(picture.size), 1)
        picture = picture.resize((picture.width * enlarged, picture.height * enlarged), Image.Resampling.NEAREST)
        picture.save(stream, "JPEG", quality=80)
        return stream.getvalue()

    def specimens(self) -> list[Mapping[str, Any]]:
        """Pictures of noise."""
        import numpy as np
        from PIL import Image

        noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
        return [{"image": Image.fromarray(pixels)} for pixels in noise]

    def describe(self, example: Example) -> str:
        """The path, where there is one."""
        image = example["image"]
        path = image.get("path") if isinstance(image, dict) else image
        return path if isinstance(path, str) else reference_text(example.get("reference", "picture"))
