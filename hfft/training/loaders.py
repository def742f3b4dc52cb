"""GlobalBatches: a Trainer whose steps see the same examples, however many ranks divide them."""

from __future__ import annotations

from functools import partial
from typing import Any

import datasets
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer
from transformers.trainer_utils import has_length, seed_worker

from hfft.errors import UserError
from hfft.training.rows import NumberedCollator, NumberedRows, Views
from hfft.training.sampling import GlobalBatchSampler


class GlobalBatches(Trainer):
    """A Trainer that loads micro-batches of :class:`GlobalBatchSampler`, which say what rows they hold.

    Attributes:
        loss_needs_rows: whether the loss is computed from what is kept of each row.
        loss_ignores_stand_ins: whether it leaves out labels of :data:`hfft.objectives.IGNORED`.
        encoded: the training data as they are loaded, where the loss needs rows.
        steps_per_epoch: optimizer steps, likewise.
    """

    args: Any
    data_collator: Any
    loss_needs_rows = False
    loss_ignores_stand_ins = False
    encoded: Views | None = None
    steps_per_epoch = 1

    def get_train_dataloader(self) -> DataLoader:
        """Return micro-batches of this rank, such that the examples of a step depend on the global batch size alone."""
        data: Any = self.train_dataset
        strategy = str(self.args.train_sampling_strategy)
        if data is None or not has_length(data) or strategy == "batch_rebalance":
            return super().get_train_dataloader()
        sampler = GlobalBatchSampler(
            len(data),
            self._train_batch_size,
            ranks=self.args.world_size,
            accumulation=self.args.gradient_accumulation_steps,
            seed=self.args.data_seed if self.args.data_seed is not None else self.args.seed,
            lengths=self._lengths(data) if strategy == "group_by_length" else None,
            shuffle=strategy != "sequential",
            drop_last=self.args.dataloader_drop_last,
            further_views=getattr(data, "further_views", False),
            views=self.args.cached_views if getattr(data, "further_views", False) else None,
        )
        if isinstance(data, datasets.Dataset):
            data = self._remove_unused_columns(data, description="training")
        if self.loss_needs_rows:
            self.encoded, self.steps_per_epoch = Views(data, sampler.views or 1), sampler.steps_per_epoch
        loader = DataLoader(
            NumberedRows(data),
            batch_sampler=sampler,
            collate_fn=NumberedCollator(self.data_collator, ignores=self.loss_ignores_stand_ins),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            in_order=self.args.dataloader_in_order,
            worker_init_fn=partial(
                seed_worker, num_workers=self.args.dataloader_num_workers, rank=self.args.process_index
            ),
        )
        return self.accelerator.prepare(loader)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Return the Trainer's, in training with the rows that each batch holds."""
        known = self.loss_needs_rows and self.is_in_train and eval_dataset is self.eval_dataset
        if not known or self.args.remove_unused_columns or isinstance(eval_dataset, dict | str):
            return super().get_eval_dataloader(eval_dataset)
        collate, self.data_collator = self.data_collator, NumberedCollator(self.data_collator)
        try:
            return super().get_eval_dataloader(NumberedRows(eval_dataset))
        finally:
            self.data_collator = collate

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        """Return the examples in their own order also where training groups them by length."""
        grouped, self.args.train_sampling_strategy = self.args.train_sampling_strategy, "random"
        try:
            return super()._get_eval_sampler(eval_dataset)
        finally:
            self.args.train_sampling_strategy = grouped

    def _lengths(self, data: Any) -> np.ndarray:
        """Return the length of every training example."""
        known = getattr(data, "lengths", None)
        column = self.args.length_column_name
        if known is None and column in (getattr(data, "column_names", None) or ()):
            known = data[column]
        if known is None:
            name = next(iter(getattr(self.processing_class, "model_input_names", ["input_ids"])))
            known = [len(example[name]) for example in data]
        return np.asarray(known)


def require_own_division(args: Any) -> None:
    """Raise :class:`UserError` where accelerate is asked to divide the batches, which the sampler does."""
    for name in ("split_batches", "dispatch_batches"):
        if getattr(args.accelerator_config, name, None):
            raise UserError(f"accelerator_config: {name} has no place here, because hfft divides batches itself.")


def require_lengths(args: Any, data: Any) -> None:
    """Raise :class:`UserError` where batches are asked for by the length of examples that are all of one size."""
    if str(args.train_sampling_strategy) not in ("group_by_length", "batch_rebalance"):
        return
    if getattr(data, "lengths", ()) is None:
        raise UserError(f"train_sampling_strategy: {args.train_sampling_strategy} is for examples that have a length.")
