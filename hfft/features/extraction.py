"""Features: what the last layer of a model reads, computed once for each example and kept.

A frozen trunk gives the same features for the same input in every epoch, fold, trial and run. They are kept under a
key of the trunk's weights, its configuration, the preprocessing and the content of the examples. The batches in which
they are computed depend on that content alone, so that they are the same bit for bit whether they were kept or not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn
from torch.utils.data import DataLoader

from hfft.data.inspecting import Track
from hfft.errors import UnsolvableHeadError
from hfft.features.readout import Readout
from hfft.hardware.memory_format import channels_last
from hfft.hardware.precision import FP32, autocast_on
from hfft.layers.dropout import is_for_training, without_rates
from hfft.storage.caching import Cache, content_key
from hfft.targets.target import MEAN, SCALE, TEMPERATURE, THRESHOLDS

_FORMAT = 2
# What a layer makes of a larger batch falls out of a processor's cache: MobileNetV2-0.35 on two cores takes 6 ms a
# picture in batches of 16 and 10 ms in batches of 64.
_PICTURES_ON_CPU = 16
_TOKENS_ON_CPU = 1024

# Of a configuration: the classes, what is settled of their outputs, and what the Trainer turns off of a decoder, which
# is for generating alone.
_NO_FEATURE_DEPENDS_ON = frozenset(
    {"id2label", "label2id", "num_labels", "num_classes", "problem_type", "_name_or_path", "use_cache"}
    | {MEAN, SCALE, THRESHOLDS, TEMPERATURE}
)

Share = tuple[int, int]
"""(which one, of how many) processes that compute together."""


def compute_features(
    model: nn.Module,
    readout: Readout,
    examples: Any,
    collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
    *,
    lengths: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 64,
    precision: str = FP32,
    track: Track | None = None,
    share: Share = (0, 1),
) -> tuple[np.ndarray, np.ndarray]:
    """Run a model once over encoded examples and return its features.

    Args:
        model: on its device.
        readout: where the features are read.
        examples: encoded examples by index.
        collate: joins encoded examples into a batch.
        lengths: examples of like length share a batch.
        batch_size: examples at a time, fewer where they are longer than most: memory is that of the common ones.
        precision: number format to compute in.
        track: shows the progress.
        share: of the batches that are computed here.

    Returns:
        (rows,) the examples that were computed, and their features (rows, width) float32.

    Raises:
        UnsolvableHeadError: where what comes out is not one vector for each example.
    """
    count = len(examples)
    order = np.arange(count) if lengths is None else np.argsort(np.asarray(lengths), kind="stable")
    device = next(model.parameters()).device
    most_tokens = _TOKENS_ON_CPU if device.type == "cpu" else None
    if device.type == "cpu" and lengths is None:
        batch_size = min(batch_size, _PICTURES_ON_CPU)
    rows_of = _batches(order, lengths, batch_size, most_tokens)[share[0] :: share[1]]
    batches: Iterable[Any] = zip(rows_of, DataLoader(examples, batch_sampler=rows_of, collate_fn=collate), strict=True)
    if track is not None:
        batches = track(batches, len(rows_of), "Computing features")
    autocast = autocast_on(device, precision)
    done, features = 0, np.empty((0, 0), dtype=np.float32)
    with readout.reading(model) as features_of, channels_last(model), torch.inference_mode():
        for rows, batch in batches:
            with autocast():
                output = model(**model_inputs(batch, device))
            found = features_of(output).float().cpu().numpy()
            found = found.reshape(len(rows), -1) if found.ndim == 4 else found  # a map of one position
            if found.ndim != 2 or len(found) != len(rows):
                raise UnsolvableHeadError(
                    f"The head of a {type(model).__name__} cannot be solved: what it reads of an example is no vector "
                    f"but of shape {found.shape[1:]}."
                )
            if not len(features):
                features = np.empty((sum(map(len, rows_of)), found.shape[1]), dtype=np.float32)
            features[done : done + len(rows)] = found
            done += len(rows)
    return np.array([row for rows in rows_of for row in rows], dtype=np.int64), features


def _batches(
    order: np.ndarray, lengths: Sequence[int] | np.ndarray | None, batch_size: int, most_tokens: int | None
) -> list[list[int]]:
    """Divide rows, sorted by length, into batches of so many examples, and of so many median lengths at most."""
    if lengths is None or not len(order):
        return [rows.tolist() for rows in np.array_split(order, range(batch_size, len(order), batch_size))]
    longest = np.asarray(lengths)[order]
    room = min(batch_size * float(np.median(longest)), most_tokens or np.inf)
    batches, start = [], 0
    while start < len(order):
        size = min(batch_size, len(order) - start)
        while size > 1 and size * longest[start + size - 1] > room:
            size -= 1
        batches.append(order[start : start + size].tolist())
        start += size
    return batches


def model_inputs(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """Return a batch without its labels, on a device."""
    return {name: value.to(device) for name, value in batch.items() if name != "labels"}


def kept_features(
    compute: Callable[[Sequence[int], Share], tuple[np.ndarray, np.ndarray]],
    model_key: str,
    keys: Sequence[str],
    cache: Cache | None,
    share: Share = (0, 1),
) -> np.ndarray:
    """Return the features of examples, from the cache where they are in it.

    Processes that share a cache compute a share each. They need not speak to each other: each begins with its own, and
    waits for, or makes up, what is not there yet.

    Args:
        compute: returns what :func:`compute_features` does for a share of examples, each of which is another input.
        model_key: of everything else that the features depend on.
        keys: of the examples' content, in their order.
        cache: ``None`` keeps nothing.
        share: of this process.
    """
    different, first, place = np.unique(np.asarray(keys), return_index=True, return_inverse=True)
    entry = f"features-{content_key(_FORMAT, model_key, *different.tolist())}"
    chosen = [int(row) for row in first]

    def part(number: int, of: Cache) -> tuple[np.ndarray, np.ndarray]:
        made: list[tuple[np.ndarray, np.ndarray]] = []

        def fill(folder: Path) -> None:
            made.append(compute(chosen, (number, share[1])))
            for name, array in zip(("rows", "features"), made[0], strict=True):
                np.save(folder / f"{name}.npy", array, allow_pickle=False)

        arrays = of.arrays(f"{entry}-{number}of{share[1]}", fill)
        if arrays is not None:
            return arrays["rows"], arrays["features"]
        return made[0] if made else compute(chosen, (number, share[1]))

    def join() -> np.ndarray:
        whole = parts or [compute(chosen, (0, 1))]
        width = max(found.shape[1] for _, found in whole)  # of more processes than batches some have none
        features = np.empty((len(chosen), width), dtype=np.float32)
        for rows, found in whole:
            features[rows] = found.reshape(-1, width)
        return features

    parts: list[tuple[np.ndarray, np.ndarray]] = []
    if cache is not None and share[1] > 1 and cache.open(entry) is None:
        parts = [part((share[0] + offset) % share[1], cache) for offset in range(share[1])]
    features = join() if cache is None else cache.array(entry, join)
    return np.asarray(features[place])


def model_key(model: Any, without: Sequence[str], *more: str) -> str:
    """Return a digest of what turns inputs into features.

    Args:
        model: its parameters and buffers count, and what of its configuration features depend on: no dropout of any
            kind and no stochastic depth, which are off.
        without: names of parameters that come behind the features.
        more: whatever else, such as the encoder's key.
    """
    digest = xxhash.xxh3_128()  # twenty times as fast as blake2b, and each fold and trial asks for it several times
    left_out = set(without)
    for name, tensor in model.state_dict().items():
        if name not in left_out:
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            # with the channels last a kernel of one position counts as contiguous, and is no run of bytes all the same
            digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    for name, module in model.named_modules():  # some that have no weights make a difference all the same
        if not is_for_training(module):
            digest.update(f"{name} {type(module).__qualname__}".encode())
    settings = without_rates(model.config.to_dict())
    config = {name: value for name, value in settings.items() if name not in _NO_FEATURE_DEPENDS_ON}
    told = json.dumps(config, sort_keys=True, default=str)
    return content_key(digest.digest(), type(model).__name__, told, *more)
