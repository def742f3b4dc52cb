"""Two ranks with one thread each against one rank with two threads, on the same two processor cores.

Both train the same ViT from random weights with hfft's Trainer and the same global batch, each side in a process (or a
``torchrun``) of its own, in turns. What is stated is the median of the images per second, without the first steps::

    python examples/benchmarks/cpu_ranks.py --output cpu_ranks.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

SIDES = {"1 rank x 2 threads": (1, 2), "2 ranks x 1 thread": (2, 1)}
WARM_UP = 3  # steps that are not counted


def main() -> None:
    """Measure both sides, print the table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=32, help="of all ranks together")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=192, help="of the hidden states")
    parser.add_argument("--image_size", type=int, default=96)
    parser.add_argument("--strategy", default="full", help="full or gradual")
    parser.add_argument("--repetitions", type=int, default=3, help="of which the medians are taken")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--one", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        train(options, options.one)
        return
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(options.repetitions):
        for side in SIDES:
            rates[side].append(measure(side))
    medians = {side: statistics.median(found) for side, found in rates.items()}
    first = next(iter(medians.values()))
    table = Table("side", "images / s", "ratio")
    for side, rate in medians.items():
        table.add_row(side, f"{rate:.1f}", f"{rate / first:.2f}")
    Console().print(table)
    if options.output is not None:
        settings = {name: value for name, value in vars(options).items() if name not in ("one", "output")}
        told = {"settings": settings, "images_per_second": medians, "runs": rates}
        options.output.write_text(json.dumps(told, indent=2) + "\n", "utf-8")


def measure(side: str) -> float:
    """Return the images per second of one side, in processes of its own."""
    ranks, threads = SIDES[side]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rate.json"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
        command = [sys.executable, *launcher, *sys.argv, "--one", str(file)]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        return json.loads(file.read_text())


def train(options: argparse.Namespace, file: Path) -> None:
    """Train on this rank; the first one writes the images per second."""
    import torch
    from transformers import TrainerCallback, ViTConfig, ViTForImageClassification, set_seed

    import hfft
    from hfft.hardware.processes import leave

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    set_seed(0)
    size = {"hidden_size": options.width, "num_hidden_layers": options.layers, "intermediate_size": 4 * options.width}
    heads = {"num_attention_heads": 3, "image_size": options.image_size, "patch_size": 16, "num_labels": 10}
    model = ViTForImageClassification(ViTConfig(**size, **heads))
    pictures = torch.randn(options.batch_size, 3, options.image_size, options.image_size)
    examples = [{"pixel_values": picture, "labels": row % 10} for row, picture in enumerate(pictures)]
    began = 0.0

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            nonlocal began
            began = time.perf_counter() if state.global_step == WARM_UP else began

    arguments = hfft.FineTuningArguments(
        output_dir=str(file.parent / "out"),
        per_device_train_batch_size=options.batch_size // ranks,
        max_steps=WARM_UP + options.steps,
        strategy=options.strategy,
        precision="fp32",
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        load_best_model_at_end=False,
        disable_tqdm=True,
    )
    trainer = hfft.FineTuningTrainer(model, arguments, train_dataset=examples, callbacks=[Clock()])
    trainer.train()
    if trainer.is_world_process_zero():
        file.write_text(json.dumps(options.steps * options.batch_size / (time.perf_counter() - began)))
    leave(0)


if __name__ == "__main__":
    main()
