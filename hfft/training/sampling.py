"""Which examples an optimizer step sees: a function of seed, epoch, data and global batch size alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from transformers import TrainerCallback

_BATCHES_SORTED_TOGETHER = 50


class StandIn(int):
    """The row of an example that another rank has in the same step: all ranks have to run, and it does not count."""


class GlobalBatchSampler(Sampler[list[int]]):
    """Draws the examples of whole optimizer steps, and cuts them into micro-batches for ranks and accumulation.

    The examples of step k are the same for 1 rank x 16, 2 ranks x 8, and 1 rank x 4 with 4 accumulation steps.
    With ``lengths``, examples of about equal length share a step: the epoch is shuffled, sorted by length within
    stretches of at most 50 global batches, cut into global batches, and these are shuffled; the batch with the longest
    example comes first, so that memory which does not suffice is found out at once. Inside a step the micro-batches
    hold neighbours in length, and the ranks of one micro-step like lengths.

    Micro-batches come in the order in which accelerate's ``BatchSamplerShard`` deals them out: all ranks of a
    micro-step, then the next micro-step. The last step of an epoch, where fewer examples are left, is divided evenly; a
    rank for which there would be none gets a :class:`StandIn`.

    Args:
        examples: in the data set.
        batch_size: examples of a micro-batch.
        ranks: processes that train together.
        accumulation: micro-batches of an optimizer step on each rank.
        lengths: of each example; ``None`` draws at random.
        shuffle: without it the examples come in their own order.
        drop_last: leave out the last step of an epoch where it is not full.
        further_views: yield ``epoch * examples + row`` in place of ``row``, for a data set of which each epoch draws
            another view.
        views: after so many the first one comes again.
    """

    batch_size = None  # what accelerate reads for micro-batches that differ in size

    def __init__(
        self,
        examples: int,
        batch_size: int,
        *,
        ranks: int = 1,
        accumulation: int = 1,
        seed: int = 0,
        lengths: Sequence[int] | np.ndarray | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        further_views: bool = False,
        views: int | None = None,
    ) -> None:
        self.examples, self.micro_batch_size = examples, batch_size
        self.ranks, self.accumulation, self.seed = ranks, accumulation, seed
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.shuffle, self.drop_last, self.further_views = shuffle, drop_last, further_views
        self.views = views
        self.global_batch_size = batch_size * ranks * accumulation
        self.epoch = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        full, rest = divmod(self.examples, self.global_batch_size)
        return full if self.drop_last and full else full + bool(rest)

    def set_epoch(self, epoch: int) -> None:
        """Draw the order of this epoch next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of micro-batches of all ranks."""
        full, rest = divmod(self.examples, self.global_batch_size)
        last = self._micro_steps(rest) if self.steps_per_epoch > full else 0
        return (full * self.accumulation + last) * self.ranks

    def __iter__(self) -> Iterator[list[int]]:
        view = self.epoch if self.views is None else self.epoch % self.views
        first_view = view * self.examples if self.further_views else 0
        for step in self.steps():
            for micro_step in np.array_split(step, self._micro_steps(len(step))):
                shared = micro_step if len(micro_step) >= self.ranks else np.resize(micro_step, self.ranks)
                for rank in range(self.ranks):
                    rows = (shared[rank :: self.ranks] + first_view).tolist()
                    yield rows if rank < len(micro_step) else [StandIn(row) for row in rows]

    def steps(self) -> list[np.ndarray]:
        """Return the rows of each optimizer step of this epoch."""
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.examples) if self.shuffle else np.arange(self.examples)
        if self.lengths is not None:
            order = self._by_length(order)
        cuts = range(self.global_batch_size, self.examples, self.global_batch_size)
        steps = np.split(order, cuts)[: self.steps_per_epoch]
        if self.lengths is None:
            return steps
        partial = [steps.pop()] if len(steps[-1]) < self.global_batch_size else []
        steps = [steps[index] for index in generator.permutation(len(steps))]
        if steps:
            longest = int(np.argmax([self.lengths[step].max() for step in steps]))
            steps[0], steps[longest] = steps[longest], steps[0]
        return steps + partial

    def _by_length(self, order: np.ndarray) -> np.ndarray:
        """Sort stretches of the order, the longest first; what fills no batch stays out of them, drawn at random."""
        assert self.lengths is not None
        full = self.examples // self.global_batch_size * self.global_batch_size
        stretches = np.split(order[:full], range(stretch := self._stretch(), full, stretch)) if full else []
        rest = order[full:]
        return np.concatenate([part[np.argsort(-self.lengths[part], kind="stable")] for part in [*stretches, rest]])

    def _stretch(self) -> int:
        """Return how many examples are sorted together; in small data fewer, or each epoch would cut the same steps."""
        batches = min(_BATCHES_SORTED_TOGETHER, max(1, self.examples // self.global_batch_size // 4))
        return batches * self.global_batch_size

    def _micro_steps(self, examples: int) -> int:
        """Return into how many micro-steps a step of so many examples is cut."""
        return -(-examples // (self.micro_batch_size * self.ranks))


class EpochOfSampler(TrainerCallback):
    """Tells a :class:`GlobalBatchSampler` its epoch, which accelerate does not in every wrapping that it uses."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Count the epochs by the steps that were made: so it is right also where training was resumed."""
        sampler = global_batch_sampler(train_dataloader)
        if sampler is not None:
            sampler.set_epoch(state.global_step // max(1, sampler.steps_per_epoch))


def global_batch_sampler(dataloader: Any) -> GlobalBatchSampler | None:
    """Return the sampler under accelerate's wrappers, if it is one of ours."""
    sampler = getattr(dataloader, "batch_sampler", None)
    while sampler is not None and not isinstance(sampler, GlobalBatchSampler):
        sampler = getattr(sampler, "batch_sampler", None)
    return sampler
