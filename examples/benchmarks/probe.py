"""A linear probe by hfft against ten epochs of the stock Trainer on the frozen backbone.

hfft computes the features once and solves the head; the Trainer runs the backbone in every epoch. Both get the same
model, data, batch size and seeds::

    python examples/benchmarks/probe.py --model all-MiniLM-L6-v2/ --data trec6/
    python examples/benchmarks/probe.py --model mobilenetv2/ --data caltech101/

"hfft, again" is a second run on the same data and backbone, which finds its features in the cache. "hfft, five folds"
is ``hfft crossval --strategy linear-probe`` from an empty cache: for each fold a head is solved on the examples outside
it, with folds of its own for its penalty. Training seconds of hfft hold choosing the pooling, features, and the head or
heads with their cross-validated penalties; the whole process of a probe tests it on the test split, too, and that of
five folds answers each training example once.
"""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path

from comparison import Result, compare, comparison_parser, since_start

FOLDS = 5
CROSSVAL = "crossval_accuracy"
SIDES = ("stock", "hfft", "hfft, again", "hfft, five folds")


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
    return run_hfft(options, side, seed, folder)


def run_stock(options: Namespace, seed: int, folder: Path) -> Result:
    """Train the head with the stock Trainer."""
    from stock import stock_trainer, test_accuracy

    trainer = stock_trainer(options, seed, folder, learning_rate=options.stock_learning_rate, frozen=True)
    startup, start = since_start(), time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    return {"startup_seconds": startup, "training_seconds": seconds, "accuracy": test_accuracy(trainer)}


def run_hfft(options: Namespace, side: str, seed: int, folder: Path) -> Result:
    """Solve a head with hfft, or one for each fold, from reading the data to the report."""
    from timing import Stopwatch

    import hfft
    from hfft.running import preparing

    folds = side == "hfft, five folds"
    settings = {
        "model": options.model, "data": options.data, "output_dir": str(folder / side),
        "cache_dir": str(folder / ("cache-of-folds" if folds else "cache")), "strategy": "linear-probe",
        "per_device_eval_batch_size": 64, "seed": seed, "disable_tqdm": True, "on_problem": "skip",
    }  # fmt: skip
    watch = Stopwatch()
    with watch.around((preparing, "start_from")):
        if folds:
            accuracy = {"cross_validated_accuracy": hfft.cross_validate(folds=FOLDS, **settings).metrics[CROSSVAL]}
        else:
            accuracy = {"accuracy": hfft.finetune(**settings).metrics["test_accuracy"]}
    return {"startup_seconds": watch.first, "training_seconds": watch.seconds, **accuracy}


if __name__ == "__main__":
    main()
