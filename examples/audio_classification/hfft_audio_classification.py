"""Audio classification for hfft: wav2vec2, HuBERT, WavLM, AST, Whisper and every AutoModelForAudioClassification."""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import scipy
from PIL import Image
from scipy.io import wavfile
from scipy.signal import resample_poly

from hfft import InputColumn, Task, UserError
from hfft.findings import WARNING, Finding, reference_text
from hfft.loading import build_without_weights, load_classifier, reading
from hfft.task import Collator, Encoder, Example, Inspection, Prepared, StagedEncoder

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PretrainedConfig, PreTrainedModel

    from hfft.arguments import ModelArguments
    from hfft.targets import Target

MOST_BYTES = 100_000_000  # of a file, looked at before it is read
RATES = 4_000, 192_000  # samples a second; beyond these the filter that resamples could fill the memory
SECONDS = 0.25, 60.0  # wav2vec2 hides stretches of 0.2 seconds in training, and its memory grows with the square
_COMPARED = 200  # recordings of a split whose lengths are compared
_VERSION = 1  # of what is prepared; another number prepares it anew


def decode(audio: Any) -> tuple[np.ndarray, int]:
    """Return (samples,) float32 between -1 and 1, and how many there are a second; raises :class:`UserError`."""
    content = _content(audio)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chunks beside the samples
            rate, samples = wavfile.read(io.BytesIO(content))
    except Exception as error:  # the parser raises whatever it hits
        raise UserError(f"it cannot be read as a WAV recording ({error or type(error).__name__})") from error
    if not RATES[0] <= rate <= RATES[1]:
        raise UserError(f"it has {rate} samples a second, where {RATES[0]} to {RATES[1]} can be read")
    if not SECONDS[0] <= len(samples) / rate <= SECONDS[1]:
        raise UserError(f"it lasts {len(samples) / rate:.3g} seconds, where {SECONDS[0]} to {SECONDS[1]} can be read")
    if samples.dtype.kind in "iu":
        zero = 128 if samples.dtype == np.uint8 else 0
        samples = (samples.astype(np.float64) - zero) / 2.0 ** (8 * samples.dtype.itemsize - 1)
    mono = samples.reshape(len(samples), -1).mean(axis=1, dtype=np.float64).astype(np.float32)
    if not np.isfinite(mono).all():
        raise UserError("it holds samples that are no numbers")
    return mono, rate


def _content(audio: Any) -> bytes:
    if isinstance(audio, dict):
        audio = audio["bytes"] if audio.get("bytes") is not None else audio.get("path")
    if not isinstance(audio, bytes | str):
        raise UserError("there is no recording")
    try:
        size = len(audio) if isinstance(audio, bytes) else Path(audio).stat().st_size
        if size <= MOST_BYTES:
            return audio if isinstance(audio, bytes) else Path(audio).read_bytes()
    except (OSError, ValueError) as error:  # of a path with a NUL in it
        raise UserError(f"it cannot be opened ({getattr(error, 'strerror', error)})") from error
    raise UserError(f"it has {size:,} bytes, more than {MOST_BYTES:,}")


class RecordingEncoder(StagedEncoder):
    """Decodes, resamples and lets the checkpoint's feature extractor do once what ``pipeline`` does."""

    def __init__(self, extractor: Any) -> None:
        self._extractor = extractor
        self.key = f"recordings {_VERSION} scipy {scipy.__version__} {extractor.to_json_string()}"

    def content(self, example: Example) -> bytes:
        """The file."""
        return _content(example["audio"])

    def prepare(self, batch: dict[str, list[Any]]) -> list[Prepared]:
        """Return the model inputs, unpadded."""
        wanted, prepared = self._extractor.sampling_rate, []
        for samples, rate in map(decode, batch["audio"]):
            if rate != wanted:
                samples = resample_poly(samples, *(each // math.gcd(rate, wanted) for each in (wanted, rate)))
            features = self._extractor(samples, sampling_rate=wanted, return_tensors="np")
            prepared.append({name: values[0] for name, values in features.items()})
        return prepared

    def finish(self, prepared: Prepared, seed: int) -> dict[str, Any]:
        """There is nothing left to do."""
        return dict(prepared)


class AudioClassification(Task):
    """One class for each recording."""

    name = "audio-classification"
    summary = "one class for each recording; every AutoModelForAudioClassification"
    inputs = (InputColumn("audio", ("audio", "recording", "sound", "clip", "path", "file", "file_name", "filepath")),)
    file_suffixes = frozenset({".wav"})
    usage = 'classify("a-recording.wav")'
    defaults: ClassVar = {"learning_rate": 3e-5, "head_learning_rate": 1e-3, "per_device_train_batch_size": 8}

    def accepts(self, value: Any) -> bool:
        """A path to a WAV file, its bytes, or what the datasets library stores for it."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            return value[:4] == b"RIFF" and value[8:12] == b"WAVE"
        return isinstance(value, str) and value.lower().endswith(".wav")

    def check(self, example: Example) -> str | None:
        """Decode the recording."""
        return self.inspect(example).problem

    def inspect(self, example: Example) -> Inspection:
        """Copies have the same samples."""
        try:
            samples, rate = decode(example["audio"])
        except UserError as problem:
            return Inspection(str(problem))
        digest = hashlib.blake2b(samples.tobytes() + rate.to_bytes(4, "big"), digest_size=16).digest()
        return Inspection(key=digest, remark=None if samples.any() else "silence from beginning to end")

    def check_model(
        self, arguments: ModelArguments, splits: Mapping[str, Dataset], processor: Any = None
    ) -> list[Finding]:
        """Tell where recordings of different lengths share a batch, and the model takes the padding for sound."""
        if processor is None or processor.return_attention_mask:
            return []
        some = {"audio": [audio for split in splits.values() for audio in split[:_COMPARED]["audio"]]}
        encoded = RecordingEncoder(processor).prepare(some)
        if len({len(example[processor.model_input_names[0]]) for example in encoded}) == 1:
            return []
        message = "The recordings differ in length, and this model hears the silence that pads them in a batch: "
        return [Finding("recording length", WARNING, message + "cut them to one length, or set the batch sizes to 1.")]

    def supports(self, config: PretrainedConfig) -> bool:
        """Every configuration that transformers maps to an audio classifier."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

        return config.model_type in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES

    def load(
        self, arguments: ModelArguments, config: PretrainedConfig, target: Target | None
    ) -> tuple[PreTrainedModel, Any]:
        """Load model and feature extractor."""
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        with reading(f"'{arguments.model}' has no usable feature extractor"):
            extractor = AutoFeatureExtractor.from_pretrained(
                arguments.model, revision=arguments.revision, trust_remote_code=arguments.trust_remote_code
            )
        return load_classifier(AutoModelForAudioClassification, arguments, config, target), extractor

    def architecture(self, arguments: ModelArguments, config: PretrainedConfig) -> PreTrainedModel:
        """Build the model of the configuration."""
        from transformers import AutoModelForAudioClassification

        return build_without_weights(AutoModelForAudioClassification, arguments, config)

    def encoder(self, processor: Any, *, training: bool, augment: str = "none") -> Encoder:
        """Recordings become what the checkpoint's feature extractor makes of them."""
        return RecordingEncoder(processor)

    def collator(self, processor: Any) -> Collator:
        """Pad as the feature extractor does: (batch, samples), or (batch, frames, bands)."""

        def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
            import torch

            inputs = [{name: value for name, value in example.items() if name != "labels"} for example in examples]
            batch = dict(processor.pad(inputs, padding=True, return_tensors="pt"))
            labels = [example["labels"] for example in examples if "labels" in example]
            return batch | ({"labels": torch.tensor(labels)} if labels else {})

        return collate

    def describe(self, example: Example) -> str:
        """The path, where there is one."""
        audio = example["audio"]
        path = audio.get("path") if isinstance(audio, dict) else audio
        return path if isinstance(path, str) else reference_text(example.get("reference", "recording"))

    def thumbnail(self, example: Example) -> bytes | None:
        """Return the outline of the sound, 200 pixels wide and 60 high."""
        peaks = [np.abs(part).max(initial=0) for part in np.array_split(decode(example["audio"])[0], 200)]
        is_sound = np.abs(np.linspace(-1, 1, 60))[:, None] <= np.clip(peaks, 0.02, 1)
        picture, stream = Image.fromarray(np.where(is_sound, 60, 255).astype(np.uint8)), io.BytesIO()
        picture.save(stream, "JPEG", quality=80)
        return stream.getvalue()
