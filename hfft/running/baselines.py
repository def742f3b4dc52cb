"""The solved head as a baseline: how good its answers for the test split are, before anything else is trained."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from rich.console import Console

from hfft.data import LabelledData
from hfft.errors import UserError
from hfft.failures import computing
from hfft.features.of_split import Features, rows_in
from hfft.features.readout import Readout
from hfft.features.start import AUTO, MODEL, Start
from hfft.running.preparing import SMALLER_BATCHES, how_to_compute, start_training
from hfft.storage.caching import Cache
from hfft.task import Task
from hfft.terminal import progress_bar
from hfft.training_arguments import FineTuningArguments

# A training step is a forward pass and a backward pass, which takes about twice as long.
_PASSES_OF_STEP = 3
_SMALL_SHARE = 0.1


def probe_test(
    task: Task,
    model: Any,
    processor: Any,
    data: LabelledData,
    args: FineTuningArguments,
    start: Start,
    pooling: str,
    cache: Cache,
    console: Console,
) -> dict[str, float] | None:
    """Return the test metrics of a solved head before anything else is trained.

    Where the training does not start from one, it is that of a linear probe with the same arguments, solved on a copy
    of the model if that takes at most a tenth of the time of the training, by one process alone. Thresholds of classes
    are tuned as those of the model are. Nothing is chosen by these metrics, and what is trained stays the same bit for
    bit.

    Args:
        task, processor, data, args, cache, console: of a run that has not begun to train.
        model: as its training will start, adapters aside.
        start: what its training starts from.
        pooling: how the head reads the trunk, as it was asked for.

    Returns:
        name -> value; ``None`` without a test split, where it would take too long, and where no head can be solved.
    """
    if "test" not in data.splits:
        return None
    if start.readout is None and (args.world_size > 1 or not _is_cheap(task, model, data, args)):
        return None
    readout = start.readout
    try:
        with torch.random.fork_rng(devices=[]):
            if readout is None:
                try:
                    model = copy.deepcopy(model)
                except (RuntimeError, TypeError):  # of tensors in it that were computed, or what is no data
                    return None
                wanted = AUTO if pooling == AUTO else MODEL  # another one is in the model already
                readout = start_training(task, model, processor, data, args, wanted, cache, console, True).readout
            assert readout is not None
            with progress_bar(console) as bar, computing(SMALLER_BATCHES):
                how = how_to_compute(args, cache, bar)

                def predict(name: str, pool: Dataset | None = None) -> tuple[np.ndarray, np.ndarray]:
                    logits = head_logits(task, model, processor, data.splits[name], pool, readout, args.device, **how)
                    return data.labels(name), data.target.outputs(logits)

                held_out = "validation" in data.splits
                target = data.target.tuned(lambda: predict("validation")) if held_out else data.target
                return target.metrics.compute(*predict("test", data.pool))
    except UserError:  # what only stands beside the result may not come in its way
        return None


def head_logits(
    task: Task,
    model: Any,
    processor: Any,
    split: Dataset,
    pool: Dataset | None,
    readout: Readout,
    device: torch.device,
    **how: Any,
) -> np.ndarray:
    """Return the (examples, outputs) logits of a model as it is, through the cache of features.

    Args:
        task, model, processor: of the run.
        split: the examples.
        pool: what they were drawn from, if its features are computed for all draws; else ``None``.
        readout: where the features are read.
        device: on which they are computed; the model returns to where it was.
        **how: see :func:`hfft.running.preparing.how_to_compute`.
    """
    drawn = None if pool is None else rows_in(split, pool)
    home = next(model.parameters()).device
    model.to(device)
    try:
        features = Features(task, model, processor, split if pool is None else pool, drawn=drawn, **how).read(readout)
        return readout.logits(torch.from_numpy(features).to(device)).float().cpu().numpy()
    finally:
        model.to(home)


def _is_cheap(task: Task, model: Any, data: LabelledData, args: FineTuningArguments) -> bool:
    """Say whether the features of training and test split cost little beside the training."""
    train, test = len(data.splits["train"]), len(data.splits["test"])
    seen = args.num_train_epochs * train
    if args.max_steps > 0:
        seen = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps
    return len(task.poolings(model)) * train + test <= _SMALL_SHARE * _PASSES_OF_STEP * seen
