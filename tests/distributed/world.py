"""Train under a launcher, and write down what each process saw of the others: ``world.py MODEL DATA FOLDER``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import hfft
from hfft.hardware.processes import leave

if __name__ == "__main__":
    model, data, folder = sys.argv[1:]
    settings = {"num_train_epochs": 1, "validation_size": 0, "strategy": "gradual", "head_start": "random"}
    trainer = hfft.finetune(model=model, data=data, output_dir=f"{folder}/out", use_cpu=True, **settings).trainer
    seen = {
        "world_size": trainer.args.world_size,
        "rank": trainer.args.process_index,
        "wrapped": type(trainer.model_wrapped).__name__,
        "find_unused_parameters": getattr(trainer.model_wrapped, "find_unused_parameters", None),
    }
    (Path(folder) / f"rank{trainer.args.process_index}.json").write_text(json.dumps(seen))
    leave(0)
