"""Steps that start from the kept activations of frozen layers, against the stock Trainer, which computes them anew.

Two trainings of a BERT-like encoder on texts: the top two of its blocks with the rest frozen for good, and the full
gradual schedule (in the stock Trainer by hfft's callback, which does not cache). Both sides get the same model, the
same tokenised data padded to the longest text of a batch, the same batch size, epochs, learning rates and seeds, in
float32 with two threads. Each run is a process of its own, the two sides in turns. Recording counts as training time.
Seconds of the clock and of the processor are both written down: where other work runs beside it, those of one thread
on the processor say more::

    python examples/benchmarks/frozen_prefix.py --model all-MiniLM-L6-v2/ --train train.parquet --test test.parquet

How much a gradual schedule can gain depends on how long its stages are: where everything is thawed by half of the run,
which is the default, the second half has nothing to gain; ``--epochs_per_group 1 --epochs 7`` is one epoch for each of
the seven layer groups of a six-layer encoder. hfft's sides draw batches of like length, as its text task does, unless
``--same_batches`` has them draw at random as the stock Trainer.

The tables need columns ``text`` and ``label``. A third run of each kind, hfft without the cache, shows that the losses
are the same.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TRAININGS = ("two blocks", "gradual")
SIDES = ("stock", "hfft", "hfft uncached")
BLOCKS_TRAINED = 2
RATE = 2e-4


def main() -> None:
    """Run all, print the table, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", required=True, help="folder of a BERT-like encoder")
    parser.add_argument("--train", required=True, help="Parquet file with columns text and label")
    parser.add_argument("--test", help="the same, to show what the trained models are worth")
    parser.add_argument("--rows", type=int, help="training rows to use (default: all)")
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--epochs_per_group", type=float, help="of the gradual training (default: half of the run)")
    parser.add_argument("--same_batches", action="store_true", help="let hfft draw at random too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3, help="seeds, of which the medians are taken")
    parser.add_argument("--output", default="frozen_prefix.json")
    parser.add_argument("--one", nargs=3, metavar=("TRAINING", "SIDE", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        training, side, seed = options.one
        print(json.dumps(run(options, training, side, int(seed))))
        return
    results = [
        measure(training, side, seed) for training in TRAININGS for seed in range(options.repetitions) for side in SIDES
    ]
    table = [
        summary(training, [result for result in results if result["training"] == training]) for training in TRAININGS
    ]
    headers = "".join(
        f"{header:>10}" for header in ("stock s", "hfft s", "ratio", "CPU ratio", "stock MB", "hfft MB", "ratio")
    )
    print(f"{'training':12}{headers}  largest loss difference")
    for row in table:
        print(
            f"{row['training']:12}{row['stock_seconds']:10.1f}{row['hfft_seconds']:10.1f}{row['speed_ratio']:10.2f}"
            f"{row['cpu_ratio']:10.2f}"
            f"{row['stock_megabytes']:10.0f}{row['hfft_megabytes']:10.0f}{row['memory_ratio']:10.2f}"
            f"  {row['largest_loss_difference']:.1e}"
        )
    settings = {name: value for name, value in vars(options).items() if name != "one"}
    Path(options.output).write_text(json.dumps({"settings": settings, "summary": table, "runs": results}, indent=1))


def measure(training: str, side: str, seed: int) -> dict[str, Any]:
    """Run one side in a process of its own."""
    command = [sys.executable, *sys.argv, "--one", training, side, str(seed)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    shown = {name: value for name, value in result.items() if name != "losses"}
    print(json.dumps(shown), file=sys.stderr)
    return result


def summary(training: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return medians over the seeds, and their ratios."""

    def median(side: str, what: str) -> float:
        return statistics.median(result[what] for result in results if result["side"] == side)

    cached, uncached = (
        [loss for result in results if result["side"] == side for loss in result["losses"]]
        for side in ("hfft", "hfft uncached")
    )
    seconds, megabytes = ({side: median(side, what) for side in SIDES} for what in ("seconds", "megabytes"))
    return {
        "training": training,
        "stock_seconds": seconds["stock"],
        "hfft_seconds": seconds["hfft"],
        "hfft_uncached_seconds": seconds["hfft uncached"],
        "speed_ratio": seconds["stock"] / seconds["hfft"],
        "cpu_ratio": median("stock", "cpu_seconds") / median("hfft", "cpu_seconds"),
        "stock_megabytes": megabytes["stock"],
        "hfft_megabytes": megabytes["hfft"],
        "memory_ratio": megabytes["hfft"] / megabytes["stock"],
        "largest_loss_difference": max(abs(one - other) for one, other in zip(cached, uncached, strict=True)),
        **{f"{side}_accuracy": median(side, "accuracy") for side in SIDES if "accuracy" in results[0]},
    }


def run(options: argparse.Namespace, training: str, side: str, seed: int) -> dict[str, Any]:
    """Train once; returns seconds, peak memory and the loss of every step."""
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    import hfft
    from hfft.storage.caching import Cache

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    train, classes = tokenised(options.train, tokenizer, options.rows)
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=len(classes))
    losses: list[float] = []

    class Losses(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "output_dir": f"{folder}/out", "num_train_epochs": options.epochs, "learning_rate": RATE, "use_cpu": True,
            "per_device_train_batch_size": options.batch_size, "seed": seed, "report_to": "none", "disable_tqdm": True,
            "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "weight_decay": 0.01,
            "logging_strategy": "steps", "logging_steps": 10, "warmup_steps": 0.1,
        }  # fmt: skip
        shared: dict[str, Any] = {
            "train_dataset": train, "data_collator": DataCollatorWithPadding(tokenizer), "processing_class": tokenizer,
            "callbacks": [Losses()],
        }  # fmt: skip
        groups = hfft.LayerStack.from_model(model)
        frozen = groups[: len(groups) - 1 - BLOCKS_TRAINED] if training == "two blocks" else []
        optimizer = hfft.layerwise_optimizer("adamw", lr=RATE, layer_decay=0.75, weight_decay=0.01)
        if side == "stock":
            for name in (name for group in frozen for name in group.parameter_names):
                model.get_parameter(name).requires_grad_(False)
            if training == "gradual":
                shared["callbacks"].append(hfft.GradualUnfreezing(options.epochs_per_group))
                shared["optimizer_cls_and_kwargs"] = optimizer
            trainer = Trainer(model, TrainingArguments(**settings), **shared)
        else:
            if training == "gradual":
                settings |= {"strategy": "gradual", "layer_decay": 0.75, "epochs_per_group": options.epochs_per_group}
                shared["optimizer_cls_and_kwargs"] = optimizer
            else:
                settings |= {"freeze": [str(len(frozen))], "layer_decay": 1}
            if not options.same_batches:
                settings |= {"train_sampling_strategy": "group_by_length"}
            cache = Cache(f"{folder}/cache", 4 * 10**9) if side == "hfft" else None
            trainer = hfft.FineTuningTrainer(
                model, hfft.FineTuningArguments(precision="fp32", **settings), cache=cache, **shared
            )
        start, start_of_work = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, work = time.perf_counter() - start, time.process_time() - start_of_work
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
        result = {"training": training, "side": side, "seed": seed, "seconds": seconds, "cpu_seconds": work}
        result["megabytes"] = megabytes
        if options.test:
            test, _ = tokenised(options.test, tokenizer, None, classes)
            predicted = trainer.predict(test)
            result["accuracy"] = float((predicted.predictions.argmax(axis=1) == predicted.label_ids).mean())
    return {**result, "losses": losses}


def tokenised(path: str, tokenizer: Any, rows: int | None, classes: list[Any] | None = None) -> tuple[Any, list[Any]]:
    """Return a table's texts as token ids with labels, and the classes."""
    from datasets import Dataset

    data = Dataset.from_parquet(path)
    data = data if rows is None else data.shuffle(seed=0).select(range(rows))
    classes = sorted(set(data["label"])) if classes is None else classes

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        labels = [classes.index(label) for label in batch["label"]]
        return {**tokenizer(batch["text"], truncation=True, max_length=128), "labels": labels}

    return data.map(encode, batched=True, remove_columns=data.column_names), classes


if __name__ == "__main__":
    main()
