"""A full fine-tune by hfft against the stock Trainer: same model, data, batch size, epochs and seeds.

Texts: against run_glue.py's settings (every text padded to 128 tokens, float32) and against the same with batches
padded to their own longest text. Pictures: against the stock Trainer in float32, which decodes every file each epoch.
hfft runs as it comes (`precision auto`) and in float32, which shows what the number format is worth and costs::

    python examples/benchmarks/full.py --model all-MiniLM-L6-v2/ --data trec6/ --epochs 3
    python examples/benchmarks/full.py --model all-MiniLM-L6-v2/ --data trec6/ --joined 24 --max_length 256 --epochs 1
    python examples/benchmarks/full.py --architecture vit_tiny_patch16_224 --data hymenoptera/ --epochs 3

--joined makes long texts, each of up to so many of one class. --architecture takes a timm model with random weights in
place of --model. --patch_drop_rate 0.5 adds a run of hfft in which a vision transformer leaves half of the patches out
in training. Training seconds of hfft hold what it computes before the first step, such as decoded pictures. Each
run writes to, and caches in, a folder of its own.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from comparison import Result, compare, comparison_parser, since_start

FEWER_PATCHES = "hfft, without some patches"


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = comparison_parser(__doc__ or "", epochs=3, output="full.json")
    parser.add_argument("--architecture", help="timm architecture to start from random weights, in place of --model")
    parser.add_argument("--stock_learning_rate", type=float, default=5e-5, help="the Trainer's own default")
    parser.add_argument("--joined", type=int, default=1, help="texts of a class that at most make a text of the run")
    parser.add_argument("--patch_drop_rate", type=float, help="share of the patches that one more side leaves out")
    options = parser.parse_args()
    if (options.model is None) == (options.architecture is None):
        parser.error("give --model or --architecture")
    images = (Path(options.data) / "train").is_dir()
    stock = ["stock"] if images else [f"stock, padded to {options.max_length}", "stock, dynamic padding"]
    patches = [] if options.patch_drop_rate is None else [FEWER_PATCHES]
    compare(options, [*stock, "hfft", "hfft, fp32", *patches], run)


def run(options: Namespace, side: str, seed: int, folder: Path) -> Result:
    """Train and test one side."""
    if options.architecture is not None:
        options.model = str(with_random_weights(options.architecture, folder / "model"))
    if options.joined > 1:
        options.data = str(with_long_texts(options.data, options.joined, folder / "data"))
    if side.startswith("stock"):
        return run_stock(options, seed, folder, padded="padded to" in side)
    fewer = {"patch_drop_rate": options.patch_drop_rate} if side == FEWER_PATCHES else {}
    return run_hfft(options, seed, folder / side, precision="fp32" if side.endswith("fp32") else "auto", **fewer)


def run_stock(options: Namespace, seed: int, folder: Path, padded: bool) -> Result:
    """Fine-tune all layers with the stock Trainer."""
    from stock import stock_trainer, test_accuracy

    trainer = stock_trainer(options, seed, folder, learning_rate=options.stock_learning_rate, padded=padded)
    startup, start = since_start(), time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    return {"startup_seconds": startup, "training_seconds": seconds, "accuracy": test_accuracy(trainer)}


def run_hfft(options: Namespace, seed: int, folder: Path, **settings: Any) -> Result:
    """Fine-tune all layers with hfft, on all training examples."""
    from stock import holds_images
    from timing import Stopwatch

    import hfft
    from hfft.running import assembling

    watch = Stopwatch()
    with watch.around((assembling, "_encoded"), (hfft.FineTuningTrainer, "train")):
        result = hfft.finetune(
            model=options.model, data=options.data, output_dir=str(folder / "out"), cache_dir=str(folder / "cache"),
            strategy="full", num_train_epochs=options.epochs, per_device_train_batch_size=options.batch_size,
            seed=seed, validation_size=0, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
            disable_tqdm=True, on_problem="skip", **settings,
            **({} if holds_images(options.data) else {"max_length": options.max_length}),
        )  # fmt: skip
    return {
        "startup_seconds": watch.first, "training_seconds": watch.seconds, "accuracy": result.metrics["test_accuracy"],
        "precision": result.trainer.args.precision,
    }  # fmt: skip


def with_long_texts(data: str, joined: int, folder: Path) -> Path:
    """Write tables whose texts are 1 to so many texts of one class, of unlike length as real ones are."""
    import numpy as np
    from datasets import Dataset

    for table in sorted(Path(data).glob("*.parquet")):
        generator = np.random.default_rng(0)
        rows = Dataset.from_parquet(str(table), keep_in_memory=True)
        of_class: dict[object, list[str]] = {}
        for text, label in zip(rows["text"], rows["label"], strict=True):
            of_class.setdefault(label, []).append(text)
        texts = [" ".join(generator.choice(of_class[y], generator.integers(joined) + 1)) for y in rows["label"]]
        folder.mkdir(parents=True, exist_ok=True)
        Dataset.from_dict({"text": texts, "label": rows["label"][:]}).to_parquet(str(folder / table.name))
    return folder


def with_random_weights(architecture: str, folder: Path) -> Path:
    """Save a timm model with random weights as timm's own checkpoints are, once for all sides of a repetition."""
    if (folder / "config.json").is_file():
        return folder
    import timm
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=0)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    names = ("input_size", "crop_pct", "interpolation", "mean", "std", "classifier")
    preprocessing = {name: model.pretrained_cfg[name] for name in names if name in model.pretrained_cfg}
    config = {"architecture": architecture, "num_classes": 0, "num_features": model.num_features}
    (folder / "config.json").write_text(json.dumps({**config, "pretrained_cfg": preprocessing}), "utf-8")
    return folder


if __name__ == "__main__":
    main()
