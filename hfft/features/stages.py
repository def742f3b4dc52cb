"""Which cuts are worth recording: a count of the layer groups that need not run, against the pass that records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WRITING = 0.1  # layer groups that writing and reading one more cut costs, by estimate, for each example


@dataclass(frozen=True)
class Run:
    """How long a training is.

    Attributes:
        steps: optimizer steps.
        steps_per_epoch: of them.
        views: of each example, that are drawn in turns; each is recorded.
    """

    steps: int
    steps_per_epoch: float
    views: int = 1


@dataclass(frozen=True)
class Stage:
    """A stretch of training with the same layers frozen.

    Attributes:
        start: its first optimizer step.
        epochs: its length.
        frozen: layer groups that are frozen, counted from the input.
    """

    start: int
    epochs: float
    frozen: int


def stages_of(starts: Sequence[int | None], steps: int, steps_per_epoch: float) -> list[Stage]:
    """Return the stages of a run in which something is frozen from the input on.

    Args:
        starts: for each layer group the step at which it begins to train, ``None`` for never.
        steps: of the run.
        steps_per_epoch: optimizer steps.
    """
    begins = sorted({0, *(start for start in starts if start is not None and start < steps)})
    stages = []
    for begin, end in zip(begins, [*begins[1:], steps], strict=True):
        trains = [start is not None and start <= begin for start in starts]
        frozen = trains.index(True) if True in trains else len(trains)
        if frozen:
            stages.append(Stage(begin, (end - begin) / steps_per_epoch, frozen))
    return stages


def worth_recording(stages: Sequence[Stage], sizes: Mapping[int, float], budget: float, views: int = 1) -> set[int]:
    """Return how many frozen groups to cut above, such that most is saved: none where recording would not pay.

    One pass records all cuts; it costs a forward pass of the groups below the highest. A stage with more groups frozen
    than a cut has below it can start from it as well.

    Args:
        stages: of the run.
        sizes: bytes to keep, for each number of frozen groups at which the model can be cut.
        budget: bytes in all.
        views: passes that record.
    """
    chosen: set[int] = set()
    while True:
        room = budget - sum(sizes[cut] for cut in chosen)
        more = [cut for cut in sizes if cut not in chosen and sizes[cut] <= room]
        best = max(more, key=lambda cut: (_saved(stages, chosen | {cut}, views), -cut), default=None)
        if best is None or _saved(stages, chosen | {best}, views) <= _saved(stages, chosen, views):
            return chosen
        chosen.add(best)


def _saved(stages: Sequence[Stage], cuts: set[int], views: int) -> float:
    """Return the forward passes of one group over the data that are saved."""
    if not cuts:
        return 0.0
    used = (stage.epochs * max((cut for cut in cuts if cut <= stage.frozen), default=0) for stage in stages)
    return sum(used) - views * (max(cuts) + _WRITING * len(cuts))
