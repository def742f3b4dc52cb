"""The frozen prefix in training: steps start from the activations above what is frozen, recorded in one pass."""

from __future__ import annotations

import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import transformers
from torch import nn

from hfft.caching import Cache, content_key
from hfft.features.activations import Activations, Collate, length_of
from hfft.features.cuts import CannotCutError, Cut, Inputs, device_of, find_cuts
from hfft.features.recording import joined, outputs_at, rows_of
from hfft.features.rows import fetch
from hfft.features.stages import stages_of, worth_recording
from hfft.features.stubs import proven, starting_from
from hfft.layers import LayerStack

logger = logging.getLogger(__name__)

_TRIALS = 3  # of the highest possible cuts
_SAMPLE = 64  # texts that are looked at for their lengths
_TOLERANCE = 1e-4  # of outputs in float32 on a CPU, as a share of the largest; batches differ in how they are rounded
_LOOSE = 3e-2  # of the shorter formats, which are the rule on accelerators
_OF_THE_HEAD = ("id2label", "label2id", "num_labels", "problem_type", "_name_or_path", "architectures", "num_classes")


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
        self._recorded: dict[str, Activations] = {}

    def frozen_at(self, step: int) -> int:
        """Return how many layer groups are frozen in a step, counted from the input."""
        trains = [start is not None and start <= step for start in self._starts]
        return trains.index(True) if True in trains else len(trains)

    def record(
        self,
        cache: Cache,
        data: Any,
        collate: Collate,
        *,
        steps: int,
        steps_per_epoch: float,
        batch_size: int,
        first_step: int = 0,
        precision: str = "",
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Find out where the model can be cut, and record what pays over the whole run.

        Args:
            cache: where activations are kept.
            data: the training examples, encoded; the same for the same index each time.
            collate: makes batches of them, on the model's device and without labels.
            steps: of the run.
            steps_per_epoch: optimizer steps.
            batch_size: of the recording pass.
            first_step: where the run is resumed; what is not needed from there on is not recorded.
            precision: what else the activations depend on.
            share: (rank, ranks) of processes that record together.
        """
        stages = stages_of(self._starts, steps, steps_per_epoch)
        if not stages or len(data) == 0:
            return
        sample = _sample(data)
        cuts: dict[int, Cut] = {}
        reasons = []
        with _undisturbed(self._model):
            for stage in stages:
                try:
                    with self._frozen_as_at(stage.start):
                        cuts[stage.frozen] = self._cut(sample, collate)
                except CannotCutError as error:
                    reasons.append(str(error))
            sizes = {frozen: _bytes(cut, sample) * len(data) for frozen, cut in cuts.items()}
            chosen = worth_recording(stages, sizes, cache.budget)
            used = {self._highest(chosen, stage.frozen) for stage in stages if self._lasts(stage.frozen, first_step)}
            keyed = {frozen: (self._key(frozen, cuts[frozen], precision), cuts[frozen]) for frozen in used - {0}}
            activations = Activations(cache, data, collate, batch_size, share)
            try:
                with self._frozen_as_at(first_step):
                    complete = activations.record(self._model, dict(keyed[frozen] for frozen in sorted(keyed)))
            except CannotCutError as error:
                complete = set()
                cuts = {}
                reasons.append(str(error))
        if not cuts:
            logger.warning(
                "Training computes the frozen layers of %s in each step: %s.", type(self._model).__name__, reasons[0]
            )
        self._cuts = {frozen: (key, cut) for frozen, (key, cut) in keyed.items() if key in complete}
        self._recorded = {"train": activations}
        for _, cut in self._cuts.values():
            logger.info("While what is below it is frozen, steps start from the kept output of %s", cut.path)

    def starting_point(self, step: int, rows: Sequence[int], inputs: Inputs) -> AbstractContextManager[None]:
        """Return the context in which the model's forward pass of a step starts as high up as it can."""
        frozen = self._highest(self._cuts, self.frozen_at(step))
        if not frozen:
            return nullcontext()
        key, cut = self._cuts[frozen]
        kept = self._recorded["train"].read(key, rows, inputs)
        return starting_from(self._model, cut, kept.to(device_of(inputs), non_blocking=True), inputs)

    def _highest(self, cuts: Any, frozen: int) -> int:
        return max((cut for cut in cuts if cut <= frozen), default=0)

    def _lasts(self, frozen: int, step: int) -> bool:
        return frozen <= self.frozen_at(step)

    def _cut(self, sample: list[Any], collate: Collate) -> Cut:
        """Return the highest cut that a trial proves right; raises :class:`CannotCutError` where none is."""
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
                _require_gain(self._model, cut)
                return cut
            except CannotCutError as error:
                reasons.append(error)
        raise reasons[0]

    def _key(self, frozen: int, cut: Cut, precision: str) -> str:
        """Return a key of the weights below a cut and of what the model does with them."""
        model = self._model
        names = sorted(name for group in self._stack[:frozen] for name in group.parameter_names)
        below = (cut.path, *(output.path for output in cut.below))
        buffers = [name for name, _ in model.named_buffers() if name.startswith(tuple(f"{path}." for path in below))]
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        weights = [
            part
            for name in (*names, *buffers)
            for part in (name, str(state[name].dtype), str(tuple(state[name].shape)), _content(state[name]))
        ]
        versions = [torch.__version__, transformers.__version__, getattr(sys.modules.get("timm"), "__version__", None)]
        code = [type(model).__qualname__, _source(model), _settings(model)]
        shape = [cut.path, str(cut.output), precision]
        return f"activations-{content_key(*versions, *code, *shape, *weights)}"


def _rows(model: nn.Module, cut: Cut, inputs: Inputs) -> list[torch.Tensor]:
    """Return what a batch's examples have at a cut, each as (elements,)."""
    (output,) = outputs_at(model, [cut], inputs)
    return [torch.from_numpy(row).view(cut.output.dtype).flatten() for row in rows_of(cut, output, inputs)]


def _require_gain(model: nn.Module, cut: Cut) -> None:
    """Raise :class:`CannotCutError` where most of what is frozen has to run all the same."""
    idle = [model.get_submodule(path) for path in (cut.path, *(stub.path for stub in cut.stubs))]
    if _frozen_weights(idle) < 0.5 * _frozen_weights([model]):
        raise CannotCutError(f"more than the output of {cut.path} goes up")


def _frozen_weights(modules: list[nn.Module]) -> int:
    """Return how many frozen numbers inputs are multiplied with; in a table of embeddings they are only looked up."""
    parts = (part for module in modules for part in module.modules() if not isinstance(part, nn.Embedding))
    weights = {
        id(p): p.numel() for part in parts for p in part.parameters(recurse=False) if p.ndim > 1 and not p.requires_grad
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
    with torch.random.fork_rng():
        try:
            yield
        finally:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])


def _content(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _source(model: nn.Module) -> str:
    """Return the code that the model's class stands in: models that come with code of their own have no version."""
    try:
        return inspect.getsource(sys.modules[type(model).__module__])
    except (OSError, TypeError, KeyError):
        return ""


def _settings(model: nn.Module) -> str:
    """Return the configuration, without what is the head's."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        plain = (int, float, str, bool, tuple)
        attributes = [(n, v) for module in model.modules() for n, v in vars(module).items() if isinstance(v, plain)]
        return repr((model, [pair for pair in attributes if pair[0] != "training"]))
    settings = {name: value for name, value in config.to_dict().items() if name not in _OF_THE_HEAD}
    return json.dumps(settings, sort_keys=True, default=str)
