"""The demo: what a pretrained backbone is worth on a few examples, seen on real data, offline.

A small backbone that ships with hfft is fine-tuned beside the same network from random weights, on several draws of a
few training examples, each pair on the same draw and the same test examples. Every run is one of :func:`finetune`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from hfft.demonstrations import ASSETS, DEMONSTRATIONS, Demonstration
from hfft.errors import UserError, listed, nearest
from hfft.finetuning import finetune
from hfft.terminal import make_console

ARMS = ("pretrained", "random")
_RESULT = "comparison.json"
_WRITTEN = {"data", "random-weights", *ARMS, _RESULT}


def demo(
    task: str = "image-classification",
    output_dir: str | None = None,
    overwrite: bool = False,
    seed: int = 0,
    draws: int = 5,
    model: str | None = None,
) -> dict[str, Any]:
    """Compare a pretrained backbone with random weights on several draws of a few examples, and print the difference.

    Args:
        task: ``image-classification`` or ``text-classification``.
        output_dir: folder to write to (default: ``hfft-demo`` and the task in it).
        overwrite: replace the demo that output_dir holds.
        seed: another seed draws other examples and other weights.
        draws: how many, at least 2.
        model: folder of another backbone (default: the one that ships with hfft).

    Returns:
        What ``comparison.json`` holds: test accuracies of each draw, means, difference and its 95 % interval.

    Raises:
        UserError: for an unknown task, fewer than two draws, or a folder that holds something else.
    """
    if task not in DEMONSTRATIONS:
        raise UserError(
            f"--task: there is no demo of '{task}'.{nearest(task, DEMONSTRATIONS)} Demos: {listed(DEMONSTRATIONS)}."
        )
    if draws < 2 or seed < 0:
        raise UserError(f"The demo needs --draws of 2 or more and a --seed of 0 or more, got {draws} and {seed}.")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("The demo runs in one process. Start it as `hfft demo`.")
    shown = DEMONSTRATIONS[task]
    backbone = Path(model) if model is not None else ASSETS / shown.backbone
    if not (backbone / "config.json").is_file():
        raise UserError(f"--model: '{backbone}' is no folder of a model: there is no config.json in it.")
    folder = Path("hfft-demo", task) if output_dir is None else Path(output_dir)
    _make_room(folder, overwrite)

    console = make_console()
    console.print(f"{draws} draws of {shown.examples}. The first run in full:\n")
    accuracy: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for index in range(draws):
        draw, run_seed = f"draw-{index + 1}", 1000 * (seed + 1) + index
        shown.write_draw(folder / "data" / draw, np.random.default_rng(run_seed))
        write_random_weights(backbone, folder / "random-weights" / draw, run_seed)
        starts = {"pretrained": backbone, "random": folder / "random-weights" / draw}
        for arm, start in starts.items():
            in_full = index == 0 and arm == "pretrained"
            with contextlib.nullcontext() if in_full else contextlib.redirect_stdout(io.StringIO()):
                accuracy[arm].append(_test_accuracy(task, arm, start, folder, draw, run_seed))
            if in_full:
                console.print("\nAll runs:")
            console.print(f"  draw {index + 1}, {arm:10}  test accuracy {accuracy[arm][-1]:.3f}")
    comparison = compare(accuracy) | {"task": task, "backbone": str(backbone), "seed": seed}
    (folder / _RESULT).write_text(json.dumps(comparison, indent=2) + "\n", encoding="utf-8")
    _print_comparison(console, comparison, shown, folder)
    return comparison


def _test_accuracy(task: str, arm: str, start: Path, folder: Path, draw: str, seed: int) -> float:
    """Make the run of one arm on one draw, and return the accuracy on the test split."""
    shown = DEMONSTRATIONS[task]
    result = finetune(
        task=task,
        model=str(start),
        data=str(folder / "data" / draw),
        output_dir=str(folder / arm / draw),
        seed=seed,
        validation_size=0,  # nothing is chosen in these runs, and every example counts
        save_strategy="no",
        load_best_model_at_end=False,
        logging_strategy="steps",
        logging_steps=10,
        **{**shown.settings, **getattr(shown, arm)},
    )
    return result.metrics["test_accuracy"]


def compare(accuracy: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return the accuracies, their means, and the paired difference with its 95 % interval by Student's t."""
    from scipy.stats import ttest_rel

    pretrained, random = (np.array(accuracy[arm]) for arm in ARMS)
    interval = ttest_rel(pretrained, random).confidence_interval(0.95)
    return {
        "test_accuracy": dict(accuracy),
        "mean": {"pretrained": float(pretrained.mean()), "random": float(random.mean())},
        "difference": float((pretrained - random).mean()),
        "difference_ci_low": float(interval.low),
        "difference_ci_high": float(interval.high),
    }


def write_random_weights(backbone: Path, folder: Path, seed: int) -> None:
    """Write the same network with random weights, and everything else that the backbone's folder holds."""
    from transformers import AutoConfig, AutoModel, set_seed

    shutil.copytree(backbone, folder, ignore=shutil.ignore_patterns("*.safetensors", "README.md"))
    set_seed(seed)
    AutoModel.from_config(AutoConfig.from_pretrained(backbone)).save_pretrained(folder)


def _make_room(folder: Path, overwrite: bool) -> None:
    """Raise :class:`UserError` unless the folder is free, or holds nothing but a demo that may be replaced."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--output_dir: '{folder}' is a file.")
    found = {path.name for path in folder.iterdir()}
    if found and not (overwrite and found <= _WRITTEN):
        raise UserError(
            f"--output_dir: the folder '{folder}' is not empty. Choose another one, or replace an older demo with "
            "--overwrite."
        )
    for name in found:
        path = folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _print_comparison(console: Console, comparison: dict[str, Any], shown: Demonstration, folder: Path) -> None:
    pretrained, random = (comparison["test_accuracy"][arm] for arm in ARMS)
    table = Table(title="Test accuracy", title_justify="left")
    for header in ("draw", "pretrained", "random weights", "difference"):
        table.add_column(header, justify="right")
    for index, (first, second) in enumerate(zip(pretrained, random, strict=True), start=1):
        table.add_row(str(index), f"{first:.3f}", f"{second:.3f}", f"{first - second:+.3f}")
    means = comparison["mean"]
    table.add_section()
    table.add_row(
        "mean", f"{means['pretrained']:.3f}", f"{means['random']:.3f}", f"{comparison['difference']:+.3f}", style="bold"
    )
    console.print()
    console.print(table)
    low, high = comparison["difference_ci_low"], comparison["difference_ci_high"]
    console.print(
        f"Pretraining adds {comparison['difference']:.3f} to the accuracy, 95 % interval {low:.3f} to {high:.3f} "
        f"(Student's t, paired, over {len(pretrained)} draws)."
        + ("" if low > 0 else " The interval includes 0: more --draws tell whether there is a difference.")
    )
    first_run = folder / "pretrained" / "draw-1"
    console.print("\nThe artefacts:")
    console.print(f"  {first_run / 'report.html'}  the first run on one page")
    console.print(f"  {first_run}  its model: pipeline('{comparison['task']}', '{first_run}')")
    console.print(f"  {folder / 'data'}  the examples; the other runs stand beside the first")
    console.print(f"  {folder / _RESULT}  these figures\n")
    for line in shown.next_steps:
        console.print(line)
    console.print("More: hfft train --help")
