"""Run a script under a launcher, and write what each process saw of the others: ``world.py FOLDER SCRIPT ...``."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import hfft

if __name__ == "__main__":
    folder, *sys.argv = sys.argv[1:]
    finetune = hfft.finetune

    def noted(**settings: Any) -> hfft.FineTuneResult:
        result = finetune(**settings, validation_size=0, strategy="gradual", head_start="random", use_cpu=True)
        trainer = result.trainer
        seen = {
            "world_size": trainer.args.world_size,
            "rank": trainer.args.process_index,
            "wrapped": type(trainer.model_wrapped).__name__,
            "find_unused_parameters": getattr(trainer.model_wrapped, "find_unused_parameters", None),
        }
        (Path(folder) / f"rank{trainer.args.process_index}.json").write_text(json.dumps(seen))
        return result

    hfft.finetune = noted
    runpy.run_path(sys.argv[0], run_name="__main__")
