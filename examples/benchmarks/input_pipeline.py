"""How fast pictures reach the model: random resized crop, mirror image, normalisation and collation.

Beside each other in one run: `datasets` + PIL, which decodes every JPEG in every epoch, and hfft, which decodes once
and keeps the pixels. Both draw the same kind of crop and give the same normalised float tensors.

    python examples/benchmarks/input_pipeline.py --data photos/train --output input_pipeline.json

The folder may hold pictures at any depth. --cores bounds the processor cores that are used (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from hfft.tasks import ImageClassification
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, RandomSampler
from torchvision.transforms import v2
from transformers import ViTImageProcessor

from hfft.data.prepared import encoded
from hfft.paths import files_below
from hfft.storage.caching import Cache
from hfft.training.sampling import GlobalBatchSampler

Row = dict[str, Any]


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="Folder of pictures.")
    parser.add_argument("--output", type=Path, help="JSON file to write.")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3, help="Epochs of each, the fastest of which is stated.")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    torch.set_num_threads(1)  # the pipelines bring their own threads and processes
    task = ImageClassification()
    files = [str(path) for path in files_below(arguments.data, task.file_suffixes)]
    size = {"height": arguments.image_size, "width": arguments.image_size}
    processor = ViTImageProcessor(size=size)
    rows: list[Row] = []
    for workers in (0, arguments.cores):
        rows.append(measure("datasets + PIL", workers, stock_loader(files, processor, arguments, workers), arguments))
    with tempfile.TemporaryDirectory() as folder:
        split = Dataset.from_dict({"image": files, "label": [0] * len(files)})
        encoder = task.encoder(processor, training=True, augment="light")
        start = time.perf_counter()
        data = encoded(split, encoder, Cache(folder, 32_000_000_000), seed=0)
        seconds = time.perf_counter() - start
        rows.append({"pipeline": "hfft, first epoch", "workers": 0, "images_per_second": len(files) / seconds})
        kept = sum(path.stat().st_size for path in Path(folder).rglob("*.npy"))
        for workers in (0, arguments.cores):
            sampler = GlobalBatchSampler(len(files), arguments.batch_size, further_views=True)
            loader = DataLoader(data, batch_sampler=sampler, collate_fn=task.collator(processor), num_workers=workers)
            rows.append(measure("hfft, later epochs", workers, loader, arguments, sampler.set_epoch))
    report(rows, arguments, {"images": len(files), "kept_megabytes": kept / 1e6})


def stock_loader(files: list[str], processor: Any, arguments: argparse.Namespace, workers: int) -> DataLoader:
    """Return what the image classification examples of transformers do."""
    size = (arguments.image_size, arguments.image_size)
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.35, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(processor.image_mean, processor.image_std),
        ]
    )

    def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"pixel_values": [transform(image.convert("RGB")) for image in batch["image"]], "labels": batch["label"]}

    data = Dataset.from_dict({"image": files, "label": [0] * len(files)}).cast_column("image", Image())
    data = data.with_transform(encode)
    return DataLoader(data, arguments.batch_size, sampler=RandomSampler(data), num_workers=workers)


def measure(
    name: str,
    workers: int,
    loader: DataLoader,
    arguments: argparse.Namespace,
    set_epoch: Callable[[int], None] = lambda epoch: None,
) -> Row:
    """Return the images per second of the fastest epoch, and the processor time that an image took."""
    rates, shares = [], []
    for epoch in range(arguments.epochs):
        set_epoch(epoch)
        start, before = time.perf_counter(), sum(os.times()[:4])
        images = sum(len(batch["labels"]) for batch in loader)
        rates.append(images / (time.perf_counter() - start))
        shares.append((sum(os.times()[:4]) - before) / images * 1e3)
    best = max(range(len(rates)), key=rates.__getitem__)
    return {
        "pipeline": name,
        "workers": workers,
        "images_per_second": rates[best],
        "cpu_milliseconds_per_image": shares[best],
    }


def report(rows: list[Row], arguments: argparse.Namespace, about: dict[str, float]) -> None:
    """Print the table and write the file."""
    table = Table("pipeline", "worker processes", "images / s", "CPU ms / image")
    for row in rows:
        cpu = row.get("cpu_milliseconds_per_image")
        table.add_row(
            row["pipeline"],
            str(row["workers"]),
            f"{row['images_per_second']:,.0f}",
            "" if cpu is None else f"{cpu:.2f}",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{about['images']:,} pictures at {arguments.image_size} px, batches of {arguments.batch_size}, "
        f"{arguments.cores} cores; {about['kept_megabytes']:,.0f} MB kept."
    )
    if arguments.output is not None:
        settings = {"image_size": arguments.image_size, "batch_size": arguments.batch_size, "cores": arguments.cores}
        arguments.output.write_text(json.dumps({**about, **settings, "rows": rows}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
