"""A linear probe by hfft against ten epochs of the stock Trainer on the frozen backbone.

hfft computes the features once and solves the head; the Trainer runs the backbone in every epoch. Both get the same
model, data, batch size and seeds::

    python examples/benchmarks/probe.py --model all-MiniLM-L6-v2/ --data trec6/
    python examples/benchmarks/probe.py --model mobilenetv2/ --data caltech101/

"hfft, again" is a second run on the same data and backbone, which finds its features in the cache. Training seconds of
hfft hold choosing the pooling, features, and the head with its cross-validated penalty.

"hfft, one probe" is features and head alone, with the cross-validated accuracy that the search for the penalty gives
without further work. "hfft, five folds" solves, beside the head of all examples, one for each of five folds on the
examples outside it, each with folds of its own for its penalty.
"""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from comparison import Result, compare, comparison_parser, since_start

FOLDS = 5
SIDES = ("stock", "hfft", "hfft, again", "hfft, one probe", "hfft, five folds")


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = comparison_parser(__doc__ or "", epochs=10, output="probe.json")
    parser.add_argument("--stock_learning_rate", type=float, default=1e-2, help="of the head, by the Trainer's AdamW")
    options = parser.parse_args()
    if options.model is None:
        parser.error("give --model")
    compare(options, SIDES, run)


def run(options: Namespace, side: str, seed: int, folder: Path) -> Result:
    """Train and test one side."""
    if side == "stock":
        return run_stock(options, seed, folder)
    if side in ("hfft", "hfft, again"):
        return run_hfft(options, seed, folder, folder / side)
    return run_folds(options, seed, FOLDS if side == "hfft, five folds" else 0)


def run_stock(options: Namespace, seed: int, folder: Path) -> Result:
    """Train the head with the stock Trainer."""
    from stock import stock_trainer, test_accuracy

    trainer = stock_trainer(options, seed, folder, learning_rate=options.stock_learning_rate, frozen=True)
    startup, start = since_start(), time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    return {"startup_seconds": startup, "training_seconds": seconds, "accuracy": test_accuracy(trainer)}


def run_hfft(options: Namespace, seed: int, shared: Path, folder: Path) -> Result:
    """Solve the head with hfft, from reading the data to the report."""
    from timing import Stopwatch

    import hfft
    from hfft.running import preparing

    watch = Stopwatch()
    with watch.around((preparing, "start_from")):
        result = hfft.finetune(
            model=options.model, data=options.data, output_dir=str(folder), cache_dir=str(shared / "cache"),
            strategy="linear-probe", per_device_eval_batch_size=64, seed=seed, disable_tqdm=True, on_problem="skip",
        )  # fmt: skip
    return {
        "startup_seconds": watch.first, "training_seconds": watch.seconds, "accuracy": result.metrics["test_accuracy"],
        "precision": result.trainer.args.precision,
    }  # fmt: skip


def run_folds(options: Namespace, seed: int, folds: int) -> Result:
    """Solve a head on all examples, and with folds one for each on the others; the features are computed once."""
    import numpy as np
    import torch

    from hfft.data.folds import draw_folds
    from hfft.features.heads import solve_head

    source, labels = features_of(options)
    startup, start = since_start(), time.perf_counter()
    values = torch.from_numpy(source.read(source.readout()))
    whole = solve_head(values, labels, seed=seed)
    assert whole.out_of_fold is not None
    right = whole.out_of_fold.argmax(dim=1).numpy() == labels
    fold_of = draw_folds(labels, folds, seed)[0] if folds else np.empty(0)
    for fold in range(folds):
        inside = fold_of == fold
        head = solve_head(values[~inside], labels[~inside], classes=int(labels.max()) + 1, seed=seed)
        right[inside] = head(values[inside]).argmax(dim=1).numpy() == labels[inside]
    seconds = time.perf_counter() - start
    accuracy = float(right.mean())
    return {"startup_seconds": startup, "training_seconds": seconds, "cross_validated_accuracy": accuracy}


def features_of(options: Namespace) -> tuple[Any, Any]:
    """Return what computes the features of the training examples, as the model's own head reads them, and labels."""
    import numpy as np

    from hfft import FineTuningArguments
    from hfft.arguments import DataArguments, ModelArguments
    from hfft.data import prepare, read_source
    from hfft.data.columns import task_for_source
    from hfft.features.of_split import Features
    from hfft.loading import load_config
    from hfft.registry import installed_tasks

    tasks = installed_tasks()
    told = DataArguments(data=options.data, validation_size=0, on_problem="skip")
    source = read_source(options.data, {suffix for task in tasks for suffix in task.file_suffixes}, None)
    task = task_for_source(source, tasks, {})
    data = prepare(source, task, told, seed=0)
    arguments = ModelArguments(model=options.model)
    model, processor = task.load(arguments, load_config(arguments), data.target)
    train, precision = data.splits["train"], FineTuningArguments().precision
    return Features(task, model, processor, train, None, precision=precision), np.asarray(data.labels("train"))


if __name__ == "__main__":
    main()
