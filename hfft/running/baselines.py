"""Answers of a solved head from features that are kept: before anything else is trained, and in cross-validation."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from datasets import Dataset

from hfft.errors import UserError
from hfft.evidence import PartOfCrossValidation
from hfft.failures import computing
from hfft.features.of_split import Features, rows_in
from hfft.features.readout import Readout
from hfft.features.start import AUTO, MODEL, Start
from hfft.running.preparing import SMALLER_BATCHES, Preparation, start_head
from hfft.strategies import load_strategy
from hfft.task import StagedEncoder
from hfft.terminal import progress_bar

# A training step is a forward pass and a backward pass, which takes about twice as long.
_PASSES_OF_STEP = 3
_SMALL_SHARE = 0.1


def probe_test(prepared: Preparation, start: Start) -> dict[str, float] | None:
    """Return the test metrics of a solved head before anything else is trained.

    Where the training does not start from one, it is that of a linear probe with the same arguments, solved on a copy
    of the model if that takes at most a tenth of the time of the training, by one process alone. Thresholds of classes
    are tuned as those of the model are. Nothing is chosen by these metrics, and what is trained stays the same bit for
    bit.

    Args:
        prepared: a run that has not begun to train; its model is as the training will start, adapters aside.
        start: what its training starts from.

    Returns:
        name -> value; ``None`` without a test split, where it would take too long, and where no head can be solved.
    """
    data, args = prepared.data, prepared.args
    if "test" not in data.splits:
        return None
    if start.readout is None and (args.world_size > 1 or not _is_cheap(prepared)):
        return None
    try:
        with torch.random.fork_rng(devices=[]):
            readout = start.readout
            if readout is None:
                try:
                    prepared = dataclasses.replace(prepared, model=copy.deepcopy(prepared.model))
                except (RuntimeError, TypeError):  # of tensors in it that were computed, or what is no data
                    return None
                # another pooling is in the model already
                pooling = AUTO if prepared.model_arguments.pooling == AUTO else MODEL
                readout = start_head(prepared, pooling, solved=True).readout
            assert readout is not None
            return _test_metrics(prepared, readout)
    except UserError:  # what only stands beside the result may not come in its way
        return None


def _test_metrics(prepared: Preparation, readout: Readout) -> dict[str, float]:
    """Return the test metrics of the model as it is; thresholds are tuned where there is a validation split."""
    data = prepared.data

    def predict(name: str, pool: Dataset | None = None) -> tuple[np.ndarray, np.ndarray]:
        logits = head_logits(prepared, data.splits[name], pool, readout)
        return data.labels(name), data.target.outputs(logits)

    target = data.target
    if "validation" in data.splits:
        target = target.tuned(lambda: predict("validation"))
    return target.metrics.compute(*predict("test", data.pool))


def head_logits(prepared: Preparation, split: Dataset, pool: Dataset | None, readout: Readout) -> np.ndarray:
    """Return the (examples, outputs) logits of a model as it is, through the cache of features.

    Args:
        prepared: its model is put on the device to compute on, and returns to where it was.
        split: the examples.
        pool: what they were drawn from, if its features are computed for all draws; else ``None``.
        readout: where the features are read.
    """
    drawn = None if pool is None else rows_in(split, pool)
    model, device = prepared.model, prepared.args.device
    home = next(model.parameters()).device
    model.to(device)
    try:
        with progress_bar(prepared.console) as bar, computing(SMALLER_BATCHES):
            how = prepared.how_to_compute(bar)
            whole = split if pool is None else pool
            features = Features(prepared.task, model, prepared.processor, whole, drawn=drawn, **how).read(readout)
            return readout.logits(torch.from_numpy(features).to(device)).float().cpu().numpy()
    finally:
        model.to(home)


def held_out_logits(prepared: Preparation, start: Start, part: PartOfCrossValidation | None) -> np.ndarray | None:
    """Return the (examples, outputs) logits of what a fold holds out, where only the head is solved.

    Its examples are training examples of the other folds, so their features are kept. What could not be kept is
    computed anew, of these examples alone and in the same number format.

    Returns:
        ``None`` for any other run.
    """
    if part is None or not part.is_fold or start.readout is None or load_strategy(prepared.args.strategy).trains:
        return None
    encoder = prepared.task.encoder(prepared.processor, training=False)
    kept = isinstance(encoder, StagedEncoder) and encoder.key is not None and prepared.cache.note is None
    pool = prepared.data.pool if kept else None
    return head_logits(prepared, prepared.data.splits["test"], pool, start.readout)


def _is_cheap(prepared: Preparation) -> bool:
    """Say whether the features of training and test split cost little beside the training."""
    data, args = prepared.data, prepared.args
    train, test = len(data.splits["train"]), len(data.splits["test"])
    seen = args.num_train_epochs * train
    if args.max_steps > 0:
        seen = args.max_steps * args.train_batch_size * args.gradient_accumulation_steps
    return len(prepared.task.poolings(prepared.model)) * train + test <= _SMALL_SHARE * _PASSES_OF_STEP * seen
