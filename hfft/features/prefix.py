"""The frozen prefix in training: steps start from the activations above what is frozen, recorded in one pass."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import transformers
from torch import nn

from hfft.errors import listed
from hfft.features.activations import Activations, Collate, length_of
from hfft.features.cuts import CannotCutError, Cut, Inputs, device_of, find_cuts
from hfft.features.extraction import model_key
from hfft.features.recording import joined, outputs_at, rows_of
from hfft.features.stages import Run, stages_of, worth_recording
from hfft.features.stubs import proven, starting_from
from hfft.hardware.seeding import random_state_kept
from hfft.layers import LayerGroup, LayerStack
from hfft.storage.caching import Cache
from hfft.training.rows import fetch

logger = logging.getLogger(__name__)

_TRIALS = 3  # of the highest possible cuts
_SAMPLE = 64  # texts that are looked at for their lengths
_TOLERANCE = 1e-4  # of outputs in float32 on a CPU, as a share of the largest; batches differ in how they are rounded
_LOOSE = 3e-2  # of the shorter formats, which are the rule on accelerators


class FrozenPrefix:
    """Where the steps of a training start, and the activations that they start from.

    Args:
        model: not wrapped, with the pretrained weights in what is frozen.
        stack: its layers.
        starts: for each layer group the step at which it begins to train, ``None`` for never.
        frozen_as_at: freezes, for as long as its context lasts, what is frozen in a step, and sets the modes.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: LayerStack,
        starts: Sequence[int | None],
        frozen_as_at: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        self._model, self._stack, self._starts, self._frozen_as_at = model, stack, tuple(starts), frozen_as_at
        self._cuts: dict[int, tuple[str, Cut]] = {}  # frozen groups -> key and cut
        self._recorded: dict[str, tuple[Activations, set[str]]] = {}  # with the keys of what is there for each row

    def frozen_at(self, step: int) -> int:
        """Return how many layer groups are frozen in a step, counted from the input."""
        trains = [start is not None and start <= step for start in self._starts]
        return trains.index(True) if True in trains else len(trains)

    def find_cuts(self, cache: Cache, data: Any, collate: Collate, run: Run, precision: str = "") -> None:
        """Find out where the model can be cut, and which cuts pay over the whole run.

        Args:
            cache: whose budget counts.
            data: the training examples, encoded; the same for the same index each time.
            collate: makes batches of them, on the model's device and without labels.
            run: how long it trains.
            precision: what the activations depend on beside model and examples.
        """
        stages = stages_of(self._starts, run.steps, run.steps_per_epoch)
        if not stages or len(data) == 0:
            return
        cuts: dict[int, Cut] = {}
        reasons: list[str] = []
        # what depends on a parameter that trains is known by its gradient, also in an evaluation before the first step
        with _undisturbed(self._model), torch.enable_grad():
            sample = _sample(data)
            for stage in stages:
                try:
                    with self._frozen_as_at(stage.start):
                        cuts[stage.frozen] = self._cut(stage.frozen, sample, collate)
                except CannotCutError as error:
                    reasons.append(str(error))
        if not cuts:
            self._give_up(reasons[0])
            return
        sizes = {frozen: _bytes(cut, sample) * len(data) for frozen, cut in cuts.items()}
        chosen = worth_recording(stages, sizes, cache.room(), run.views)
        self._cuts = {frozen: (self._key(frozen, cuts[frozen], precision), cuts[frozen]) for frozen in sorted(chosen)}

    def record(
        self, name: str, cache: Cache, data: Any, collate: Collate, batch_size: int, step: int, share: tuple[int, int]
    ) -> None:
        """Find or record what a split gives at the cuts that are needed from a step on.

        Args:
            name: of the split.
            cache: where activations are kept.
            data: its examples, encoded.
            collate: as for the training examples.
            batch_size: of the recording pass.
            step: the present one.
            share: (rank, ranks) of processes that record together.
        """
        needed = {self._highest(self._cuts, frozen) for frozen in range(self.frozen_at(step) + 1)} - {0}
        activations = Activations(cache, data, collate, batch_size, share)
        complete: set[str] = set()
        if needed:
            try:
                with _undisturbed(self._model), self._frozen_as_at(step):
                    complete = activations.record(self._model, dict(self._cuts[frozen] for frozen in sorted(needed)))
            except CannotCutError as error:
                self._give_up(str(error))
        self._recorded[name] = activations, complete
        if complete:
            paths = listed([self._cuts[frozen][1].path for frozen in sorted(needed)], 40)
            logger.info("Activations of the %s split are kept at %s.", name, paths)

    def has(self, name: str) -> bool:
        """Say whether :meth:`record` was called for a split."""
        return name in self._recorded

    def starting_point(self, name: str, step: int, rows: Sequence[int], inputs: Inputs) -> AbstractContextManager[None]:
        """Return the context in which a forward pass over rows of a split starts as high up as it can."""
        activations, complete = self._recorded[name]
        kept = {frozen for frozen, (key, _) in self._cuts.items() if key in complete}
        frozen = self._highest(kept, self.frozen_at(step))
        if not frozen:
            return nullcontext()
        key, cut = self._cuts[frozen]
        tensor = activations.read(key, rows, inputs).to(device_of(inputs), non_blocking=True)
        return starting_from(self._model, cut, tensor, inputs)

    def _give_up(self, reason: str) -> None:
        logger.warning(
            "Training computes the frozen layers of %s in each step: %s.", type(self._model).__name__, reason
        )

    def _highest(self, cuts: Any, frozen: int) -> int:
        return max((cut for cut in cuts if cut <= frozen), default=0)

    def _cut(self, frozen: int, sample: list[Any], collate: Collate) -> Cut:
        """Return the highest cut above so many groups that a trial proves right.

        Raises :class:`CannotCutError` where none is.
        """
        if not hasattr(self._model, "config"):
            raise CannotCutError("it has no configuration by which its activations could be found again")
        ends = [0, 1], [len(sample) // 2, -2, -1]
        small, large = ([sample[place % len(sample)] for place in places] for places in ends)
        reasons = []
        for cut in find_cuts(self._model, collate(small), collate(large))[:_TRIALS]:
            try:
                mixed = collate(small + large)
                parts = [row for batch in (small, large) for row in _rows(self._model, cut, collate(batch))]
                kept = joined(cut, torch.cat(parts), mixed).to(device_of(mixed))
                exact = cut.output.dtype == torch.float32 and kept.device.type == "cpu"
                cut = proven(self._model, cut, kept, mixed, _TOLERANCE if exact else _LOOSE)
                _require_gain(self._model, cut, self._stack[:frozen])
                return cut
            except CannotCutError as error:
                reasons.append(error)
        raise reasons[0]

    def _key(self, frozen: int, cut: Cut, precision: str) -> str:
        """Return a key of the weights below a cut and of what the model does with them."""
        model = self._model
        below = tuple(f"{path}." for path in (cut.path, *(output.path for output in cut.below)))
        weights = {name for group in self._stack[:frozen] for name in group.parameter_names}
        buffers = {name for name, _ in model.named_buffers() if name.startswith(below)}
        others = [name for name in model.state_dict() if name not in weights | buffers]
        versions = [torch.__version__, transformers.__version__, getattr(sys.modules.get("timm"), "__version__", "")]
        return f"activations-{model_key(model, others, *versions, _source(model), str(cut.output), precision)}"


def _rows(model: nn.Module, cut: Cut, inputs: Inputs) -> list[torch.Tensor]:
    """Return what a batch's examples have at a cut, each as (elements,)."""
    (output,) = outputs_at(model, [cut], inputs)
    return [torch.from_numpy(row).view(cut.output.dtype).flatten() for row in rows_of(cut, output, inputs)]


def _require_gain(model: nn.Module, cut: Cut, below: Sequence[LayerGroup]) -> None:
    """Raise :class:`CannotCutError` where most of the frozen groups below has to run all the same."""
    frozen = {id(model.get_parameter(name)) for group in below for name in group.parameter_names}
    idle = [model.get_submodule(path) for path in (cut.path, *(stub.path for stub in cut.stubs))]
    if _weights(idle, frozen) < 0.5 * _weights([model], frozen):
        raise CannotCutError(f"more than the output of {cut.path} goes up")


def _weights(modules: list[nn.Module], among: set[int]) -> int:
    """Return how many numbers inputs are multiplied with; in a table of embeddings they are only looked up."""
    parts = (part for module in modules for part in module.modules() if not isinstance(part, nn.Embedding))
    weights = {
        id(p): p.numel() for part in parts for p in part.parameters(recurse=False) if p.ndim > 1 and id(p) in among
    }
    return sum(weights.values())


def _sample(data: Any) -> list[Any]:
    """Return examples from all over the data, the shortest first."""
    count = min(len(data), _SAMPLE if length_of(data[0]) else 5)
    rows = [int(row) for row in torch.linspace(0, len(data) - 1, count)]
    return sorted(fetch(data, rows), key=length_of)


def _bytes(cut: Cut, sample: list[Any]) -> float:
    """Return about how many bytes an example takes."""
    tokens = sum(map(length_of, sample)) / len(sample)
    numbers = 1.0
    for size, follows in zip(cut.output.sizes, cut.output.follows_tokens, strict=True):
        numbers *= size + tokens * follows
    return numbers * cut.output.dtype.itemsize


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave random numbers and buffers as if nothing had run."""
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with random_state_kept():
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in buffers and buffers[name].shape == buffer.shape:  # some grow with the longest text
                        buffer.copy_(buffers[name])


def _source(model: nn.Module) -> str:
    """Return the code that the model's class stands in: models that come with code of their own have no version."""
    try:
        return inspect.getsource(sys.modules[type(model).__module__])
    except (OSError, TypeError, KeyError):
        return ""
